"""The one description of each analyst question, which the command line, the dashboard and the docs share."""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from sqlalchemy import Select

from usage_instrument.typing import Unit, UserId

from .active_users import active_users
from .adoption import adoption
from .periods import MONTH, Since
from .power_users import power_users
from .recommend import recommend
from .related_features import related_features
from .spikes import spikes
from .top_features import top_features
from .trend import trend
from .unused_features import unused_features
from .user_features import user_features
from .variants import variants

Query: TypeAlias = "Select[*tuple[Any, ...]]"
ColumnKind = Literal[
    "feature", "user", "variant", "status", "text", "context", "count", "share", "day", "time", "running"
]
"""How a value is shown; `running` marks the row."""
NUMBERS = frozenset({"count", "share"})


@dataclass(frozen=True)
class Argument:
    """An argument of a question: what it is, and its default in the function's own signature."""

    name: str
    type: Any
    help: str
    default: Any = inspect.Parameter.empty

    @property
    def is_required(self) -> bool:
        """Whether the question cannot be asked without it."""
        return self.default is inspect.Parameter.empty


_ARGUMENTS = {
    argument.name: argument
    for argument in (
        Argument("feature", str, "The feature, by its name in the code."),
        Argument("user_id", UserId, "The user's id, or 'anonymous'."),
        Argument("key", str, "The key in the metadata."),
        Argument("limit", int, "The maximum number of rows."),
        Argument("since", Since, "Start of the period: 12h, 30d, 4w, or a date such as 2026-01-31. Days are UTC days."),
        Argument("by", Unit, "The length of a step: hour, day, week or month."),
        Argument("threshold", float, "The score from which a day is a spike."),
    )
}


@dataclass(frozen=True)
class QuestionColumn:
    """One column of an answer, by its label there."""

    name: str
    title: str
    kind: ColumnKind
    is_extra: bool = False
    """Whether only a page for the whole table shows it."""


@dataclass(frozen=True)
class Question:
    """A question: the function that builds its Select, its arguments and columns, and the words about it.

    In `about` and `empty`, `{period}` becomes for example "in the last 28 days", `{by}` the step and `{key}` the key.
    """

    name: str
    """Its command: `usage-instrument NAME`."""
    select: Callable[..., Query]
    title: str
    summary: str
    about: str
    """What the numbers mean."""
    empty: str
    """The message when there are no rows, and what to do then."""
    example: str
    """The options of an example command."""
    columns: tuple[QuestionColumn, ...]
    bar: str | None = None
    """The column that the dashboard draws as a bar."""
    page_name: str | None = None
    """Its page and file in the dashboard, if that is not its name."""
    longest: dt.timedelta | None = None
    """The longest period that it accepts."""
    python_only: frozenset[str] = frozenset({"tables"})
    """The arguments that only Python code can give."""

    @property
    def page(self) -> str:
        """Its page and file in the dashboard."""
        return self.page_name or self.name

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """Its arguments, in the order of the function's signature."""
        return tuple(
            Argument(name, _ARGUMENTS[name].type, _ARGUMENTS[name].help, parameter.default)
            for name, parameter in inspect.signature(self.select).parameters.items()
            if name not in self.python_only
        )


_FEATURE = QuestionColumn("feature_name", "Feature", "feature")
_USES = QuestionColumn("uses", "Uses", "count")
_USERS = QuestionColumn("unique_users", "Users", "count")
_SHARE = QuestionColumn("share", "Share", "share")
_LAST_USED = QuestionColumn("last_used", "Last used", "time")

