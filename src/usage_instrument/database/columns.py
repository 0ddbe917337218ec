"""Columns and types that the tables share, in the form that each dialect has for them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Column, DateTime, String, TextClause
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import TypeEngine

from usage_instrument.events import NAME_LENGTH


def feature_column(**options: Any) -> Column[Any]:
    """The feature's name, told apart to the letter."""
    # By default, `Export` and `export` are the same there.
    from sqlalchemy.dialects.mysql import VARCHAR

    binary = VARCHAR(NAME_LENGTH, charset="utf8mb4", collation="utf8mb4_bin")
    return Column(
        "feature_name",
        String(NAME_LENGTH).with_variant(binary, "mysql", "mariadb"),
        comment="The feature, as the code names it",
        **options,
    )


def json_object() -> TypeEngine[Any]:
    """JSON, binary where there is a binary form."""
    from sqlalchemy.dialects.postgresql import JSONB

    return JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def timestamp() -> TypeEngine[Any]:
    """A time in UTC, to the microsecond."""
    from sqlalchemy.dialects.mysql import DATETIME

    return DateTime().with_variant(DATETIME(fsp=6), "mysql", "mariadb")


class Now(TextClause):
    """CURRENT_TIMESTAMP as a default."""

    inherit_cache = True


@compiles(Now)
def _now(element: Now, compiler: Any, **options: Any) -> str:
    return element.text


@compiles(Now, "mysql", "mariadb")
def _now_of_mariadb(element: Now, compiler: Any, **options: Any) -> str:
    return f"{element.text}(6)"  # as fine as the column, which MySQL insists on
