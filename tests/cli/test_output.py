"""Answers printed for people and for programs: the same values, and nothing that harms a terminal."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from usage_instrument.cli import output
from usage_instrument.cli.options import Format
from usage_instrument.cli.output import show

ROWS: list[dict[str, Any]] = [
    {
        "feature_name": "export | \x1b[31mred\x1b[0m",
        "uses": 1234567,
        "share": 0.25,
        "user_id": UUID(int=7),
        "last_used": dt.datetime(2026, 1, 2, 3, 4, 5, 678),
        "metadata": {"größe": [1, None]},
    },
    {"feature_name": None, "uses": 0, "share": 1.0, "user_id": None, "last_used": None, "metadata": None},
]


def printed(capsys: pytest.CaptureFixture[str], output: Format, rows: list[dict[str, Any]] = ROWS) -> str:
    show(rows, output, empty="Nothing is there.", names=["feature_name", "uses"])
    return capsys.readouterr().out


def test_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "table").splitlines()
    assert lines[0].split() == list(ROWS[0])
    assert "1234567   0.25  00000000-0000-0000-0000-000000000007  2026-01-02 03:04" in lines[2]
    assert '{"größe": [1, null]}' in lines[2]
    assert "\x1b" not in "".join(lines)
    assert lines[3].split() == ["0", "1"]


def test_wide_tables_are_not_folded_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    wide = [{f"column_{number}": "x" * 50 for number in range(20)}]
    assert len(printed(capsys, "table", wide).splitlines()) == 3


@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_name_is_broken_in_a_narrow_terminal(
    count: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "console", lambda: Console(width=80, highlight=False))
    names = [f"{number}_{'name_' * 5}" for number in range(count)]
    rows = [{**{name: f"{name}_of_the_office" for name in names}, "note": "some words that may wrap", "at": None}] * 2
    out = printed(capsys, "table", rows)
    for name in names:
        assert out.count(f"{name}_of_the_office") == 2
    assert ("─" in out) == (count == 1), "a table where it fits"
    assert max(map(len, out.splitlines())) <= 80


def test_json_is_a_list_of_objects(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, "json"))
    assert [list(row) for row in found] == [list(row) for row in ROWS]
    assert found[0]["share"] == 0.25
    assert found[0]["metadata"] == {"größe": [1, None]}
    assert found[0]["last_used"] == "2026-01-02 03:04:05.000678"
    assert found[1]["feature_name"] is None


def test_csv_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    names, first, second = csv.reader(io.StringIO(printed(capsys, "csv")))
    assert names == list(ROWS[0])
    assert first[0] == ROWS[0]["feature_name"]
    assert json.loads(first[-1]) == ROWS[0]["metadata"]
    assert second == ["", "0", "1.0", "", "", ""]


def test_markdown_keeps_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "markdown").splitlines()
    assert lines[1] == "| --- | ---: | ---: | --- | --- | --- |"
    assert lines[2].startswith("| export \\| ")
    assert len(lines) == 4


def test_no_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "table", []) == printed(capsys, "markdown", []) == "Nothing is there.\n"
    assert json.loads(printed(capsys, "json", [])) == []
    assert printed(capsys, "csv", []) == '"feature_name","uses"\n'
