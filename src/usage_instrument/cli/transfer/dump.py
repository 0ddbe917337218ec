"""`usage-instrument dump`: counts and history for a warehouse, as files of whole days."""

from __future__ import annotations

import csv
import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer
from sqlalchemy import Connection, Select, case, func, literal, null, select, union_all

from usage_instrument.dashboard.csv import cell
from usage_instrument.database.ledger import utcnow
from usage_instrument.database.months import first_day
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries.windows import edge_of, point

from ..database import ask
from ..options import ReadUrl, Schema
from ..output import show
from .parquet import pyarrow

_DAY = dt.timedelta(days=1)
_SETTLES = dt.timedelta(hours=1)
"""A day is closed so long after its end: the writers of the app write what they hold, and retry."""
_TOGETHER = 2_000
"""Rows in memory."""
COUNTS = ("user_id", "feature_name", "usage_count", "last_used")
HISTORY = ("user_id", "feature_name", "usage_count", "day", "bucket_start")

Write = Callable[[Sequence[Sequence[Any]]], None]


Kind: TypeAlias = Literal["parquet", "csv"]
"""The format of the files."""


def dump(
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="Where the files are written.")],
    kind: Annotated[Kind, typer.Option("--format", metavar="FORMAT", help="parquet or csv.")] = "parquet",
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="The first day of the history: 2026-01-31, 7d. Default: all there is."),
    ] = None,
    closed: Annotated[
        bool, typer.Option("--closed-days/--open-days", help="Only days that are over, or today so far, too.")
    ] = True,
    url: ReadUrl = None,
    schema: Schema = None,
) -> None:
    """Write the history, one file a day, and the counts as of the last of these days.

    A file is there as a whole or not at all, and is the same each time: to go on, pass the day after the last one as
    --since. The files hold user ids, as the tables do.
    """
    if kind == "parquet":
        pyarrow()
    first = _first(since)

    def work(connection: Connection, tables: Tables) -> list[dict[str, Any]]:
        directory.mkdir(parents=True, exist_ok=True)
        return [*_files(connection, tables, directory, kind, first, closed=closed)]

    show(ask(url, schema, work), "table", empty="There is no day to write: none is over yet.")


def _first(since: str | None) -> dt.date | None:
    found = point(edge_of(since, "since"))
    if isinstance(found, dt.timedelta):
        return utcnow().date() + _DAY - max(found, _DAY)
    return None if found is None else found.date()


def _files(
    connection: Connection, tables: Tables, directory: Path, kind: Kind, first: dt.date | None, *, closed: bool
) -> Iterator[dict[str, Any]]:
    """Write each file, and describe it."""
    now, history = utcnow(), tables.history
    end = (now - _SETTLES).date() if closed else now.date() + _DAY
    last = end - _DAY
    oldest = connection.scalar(select(func.min(history.c.bucket_start)))
    day = max(first or dt.date.min, end if oldest is None else oldest.date())
    begin = first_day(connection, tables)
    if begin is not None and day < begin.date():
        raise ConfigurationError(
            f"before {begin:%Y-%m-%d} the history has months, which are no files of days: pass --since {begin:%Y-%m-%d}"
        )
    if first is not None and first > last:
        return
    types = {"user_id": "int64" if tables.user_id_type == "integer" else "string"}
    while day < end:
        path = directory / f"history-{day}.{kind}"
        query = _history(tables, day)
        rows = ((user, name, uses, day, start) for user, name, uses, start in _streamed(connection, query))
        yield {"file": str(path), "rows": _written(path, kind, HISTORY, types, rows)}
        day += _DAY
    path = directory / f"counts-{last}.{kind}"
    rows = ((*row[:2], int(row[2]), row[3]) for row in _streamed(connection, _counts(tables, end)))
    yield {"file": str(path), "rows": _written(path, kind, COUNTS, types, rows)}


def _history(tables: Tables, day: dt.date) -> Select[*tuple[Any, ...]]:
    history = tables.history
    start = dt.datetime.combine(day, dt.time())
    columns = (history.c.user_id, history.c.feature_name, history.c.usage_count, history.c.bucket_start)
    return select(*columns).where(history.c.bucket_start >= start, history.c.bucket_start < start + _DAY)


def _counts(tables: Tables, end: dt.date) -> Select[*tuple[Any, ...]]:
    """The counts without the uses from a day on: the history, which changes in the same transaction, has those.

    The time of the last use is unknown where that is in a day that is not over.
    """
    usage, history = tables.usage, tables.history
    boundary = dt.datetime.combine(end, dt.time())
    both = union_all(
        select(usage.c.user_id, usage.c.feature_name, usage.c.usage_count.label("uses"), usage.c.last_used),
        select(
            history.c.user_id, history.c.feature_name, (literal(0) - history.c.usage_count).label("uses"), null()
        ).where(history.c.bucket_start >= boundary),
    ).subquery("both_tables")
    uses, last = func.sum(both.c.uses), func.max(both.c.last_used, type_=usage.c.last_used.type)
    key = (both.c.user_id, both.c.feature_name)
    counts = (
        select(*key, uses.label("uses"), last.label("last_used")).group_by(*key).having(uses > 0).subquery("counts")
    )
    shown = case((counts.c.last_used < boundary, counts.c.last_used))
    return select(counts.c.user_id, counts.c.feature_name, counts.c.uses, shown.label("last_used"))


def _streamed(connection: Connection, query: Select[*tuple[Any, ...]]) -> Iterator[Any]:
    yield from connection.execute(query, execution_options={"yield_per": _TOGETHER})


# ---- files


def _written(
    path: Path, kind: Kind, names: Sequence[str], types: Mapping[str, str], rows: Iterator[Sequence[Any]]
) -> int:
    """Write a file under another name first, and return the number of rows."""
    part, number = path.with_name(f".{path.name}.part"), 0
    with (_parquet if kind == "parquet" else _csv)(part, names, types) as write:
        some: list[Sequence[Any]] = []
        for row in rows:
            some.append(row)
            number += 1
            if len(some) == _TOGETHER:
                write(some)
                some = []
        if some:
            write(some)
    part.replace(path)
    return number


@contextmanager
def _csv(path: Path, names: Sequence[str], types: Mapping[str, str]) -> Iterator[Write]:
    """CSV, in which no cell is a formula."""
    with path.open("w", encoding="utf-8", newline="", errors="replace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        yield lambda rows: writer.writerows([cell(value) for value in row] for row in rows)


@contextmanager
def _parquet(path: Path, names: Sequence[str], types: Mapping[str, str]) -> Iterator[Write]:
    """Parquet, with a row group for each write."""
    pa = pyarrow()
    kinds = {
        "user_id": types["user_id"],
        "feature_name": "string",
        "usage_count": "int64",
        "day": "date32",
        "last_used": "timestamp[us]",
        "bucket_start": "timestamp[us]",
    }
    made = {"date32": pa.date32(), "timestamp[us]": pa.timestamp("us"), "int64": pa.int64(), "string": pa.string()}
    layout = pa.schema([(name, made[kinds[name]]) for name in names])
    is_text = types["user_id"] == "string"

    with pa.parquet.ParquetWriter(path, layout) as writer:

        def write(rows: Sequence[Sequence[Any]]) -> None:
            columns = [list(column) for column in zip(*rows, strict=True)]
            if is_text:  # a UUID as text
                columns[0] = [None if user is None else str(user) for user in columns[0]]
            arrays = [pa.array(column, each.type) for column, each in zip(columns, layout, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=layout))

        yield write
