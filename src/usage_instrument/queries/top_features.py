"""Which features are used most?"""

from __future__ import annotations

from sqlalchemy import Select, select

from usage_instrument.database.tables import Tables

from .arguments import checked_limit, default_tables
from .numbers import by_name, total
from .periods import Since, counted_since
from .questions import FEATURE, Question, QuestionColumn, described


def top_features(limit: int = 5, *, since: Since = None, tables: Tables | None = None) -> Select[str | None, int]:
    """The most used features and their uses by all users: `feature_name`, `total_usage`.

    `since` is a timedelta (7 days: today and the six before, UTC) or a datetime (from its day on), answered from the
    history; None is all time. Raises ConfigurationError for another `since` or a `limit` below 1.
    """
    source, period = counted_since(tables or default_tables(), since)
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
