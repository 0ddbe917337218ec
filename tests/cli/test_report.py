"""`usage-instrument report`: a digest that loads nothing, escapes everything and names nobody unasked."""

from __future__ import annotations

import datetime as dt
import html.parser
import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from conftest import Database
from reading import made
from usage_instrument.cli.app import app
from usage_instrument.database.ledger import utcnow

DAY, HOUR = dt.timedelta(days=1), dt.timedelta(hours=1)
EVIL = "<script>alert(1)</script>|`x`"
ADA = "ada@example.com"


def filled(database: Database) -> sa.Engine:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    now = utcnow().replace(microsecond=0)
    today = now.replace(hour=0, minute=0, second=0)
    history: list[dict[str, Any]] = [
        {"user_id": user, "feature_name": feature, "usage_count": uses, "bucket_start": today - ago * DAY}
        for feature, user, days in (
            ("search", ADA, {0: 40, 3: 60, 8: 50}),
            ("export", None, {1: 100, 9: 20}),
            ("share", ADA, {9: 90}),
            (EVIL, None, {2: 7}),
        )
        for ago, uses in days.items()
    ]
    history += [
        {"user_id": ADA, "feature_name": "stopped", "usage_count": 4, "bucket_start": today - ago * DAY}
        for ago in range(8, 40)
    ]
    last = {(row["user_id"], row["feature_name"]): row["bucket_start"] for row in reversed(history)}
    usage = [{"user_id": user, "feature_name": name, "last_used": start} for (user, name), start in last.items()]
    declared = {"declared_at": now - 99 * DAY, "last_declared_at": now, "service": "web"}
    with engine.begin() as connection:
        connection.execute(tables.history.insert(), history)
        connection.execute(tables.usage.insert(), usage)
        connection.execute(
            tables.catalog.insert(),
            [
                {**declared, "feature_name": "never", "display_name": None},
                {**declared, "feature_name": "stopped", "display_name": "Stopped <b>thing</b>"},
            ],
        )
        connection.execute(tables.losses.insert().values(day=today.date(), service="web", reason="memory full", uses=5))
    return engine


def report(database: Database, *options: str) -> str:
    done = CliRunner().invoke(app, ["report", "--url", database.url, *options])
    assert done.exit_code == 0, done.output
    return done.stdout


def sections(text: str) -> dict[str, list[list[str]]]:
    """The cells of each table by its heading."""
    found = {}
    for part in text.split("\n## ")[1:]:
        rows = [line for line in part.splitlines() if line.startswith("| ")][2:]
        found[part.splitlines()[0]] = [re.split(r" (?<!\\)\| ", row[2:-2]) for row in rows]
    return found


class Page(html.parser.HTMLParser):
    """The tags and the texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_week_beside_the_one_before(database: Database) -> None:
    filled(database)
    text = report(database)
    assert text.startswith("# Feature usage in the last 7 days\n\n- Uses: 207 (")
    found = sections(text)
    assert found["Top features"][:2] == [["`export`", "100", "20", "+400%"], ["`search`", "100", "50", "+100%"]]
    assert found["New"] == [["`<script>alert(1)</script>\\|'x'`", "7", "0", "new"]]
    assert [row[0] for row in found["Rising"]] == ["`export`", "`search`"]
    gone = "\N{MINUS SIGN}100%"
    assert found["Falling"] == [["`Stopped <b>thing</b> (stopped)`", "0", "24", gone], ["`share`", "0", "90", gone]]
    assert [row[:2] for row in found["Adoption"]] == [["`search`", "1"]]
    assert [row[0] for row in found["Silent"]] == ["`Stopped <b>thing</b> (stopped)`"]
    assert next(row[:2] for row in found["Unused"]) == ["`never`", "never"]
    assert found["Losses"] == [["`memory full`", "5"]]
    assert "Power users" not in found
    assert "ada" not in text


def test_a_page_loads_nothing_and_escapes_everything(sqlite: Database, tmp_path: Path) -> None:
    filled(sqlite)
    file = tmp_path / "week.html"
    assert report(sqlite, "--html", "--output", str(file)) == ""
    page = Page(file.read_text(encoding="utf-8"))
    assert EVIL in page.texts
    assert "Stopped <b>thing</b> (stopped)" in page.texts
    assert not {"script", "b", "link", "img", "iframe", "form"} & page.tags
    assert not {"src", "href", "style", "onclick"} & page.attributes
    assert not re.search(r"url\(|@import|https?://", file.read_text(encoding="utf-8"))
    assert ADA not in " ".join(page.texts)
    assert ADA in report(sqlite, "--html", "--identities")
    assert sections(report(sqlite, "--identities"))["Power users"] == [[f"`{ADA}`", "100", "48%"]]
    nowhere = tmp_path / "none" / "week.html"
    done = CliRunner().invoke(app, ["report", "--output", str(nowhere), "--url", sqlite.url])
    assert (done.exit_code, done.stderr) == (
        2,
        f"usage-instrument: {nowhere} cannot be written: No such file or directory\n",
    )


def test_longer_and_empty_periods(sqlite: Database) -> None:
    made(sqlite.engine(), user_id_type="string")
    text = report(sqlite, "--since", "last month", "--until", "last month")
    assert text.startswith("# Feature usage last month\n")
    assert "Nothing was used." in text
    assert "Unusual days" not in report(sqlite, "--since", "90d")
    for options, message in (
        (("--html", "--markdown"), "as HTML or as Markdown?"),
        (("--since", "soon"), "since is 12h, 30d"),
    ):
        done = CliRunner().invoke(app, ["report", "--url", sqlite.url, *options])
        assert (done.exit_code, message in done.output) == (2, True), done.output


@pytest.mark.parametrize("words", [("last week", "last week")])
def test_a_whole_week(sqlite: Database, words: tuple[str, str]) -> None:
    filled(sqlite)
    assert report(sqlite, "--since", words[0], "--until", words[1]).startswith("# Feature usage last week\n")


def test_days_are_those_of_a_time_zone_or_refused(sqlite: Database) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    yesterday = utcnow().replace(hour=0, minute=0, second=0, microsecond=0) - DAY
    hours = {0: 1, 1: 10, 9: 100, 23: 1000}  # on an island 10 hours behind, 9:00 UTC is of the day before
    with engine.begin() as connection:
        rows = [
            {"feature_name": "search", "usage_count": n, "bucket_start": yesterday + h * HOUR} for h, n in hours.items()
        ]
        connection.execute(tables.history.insert(), rows)
    day = str((yesterday - DAY).date())
    asked = ("--since", day, "--until", day)
    assert "- Uses: 111" in (found := report(sqlite, *asked, "--tz", "Pacific/Honolulu"))
    assert found.startswith(f"# Feature usage from {day} to {day}, days of Pacific/Honolulu")
    assert "- Uses: 0" in report(sqlite, *asked)
    with engine.begin() as connection:
        connection.execute(tables.history.delete().where(tables.history.c.bucket_start != yesterday))
    done = CliRunner().invoke(app, ["report", "--url", sqlite.url, *asked, "--tz", "Pacific/Honolulu"])
    assert done.exit_code == 2
    assert "history" in done.output
