"""`usage-instrument import`: adds the counts of a file, exactly once."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid5

import typer
from sqlalchemy import Connection, func, select

from usage_instrument.database.ledger import IMPORT, Ledger, utcnow
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError
from usage_instrument.events import NAME_LENGTH, Batch, Count, in_row_order
from usage_instrument.pipeline.retry import persistently
from usage_instrument.pipeline.store import Outcome, Store
from usage_instrument.typing import UserId

from ..database import read
from ..errors import PROBLEMS, fail, warn
from ..journal import writing_settings, writing_store
from ..options import Output, Schema, Url, required
from ..output import show
from .rows import MOST_USES, BadRow, Row, chunks, digest

_NAMESPACE = UUID("5c9f2b58-5f61-4f0e-8a52-3a5f0a9d7c11")
_NAMED = 20
"""Bad rows that are named, at most."""
_PATIENCE = 60.0
"""Seconds to retry while a lock or the network is in the way."""
_DIGEST = 16
"""Hexadecimal digits of the file's hash in the ledger."""
_UNKNOWN = "user_id: there is no such user in the users table"


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A CSV file, or a .parquet file.")],
    import_id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="The name of this import. Default: a hash of the file's content."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check the file, and print what would be added.")] = (
        False
    ),
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out bad rows instead of refusing the file.")] = (
        False
    ),
    url: Url = None,
    schema: Schema = None,
    output: Output = "table",
) -> None:
    """Add counts of the past from a file: user_id, feature_name, usage_count, and optionally last_used and day.

    With a day, a row adds to the history, too. The same import adds nothing a second time, and one that was killed goes
    on where it stopped. Bad rows are named, and nothing is written. Exits with 1 if rows were left out.
    """
    if not file.is_file():
        raise fail(f"there is no file {file}")
    tables = read(url, schema, lambda connection, tables: tables)
    settings = writing_settings(schema, tables.user_id_type)
    with writing_store(required(url), tables, settings) as store:
        store.open()
        work = Import(store, tables, file, import_id)
        found = work.check()
        _report_bad(found, file, skip_bad)
        _report_undeclared(store, tables, found)
        batches = 0 if dry_run else work.run()
    status = "would be added" if dry_run else "added" if batches or not found.rows else "was added before"
    rows = [
        {"what": "rows", "number": found.rows, "status": status},
        {"what": "uses", "number": found.uses, "status": status},
        {"what": "bad rows", "number": found.bad, "status": "left out"},
        {"what": "rows of users who are erased or opted out", "number": found.suppressed, "status": "left out"},
    ]
    show(rows, output, empty="")
    if found.bad:
        raise typer.Exit(PROBLEMS)


@dataclass
class Found:
    """What is in a file."""

    rows: int = 0
    uses: int = 0
    suppressed: int = 0
    bad: int = 0
    named: list[BadRow] = field(default_factory=list)
    """The first bad rows: a file may have millions of them."""
    features: set[str] = field(default_factory=set)


