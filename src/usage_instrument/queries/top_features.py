"""Which features are used most?"""

from __future__ import annotations

from sqlalchemy import Select, select

from usage_instrument.database.tables import Tables

from .arguments import checked_limit, default_tables
from .numbers import by_name, total
from .questions import FEATURE, Question, QuestionColumn, described
from .windows import Moment, counted_in, window


def top_features(
    limit: int = 5, *, since: Moment = None, until: Moment = None, tables: Tables | None = None
) -> Select[str | None, int]:
    """The most used features and their uses by all users: `feature_name`, `total_usage`.

    `since` and `until` bound the days, UTC, that the history answers: a timedelta (7 days: today and the six before), a
    date, a datetime or the text of one; without both, it is all time. Raises ConfigurationError for a wrong argument.
    """
    source, period = counted_in(tables or default_tables(), window(since, until))
    feature, uses = source.c.feature_name, total(source.c.usage_count).label("total_usage")
    found = select(feature, uses).where(*period).group_by(feature)
    return found.order_by(uses.desc(), *by_name(feature)).limit(checked_limit(limit))


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
        bar="total_usage",
        page_name="top-features",
    )
)
