"""Do the users who begin come back?"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, FromClause, Select, and_, case, func, or_, select, true

from usage_instrument.database.alternatives import by_bits
from usage_instrument.database.expressions import StartOf
from usage_instrument.database.tables import Tables
from usage_instrument.typing import Unit

from .arguments import checked_step, default_tables, rows_of
from .numbers import ONE, ZERO, share, whole
from .questions import (
    BY_STEP,
    FEATURE_NAME,
    SHARE,
    USERS,
    Argument,
    Grid,
    Question,
    QuestionColumn,
    described,
    if_by_month,
)
from .rollups import rolled_up
from .sources import began_before
from .steps import Steps, are_few
from .windows import QUARTER, Moment, Window, calendar, window
from .zones import TimeZone

IsMember: TypeAlias = Callable[[ColumnElement[Any], ColumnElement[Any]], list[ColumnElement[bool]]]
"""The conditions that a user is in a cohort."""


def retention(
    feature: str | None = None,
    returning: str | None = None,
    by: str = "week",
    *,
    since: Moment = QUARTER,
    until: Moment = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[dt.datetime, int, int, int, float, bool]:
    """How many users of each cohort are active again, the first cohort first: `cohort`, `period`, `unique_users`,
    `returned`, `share`, `is_running`.

    A cohort are the users whose first use in the history, of `feature` or of anything, is in the same week (from
    Monday), `by` day, week or month. `period` counts the weeks since then, from 0; `unique_users` is the size of the
    cohort, `returned` how many of them used `returning` (default: the same feature, or anything) in that week, `share`
    (0 to 1) their share. A period that `is_running` has not ended. A history that begins later than the app has its
    older users in its first cohort. The anonymous user is left out.

    Days, weeks and months are those of the time zone `tz` (default: UTC). `since` and `until` bound the cohorts: a
    timedelta (84 days: twelve weeks), a date, a datetime, the text of one or None. Raises ConfigurationError for a
    wrong argument.
    """
    asked, unit = window(since, until, tz), checked_step(by)
    tables, start, end = tables or default_tables(), asked.start(unit), asked.end(unit)
    until_now = Window(asked.since, None, asked.tz)  # users return after the window too
    history = until_now.history(tables, by=unit)
    name = history.c.feature_name
    begins, returns = rows_of(name, feature), rows_of(name, feature if returning is None else returning)
    of_all = not begins and not returns and unit != "day"
    rolled = rolled_up(tables, asked, unit, has_end=False) if of_all else None
    history = history if rolled is None else rolled.by_user()
    its = [history.c.user_id.is_not(None), or_(and_(true(), *begins), and_(true(), *returns))]
    if start is not None:
        its.append(history.c.bucket_start >= (start if begins and returns else until_now.bound(start)))

    def is_member(user: ColumnElement[Any], cohort: ColumnElement[Any]) -> list[ColumnElement[bool]]:
        # The time before is not read, but looked up, once for each user.
        of_window = [] if end is None else [cohort < end]
        return of_window if start is None else [*of_window, ~began_before(tables, asked, start, user, feature)]

    visits = _Visits(history, its, begins, returns)
    sizes, counts = visits.counted(unit, is_member)
    units = None if start is None else calendar(unit, start, zone=asked.zone)
    if units is not None and are_few(until_now, unit):
        by_bits_sizes, by_bits_counts = visits.counted_by_bits(Steps(units, unit), is_member)
        sizes, counts = by_bits(by_bits_sizes, sizes), by_bits(by_bits_counts, counts)
    cohorts = select(sizes).cte("cohorts")
    if units is None:
        units = calendar(unit, select(func.min(cohorts.c.cohort)).scalar_subquery(), zone=asked.zone)
    same = and_(counts.c.cohort == cohorts.c.cohort, counts.c.bucket_start == units.c.bucket_start)
    number = func.row_number().over(partition_by=cohorts.c.cohort, order_by=units.c.bucket_start) - ONE
    return (
        select(
            cohorts.c.cohort,
            number.label("period"),
            cohorts.c.users.label("unique_users"),
            whole(counts.c.returned).label("returned"),
            share(counts.c.returned, cohorts.c.users).label("share"),
            (units.c.bucket_start == StartOf(unit, asked.now())).label("is_running"),
        )
        .select_from(cohorts.join(units, units.c.bucket_start >= cohorts.c.cohort).outerjoin(counts, same))
        .order_by(cohorts.c.cohort, units.c.bucket_start)
    )


@dataclass(frozen=True)
class _Visits:
    """Rows of the history with which users begin or return."""

    history: FromClause
    rows: list[ColumnElement[bool]]
    begins: list[ColumnElement[bool]]
    returns: list[ColumnElement[bool]]

    def counted(self, unit: Unit, is_member: IsMember) -> tuple[FromClause, FromClause]:
        """The `users` of each `cohort`, and those `returned` by `cohort` and `bucket_start`."""
        visit = (self.history.c.user_id, StartOf(unit, self.history.c.bucket_start).label("bucket_start"))
        did = ((self.begins, "begins"), (self.returns, "returns"))
        flags = [func.max(case((and_(*its), ONE), else_=ZERO) if its else ONE).label(label) for its, label in did]
        visits = select(*visit, *flags).where(*self.rows).group_by(*visit).cte("visits")
        cohort = func.min(visits.c.bucket_start)
        firsts = select(visits.c.user_id, cohort.label("cohort")).where(visits.c.begins == ONE)
        members = firsts.group_by(visits.c.user_id).having(*is_member(visits.c.user_id, cohort)).cte("members")
        sizes = select(members.c.cohort, func.count().label("users")).group_by(members.c.cohort)
        is_theirs = and_(visits.c.user_id == members.c.user_id, visits.c.bucket_start >= members.c.cohort)
        key = (members.c.cohort, visits.c.bucket_start)
        again = select(*key, func.count().label("returned")).join_from(members, visits, is_theirs)
        return sizes.subquery("sizes"), again.where(visits.c.returns == ONE).group_by(*key).subquery("counts")

    def counted_by_bits(self, steps: Steps, is_member: IsMember) -> tuple[Any, Any]:
        """The same as statements."""
        user, start = self.history.c.user_id, steps.units.c.bucket_start
        begins, returns = (
            steps.bits(self.history.c.bucket_start, and_(*its) if its else None) for its in (self.begins, self.returns)
        )
        by_user = select(user, begins.label("begins"), returns.label("returns")).where(*self.rows).group_by(user)
        bits = by_user.cte("by_user")
        found = select(start.label("cohort"), steps.units.c.n, bits.c.returns)
        found = found.join_from(bits, steps.units, steps.is_first(bits.c.begins))
        members = found.where(*is_member(bits.c.user_id, start)).cte("members")
        cohort = members.c.cohort
        runs = steps.counted(members, members.c.returns, cohort, members.c.n.label("since"))
        key = (runs.rows.c.cohort, start)
        again = select(*key, runs.active.label("returned")).select_from(runs.units)
        again = again.where(steps.units.c.n >= runs.rows.c.since).group_by(*key)
        return select(cohort, func.count().label("users")).group_by(cohort), again


RETENTION = described(
    Question(
        "retention",
        retention,
        "Retention",
        "How many users come back after their first use.",
        "Users by their first use {period}, and how many of them were active again in each {by} since then.",
        "No signed-in user began {period}.",
        "--feature calendar_search --by month --since 400d",
        (
            QuestionColumn("cohort", "First use", "day"),
            QuestionColumn("period", "Steps later", "count"),
            USERS,
            QuestionColumn("returned", "Active again", "count"),
            SHARE,
            QuestionColumn("is_running", "So far", "running"),
        ),
        topic="Users",
        bar="share",
        drawing=Grid("cohort", "period", "share", part="returned", size="unique_users"),
        own_arguments=(
            BY_STEP,
            Argument("returning", FEATURE_NAME, "The feature that counts as coming back. Default: the same."),
        ),
        takes_months=if_by_month,
    )
)
