"""What every table of the dashboard asks, and how its answer is laid out: one entry a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa

from usage_instrument import queries

from .page_request import Visit

Kind = Literal["feature", "user", "variant", "status", "text", "context", "count", "share", "day", "ago"]
"""How a value is shown."""
Statement: TypeAlias = sa.Select[*tuple[Any, ...]]
NUMBERS = frozenset({"count", "share"})


@dataclass(frozen=True)
class Column:
    """One column of an answer, by its label there."""

    name: str
    title: str
    kind: Kind
    is_extra: bool = False
    """Whether it is left to the page that shows the whole table."""


@dataclass(frozen=True)
class Question:
    """A table, wherever it is shown."""

    name: str
    """As it stands in addresses and file names."""
    title: str
    about: str
    """What its numbers mean; `{period}` becomes the period's words."""
    empty: str
    """What to say, and to do, when there is nothing to show."""
    columns: tuple[Column, ...]
    ask: Callable[[Visit, int], Statement]
    """The question itself, for so many rows."""
    bar: str | None = None
    """The column that the bar behind a row shows."""
    needs: tuple[str, ...] = ()
    """The parameters without which it cannot be asked."""
    takes: tuple[str, ...] = ()
    """The parameters that narrow it."""
    has_period: bool = True


def _feature(visit: Visit) -> str | None:
    return visit.feature if visit.parameters.get("feature") else None


_FEATURE = Column("feature_name", "Feature", "feature")
_USER = Column("user_id", "User", "user")
_USES = Column("uses", "Uses", "count")
_USERS = Column("unique_users", "Users", "count")
_LAST_USED = Column("last_used", "Last used", "ago")

TOP = Question(
    "top-features",
    "Top features",
    "How often each was used in {period}, anonymous uses included.",
    "Nothing was used in {period}. Is the app running, and does it call `usage.configure`?",
    (_FEATURE, Column("total_usage", "Uses", "count")),
    lambda visit, limit: queries.top_features(limit, since=visit.period.since, tables=visit.tables),
    bar="total_usage",
)
ADOPTION = Question(
    "adoption",
    "Adoption",
    "Who used each in {period}, and which share of all users they are.",
    "Nobody who is signed in used a feature in {period}.",
    (_FEATURE, _USERS, Column("share", "Share", "share"), Column("uses", "Uses", "count", is_extra=True)),
    lambda visit, limit: queries.adoption(since=visit.period.since, tables=visit.tables).limit(limit),
    bar="share",
)
UNUSED = Question(
    "unused",
    "Unused",
    "What code declares and nobody used in {period}.",
    "Every feature that code declares was used in {period}.",
    (
        _FEATURE,
        Column("status", "Status", "status"),
        _LAST_USED,
        Column("uses", "Uses", "count", is_extra=True),
        Column("declared_at", "Declared", "ago", is_extra=True),
        Column("description", "Description", "text", is_extra=True),
    ),
    lambda visit, limit: queries.unused_features(visit.period.since, tables=visit.tables).limit(limit),
)
SPIKES = Question(
    "spikes",
    "Spikes",
    "Days of {lately} far above the median of the 28 days before.",
    "No day of {lately} stood out.",
    (
        _FEATURE,
        Column("day", "Day", "day"),
        _USES,
        Column("baseline", "Usual", "count"),
        Column("score", "Score", "count", is_extra=True),
        Column("threshold", "Threshold", "count", is_extra=True),
    ),
    lambda visit, limit: queries.spikes(visit.period.lately.since, feature=_feature(visit), tables=visit.tables).limit(
        limit
    ),
    takes=("feature",),
)
POWER_USERS = Question(
    "power-users",
    "Power users",
    "Who used most in {period}, and their share of all uses.",
    "Nobody who is signed in was seen in {period}.",
    (
        _USER,
        _USES,
        Column("share", "Share", "share"),
        Column("features", "Features", "count", is_extra=True),
        Column("last_used", "Last used", "ago", is_extra=True),
    ),
    lambda visit, limit: queries.power_users(_feature(visit), limit, since=visit.period.since, tables=visit.tables),
    bar="uses",
    takes=("feature",),
)
TREND = Question(
    "trend",
    "Trend",
    "Uses and users by {grain} (UTC), over {period}.",
    "Nothing was used in {period}.",
    (
        Column("bucket_start", "From", "day"),
        _USES,
        _USERS,
        Column("anonymous_uses", "Anonymous uses", "count"),
    ),
    lambda visit, limit: queries.trend(
        _feature(visit), visit.period.by, since=visit.period.since, tables=visit.tables
    ).limit(limit),
    takes=("feature",),
)
ACTIVE = Question(
    "active",
    "Active users",
    "People seen today, in 7 and in 28 days. Stickiness: how many of those of 28 days come on a day.",
    "Nobody who is signed in was seen.",
    (
        Column("day", "Day", "day"),
        Column("dau", "Today", "count"),
        Column("wau", "7 days", "count"),
        Column("mau", "28 days", "count"),
        Column("stickiness", "Stickiness", "share"),
    ),
    lambda visit, limit: queries.active_users(_feature(visit), tables=visit.tables).limit(limit),
    takes=("feature",),
    has_period=False,
)
VARIANTS = Question(
    "variants",
    "Variants",
    "Users by what their latest use said of `{key}`, over all time.",
    "No use of this feature said anything of `{key}`.",
    (Column("variant", "Variant", "variant"), _USERS, Column("share", "Share", "share"), _USES),
    lambda visit, limit: queries.variants(visit.feature, visit.key, tables=visit.tables).limit(limit),
    bar="share",
    needs=("feature", "key"),
    has_period=False,
)
RELATED = Question(
    "related",
    "Related features",
    "What else the users of this one use, over all time. Lift above 1: more often than others do.",
    "Nobody who used this feature used another one.",
    (
        _FEATURE,
        Column("unique_users", "Use both", "count"),
        Column("confidence", "Share", "share"),
        Column("lift", "Lift", "count"),
        Column("support", "Support", "share", is_extra=True),
    ),
    lambda visit, limit: queries.related_features(visit.feature, limit, tables=visit.tables),
    bar="confidence",
    needs=("feature",),
    has_period=False,
)
USER_FEATURES = Question(
    "user-features",
    "Features",
    "What this user ever used, the latest first, with the latest context.",
    "This user used nothing.",
    (
        _FEATURE,
        Column("usage_count", "Uses", "count"),
        _LAST_USED,
        Column("metadata", "Latest context", "context"),
    ),
    lambda visit, limit: queries.user_features(visit.user, None, tables=visit.tables).limit(limit),
    bar="usage_count",
    needs=("user",),
    has_period=False,
)
RECOMMEND = Question(
    "recommend",
    "Might like",
    "What people with similar habits use and this user does not.",
    "There is nothing to recommend: nobody with similar habits uses anything else.",
    (_FEATURE, Column("score", "Score", "share"), Column("unique_users", "Similar users", "count")),
    lambda visit, limit: queries.recommend(visit.user, limit, tables=visit.tables),
    bar="score",
    needs=("user",),
    has_period=False,
)

EVERY = {
    question.name: question
    for question in (
        TOP, ADOPTION, UNUSED, SPIKES, POWER_USERS, ACTIVE, TREND, VARIANTS, RELATED, USER_FEATURES, RECOMMEND,
    )
}  # fmt: skip
"""All tables by name."""
