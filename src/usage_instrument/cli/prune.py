"""`usage-instrument prune`: deletes old history and dead writers, and sums up hours to days, and days to months."""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from usage_instrument.pipeline.journal import check_root, writers
from usage_instrument.pipeline.retention import DEAD, Retention
from usage_instrument.pipeline.store import WriteError
from usage_instrument.settings import LEAST_MONTHS_AFTER, Settings

from .database import read
from .errors import fail
from .journal import JournalRoot, writing_store
from .options import Output, Schema, Url, required, span
from .output import show

_ATTEMPTS = 6


def prune(
    url: Url = None,
    schema: Schema = None,
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="PERIOD",
            help="How long to keep history, dimensions and exposures; default: the setting history_retention.",
        ),
    ] = None,
    hours_to_days: Annotated[
        str | None, typer.Option(metavar="PERIOD", help="Sum up hours older than this to days.")
    ] = None,
    days_to_months: Annotated[
        str | None,
        typer.Option(
            metavar="PERIOD",
            help="Sum up the days of months that are older than this; default: the setting history_months_after.",
        ),
    ] = None,
    journal: JournalRoot = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be deleted.")] = False,
    output: Output = "table",
) -> None:
    """Delete old history, dimensions, exposures and rows of dead writers; sum up old hours to days, days to months.

    Totals, losses and the catalogue stay. It may run beside the app, and be killed and run again at any time.
    """
    settings = replace(Settings.from_environment(enabled=True), users=None, schema=schema)
    keep = dt.timedelta(seconds=settings.history_retention) if older_than is None else span(older_than, "--older-than")
    hours = None if hours_to_days is None else span(hours_to_days, "--hours-to-days")
    days = None if settings.history_months_after is None else dt.timedelta(seconds=settings.history_months_after)
    if days_to_months is not None:
        days = span(days_to_months, "--days-to-months")
        if days.total_seconds() < LEAST_MONTHS_AFTER:
            raise fail(f"--days-to-months is at least {LEAST_MONTHS_AFTER / 86400:g}d, not {days_to_months}")
    tables = read(url, schema, lambda connection, tables: tables)
    with writing_store(required(url), tables, settings) as store:
        store.open()
        retention = store.retention
        done = [*_history(retention, keep, hours, days, dry_run)]
        if store.exposure_problem is None:
            done.append(_exposures(retention, keep, dry_run))
        if store.dimension_problem is None:
            done.append(_dimensions(retention, keep, dry_run))
        done.append(_writers(retention, journal, dry_run))
        status = "would be deleted" if dry_run else "deleted"
        rows = [{"what": what, "rows": number, "status": status} for what, number in done]
        weeks = _rollups(retention, keep, dry_run)
    if weeks:
        what = "weeks of the history, whose rollups have to be renewed"
        rows.append({"what": what, "rows": weeks, "status": "would be renewed" if dry_run else "renewed"})
    show(rows, output, empty="")


def _history(
    retention: Retention,
    keep: dt.timedelta,
    hours: dt.timedelta | None,
    days: dt.timedelta | None,
    dry_run: bool,
) -> Iterator[tuple[str, int]]:
    kept = retention.first_kept(retention.first_day(keep), days is not None)
    if not dry_run:
        _all(partial(retention.make_partitions, kept.replace(day=1), patiently=True))
    rows = retention.count(kept) if dry_run else _all(partial(retention.prune, kept))
    yield f"history from before {kept:%Y-%m-%d}", rows
    if hours is not None:
        before = retention.first_day(hours)
        rows = retention.count(before, since=kept, to="day") if dry_run else _all(partial(retention.roll_up, before))
        yield f"hours from before {before:%Y-%m-%d}, summed up to days", rows
    if days is not None:
        first = retention.first_day(days).replace(day=1)
        rows = (
            retention.count(first, since=kept, to="month") if dry_run else _all(partial(retention.roll_up_days, first))
        )
        yield f"days from before {first:%Y-%m-%d}, summed up to months", rows


def _rollups(retention: Retention, keep: dt.timedelta, dry_run: bool) -> int:
    kept = retention.first_day(keep)
    return len(retention.stale_weeks(kept)) if dry_run else _all(partial(retention.renew_rollups, kept, patiently=True))


def _exposures(retention: Retention, keep: dt.timedelta, dry_run: bool) -> tuple[str, int]:
    kept = retention.first_day(keep)
    rows = retention.count_exposures(kept) if dry_run else _all(partial(retention.prune_exposures, kept))
    return f"exposures, the last one before {kept:%Y-%m-%d}", rows


def _dimensions(retention: Retention, keep: dt.timedelta, dry_run: bool) -> tuple[str, int]:
    kept = retention.first_day(keep)
    rows = retention.count_dimensions(kept) if dry_run else _all(partial(retention.prune_dimensions, kept))
    return f"dimensions from before {kept:%Y-%m-%d}", rows


def _writers(retention: Retention, journal: str | None, dry_run: bool) -> tuple[str, int]:
    if journal is not None:
        check_root(journal)
    try:
        dead = retention.dead_writers(lambda: () if journal is None else writers(journal))
    except OSError as error:
        raise fail(
            f"the journals in {journal} cannot be read, so it is unknown which writers are dead: {error}"
        ) from None
    return f"writers silent for {DEAD.days} days", len(dead) if dry_run else retention.forget(dead)


def _all(begin: Callable[[], Iterator[int]]) -> int:
    """The number of rows deleted. After a lock timeout it starts again with the rows that are left."""
    rows, attempts = 0, 0
    while True:
        try:
            for number in begin():
                rows += number
        except WriteError as error:
            attempts += 1
            if not error.fault.is_transient or attempts == _ATTEMPTS:
                raise
            time.sleep(random.random() * 0.2 * 2.0**attempts)
        else:
            return rows
