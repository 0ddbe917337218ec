"""Do the users who begin come back?"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select, true

from usage_instrument.database.expressions import StartOf
from usage_instrument.database.tables import Tables

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
from .windows import QUARTER, Moment, Window, calendar, window
from .zones import TimeZone


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
    history = Window(asked.since, None, asked.tz).history(tables, by=unit)  # users return after the window too
    name = history.c.feature_name
    begins, returns = rows_of(name, feature), rows_of(name, feature if returning is None else returning)
    of_all = not begins and not returns and unit != "day"
    rolled = rolled_up(tables, asked, unit, has_end=False) if of_all else None
    history = history if rolled is None else rolled.by_user()
    bucket = history.c.bucket_start
    visit = (history.c.user_id, StartOf(unit, bucket).label("bucket_start"))
    did = [func.max(_is(rows)).label(label) for rows, label in ((begins, "begins"), (returns, "returns"))]
    its = [history.c.user_id.is_not(None), or_(and_(true(), *begins), and_(true(), *returns))]
    its += [] if start is None else [bucket >= start]
    visits = select(*visit, *did).where(*its).group_by(*visit).cte("visits")
    cohort = func.min(visits.c.bucket_start)
    firsts = select(visits.c.user_id, cohort.label("cohort")).where(visits.c.begins == ONE).group_by(visits.c.user_id)
    if start is not None:  # the time before is not read, but looked up, once for each user
        firsts = firsts.having(~began_before(tables, asked, start, visits.c.user_id, feature))
    members = (firsts if end is None else firsts.having(cohort < end)).cte("members")
    sizes = select(members.c.cohort, func.count().label("users")).group_by(members.c.cohort).cte("cohorts")
    is_theirs = and_(visits.c.user_id == members.c.user_id, visits.c.bucket_start >= members.c.cohort)
    key = (members.c.cohort, visits.c.bucket_start)
    again = select(*key, func.count().label("returned")).join_from(members, visits, is_theirs)
    counts = again.where(visits.c.returns == ONE).group_by(*key).subquery("counts")
    units = calendar(unit, select(func.min(sizes.c.cohort)).scalar_subquery(), zone=asked.zone)
    same = and_(counts.c.cohort == sizes.c.cohort, counts.c.bucket_start == units.c.bucket_start)
    number = func.row_number().over(partition_by=sizes.c.cohort, order_by=units.c.bucket_start) - ONE
    return (
        select(
            sizes.c.cohort,
            number.label("period"),
            sizes.c.users.label("unique_users"),
            whole(counts.c.returned).label("returned"),
            share(counts.c.returned, sizes.c.users).label("share"),
            (units.c.bucket_start == StartOf(unit, asked.now())).label("is_running"),
        )
        .select_from(sizes.join(units, units.c.bucket_start >= sizes.c.cohort).outerjoin(counts, same))
        .order_by(sizes.c.cohort, units.c.bucket_start)
    )


def _is(rows: list[ColumnElement[bool]]) -> ColumnElement[int]:
    return case((and_(*rows), ONE), else_=ZERO) if rows else ONE


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
