"""Which features were suddenly used far less than usual?"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Select, and_, case, func, literal, select

from usage_instrument.database.expressions import Day, Real, StartOf
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError

from .arguments import default_tables, rows_of
from .numbers import ZERO, total
from .questions import FEATURE, SCORE, USES, Argument, Question, QuestionColumn, described
from .robust import DAYS_BEFORE, checked_threshold, days_later, first_days, score, usual_of_weekday
from .windows import MONTH, WEEK, Moment, calendar, window
from .zones import TimeZone

FEWEST_WEEKS = 4
"""Earlier days of the same weekday that a feature needs for a comparison."""
LEAST = 20.0
"""The least usual number of uses a day: of fewer, none is no news."""


def drops(
    since: Moment = WEEK,
    *,
    until: Moment = None,
    feature: str | None = None,
    threshold: float = 5.0,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[str, dt.date, int, float, float, float]:
    """Days with far fewer uses than usual, the highest score first: `feature_name`, `day`, `uses`, `baseline`, `score`,
    `threshold`.

    `baseline` is the median of a feature's uses on the same weekday of the 8 weeks before the day, from its first use
    in the 8 weeks before the period on, days without use included, so a weekly rhythm is no drop. `score` is
    (baseline - uses) / the largest of 1.4826 x the median absolute deviation (the standard deviation of a normal
    distribution), a tenth of the baseline, and 1: it is 10 at most. Days whose score is at least `threshold` are drops.
    A feature that is usually used less than 20 times on that weekday, or was first used less than 4 weeks before, has
    no row, and neither has today, which has not ended.

    `since` and `until` bound the days of the time zone `tz` (default: UTC): a timedelta (7 days: today and the six
    before), a date, a datetime or the text of one, 28 days at most. Raises ConfigurationError for a wrong argument.
    """
    asked = window(since, until, tz)
    start, end, days = asked.start(), asked.end(), asked.days
    if start is None or days is None or days > MONTH.days:
        raise ConfigurationError(
            f"drops are those of {MONTH.days} days at most, not of {f'{days} days' if days else 'all time'}: "
            "choose a later since or an earlier until"
        )
    history, today = asked.history(tables or default_tables(), DAYS_BEFORE), StartOf("day", asked.now())
    end = today if end is None else case((end < today, end), else_=today)
    rows = [history.c.feature_name.is_not(None), *rows_of(history.c.feature_name, feature)]
    key = (history.c.feature_name, StartOf("day", history.c.bucket_start).label("bucket_start"))
    found = select(*key, total(history.c.usage_count).label("uses")).group_by(*key)
    in_time = (history.c.bucket_start >= days_later(start, -DAYS_BEFORE), history.c.bucket_start < end)
    daily = found.where(*in_time, *rows).cte("daily")
    known, units = first_days(daily, "feature_name"), calendar("day", start, end, zone=asked.zone)
    targets = (
        select(known.c.feature_name, known.c.first_day, units.c.bucket_start.label("day"))
        .join_from(known, units, known.c.first_day <= days_later(units.c.bucket_start, -7 * FEWEST_WEEKS))
        .where(units.c.bucket_start < end)
        .cte("targets")
    )
    usual = usual_of_weekday(targets, daily, "feature_name").subquery("usual")
    uses = func.coalesce(daily.c.uses, ZERO)
    deviation = score(usual.c.baseline - uses, usual.c.baseline, usual.c.spread).label("score")
    on_day = and_(daily.c.feature_name == usual.c.feature_name, daily.c.bucket_start == usual.c.day)
    scored = (
        select(usual.c.feature_name, usual.c.day, uses.label("uses"), usual.c.baseline, deviation)
        .select_from(usual.outerjoin(daily, on_day))
        .where(usual.c.baseline >= Real(literal(LEAST)))
        .subquery("scored")
    )
    least, day = Real(literal(checked_threshold(threshold))), Day(scored.c.day).label("day")
    columns = (scored.c.feature_name, day, scored.c.uses, scored.c.baseline, scored.c.score, least.label("threshold"))
    return select(*columns).where(scored.c.score >= least).order_by(scored.c.score.desc(), day, scored.c.feature_name)


DROPS = described(
    Question(
        "drops",
        drops,
        "Drops",
        "Days with far fewer uses than usual.",
        "Days {period} far below the median of the same weekday in the 8 weeks before.",
        "No day fell short {period}.",
        "--feature calendar_export --threshold 7",
        (
            FEATURE,
            QuestionColumn("day", "Day", "day"),
            USES,
            QuestionColumn("baseline", "Usual", "count"),
            QuestionColumn("score", "Score", "count", is_extra=True),
            QuestionColumn("threshold", "Threshold", "count", is_extra=True),
        ),
        topic="Anomalies",
        longest=MONTH,
        own_arguments=(Argument("threshold", SCORE, "The score from which a day is a drop: up to 10."),),
        days_before=DAYS_BEFORE,
    )
)
