"""`usage-instrument report`: a digest of a period as one HTML file or as Markdown."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import Connection, func, select

from usage_instrument.dashboard import formatting
from usage_instrument.dashboard.figures import Figure, Totals, totals
from usage_instrument.dashboard.html import render
from usage_instrument.database.ledger import utcnow
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries.adoption import ADOPTION
from usage_instrument.queries.display_names import display_names
from usage_instrument.queries.drops import DROPS
from usage_instrument.queries.power_users import POWER_USERS
from usage_instrument.queries.questions import LAST_USED, SHARE, USERS, USES, ColumnKind, Question, QuestionColumn
from usage_instrument.queries.silent import SILENT
from usage_instrument.queries.spikes import SPIKES
from usage_instrument.queries.top_features import TOP
from usage_instrument.queries.unused_features import UNUSED
from usage_instrument.queries.windows import MONTH, window, window_words

from .database import ask
from .errors import fail, printable
from .options import LastDay, ReadUrl, Schema, Zone
from .output import Printer

ROWS = 10
"""Rows of a section."""
_ALL = 10_000
_CHANGED = 0.2
"""The least relative change of a feature that rises or falls."""
_LEAST = 20
"""The least difference in uses of a feature that rises or falls: of fewer, a fifth is no news."""
_UNUSED = dt.timedelta(days=90)


@dataclass(frozen=True)
class Section:
    """A table with a heading."""

    title: str
    about: str
    empty: str
    columns: tuple[QuestionColumn, ...]
    rows: Sequence[Mapping[str, Any]]

    @property
    def cells(self) -> list[list[str]]:
        """The first rows as text."""
        return [[_text(column.kind, row[column.name]) for column in self.columns] for row in self.rows[:ROWS]]

    @property
    def more(self) -> int:
        """The number of rows that are left out."""
        return max(len(self.rows) - ROWS, 0)


@dataclass(frozen=True)
class Digest:
    """What a report shows."""

    period: str
    written_at: dt.datetime
    figures: Totals
    sections: list[Section] = field(default_factory=list)


def report(
    since: Annotated[
        str, typer.Option(metavar="TIME", help="The first day: 7d, 4w, 2026-01-31, last week, last month.")
    ] = "7d",
    until: LastDay = None,
    tz: Zone = None,
    html: Annotated[bool, typer.Option("--html", help="One HTML file, which loads nothing.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Markdown. This is the default.")] = False,
    identities: Annotated[bool, typer.Option("--identities", help="Also show users, by their ids.")] = False,
    file: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Default: standard output.")] = None,
    url: ReadUrl = None,
    schema: Schema = None,
) -> None:
    """A digest of a period: top, new, rising, falling and unused features, adoption, anomalies and losses.

    Each number beside the one of the window of the same length before. Without --identities, it shows no user ids.
    """
    if html and markdown:
        raise fail("as HTML or as Markdown? Pass --html or --markdown, not both")
    digest = ask(url, schema, lambda connection, tables: digest_of(connection, tables, since, until, identities, tz))
    text = render("report.html", digest=digest) if html else in_markdown(digest)
    if file is None:
        Printer().write(text)
    else:
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise fail(f"{file} cannot be written: {error.strerror}") from None


# ---- the content


def digest_of(
    connection: Connection,
    tables: Tables,
    since: str,
    until: str | None,
    identities: bool,
    tz: str | None = None,
) -> Digest:
    """Ask the questions of a report. Raises ConfigurationError."""
    asked = window(since, until, tz)
    if asked.since is None:
        raise ConfigurationError("a report has a start: pass --since, such as 7d")
    displays = display_names(connection, tables)

    def ask(question: Question, **given: Any) -> list[dict[str, Any]]:
        given = {"until": None, "tz": tz, **given}
        question.check_history(connection, tables, given)
        rows = connection.execute(question.select(**given, tables=tables)).mappings()
        return [{**row, "feature": _named(row.get("feature_name"), displays)} for row in rows]

    period: dict[str, Any] = {"since": since, "until": until}
    words = window_words(since, until) + (f", days of {tz}" if tz else "")
    digest = Digest(words, utcnow(), totals(connection, tables, asked, None))
    digest.sections.extend(_features(ask(TOP, limit=_ALL, compare="previous", **period)))
    digest.sections.append(_adoption(ask(ADOPTION, compare="previous", **period)))
    if asked.days is not None and asked.days <= MONTH.days:
        digest.sections.append(_unusual(ask(SPIKES, **period), ask(DROPS, **period)))
    digest.sections.append(_silent(ask(SILENT, **period)))
    digest.sections.append(_unused(ask(UNUSED, since=_UNUSED)))
    if identities:
        digest.sections.append(_people(ask(POWER_USERS, limit=ROWS, **period)))
    digest.sections.append(_losses(connection, tables, asked.days or 1))
    return digest


_FEATURE = QuestionColumn("feature", "Feature", "feature")
_COMPARED = (
    _FEATURE,
    QuestionColumn("total_usage", "Uses", "count"),
    QuestionColumn("total_usage_before", "Before", "count"),
    QuestionColumn("total_usage_relative_change", "Change", "change"),
)


def _features(rows: Sequence[Mapping[str, Any]]) -> Iterator[Section]:
    """The most used, new, rising and falling features."""
    used = [row for row in rows if row["total_usage"]]
    new = [row for row in used if not row["total_usage_before"]]
    changed = [
        row
        for row in rows
        if row["total_usage_before"]
        and abs(row["total_usage_change"]) >= _LEAST
        and abs(row["total_usage_relative_change"]) >= _CHANGED
    ]
    rising = sorted(
        (row for row in changed if row["total_usage_change"] > 0),
        key=lambda row: (-row["total_usage_relative_change"], row["feature"]),
    )
    falling = sorted(
        (row for row in changed if row["total_usage_change"] < 0),
        key=lambda row: (row["total_usage_relative_change"], row["feature"]),
    )

    yield Section("Top features", "The most used ones, anonymous uses included.", "Nothing was used.", _COMPARED, used)
    yield Section("New", "Used now, and not in the window before.", "No feature is new.", _COMPARED, new)
    least = f"by {_CHANGED:.0%} and {_LEAST} uses at least"
    yield Section("Rising", f"Used more than in the window before, {least}.", "No feature rises.", _COMPARED, rising)
    yield Section("Falling", f"Used less than in the window before, {least}.", "No feature falls.", _COMPARED, falling)


def _adoption(rows: Sequence[Mapping[str, Any]]) -> Section:
    return Section(
        "Adoption",
        "How many users used a feature, and their share of all users.",
        "No signed-in user used a feature.",
        (_FEATURE, USERS, SHARE, QuestionColumn("unique_users_before", "Before", "count")),
        [row for row in rows if row["unique_users"]],
    )


def _unusual(spikes: Sequence[Mapping[str, Any]], drops: Sequence[Mapping[str, Any]]) -> Section:
    rows = [{**row, "what": "spike"} for row in spikes] + [{**row, "what": "drop"} for row in drops]
    return Section(
        "Unusual days",
        "Days far above or below what is usual for the feature.",
        "No day stood out.",
        (
            QuestionColumn("day", "Day", "day"),
            _FEATURE,
            QuestionColumn("what", "What", "status"),
            USES,
            QuestionColumn("baseline", "Usual", "count"),
        ),
        sorted(rows, key=lambda row: (str(row["day"]), row["feature"])),
    )


def _silent(rows: Sequence[Mapping[str, Any]]) -> Section:
    return Section(
        "Silent",
        "Declared by code, used regularly before, and not once now.",
        "Every declared feature that was used regularly was used.",
        (_FEATURE, QuestionColumn("uses", "Uses before", "count"), LAST_USED),
        rows,
    )


def _unused(rows: Sequence[Mapping[str, Any]]) -> Section:
    return Section(
        "Unused",
        f"Without a use in {_UNUSED.days} days.",
        "Every declared feature was used.",
        (_FEATURE, QuestionColumn("status", "Status", "status"), LAST_USED),
        rows,
    )


def _people(rows: Sequence[Mapping[str, Any]]) -> Section:
    return Section(
        "Power users",
        "The users with the most uses, and their share of all uses.",
        "No signed-in user was active.",
        (QuestionColumn("user_id", "User", "user"), USES, SHARE),
        rows,
    )


def _losses(connection: Connection, tables: Tables, days: int) -> Section:
    losses, uses = tables.losses, func.sum(tables.losses.c.uses)
    first = utcnow().date() - dt.timedelta(days=days - 1)
    query = select(losses.c.reason, uses.label("uses")).where(losses.c.day >= first)
    found = connection.execute(query.group_by(losses.c.reason).order_by(uses.desc(), losses.c.reason)).mappings()
    return Section(
        "Losses",
        f"Uses that were dropped or rejected in the last {formatting.plural(days, 'day')} (UTC).",
        "Nothing was lost.",
        (QuestionColumn("reason", "Reason", "text"), USES),
        [{"reason": row["reason"], "uses": int(row["uses"])} for row in found],
    )


def _named(feature: str | None, displays: Mapping[str, str]) -> str:
    """A feature by its name for people and its name in the code."""
    name = feature or "(no name)"
    return f"{displays[name]} ({name})" if name in displays else name


# ---- the text


def _text(kind: ColumnKind, value: Any) -> str:
    match kind:
        case "count":
            return formatting.count(value)
        case "share":
            return formatting.share(value)
        case "change":
            return "new" if value is None else formatting.relative(value)
        case "day":
            return formatting.day(value)
        case "time":
            return "never" if value is None else formatting.day(value)
        case "user":
            return "anonymous" if value is None else str(value)
    return "" if value is None else str(value)


def in_markdown(digest: Digest) -> str:
    """The digest as Markdown: names are code, in which nothing has a meaning."""
    lines = [
        f"# Feature usage {digest.period}",
        "",
        *(f"- {name}: {_figure(figure)}" for name, figure in _figures(digest)),
        f"- Written {formatting.moment(digest.written_at)}",
    ]
    for section in digest.sections:
        lines += ["", f"## {section.title}", "", section.about if section.rows else section.empty]
        if section.rows:
            lines += ["", *_table(section)]
        if section.more:
            lines += ["", f"And {section.more:,} more."]
    return "\n".join(lines) + "\n"


def _figures(digest: Digest) -> list[tuple[str, Figure]]:
    return [("Uses", digest.figures.uses), ("Users", digest.figures.users)]


def _figure(figure: Figure) -> str:
    value = formatting.count(figure.value)
    return value if figure.before is None else f"{value} ({formatting.change(figure.value, figure.before)})"


def _table(section: Section) -> Iterator[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    yield line([column.title for column in section.columns])
    yield line(["---:" if column.is_number else "---" for column in section.columns])
    for cells in section.cells:
        yield line(
            [
                _code(cell) if column.kind in ("feature", "user", "text") else cell
                for column, cell in zip(section.columns, cells, strict=True)
            ]
        )


def _code(text: str) -> str:
    """A text as code in a cell of a table."""
    return f"`{printable(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"
