"""`usage-instrument doctor --plan`: the walls of a fleet, by measured constants, without a database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from usage_instrument.cli import capacity
from usage_instrument.cli.app import app

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "scaling.md"

BAD_NUMBERS = ("", "x", "0", "-1", "nan", "inf", "k", "1e99")


def printed(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["doctor", "--plan", *words])
    assert done.exit_code == code, done.output
    return done.output


def walls(*words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(printed(*words, "--format", "json"))
    return found


def test_the_walls_come_in_the_order_in_which_the_fleet_meets_them() -> None:
    found = walls("users=10M", "features=10", "processes=2000", "connections=50")
    shares = [wall["share_of_limit"] for wall in found]
    assert found[0]["wall"] == "connections"
    assert shares[0] == 40
    assert shares == sorted(shares, reverse=True)
    assert {wall["wall"] for wall in found} == {
        *("connections", "dashboard reads", "size of history", "small flushes", "INT ids", "writes")
    }
    assert {bool(wall["what_to_do"]) is (wall["share_of_limit"] >= 0.5) for wall in found} == {True}
    assert "hosts=125 active=20%" in found[0]["plan"]


@pytest.mark.parametrize(
    ("words", "first", "remedy"),
    [
        ("users=1M processes=2000 hosts=50", "connections", "so 50 connections; or a pooler"),
        ("users=1M processes=2000", "connections", "so 125 connections; and a pooler"),
        ("users=100k processes=200 hosts=200", "connections", "a pooler in transaction mode"),
        ("users=10M", "dashboard reads", "USAGE_INSTRUMENT_READ_URL"),
        ("users=10M disk=10G", "size of history", "history_partitions=month"),
        (
            "users=1M uses_per_day=500 features=1 keep=1d processes=50k connections=1M cores=1 flush_interval=1s",
            "small flushes",
            "a longer flush_interval than 1 s; a collector",
        ),
        ("users=1M uses_per_day=100k history=off processes=40 disk=1T cores=1", "writes", "Citus"),
    ],
)
def test_the_first_wall_and_its_remedy(words: str, first: str, remedy: str) -> None:
    found = walls(*words.split())[0]
    assert found["wall"] == first
    assert remedy in found["what_to_do"]
    assert f"The first wall is {first}" in printed(*words.split())


def test_ids_of_a_bigint_do_not_end() -> None:
    of_ids = {wall["wall"]: wall for wall in walls("users=300M", "features=10")}["INT ids"]
    assert of_ids["share_of_limit"] > 1
    assert "--id-type bigint" in of_ids["what_to_do"]
    assert {wall["wall"]: wall for wall in walls("users=300M", "id_type=bigint")}["BIGINT ids"]["what_to_do"] == ""


def test_a_small_fleet_has_no_wall() -> None:
    text = printed("users=10k")
    assert "No wall: connections comes first, at 16% of its limit." in text
    assert "Computed for users=10k features=10 processes=16 hosts=1 active=20%" in text


@pytest.mark.parametrize(
    ("constant", "wall"),
    [
        ("CONNECTION_BYTES", "connections"),
        ("READ_CPU", "dashboard reads"),
        ("USAGE_BYTES", "size of history"),
        ("HISTORY_BYTES", "size of history"),
        ("FLUSH_CPU", "small flushes"),
        ("KEY_CPU", "writes"),
        ("HISTORY_CPU", "writes"),
    ],
)
def test_what_is_printed_comes_from_the_constants(constant: str, wall: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("users=10M", "processes=2000", "disk=1M")
    before = {each["wall"]: each["finding"] for each in walls(*words)}
    monkeypatch.setattr(capacity, constant, 10 * getattr(capacity, constant))
    after = {each["wall"]: each["finding"] for each in walls(*words)}
    assert {name for name in before if before[name] != after[name]} == {wall}


def test_the_guide_shows_what_is_printed() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    command = "usage-instrument doctor --plan users=10M features=10 processes=2000 connections=500 disk=2T"
    assert command in text
    table, _, first = printed(*command.split()[3:], "--format", "markdown").partition("\n\n")
    assert table in text
    assert first.splitlines()[0] in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "a plan has users=, such as: usage-instrument doctor --plan users=10M"),
        ("users=10M processs=3", "a plan has no 'processs=3'; did you mean processes=? It takes users=, features=,"),
        ("users=10M zzz=3", "a plan has no 'zzz=3'. It takes users="),
        ("users", "did you mean users=?"),
        ("users=1 users=2", "a plan has one users=, not '1' and '2'"),
        *((f"users={text}", "users= is a number above 0 such as 2000, 50k or 10M") for text in BAD_NUMBERS),
    ],
)
def test_a_wrong_value_is_named(words: str, said: str) -> None:
    assert said in " ".join(printed(*words.split(), code=2).split())


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("active=200%", "active= is a share such as 20% or 0.2, not '200%'"),
        ("history=none", "history= is day or hour or off, not 'none'"),
        ("keep=400", "keep= is 90d or 52w, not '400'"),
        ("flush_interval=soon", "flush_interval is a number of seconds"),
        ("flush_interval=0", "flush_interval= is above 0"),
        ("hosts=17", "hosts=17 have a process each, not 16 in all"),
    ],
)
def test_a_wrong_value_of_another_kind_is_named(word: str, said: str) -> None:
    assert said in " ".join(printed("users=1M", word, code=2).split())


def test_values_need_the_option() -> None:
    done = CliRunner().invoke(app, ["doctor", "users=10M"])
    assert done.exit_code == 2
    assert "run `usage-instrument doctor --plan users=10M`" in done.output
