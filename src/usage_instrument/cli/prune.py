"""`usage-instrument prune`: what need not be kept for ever goes, and hours become days."""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from usage_instrument.database import engines
from usage_instrument.database.dialects import Fault
from usage_instrument.database.tables import Tables
from usage_instrument.pipeline.journal import check_root, writers
from usage_instrument.pipeline.retention import DEAD, Retention
from usage_instrument.pipeline.store import Store, WriteError
from usage_instrument.settings import Settings

from .database import read
from .errors import explained, fail
from .journal import JournalRoot
from .options import Format, Output, Schema, Url, required, span
from .output import show

_ATTEMPTS = 6


def prune(
    url: Url = None,
    schema: Schema = None,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="PERIOD", help="How long history is kept; the setting history_retention if unset."),
    ] = None,
    hours_to_days: Annotated[
        str | None, typer.Option(metavar="PERIOD", help="Sum up hours that are older than this to days.")
    ] = None,
    journal: JournalRoot = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Delete old history and the rows of writers that are long dead; sum up old hours to days.

    Totals, losses and the catalogue stay. It may be killed at any instant, run again, and run beside the app.
    """
    said = replace(Settings.from_environment(enabled=True), users=None, schema=schema)
    keep = dt.timedelta(seconds=said.history_retention) if older_than is None else span(older_than, "--older-than")
    hours = None if hours_to_days is None else span(hours_to_days, "--hours-to-days")
    tables = read(url, schema, lambda connection, tables: tables)
    with _retention(required(url), tables, said) as retention:
        done = [*_history(retention, keep, hours, dry_run), _writers(retention, journal, dry_run)]
    status = "would go" if dry_run else "gone"
    show([{"what": what, "rows": rows, "status": status} for what, rows in done], output, empty="")


def _history(
    retention: Retention, keep: dt.timedelta, hours: dt.timedelta | None, dry_run: bool
) -> Iterator[tuple[str, int]]:
    kept = retention.first_day(keep)
    rows = retention.count(kept) if dry_run else _all(partial(retention.prune, kept))
    yield f"history from before {kept:%Y-%m-%d}", rows
    if hours is not None:
        before = retention.first_day(hours)
        rows = retention.count(before, since=kept, hours=True) if dry_run else _all(partial(retention.roll_up, before))
        yield f"hours from before {before:%Y-%m-%d}, summed up to days", rows


def _writers(retention: Retention, journal: str | None, dry_run: bool) -> tuple[str, int]:
    if journal is not None:
        check_root(journal)
    try:
        dead = retention.dead_writers(lambda: () if journal is None else writers(journal))
    except OSError as error:
        raise fail(f"the journals in {journal} cannot be read, so no writer is known to be dead: {error}") from None
    return f"writers silent for {DEAD.days} days", len(dead) if dry_run else retention.forget(dead)


@contextmanager
def _retention(url: str, tables: Tables, said: Settings) -> Iterator[Retention]:
    with explained(engines.url_of(engines.parse(url))):
        store = Store(engines.connect(url), tables, said)
        try:
            store.open()
            yield store.retention
        finally:
            store.dispose()


def _all(begin: Callable[[], Iterator[int]]) -> int:
    """The rows that went. What meets somebody's locks is begun again: it finds out anew what is left to do."""
    rows, attempts = 0, 0
    while True:
        try:
            for number in begin():
                rows += number
        except WriteError as error:
            attempts += 1
            if error.fault is not Fault.TRANSIENT or attempts == _ATTEMPTS:
                raise
            time.sleep(random.random() * 0.2 * 2.0**attempts)
        else:
            return rows
