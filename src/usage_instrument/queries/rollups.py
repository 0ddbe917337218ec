"""The rows of the history, fewer of them where it has rollups: those of complete weeks, and its own for all other days.

One place decides whether a question reads rollups: the tables have some, days are those of UTC, and the window is long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import CTE, ColumnElement, FromClause, Select, and_, any_, func, literal_column, select, union_all

from usage_instrument.database.expressions import Day
from usage_instrument.database.rollups import RollupTables
from usage_instrument.database.tables import Tables
from usage_instrument.typing import Unit

from .numbers import ONE, ZERO
from .windows import LONG, Window


@dataclass(frozen=True)
class RolledUp:
    """A window, divided into complete weeks and the days that are in none."""

    rollups: RollupTables
    history: Any
    weeks: CTE
    others: CTE
    """The spans without a complete week: `since`, `until`."""

    def is_complete(self, rows: FromClause) -> ColumnElement[bool]:
        """The condition that a row of a rollup is of a complete week of the window."""
        return rows.c.week == any_(_array(select(self.weeks.c.week)))

    def rest(self, *columns: ColumnElement[Any]) -> Select[*tuple[Any, ...]]:
        """Columns of the history, of the days that are in no complete week."""
        bucket, spans = self.history.c.bucket_start, self.others
        arrays = (
            _array(select(edge).where(spans.c.since < spans.c.until).order_by(spans.c.since))
            for edge in (spans.c.since, spans.c.until)
        )
        rest = func.unnest(*arrays).table_valued("since", "until", name="rest").render_derived()
        inside = and_(bucket >= rest.c.since, bucket < rest.c.until)
        return select(*columns).select_from(rest.join(self.history, inside))

    def by_user(self) -> FromClause:
        """`user_id`, `bucket_start`, `usage_count`: a row for a user and week has the first day on which the user was
        active, so that it is of the same week and month as the rows of the history that it stands for."""
        users, history = self.rollups.users, self.history
        rolled = select(users.c.user_id, users.c.bucket_start, users.c.usage_count).where(self.is_complete(users))
        rest = self.rest(history.c.user_id, history.c.bucket_start, history.c.usage_count)
        return union_all(rolled, rest).subquery("history_by_user")

    def active_days(self) -> FromClause:
        """`user_id`, `active_days`: one or more rows for each user but the anonymous one."""
        users, history = self.rollups.users, self.history
        rolled = select(users.c.user_id, users.c.active_days).where(users.c.user_id.is_not(None))
        day = Day(history.c.bucket_start).label("day")
        days = self.rest(history.c.user_id, day).where(history.c.user_id.is_not(None)).distinct().subquery("days")
        rest = select(days.c.user_id, ONE)
        return union_all(rolled.where(self.is_complete(users)), rest).subquery("active_days")

    def by_feature(self) -> FromClause:
        """`feature_name`, `usage_count`."""
        days, history = self.rollups.days, self.history
        uses = func.sum(days.c.uses).label("usage_count")
        rolled = select(days.c.feature_name, uses).where(~days.c.is_total, self.is_complete(days))
        rolled = rolled.group_by(days.c.feature_name).having(func.sum(days.c.entries) > ZERO)
        return union_all(rolled, self.rest(history.c.feature_name, history.c.usage_count)).subquery(
            "history_by_feature"
        )

    def by_day(self, feature: str | None) -> Select[*tuple[Any, ...]]:
        """`bucket_start`, `uses`, `unique_users`, `anonymous_uses` of the days in complete weeks."""
        days = self.rollups.days
        its = days.c.is_total if feature is None else and_(~days.c.is_total, days.c.feature_name == feature)
        numbers = {"uses": days.c.uses, "unique_users": days.c.users, "anonymous_uses": days.c.anonymous_uses}
        sums = (func.sum(number).label(name) for name, number in numbers.items())
        return select(days.c.bucket_start, *sums).where(its, self.is_complete(days)).group_by(days.c.bucket_start)


def _array(rows: Select[Any]) -> ColumnElement[Any]:
    """The rows as an array, by which an index finds others. What is joined to a CTE, only one process reads."""
    return func.array(rows.scalar_subquery())


def rolled_up(
    tables: Tables,
    asked: Window,
    by: Unit = "day",
    *,
    start: ColumnElement[Any] | None = None,
    has_end: bool = True,
    name: str = "",
) -> RolledUp | None:
    """The window by its weeks, from another start if there is one; None where the history is to be read as it is."""
    rollups, days = tables.rollups, asked.days
    if rollups is None or by == "hour" or not asked.zone.is_utc or (days is not None and days < LONG):
        return None
    start, end = asked.start(by) if start is None else start, asked.end(by) if has_end else None
    complete = rollups.complete
    inside = [] if start is None else [complete.c.week >= start]
    inside += [] if end is None else [complete.c.week_end <= end]
    weeks = select(complete.c.week, complete.c.week_end).where(*inside).cte(f"weeks{name}")
    first = literal_column("CAST('-infinity' AS timestamp)") if start is None else start
    last = literal_column("CAST('infinity' AS timestamp)") if end is None else end
    before = func.lag(weeks.c.week_end, ONE, first).over(order_by=weeks.c.week)
    between = select(before.label("since"), weeks.c.week.label("until"))
    after = select(func.coalesce(func.max(weeks.c.week_end), first), last)
    return RolledUp(rollups, tables.history, weeks, union_all(between, after).cte(f"others{name}"))
