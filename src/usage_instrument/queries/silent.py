"""Which features that were used regularly are not used now?"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Select, and_, func, select

from usage_instrument.database.expressions import Later, StartOf
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError

from .arguments import default_tables
from .numbers import ONE, ZERO, total
from .questions import FEATURE, LAST_USED, USES, Question, QuestionColumn, described
from .robust import days_later
from .sources import known_features
from .windows import MONTH, WEEK, Moment, window
from .zones import TimeZone

OFTEN = 14
"""Days of use, of the 28 before the window, that make a feature regular."""


def silent(
    since: Moment = WEEK, *, until: Moment = None, tz: TimeZone = None, tables: Tables | None = None
) -> Select[str, int, int, dt.datetime]:
    """Features that code declares, that were used regularly, and that nobody uses now, the most used first:
    `feature_name`, `uses`, `active_days`, `last_used`.

    Regularly is on at least 14 of the 28 days before the window, `active_days`, with `uses`; now is the window. A
    feature is left out if no code declares it any more (`unused_features` lists it as retired), and if its last use,
    `last_used` (UTC), is in the window. `since` and `until` bound the window in days of the time zone `tz` (default:
    UTC): a timedelta (7 days: today and the six before), a date, a datetime or the text of one. Raises
    ConfigurationError for a wrong argument.
    """
    tables, asked = tables or default_tables(), window(since, until, tz)
    start, end = asked.start(), asked.end()
    if start is None:
        raise ConfigurationError("silence has a start: pass since, such as timedelta(days=7)")
    history, features = asked.history(tables, MONTH.days), known_features(tables)
    end = Later("day", StartOf("day", asked.now()), ONE) if end is None else end
    bucket, name = history.c.bucket_start, history.c.feature_name
    key = (name, StartOf("day", bucket).label("day"))
    daily = select(*key, total(history.c.usage_count).label("uses")).group_by(*key)
    days = daily.where(name.is_not(None), bucket >= days_later(start, -MONTH.days), bucket < start).subquery("days")
    active = func.count()
    regular = select(days.c.feature_name, active.label("active_days"), total(days.c.uses).label("uses"))
    before = regular.group_by(days.c.feature_name).having(active >= OFTEN).subquery("regular")
    now = select(name).where(name.is_not(None), bucket >= start, bucket < end).group_by(name).subquery("now_used")
    last_used = features.c.last_used
    last = asked.zone.local(last_used)
    return (
        select(before.c.feature_name, before.c.uses, before.c.active_days, last_used)
        .select_from(
            before.join(features, features.c.feature_name == before.c.feature_name).outerjoin(
                now, now.c.feature_name == before.c.feature_name
            )
        )
        .where(
            now.c.feature_name.is_(None),
            features.c.declared_at.is_not(None),
            features.c.retired == ZERO,
            last.is_(None) | ~and_(last >= start, last < end),
        )
        .order_by(before.c.uses.desc(), before.c.feature_name)
    )


SILENT = described(
    Question(
        "silent",
        silent,
        "Silent",
        "Features that were used regularly and are not used now.",
        "Features that code declares, with uses on 14 of the 28 days before, and none {period}.",
        "Every declared feature that was used regularly was used {period}.",
        "--since 3d",
        (
            FEATURE,
            USES,
            QuestionColumn("active_days", "Active days of 28", "count"),
            LAST_USED,
        ),
        topic="Anomalies",
        bar="uses",
        days_before=28,
    )
)
