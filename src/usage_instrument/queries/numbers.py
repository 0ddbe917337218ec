"""Numbers and order in every answer: integers, floats, and names with NULL last."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, func, literal_column

from usage_instrument.database.expressions import Real, Whole

ZERO: ColumnElement[int] = literal_column("0")
ONE: ColumnElement[int] = literal_column("1")


def number(value: int) -> ColumnElement[int]:
    """A number that stands in the SQL as it is."""
    return literal_column(str(value))


def whole(number: ColumnElement[Any]) -> ColumnElement[int]:
    """The number as an int, 0 for NULL. A sum of integers is a Decimal on MariaDB, and one of BIGINTs on PostgreSQL."""
    return Whole(func.coalesce(number, ZERO))


def total(counts: ColumnElement[Any]) -> ColumnElement[int]:
    """The sum as an int, 0 without rows."""
    return whole(func.sum(counts))


def share(part: ColumnElement[Any], of: ColumnElement[Any]) -> ColumnElement[float]:
    """The quotient as a float, 0 for a division by 0."""
    return func.coalesce(over(Real(part), func.nullif(of, ZERO)), literal_column("0.0"))


def over(part: ColumnElement[float], of: ColumnElement[Any]) -> ColumnElement[float]:
    """The quotient of floats, without the casts that SQLAlchemy adds for integers."""
    return part.op("/", precedence=8)(of)


def by_name(feature: ColumnElement[Any]) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """An ORDER BY that sorts by name, NULL last on every database."""
    return feature.is_(None), feature
