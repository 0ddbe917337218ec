"""Checks the arguments of the queries, and supplies the default tables."""

from __future__ import annotations

from typing import Any, get_args
from uuid import UUID

from usage_instrument.database import schema
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError, FeatureNameError, UserIdError
from usage_instrument.events import canonical_user, check_feature
from usage_instrument.typing import Unit, UserId, UserIdType

STEPS = ("day", "week", "month")
"""The steps of questions that follow users over time."""


def default_tables(user_id_type: UserIdType = "uuid") -> Tables:
    """The tables in the schema of the connection."""
    return schema.default_tables(None, user_id_type)


def checked_limit(limit: object) -> int:
    """The maximal number of rows. Raises ConfigurationError."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ConfigurationError(f"limit is a whole number of at least 1, not {limit!r}")
    return limit


def checked_feature(feature: object) -> str:
    """The name of a feature. Raises ConfigurationError."""
    try:
        return check_feature(feature)
    except FeatureNameError as error:
        raise ConfigurationError(f"feature is the name of a feature: {error}") from None


def checked_key(key: object) -> str:
    """A key of the metadata. Raises ConfigurationError."""
    if not isinstance(key, str) or "\0" in key:
        raise ConfigurationError(f"key is a key of the metadata, a str without NUL, not {key!r}")
    return key


def checked_unit(by: object) -> Unit:
    """The unit of a trend. Raises ConfigurationError."""
    if by not in get_args(Unit):
        raise ConfigurationError(f"by is one of {', '.join(map(repr, get_args(Unit)))}, not {by!r}")
    unit: Unit = by  # type: ignore[assignment] # one of its values
    return unit


def checked_step(by: object) -> Unit:
    """A step of days, weeks or months. Raises ConfigurationError."""
    if by not in STEPS:
        raise ConfigurationError(f"by is one of {', '.join(map(repr, STEPS))}, not {by!r}")
    unit: Unit = by  # type: ignore[assignment] # one of its values
    return unit


def user_id(text: str, tables: Tables) -> UserId:
    """The user id that a text stands for in these tables, None for `anonymous`. Raises UserIdError."""
    if text == "anonymous":
        return None
    try:
        return canonical_user(tables.user_id_type)(text)
    except UserIdError as error:
        raise UserIdError(f"{error}; the anonymous user is 'anonymous'") from None


def user_and_tables(user_id: UserId, tables: Tables | None) -> tuple[UserId, Tables]:
    """The id in the type of the tables, and the tables; the default ones have the type of the id.

    Raises UserIdError.
    """
    if isinstance(user_id, bool) or not isinstance(user_id, UUID | int | str | None):
        raise UserIdError(f"a user id is a UUID, an int, a str or None, not {user_id!r}")
    tables = tables or default_tables(_type_of(user_id))
    return canonical_user(tables.user_id_type)(user_id), tables


def _type_of(user_id: UserId) -> UserIdType:
    if isinstance(user_id, str):
        try:
            canonical_user("uuid")(user_id)
        except UserIdError:
            return "string"
    return "integer" if isinstance(user_id, int) else "uuid"


def rows_of(column: Any, feature: str | None) -> list[Any]:
    """The condition for rows of one feature; none for all features. Raises ConfigurationError."""
    return [] if feature is None else [column == checked_feature(feature)]
