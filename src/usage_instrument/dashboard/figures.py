"""How fresh the numbers are. Totals of a period, compared with the period before."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace

import sqlalchemy as sa

import usage_instrument
from usage_instrument.database import dialects
from usage_instrument.database.expressions import Ago, Day
from usage_instrument.database.ledger import is_process
from usage_instrument.database.months import first_day_number, moment_of
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import months
from usage_instrument.queries.rollups import rolled_up
from usage_instrument.queries.windows import Window, pairs_in
from usage_instrument.views import SILENT


@dataclass(frozen=True)
class Freshness:
    """How far the numbers can be trusted."""

    now: dt.datetime
    as_of: dt.datetime | None
    """The newest heartbeat of a writer, without a recent one the newest use if that is later; None for empty tables."""
    active: int
    """Writers with a recent heartbeat."""
    silent: int
    lost: int
    """Uses dropped or rejected in the last 7 days."""
    pending: int | None
    """Uses that this process has not written yet; None for a process that records none."""
    behind: float | None
    """Seconds that this standby is behind its primary; None where there is no standby."""
    first_day: dt.datetime | None
    """The first day of the history, where earlier ones are summed up to months; else None."""


def freshness(connection: sa.Connection, tables: Tables) -> Freshness:
    """Read the ledger and the losses, in one statement."""
    writers, losses, usage = tables.writers, tables.losses, tables.usage
    is_silent = writers.c.heartbeat_at < Ago(SILENT)
    is_recent = losses.c.day > Day(Ago(dt.timedelta(days=7)))
    heartbeat = sa.func.max(writers.c.heartbeat_at)
    # The newest use is found by reading the whole table: only where no writer has a recent heartbeat.
    last_used = sa.select(sa.func.max(usage.c.last_used)).scalar_subquery()
    is_over = sa.or_(heartbeat.is_(None), heartbeat < Ago(SILENT))
    row = connection.execute(
        sa.select(
            Ago().label("now"),
            heartbeat.label("heartbeat"),
            sa.func.count(writers.c.writer_id).label("writers"),
            sa.func.count(sa.case((is_silent, writers.c.writer_id))).label("silent"),
            sa.select(sa.func.sum(losses.c.uses)).where(is_recent).scalar_subquery().label("lost"),
            sa.case((is_over, last_used)).label("last_used"),
            first_day_number(tables).label("first_day"),
        ).where(is_process(writers))
    ).one()
    stats = usage_instrument.stats()
    return Freshness(
        row.now,
        max((moment for moment in (row.heartbeat, row.last_used) if moment is not None), default=None),
        row.writers - row.silent,
        row.silent,
        int(row.lost or 0),
        stats.pending if stats.captured or stats.heartbeat is not None else None,
        dialects.get(connection.dialect.name).behind(connection),
        moment_of(row.first_day),
    )


@dataclass(frozen=True)
class Figure:
    """A number of the period."""

    value: int
    before: int | None
    """The same number of the days before; None when the history does not reach that far."""


@dataclass(frozen=True)
class Totals:
    """The totals of a period."""

    uses: Figure
    users: Figure
    has_history: bool
    """Whether there is any history. Without it, no period has numbers."""


def totals(
    connection: sa.Connection,
    tables: Tables,
    asked: Window,
    feature: str | None,
    uses: int | None = None,
    *,
    has_months: bool = True,
) -> Totals:
    """Add up the history of one feature or of all, in a window and in the one before it.

    `uses` are those of the window, if another answer has them. Where days are summed up to months, which is looked up
    if the history `has_months`, a window before that has a part of one has no numbers. Raises ConfigurationError if the
    window itself has.
    """
    if has_months:
        months.check_window(connection, tables, asked, by_months=True, fix="choose a later start")
    history = asked.history(tables, before=asked.days)
    start, before = asked.start(), asked.previous().start()
    bucket, its = history.c.bucket_start, [] if feature is None else [history.c.feature_name == feature]
    rolled = rolled_up(tables, asked) if feature is None else None
    rows, inside = (history, [*asked.contains(bucket), *its]) if rolled is None else (rolled.by_user(), [])

    def added_up(name: str, rows: sa.FromClause, inside: list[sa.ColumnElement[bool]]) -> sa.Subquery:
        # Grouped by user first: a database would sort all rows to count the distinct users.
        found = sa.select(rows.c.user_id, sa.func.sum(rows.c.usage_count).label("uses")).where(*inside)
        by_user = found.group_by(rows.c.user_id).subquery()
        columns = (sa.func.sum(by_user.c.uses).label("uses"), sa.func.count(by_user.c.user_id).label("users"))
        return sa.select(*columns).subquery(name)

    def until_now() -> sa.Subquery:
        usage, used = pairs_in(tables, asked)
        user, of_feature = usage.c.user_id, [] if feature is None else [usage.c.feature_name == feature]
        users = sa.select(user).where(user.is_not(None), *used, *of_feature).distinct().subquery()
        known = sa.select(sa.func.sum(rows.c.usage_count)).where(*inside).scalar_subquery()
        number = sa.select(sa.func.count()).select_from(users).scalar_subquery()
        found = known if uses is None else sa.literal(uses)
        return sa.select(found.label("uses"), number.label("users")).subquery("now_")

    now = until_now() if asked.is_open else added_up("now_", rows, inside)
    earlier = added_up("before_", history, [bucket >= before, bucket < start, *its])
    columns = [
        side.c[column].label(f"{column}_{name}")
        for side, name in ((now, "now"), (earlier, "before"))
        for column in ("uses", "users")
    ]
    any_bucket = tables.history.c.bucket_start
    is_reached = sa.exists().where(asked.zone.local(any_bucket) <= before).label("reaches")
    has_history = sa.exists(any_bucket).label("has_history")
    both = now.join(earlier, sa.true())
    row = connection.execute(sa.select(*columns, is_reached, has_history).select_from(both)).one()

    reaches = row.reaches and (not has_months or _is_exact(connection, tables, asked.previous()))

    def figure(name: str) -> Figure:
        earlier = int(getattr(row, f"{name}_before") or 0)
        return Figure(int(getattr(row, f"{name}_now") or 0), earlier if reaches and earlier else None)

    found = figure("uses")
    # The last uses have users whose uses no service counts by time.
    return Totals(found, figure("users") if found.value else replace(figure("users"), value=0), bool(row.has_history))


def _is_exact(connection: sa.Connection, tables: Tables, asked: Window) -> bool:
    """Whether no month that is summed up is in a window by a part."""
    try:
        months.check_window(connection, tables, asked, by_months=True, fix="")
    except ConfigurationError:
        return False
    return True
