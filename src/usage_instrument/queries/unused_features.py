"""Which features are not used, or no longer?"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Select, not_, or_, select

from usage_instrument.database.tables import Tables

from .arguments import default_tables
from .numbers import by_name
from .periods import Since, used_since
from .questions import FEATURE, LAST_USED, Question, QuestionColumn, described
from .sources import known_features, status


def unused_features(
    since: Since = None, *, tables: Tables | None = None
) -> Select[str | None, str, int, dt.datetime | None, dt.datetime | None, str | None]:
    """Features without use, the never used first: `feature_name`, `status`, `uses`, `last_used`, `declared_at`,
    `description`.

    Without `since`, the declared features that were never used; with it (a timedelta back from now, or a datetime) also
    those without use since then. `status` is the reason: `retired` (the services that declared it have run for more
    than 30 days without it), `never` (declared, never used), `undeclared` (used, but not declared: perhaps renamed) or
    `dormant`. Times are UTC, or None. Raises ConfigurationError for another `since`.
    """
    features = known_features(tables or default_tables())
    last_used = features.c.last_used
    kind = status(features, (features.c.declared_at.is_(None), "undeclared"), otherwise="dormant")
    columns = [features.c.feature_name, kind.label("status"), features.c.uses, last_used]
    unused = [last_used.is_(None), *(not_(used) for used in used_since(last_used, since))]
    return (
        select(*columns, features.c.declared_at, features.c.description)
        .where(or_(*unused))
        .order_by(last_used.is_not(None), last_used, *by_name(features.c.feature_name))
    )


UNUSED = described(
    Question(
        "unused",
        unused_features,
        "Unused",
        "Features that nobody uses.",
        "Features without a use {period}. Retired: no service declares it any more.",
        "Every feature that code declares was used {period}.",
        "--since 90d --fail-over 10",
        (
            FEATURE,
            QuestionColumn("status", "Status", "status"),
            LAST_USED,
            QuestionColumn("uses", "Uses", "count", is_extra=True),
            QuestionColumn("declared_at", "Declared", "time", is_extra=True),
            QuestionColumn("description", "Description", "text", is_extra=True),
        ),
    )
)