TOP = Question(
    "top",
    top_features,
    "Top features",
    "The most used features.",
    "How often each feature was used {period}. Anonymous uses count.",
    "Nothing was used {period}. Is the app running, and does it call `usage.configure`?",
    "--since 28d --limit 3",
    (_FEATURE, QuestionColumn("total_usage", "Uses", "count")),
    bar="total_usage",
    page_name="top-features",
)
USER_FEATURES = Question(
    "user",
    user_features,
    "Features",
    "The features that one user used lately.",
    "What this user used {period}, the latest first, with the latest context. The uses are those of all time.",
    "This user used nothing {period}.",
    "6f1f9c1e-2f0a-4f6e-9f0b-6a2f4c1d7e55 --since 30d",
    (
        _FEATURE,
        QuestionColumn("usage_count", "Uses", "count"),
        _LAST_USED,
        QuestionColumn("metadata", "Latest context", "context"),
    ),
    bar="usage_count",
    page_name="user-features",
)
ADOPTION = Question(
    "adoption",
    adoption,
    "Adoption",
    "How many users use each feature, and their share of all users.",
    "How many users used each feature {period}, and their share of all users.",
    "No signed-in user used a feature {period}.",
    "--since 28d",
    (_FEATURE, _USERS, _SHARE, QuestionColumn("uses", "Uses", "count", is_extra=True)),
    bar="share",
    python_only=frozenset({"tables", "by"}),
)
UNUSED = Question(
    "unused",
    unused_features,
    "Unused",
    "Features that nobody uses.",
    "Features without a use {period}. Retired: no service declares it any more.",
    "Every feature that code declares was used {period}.",
    "--since 90d --fail-over 10",
    (
        _FEATURE,
        QuestionColumn("status", "Status", "status"),
        _LAST_USED,
        QuestionColumn("uses", "Uses", "count", is_extra=True),
        QuestionColumn("declared_at", "Declared", "time", is_extra=True),
        QuestionColumn("description", "Description", "text", is_extra=True),
    ),
)
POWER_USERS = Question(
    "power-users",
    power_users,
    "Power users",
    "The users with the most uses.",
    "Who had the most uses {period}, and their share of all uses.",
    "No signed-in user was active {period}.",
    "--feature calendar_export --since 28d",
    (
        QuestionColumn("user_id", "User", "user"),
        _USES,
        _SHARE,
        QuestionColumn("features", "Features", "count", is_extra=True),
        QuestionColumn("last_used", "Last used", "time", is_extra=True),
    ),
    bar="uses",
)
TREND = Question(
    "trend",
    trend,
    "Trend",
    "Uses and users over time.",
    "Uses and users by {by} {period}, in UTC. The last {by} is not over.",
    "Nothing was used {period}.",
    "--feature calendar_search --by week --since 90d",
    (
        QuestionColumn("bucket_start", "From", "day"),
        _USES,
        _USERS,
        QuestionColumn("anonymous_uses", "Anonymous uses", "count"),
        QuestionColumn("is_running", "So far", "running"),
    ),
)
ACTIVE = Question(
    "active",
    active_users,
    "Active users",
    "How many users are active today, in 7 and in 28 days.",
    "Users who were active today, in 7 and in 28 days. Stickiness is the share of them who come on an average day.",
    "No signed-in user was active.",
    "--feature calendar_search",
    (
        QuestionColumn("day", "Day", "day"),
        QuestionColumn("dau", "Today", "count"),
        QuestionColumn("wau", "7 days", "count"),
        QuestionColumn("mau", "28 days", "count"),
        QuestionColumn("stickiness", "Stickiness", "share"),
    ),
)
SPIKES = Question(
    "spikes",
    spikes,
    "Spikes",
    "Days with far more uses than usual.",
    "Days {period} far above the median of the 28 days before.",
    "No day stood out {period}.",
    "--feature calendar_export --threshold 10",
    (
        _FEATURE,
        QuestionColumn("day", "Day", "day"),
        _USES,
        QuestionColumn("baseline", "Usual", "count"),
        QuestionColumn("score", "Score", "count", is_extra=True),
        QuestionColumn("threshold", "Threshold", "count", is_extra=True),
    ),
    longest=MONTH,
)
VARIANTS = Question(
    "variants",
    variants,
    "Variants",
    "Users and uses by a value in the metadata, for an A/B test.",
    "Users by the value of `{key}` in their latest use, over all time.",
    "No use of this feature has the key `{key}` in its metadata.",
    "calendar_new_event variant",
    (QuestionColumn("variant", "Variant", "variant"), _USERS, _SHARE, _USES),
    bar="share",
)
RELATED = Question(
    "related",
    related_features,
    "Related features",
    "Other features that the users of a feature use.",
    "What else the users of this feature use, over all time. Lift above 1: they use it more often than all users do.",
    "Nobody who used this feature used another one.",
    "calendar_snooze_reminder",
    (
        _FEATURE,
        QuestionColumn("unique_users", "Use both", "count"),
        QuestionColumn("confidence", "Share", "share"),
        QuestionColumn("lift", "Lift", "count"),
        QuestionColumn("support", "Support", "share", is_extra=True),
    ),
    bar="confidence",
)
RECOMMEND = Question(
    "recommend",
    recommend,
    "Might like",
    "Features that similar users use and this user does not.",
    "What users with similar habits use and this user does not, over all time.",
    "There is nothing to recommend: no user with similar habits uses another feature.",
    "6f1f9c1e-2f0a-4f6e-9f0b-6a2f4c1d7e55",
    (_FEATURE, QuestionColumn("score", "Score", "share"), QuestionColumn("unique_users", "Similar users", "count")),
    bar="score",
)

QUESTIONS = (
    TOP, USER_FEATURES, ADOPTION, UNUSED, POWER_USERS, TREND, ACTIVE, SPIKES, VARIANTS, RELATED, RECOMMEND,
)  # fmt: skip
"""Every question of `queries`, in the order of the help page."""


def period_words(since: Since) -> str:
    """A period as the gap `{period}` takes it."""
    if since is None:
        return "so far"
    if isinstance(since, dt.datetime):
        return f"since {since:%Y-%m-%d}"
    hours = round(since.total_seconds() / 3600)
    number, unit = (hours // 24, "day") if hours % 24 == 0 else (hours, "hour")
    return f"in the last {number} {unit}s" if number != 1 else f"in the last {unit}"
