"""The analysts' questions as commands: what each takes, and which Select answers it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import typer
from sqlalchemy import Select

from usage_instrument import queries
from usage_instrument.database.tables import Tables
from usage_instrument.errors import UserIdError
from usage_instrument.events import canonical_user
from usage_instrument.typing import UserId

from .errors import fail
from .options import period

Asked: TypeAlias = "Select[*tuple[Any, ...]]"
"""What asks a question of a database."""
Question: TypeAlias = Callable[..., Asked]
"""Takes the tables, and the options that its signature names."""

Limit: TypeAlias = Annotated[int, typer.Option(min=1, help="How many rows at most.")]
Since: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="PERIOD",
        help="Since when: 12h, 30d, 4w, or a date such as 2026-01-31; whole days (UTC).",
    ),
]
Feature: TypeAlias = Annotated[str, typer.Argument(help="The feature, as the code names it.")]
AFeature: TypeAlias = Annotated[str | None, typer.Option("--feature", help="Of this feature alone.")]
User: TypeAlias = Annotated[str, typer.Argument(help="The user's id, or 'anonymous'.")]


class By(str, enum.Enum):
    """The steps of a trend."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


def top(tables: Tables, limit: Limit = 5, since: Since = None) -> Asked:
    """The most used features."""
    return queries.top_features(limit, since=period(since), tables=tables)


def user(tables: Tables, user: User, since: Since = "7d") -> Asked:
    """What one user used lately, with the counts of all time."""
    return queries.user_features(user_id(user, tables), period(since), tables=tables)


def adoption(tables: Tables, since: Since = None) -> Asked:
    """How many people use each feature, and which share of all that is."""
    return queries.adoption(since=period(since), tables=tables)


def unused(tables: Tables, since: Since = None) -> Asked:
    """Features that nobody uses: never at all, or not since then."""
    return queries.unused_features(period(since), tables=tables)


def power_users(tables: Tables, feature: AFeature = None, limit: Limit = 10, since: Since = None) -> Asked:
    """Who uses the app, or one feature, most."""
    return queries.power_users(feature, limit, since=period(since), tables=tables)


def trend(tables: Tables, feature: AFeature = None, by: By = By.DAY, since: Since = "28d") -> Asked:
    """Uses and users over time."""
    return queries.trend(feature, by.value, since=period(since), tables=tables)


def active(tables: Tables, feature: AFeature = None) -> Asked:
    """How many people are active: today, in 7 and in 28 days."""
    return queries.active_users(feature, tables=tables)


def spikes(
    tables: Tables,
    since: Since = "7d",
    feature: AFeature = None,
    threshold: Annotated[float, typer.Option(min=0, help="The score from which a day is a spike.")] = 5.0,
) -> Asked:
    """Days on which a feature was used far more than usual."""
    return queries.spikes(period(since), feature=feature, threshold=threshold, tables=tables)


def variants(
    tables: Tables, feature: Feature, key: Annotated[str, typer.Argument(help="The key in the metadata.")]
) -> Asked:
    """Users and uses by a key of the metadata, as an A/B test needs them."""
    return queries.variants(feature, key, tables=tables)


def related(tables: Tables, feature: Feature, limit: Limit = 10) -> Asked:
    """What the users of a feature use as well."""
    return queries.related_features(feature, limit, tables=tables)


def recommend(tables: Tables, user: User, limit: Limit = 5) -> Asked:
    """What similar users use and this one does not."""
    return queries.recommend(user_id(user, tables), limit, tables=tables)


QUESTIONS: dict[str, tuple[Question, str]] = {
    "top": (top, "No feature has been used {when}."),
    "user": (user, "This user has used nothing {when}."),
    "adoption": (adoption, "No feature has been used {when}."),
    "unused": (unused, "No declared feature is unused."),
    "power-users": (power_users, "Nobody has used it {when}."),
    "trend": (trend, "There is no history yet."),
    "active": (active, "Nobody is active."),
    "spikes": (spikes, "No day stands out."),
    "variants": (variants, "Nobody has used it yet."),
    "related": (related, "Its users use nothing else."),
    "recommend": (recommend, "There is nothing to recommend: this user has used nothing yet, or everything."),
}
"""The commands by name, each with what people read when the answer has no rows; {when} is `yet`, or `since then`."""


def user_id(text: str, tables: Tables) -> UserId:
    """The id that a text is, in these tables; the command ends if it is none."""
    if text == "anonymous":
        return None
    try:
        return canonical_user(tables.user_id_type)(text)
    except UserIdError as error:
        raise fail(f"{error}; nobody in particular is 'anonymous'") from None
