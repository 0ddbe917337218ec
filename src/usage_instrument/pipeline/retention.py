"""Prunes old history, turns hours into days and days into months, and deletes the rows of dead writers."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, and_, delete, func, or_, select

from usage_instrument.database import dialects
from usage_instrument.database.dialects.base import ConcurrentInsertError, Flush
from usage_instrument.database.driver_errors import Fault
from usage_instrument.database.expressions import Ago, StartOf
from usage_instrument.database.ledger import is_process
from usage_instrument.database.months import first_day, move_first_day
from usage_instrument.database.partitions import Partition, Partitioning, Partitions, later
from usage_instrument.errors import UsageInstrumentError
from usage_instrument.events import Count, bucket_start
from usage_instrument.runtime import log
from usage_instrument.typing import UserId

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables
    from usage_instrument.settings import Settings

T = TypeVar("T")
Larger: TypeAlias = Literal["day", "month"]
"""What smaller buckets are summed up to."""

ROWS = 5_000
"""Rows of the history per transaction, approximately."""
_WRITERS = 500
_MOVED = 50_000
"""Rows of a month that maintenance moves into their partition, at most."""
_ATTEMPTS = 20
DEAD = dt.timedelta(days=400)
"""Without a heartbeat for so long, a writer is dead, and none of its batches is on its way."""
_IN_THE_WAY = {Fault.LOCKED, Fault.UNKNOWN_USER, Fault.TRANSIENT}
"""Faults of a statement that meets others: users are deleted, rows are locked."""
_LONGEST = dt.timedelta(days=36_500)


class Run(Protocol):
    """Runs work on a connection."""

    def __call__(self, work: Callable[[Connection], T], /) -> T:
        """Return what `work` returns."""


class Retention:
    """Counts, deletes and sums up old rows, a few thousand per transaction: other writers wait only briefly.

    The clock is the database's: that of a process may be years ahead. Methods raise what `transact` and `read` raise;
    earlier transactions stand.
    """

    def __init__(self, tables: Tables, settings: Settings, flush: Flush, transact: Run, read: Run) -> None:
        self._tables = tables
        self._settings = settings
        self._flush = flush
        self._transact = transact
        self._run_reading = read
        self._bucket: ColumnElement[Any] = tables.history.c.bucket_start

    def first_day(self, keep: dt.timedelta) -> dt.datetime:
        """The first day (UTC) of the history that is kept for so long."""
        first: dt.datetime = self._read(select(StartOf("day", Ago(min(keep, _LONGEST)))))[0][0]
        return first

    # ---- the partitions of the history

    def first_month(self, day: dt.datetime) -> dt.datetime:
        """The first moment to keep, if rows from before a day may go: of partitions, the day's whole month.

        To delete the days of that month, one by one, would cost what partitions save.
        """
        found = self._partitions()
        has_months = self._settings.history_months_after is not None
        return self.first_kept(day, has_months) if found is None or not found.is_owned else day.replace(day=1)

    def first_kept(self, day: dt.datetime, has_months: bool) -> dt.datetime:
        """The first moment to keep, if rows from before a day may go: where days are or will be summed up, the day's
        whole month, whose sum would else be that of a part."""
        if has_months:
            return day.replace(day=1)
        first = self._first_day()
        return day if first is None or day >= first else day.replace(day=1)

    def _first_day(self) -> dt.datetime | None:
        return self._run_reading(lambda connection: first_day(connection, self._tables))

    def make_partitions(self, since: dt.datetime, *, patiently: bool = False) -> Iterator[int]:
        """Make the partitions of this month, of the next ones, and of the rows since a moment that have none; yield the
        number of each transaction.

        Unless `patiently`, many rows stay where they are: flushes of their month would wait.
        """
        found = self._partitions()
        if found is None:
            return
        if not found.is_owned:
            if found.missing(ahead=1):
                log.warning(
                    "no partition",
                    "%s has no partition for the next month, and this role may not add one: "
                    "run `usage-instrument prune` as the owner of the table",
                    self._tables.history.fullname,
                )
            return
        in_default = self._run_reading(lambda each: self._partitioning(each).months_in_default(each, found))
        moved = [month for month, rows in in_default if month >= since and (patiently or rows <= _MOVED)]
        missing = found.missing(moved)
        for month in missing:
            yield from self._insist(partial(self._add_month, month, patiently))
        if missing:
            self._transact(lambda each: self._partitioning(each).analyze(each, self._tables.history))

    def _partitions(self) -> Partitions | None:
        history = self._tables.history
        return self._run_reading(lambda each: self._partitioning(each).find(each, history))

    def _add_month(self, month: dt.datetime, patiently: bool, connection: Connection) -> int:
        self._partitioning(connection).add_month(connection, self._tables.history, month, patiently=patiently)
        return 0

    def _drop(self, part: Partition, connection: Connection) -> int:
        history = self._tables.history
        is_dropped = self._partitioning(connection).drop(connection, history, part)
        if is_dropped and part.end is not None:
            dialects.get(connection.dialect.name).rollups.forget(connection, history, part.start, part.end)
        return part.rows if is_dropped else 0

    def _insist(self, work: Callable[[Connection], int]) -> Iterator[int]:
        """Try a change of the tables until its short wait for locks succeeds; flushes may run after each attempt."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                rows = self._transact(work)
            except UsageInstrumentError as error:
                if getattr(error, "fault", None) is not Fault.LOCKED or attempt == _ATTEMPTS:
                    raise
                yield 0
            else:
                yield rows
                return

    # ---- the history

    def count(self, before: dt.datetime, *, since: dt.datetime | None = None, to: Larger | None = None) -> int:
        """The number of history rows before a moment (since another); of those that are to be summed up to days or
        months."""
        which = self._bucket < before if to is None else self._smaller(to, before)
        if since is not None:
            which = and_(which, self._bucket >= since)
        return int(self._read(select(func.count()).select_from(self._tables.history).where(which))[0][0])

    def prune(self, before: dt.datetime) -> Iterator[int]:
        """Delete the history before a moment; yield the number of rows of each transaction.

        Partitions that end by then are dropped, and their rows as many as the database estimates.
        """
        found = self._partitions()
        for partition in found.ranges if found is not None and found.is_owned else ():
            if partition.end is not None and partition.end <= before:
                yield from self._insist(partial(self._drop, partition))
        old = self._bucket < before
        # Most of the time there is nothing to do: one query costs less than a walk through the table.
        if self._read(select(select(self._bucket).where(old).exists()))[0][0]:
            for part in self._parts(old):
                yield self._transact(partial(self._delete, part))

    def roll_up(self, before: dt.datetime) -> Iterator[int]:
        """Sum up hours before a moment into days; yield the number of rows of each transaction."""
        for part in self._parts(self._smaller("day", before)):
            yield self._transact(partial(self._sum_up, part, "day"))

    def roll_up_days(self, before: dt.datetime) -> Iterator[int]:
        """Sum up the days of each month that ends by a moment into one row; yield the number of rows of each
        transaction.

        The first transaction lets the history begin with the first day after those months: questions know it before the
        first row is gone. Late uses of a month that is summed up are days, until the next time.
        """
        known = self._first_day()
        before = before.replace(day=1)
        before = before if known is None else max(before, known)
        months = list(self._months_of_days(before))
        if not months:
            return
        if known != before:
            yield self._transact(partial(self._begin_days, before))
        many = []
        for month in months:
            of_month = and_(self._bucket > month, self._bucket < later(month))
            some = select(self._bucket).where(of_month).limit(ROWS + 1).subquery()
            if self._read(select(func.count()).select_from(some))[0][0] > ROWS:
                many.append(month)
            else:
                yield self._transact(partial(self._sum_up, of_month, "month"))
        if many:  # one walk along the users for all months
            which = and_(self._smaller("month", later(many[-1])), self._bucket >= many[0])
            for part in self._parts(which):
                yield self._transact(partial(self._sum_up, part, "month"))

    def _months_of_days(self, before: dt.datetime) -> Iterator[dt.datetime]:
        """The months before a moment that have another row than that of their start: a query by the index for each
        month of the history."""
        named = self._tables.history.c.feature_name.is_not(None)
        # For min(), MariaDB would read all rows: the index does not have the names.
        first = select(self._bucket).where(self._bucket < before, named).order_by(self._bucket).limit(1)
        after: list[ColumnElement[bool]] = []
        while rows := self._read(first.where(*after)):
            found = rows[0][0]
            month = bucket_start(found, "month")
            if found > month:
                yield month
            after = [self._bucket > month] if found == month else [self._bucket >= later(month)]

    def _begin_days(self, month: dt.datetime, connection: Connection) -> int:
        move_first_day(connection, self._tables, month)
        return 0

    def _smaller(self, unit: Larger, before: dt.datetime) -> ColumnElement[bool]:
        """Buckets before a moment that do not begin with the day or the month."""
        return and_(self._bucket < before, self._bucket != StartOf(unit, self._bucket))

    def _parts(self, which: ColumnElement[bool]) -> Iterator[ColumnElement[bool]]:
        """Conditions that divide the rows: ranges of users, along their index, and features of the anonymous user."""
        history = self._tables.history
        user, feature, last = history.c.user_id, history.c.feature_name, None
        while True:
            after = user.is_not(None) if last is None else user > last
            found = self._read(select(user).where(after).order_by(user).offset(ROWS).limit(1))
            if not found:
                yield and_(which, after)
                break
            last = found[0][0]
            yield and_(which, after, user <= last)
        by_feature = select(feature, func.count()).where(user.is_(None), which).group_by(feature)
        for names in _grouped(self._read(by_feature)):
            nameless = [feature.is_(None)] if None in names else []
            yield and_(which, user.is_(None), or_(feature.in_([name for name in names if name is not None]), *nameless))

    def _delete(self, which: ColumnElement[bool], connection: Connection) -> int:
        return int(self._execute(connection, delete(self._tables.history).where(which)).rowcount)

    def _sum_up(self, which: ColumnElement[bool], unit: Larger, connection: Connection) -> int:
        history = self._tables.history
        which = and_(which, history.c.feature_name.is_not(None))
        columns = (history.c.user_id, history.c.feature_name, history.c.bucket_start, history.c.usage_count)
        rows = self._execute(connection, select(*columns).where(which).with_for_update()).all()
        if self._delete(which, connection) != len(rows):
            raise ConcurrentInsertError  # an old use has just come out of a journal
        larger: dict[tuple[UserId, str], dict[dt.datetime, int]] = defaultdict(lambda: defaultdict(int))
        for user, feature, start, uses in rows:
            larger[user, feature][bucket_start(start, unit)] += uses or 0
        counts = [
            Count(feature, user, sum(uses.values()), max(uses), None, tuple(uses.items()))
            for (user, feature), uses in larger.items()
        ]
        if counts:
            self._flush.add_history(connection, counts)
        return len(rows)

    # ---- the rollups of the history

    def stale_weeks(self, since: dt.datetime) -> list[dt.datetime]:
        """The weeks since a moment that have to be rolled up; none if the history has no rollups."""
        history = self._tables.history

        def look(connection: Connection) -> list[dt.datetime]:
            rollups = dialects.get(connection.dialect.name).rollups
            return rollups.stale(connection, history, since) if rollups.find(connection, history) else []

        return self._run_reading(look)

    def renew_rollups(self, since: dt.datetime, *, patiently: bool = False) -> Iterator[int]:
        """Roll up the weeks since a moment that have changed or have no rollup, and delete older ones; yield the number
        of weeks of each transaction.

        A week that another process, or the deletion of a user, is in the way of waits for the next time. Unless
        `patiently`, a week takes no longer than a statement of a flush.
        """
        yield from self._unless_in_the_way(partial(self._tidy_rollups, since))
        for week in self.stale_weeks(since):
            yield from self._unless_in_the_way(partial(self._renew_week, week, patiently))

    def _tidy_rollups(self, since: dt.datetime, connection: Connection) -> int:
        rollups, history = dialects.get(connection.dialect.name).rollups, self._tables.history
        if rollups.find(connection, history):
            rollups.tidy(connection, history, since)
        return 0

    def _renew_week(self, week: dt.datetime, patiently: bool, connection: Connection) -> int:
        rollups = dialects.get(connection.dialect.name).rollups
        return int(rollups.renew(connection, self._tables.history, week, patiently=patiently))

    def _unless_in_the_way(self, work: Callable[[Connection], int]) -> Iterator[int]:
        try:
            done = self._transact(work)
        except UsageInstrumentError as error:
            if getattr(error, "fault", None) not in _IN_THE_WAY:
                raise
            done = 0
        yield done

    # ---- the exposures

    def _old_exposures(self, before: dt.datetime) -> ColumnElement[bool]:
        exposures = self._tables.exposures
        return and_(exposures.c.first_exposed_at < before, exposures.c.last_exposed_at < before)

    def count_exposures(self, before: dt.datetime) -> int:
        """The number of rows whose last exposure was before a moment."""
        exposures = self._tables.exposures
        query = select(func.count()).select_from(exposures).where(self._old_exposures(before))
        return int(self._read(query)[0][0])

    def prune_exposures(self, before: dt.datetime) -> Iterator[int]:
        """Delete the rows whose last exposure was before a moment; yield the number of rows of each transaction."""
        first, old = self._tables.exposures.c.first_exposed_at, self._old_exposures(before)
        while found := self._read(select(first).where(old).order_by(first).offset(ROWS - 1).limit(1)):
            yield self._transact(partial(self._delete_exposures, and_(old, first <= found[0][0])))
        if self._read(select(select(first).where(old).exists()))[0][0]:
            yield self._transact(partial(self._delete_exposures, old))

    def _delete_exposures(self, which: ColumnElement[bool], connection: Connection) -> int:
        return int(self._execute(connection, delete(self._tables.exposures).where(which)).rowcount)

    # ---- the dimensions

    def count_dimensions(self, before: dt.datetime) -> int:
        """The number of rows of days before a moment."""
        start = self._tables.dimensions.c.bucket_start
        return int(self._read(select(func.count()).select_from(self._tables.dimensions).where(start < before))[0][0])

    def prune_dimensions(self, before: dt.datetime) -> Iterator[int]:
        """Delete the rows of days before a moment; yield the number of rows of each transaction."""
        dimensions = self._tables.dimensions
        old, key = dimensions.c.bucket_start < before, dimensions.c.id
        while found := self._read(select(key).where(old).order_by(dimensions.c.bucket_start, key).limit(ROWS)):
            for start in range(0, len(found), _WRITERS):
                some = [row[0] for row in found[start : start + _WRITERS]]
                yield self._transact(partial(self._delete_dimensions, key.in_(some)))

    def _delete_dimensions(self, which: ColumnElement[bool], connection: Connection) -> int:
        return int(self._execute(connection, delete(self._tables.dimensions).where(which)).rowcount)

    # ---- the ledger

    def dead_writers(self, known: Callable[[], Collection[UUID]]) -> list[UUID]:
        """The writers without a heartbeat for 400 days. Those in `known` are left out: their journals may still be
        replayed."""
        writers = self._tables.writers
        silent = {row[0] for row in self._read(select(writers.c.writer_id).where(self._silent()))}
        return sorted(silent - set(known())) if silent else []

    def forget(self, dead: Collection[UUID]) -> int:
        """Delete the rows of these writers, unless they live after all; return the number of rows."""
        rows = list(dead)
        return sum(
            self._transact(partial(self._forget, rows[start : start + _WRITERS]))
            for start in range(0, len(rows), _WRITERS)
        )

    def _forget(self, dead: list[UUID], connection: Connection) -> int:
        writers = self._tables.writers
        gone = delete(writers).where(writers.c.writer_id.in_(dead), self._silent())
        return int(self._execute(connection, gone).rowcount)

    def _silent(self) -> ColumnElement[bool]:
        writers = self._tables.writers
        return and_(writers.c.heartbeat_at < Ago(DEAD), is_process(writers))

    # ---- statements

    @staticmethod
    def _partitioning(connection: Connection) -> Partitioning:
        return dialects.get(connection.dialect.name).partitioning

    def _read(self, statement: Any) -> Any:
        return self._run_reading(lambda connection: self._execute(connection, statement).all())

    def _execute(self, connection: Connection, statement: Any) -> Any:
        dialect = dialects.get(connection.dialect.name)
        return connection.execute(dialect.without_waiting(connection, statement, self._settings))


def _grouped(sizes: list[tuple[str | None, int]]) -> Iterator[list[str | None]]:
    """Groups of names; each group is one transaction."""
    names: list[str | None] = []
    rows = 0
    for name, size in sizes:
        names.append(name)
        rows += size
        if rows >= ROWS:
            yield names
            names, rows = [], 0
    if names:
        yield names