class Import:
    """One file, and its row in the ledger: batch n is the n-th part of the file."""

    def __init__(self, store: Store, tables: Tables, file: Path, import_id: str | None) -> None:
        self._store = store
        self._tables = tables
        self._file = file
        self._now = utcnow()
        self._unknown = self._now
        """The last use of a row that names no time."""
        content = digest(file)
        name = import_id or content
        self.service = f"{IMPORT}{content[:_DIGEST]}:{import_id or ''}"
        if len(self.service) > NAME_LENGTH:
            raise ConfigurationError(f"--id has at most {NAME_LENGTH - len(IMPORT) - _DIGEST - 1} characters")
        self._ledger = Ledger(tables, self.service, uuid5(_NAMESPACE, name))
        self._check_content(import_id)

    def check(self) -> Found:
        """Read the whole file. Raises ConfigurationError, and WriteError."""
        found = Found()
        self._read_suppressions()
        self._unknown = persistently(partial(self._store.transact, self._before_history), _PATIENCE)
        for chunk in self._chunks():
            rows = self._known(chunk, found)
            counted = [row for row in rows if not self._is_suppressed(row.user)]
            found.suppressed += len(rows) - len(counted)
            found.rows += len(counted)
            found.uses += sum(row.uses for row in counted)
            found.features.update(row.feature for row in counted)
        return found

    def run(self) -> int:
        """Add what is not added yet, and return the number of batches. Raises ConfigurationError, and WriteError."""
        store, ledger = self._store, self._ledger
        persistently(partial(store.register, ledger), _PATIENCE)
        position = persistently(partial(store.position, ledger), _PATIENCE)
        ledger.number = position if isinstance(position, int) else 0
        batches = 0
        for number, chunk in enumerate(self._chunks(), 1):
            if number > ledger.number:
                self._write(number, self._known(chunk, Found()))
                batches += 1
        return batches

    def _write(self, number: int, rows: Sequence[Row]) -> None:
        """Add one part of the file in one transaction."""
        while True:
            counts = _counts(row for row in rows if not self._is_suppressed(row.user))
            outcome = persistently(partial(self._store.write, self._ledger, Batch(number, counts)), _PATIENCE)
            if outcome is Outcome.APPLIED:
                self._ledger.number = number
                return
            if outcome is not Outcome.OUTDATED:
                raise ConfigurationError(
                    f"the row of this import in {self._tables.writers.fullname} was changed meanwhile: run it again"
                )

    def _chunks(self) -> Iterator[list[Row | BadRow]]:
        return chunks(self._file, self._tables.user_id_type, self._now, self._unknown)

    def _known(self, chunk: Sequence[Row | BadRow], found: Found) -> list[Row]:
        """The rows that can be added; the others are added to the bad ones."""
        rows = [row for row in chunk if isinstance(row, Row)]
        unknown = persistently(partial(self._store.unknown_users, {row.user for row in rows}), _PATIENCE)
        bad = [
            row if isinstance(row, BadRow) else BadRow(row.line, _UNKNOWN)
            for row in chunk
            if isinstance(row, BadRow) or row.user in unknown
        ]
        found.bad += len(bad)
        found.named += bad[: _NAMED - len(found.named)]
        return [row for row in rows if row.user not in unknown]

    def _is_suppressed(self, user: UserId) -> bool:
        return bool(self._store.suppressions) and self._store.suppressions.suppresses(user)

    def _read_suppressions(self) -> None:
        persistently(partial(self._store.transact, self._store.suppressions.read), _PATIENCE)

    def _before_history(self, connection: Connection) -> dt.datetime:
        """The moment before the history begins, or begins today: what it does not have is earlier."""
        bucket = self._tables.history.c.bucket_start
        first = connection.scalar(select(func.min(bucket, type_=bucket.type)))
        return (first or dt.datetime.combine(self._now, dt.time())) - dt.timedelta(seconds=1)

    def _check_content(self, import_id: str | None) -> None:
        """An id stands for one file, whose parts have the numbers of the batches, and a file for one id."""
        writers, prefix = self._tables.writers, self.service[: len(IMPORT) + _DIGEST + 1]
        is_other = (writers.c.writer_id != self._ledger.writer_id) & writers.c.service.startswith(prefix)
        mine = select(writers.c.service).where(writers.c.writer_id == self._ledger.writer_id)
        others = select(writers.c.service).where(is_other, writers.c.last_batch > 0)

        def read(connection: Connection) -> tuple[str | None, str | None]:
            return connection.scalar(mine), connection.scalar(others)

        before, other = persistently(partial(self._store.transact, read), _PATIENCE)
        if before not in (None, self.service):
            raise ConfigurationError(
                f"the import {import_id!r} added another file, or this one before it was changed: choose another --id"
            )
        if other is not None:
            name = other.removeprefix(prefix)
            raise ConfigurationError(
                f"this file was added before, {f'as {name!r}' if name else 'without --id'}, and would count twice: run "
                f"it {f'with --id {name!r}' if name else 'without --id'} to go on"
            )


def _counts(rows: Iterator[Row]) -> tuple[Count, ...]:
    """Rows added up by user and feature, in the order in which all writers lock their rows."""
    uses: Counter[tuple[str, UserId]] = Counter()
    last: dict[tuple[str, UserId], dt.datetime] = {}
    history: dict[tuple[str, UserId], Counter[dt.datetime]] = {}
    for row in rows:
        key = (row.feature, row.user)
        uses[key] += row.uses
        last[key] = max(last.get(key, row.last_used), row.last_used)
        if row.day is not None:
            history.setdefault(key, Counter())[dt.datetime.combine(row.day, dt.time())] += row.uses
    counts = (
        Count(*key, min(number, MOST_USES), last[key], None, tuple(sorted(history.get(key, {}).items())))
        for key, number in uses.items()
    )
    return in_row_order(counts)


def _report_bad(found: Found, file: Path, skip_bad: bool) -> None:
    for row in found.named:
        warn(f"{file}, line {row.line}: {row.reason}")
    if found.bad > len(found.named):
        warn(f"and {found.bad - len(found.named)} more bad rows")
    if found.bad and not skip_bad:
        raise fail("nothing was written: correct these rows, or pass --skip-bad")


def _report_undeclared(store: Store, tables: Tables, found: Found) -> None:
    """Name the features that no code declares: they may be misspelt."""
    names = tables.catalog.c.feature_name
    known: Any = store.transact(lambda connection: set(connection.scalars(select(names).distinct())))
    undeclared = sorted(found.features - known) if known else []
    if undeclared:
        more = f" and {len(undeclared) - 5} more" if len(undeclared) > 5 else ""
        warn(f"no code declares {', '.join(map(repr, undeclared[:5]))}{more}: check the names")
