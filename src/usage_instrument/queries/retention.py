"""Do the users who begin come back?"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Select, and_, func, select

from usage_instrument.database.expressions import StartOf
from usage_instrument.database.tables import Tables

from .arguments import checked_step, default_tables, rows_of
from .numbers import ONE, share, whole
from .questions import BY_STEP, FEATURE_NAME, SHARE, USERS, Argument, Grid, Question, QuestionColumn, described
from .windows import QUARTER, Moment, calendar, window
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
    history = asked.history(tables or default_tables(), None)
    user, bucket, is_known = history.c.user_id, history.c.bucket_start, history.c.user_id.is_not(None)
    first = StartOf(unit, func.min(bucket)).label("cohort")
    firsts = select(user, first).where(is_known, *rows_of(history.c.feature_name, feature)).group_by(user)
    begun = firsts.subquery("firsts")
    members = select(begun).where(*asked.contains(begun.c.cohort, unit)).cte("members")
    sizes = select(members.c.cohort, func.count().label("users")).group_by(members.c.cohort).cte("cohorts")
    again = rows_of(history.c.feature_name, feature if returning is None else returning)
    is_theirs = and_(user == members.c.user_id, bucket >= members.c.cohort, *again)
    visit = (members.c.cohort, members.c.user_id, StartOf(unit, bucket).label("bucket_start"))
    visits = select(*visit).join_from(members, history, is_theirs).distinct().subquery("visits")
    key = (visits.c.cohort, visits.c.bucket_start)
    counts = select(*key, func.count().label("returned")).group_by(*key).subquery("counts")
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
    )
)
