"""What a question takes for granted: the default tables, and the form that numbers and rows have in every answer."""

from __future__ import annotations

import functools
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, MetaData, cast, func, literal_column

from usage_instrument.database.expressions import Real
from usage_instrument.database.schema import define_tables
from usage_instrument.database.tables import Tables
from usage_instrument.typing import UserIdType

ZERO: ColumnElement[int] = literal_column("0")
ONE: ColumnElement[int] = literal_column("1")


@functools.cache
def default_tables(user_id_type: UserIdType = "uuid") -> Tables:
    """The tables of the connection's own schema."""
    return define_tables(MetaData(), users=None, user_id_type=user_id_type)


def whole(number: ColumnElement[Any]) -> ColumnElement[int]:
    """A number that is an int, 0 for nothing; by itself MariaDB adds integers up to a Decimal."""
    return cast(func.coalesce(number, ZERO), BigInteger)


def total(counts: ColumnElement[Any]) -> ColumnElement[int]:
    """A sum that is an int, 0 for nothing."""
    return whole(func.sum(counts))


def share(part: ColumnElement[Any], of: ColumnElement[Any]) -> ColumnElement[float]:
    """A quotient as a float, 0 of nothing."""
    return func.coalesce(over(Real(part), func.nullif(of, ZERO)), literal_column("0.0"))


def over(part: ColumnElement[float], of: ColumnElement[Any]) -> ColumnElement[float]:
    """A quotient of floats, without the casts by which SQLAlchemy keeps that of integers from being whole."""
    return part.op("/", precedence=8)(of)


def by_name(feature: ColumnElement[Any]) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """The order of features that are equal in all else: by name, the nameless last on every database."""
    return feature.is_(None), feature
