"""Which features are used most?"""

from __future__ import annotations

from typing import overload

from sqlalchemy import Select, select

from usage_instrument.database.tables import Tables

from .arguments import checked_limit, default_tables
from .comparison import Compare, compared, window_before
from .numbers import by_name, total
from .questions import FEATURE, Query, Question, QuestionColumn, always, described, if_bounded
from .rollups import rolled_up
from .windows import Moment, Window, counted_in, window
from .zones import TimeZone


@overload
def top_features(
    limit: int = 5,
    *,
    since: Moment = None,
    until: Moment = None,
    compare: None = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[str | None, int]: ...
@overload
def top_features(
    limit: int = 5,
    *,
    since: Moment,
    until: Moment = None,
    compare: Compare,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query: ...
def top_features(
    limit: int = 5,
    *,
    since: Moment = None,
    until: Moment = None,
    compare: Compare = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query:
    """The most used features and their uses by all users: `feature_name`, `total_usage`.

    `since` and `until` bound the days of the time zone `tz` (default: UTC), which the history answers: a timedelta (7
    days: today and the six before), a date, a datetime or the text of one; without both, it is all time. Raises
    ConfigurationError for a wrong argument.

    `compare="previous"` adds `total_usage_before` (in the window of the same length before), `total_usage_change` and
    `total_usage_relative_change` (0.1 is a tenth more, None if there was nothing before), and features used only then.
    """
    tables, before = tables or default_tables(), window_before(compare, since, until, tz)
    found: Query = _uses(tables, window(since, until, tz))
    if before is not None:
        found = compared(found, _uses(tables, before, "_before"), ["feature_name"], ["total_usage"])
    feature, uses = found.selected_columns["feature_name"], found.selected_columns["total_usage"]
    return found.order_by(uses.desc(), *by_name(feature)).limit(checked_limit(limit))


def _uses(tables: Tables, asked: Window, suffix: str = "") -> Select[str | None, int]:
    source, period = counted_in(tables, asked, is_alone=True)
    rolled = None if asked.is_all_time else rolled_up(tables, asked, name=suffix)
    if rolled is not None:
        source, period = rolled.by_feature(), []
    feature, uses = source.c.feature_name, total(source.c.usage_count).label("total_usage")
    return select(feature, uses).where(*period).group_by(feature)


TOP = described(
    Question(
        "top",
        top_features,
        "Top features",
        "The most used features.",
        "How often each feature was used {period}. Anonymous uses count.",
        "Nothing was used {period}. Is the app running, and does it call `usage.configure`?",
        "--since 28d --limit 3",
        (FEATURE, QuestionColumn("total_usage", "Uses", "count")),
        topic="Features",
        bar="total_usage",
        page_name="top-features",
        compared=("total_usage",),
        needs_hours=if_bounded,
        takes_months=always,
    )
)
