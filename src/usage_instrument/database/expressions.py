"""SQL expressions that each dialect writes differently: clock, calendar, floats, text from JSON.

They are parts of a Select for any dialect, and become SQL when the Select is compiled for one. The clock is the
server's, in UTC.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, TypeVar, cast

from sqlalchemy import BigInteger, ColumnElement, Date, DateTime, Double, Integer, Text, literal, literal_column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from usage_instrument.typing import Unit

from . import dialects
from .dialects import Dialect

T = TypeVar("T")


class Expression(FunctionElement[T]):
    """An expression that the dialect compiles."""

    inherit_cache = True

    def to_sql(self, dialect: Dialect, arguments: Iterator[str]) -> str:
        """The SQL, from the SQL of the arguments, by the dialect's method of the expression's name. An argument that is
        not taken from the iterator is not bound."""
        return str(getattr(dialect, self.name)(*arguments))


@compiles(Expression)
def _compile(element: Expression[Any], compiler: Any, **options: Any) -> str:
    if compiler.dialect.name == "default":  # str(statement)
        return str(compiler.visit_function(element, **options))
    arguments = (compiler.process(argument, **options) for argument in element.clauses)
    return element.to_sql(dialects.get(compiler.dialect.name), arguments)


class Ago(Expression[dt.datetime]):
    """The current time minus a timedelta, rounded up to whole seconds."""

    name = "ago"
    type = DateTime()
    inherit_cache = True

    def __init__(self, since: dt.timedelta = dt.timedelta(0)) -> None:
        super().__init__(literal_column(str(-(-since // dt.timedelta(seconds=1)))))

    def to_sql(self, dialect: Dialect, arguments: Iterator[str]) -> str:
        seconds = int(next(arguments))
        if not seconds:
            return dialect.now()
        unit = next(unit for unit, length in _LENGTHS.items() if seconds % length == 0)
        return dialect.ago(seconds // _LENGTHS[unit], unit)


_LENGTHS: dict[Literal["day", "hour", "second"], int] = {"day": 86_400, "hour": 3_600, "second": 1}
"""Seconds per unit; the printed SQL uses the largest one that divides the timedelta."""


class Instant(Expression[dt.datetime]):
    """A fixed time, UTC and naive."""

    name = "instant"
    type = DateTime()
    inherit_cache = True

    def __init__(self, moment: dt.datetime) -> None:
        super().__init__(literal_column(f"'{moment.isoformat()}'"))

    def to_sql(self, dialect: Dialect, arguments: Iterator[str]) -> str:
        return dialect.instant(dt.datetime.fromisoformat(next(arguments).strip("'")))


class StartOf(Expression[dt.datetime]):
    """The start of the hour, day, week (Monday) or month of a time."""

    name = "start_of"
    type = DateTime()
    inherit_cache = True

    def __init__(self, unit: Unit, moment: ColumnElement[Any]) -> None:
        super().__init__(literal_column(unit), moment)


class Later(Expression[dt.datetime]):
    """A time plus a number of units."""

    name = "later"
    type = DateTime()
    inherit_cache = True

    def __init__(self, unit: Unit, moment: ColumnElement[Any], number: ColumnElement[int]) -> None:
        super().__init__(literal_column(unit), moment, number)

    def to_sql(self, dialect: Dialect, arguments: Iterator[str]) -> str:
        unit, moment, number = arguments
        return dialect.later(cast(Unit, unit), moment, f"({number})")


class Once(Expression[dt.datetime]):
    """A time that a statement works out once, for a condition that most rows fulfil.

    PostgreSQL works an expression of its clock out anew for each row, unless an index finds the rows. Of a time that it
    works out once it does not know beforehand how many rows are after it: it expects a third.
    """

    name = "once"
    type = DateTime()
    inherit_cache = True


class Day(Expression[dt.date]):
    """The date of a time."""

    name = "day"
    type = Date()
    inherit_cache = True


class DaysBetween(Expression[int]):
    """The number of days from the day of a time to that of a later one."""

    name = "days_between"
    type = Integer()
    inherit_cache = True


class HourOfDay(Expression[int]):
    """The hour of a time, 0 to 23."""

    name = "hour_of_day"
    type = Integer()
    inherit_cache = True


class Weekday(Expression[int]):
    """The weekday of a time, 1 (Monday) to 7."""

    name = "weekday"
    type = Integer()
    inherit_cache = True


class Real(Expression[float]):
    """A number as a float: a quotient of integers is a Decimal on MariaDB, and truncated on the others."""

    name = "real"
    type = Double()
    inherit_cache = True


class Whole(Expression[int]):
    """A number as an int."""

    name = "whole"
    type = BigInteger()
    inherit_cache = True


@compiles(Whole)
def _compile_whole(element: Whole, compiler: Any, **options: Any) -> str:
    if getattr(compiler, "is_readable", False):  # printed for people, who need no type
        return str(compiler.process(element.clauses.clauses[0], **options))
    return _compile(element, compiler, **options)


class JSONText(Expression[str]):
    """The value of a key of a JSON object, as text; NULL for null and for a missing key."""

    name = "json_text"
    type = Text()
    inherit_cache = True

    def __init__(self, document: ColumnElement[Any], key: str) -> None:
        super().__init__(document, literal(key), literal(json.dumps(key)))

    def to_sql(self, dialect: Dialect, arguments: Iterator[str]) -> str:
        return dialect.json_text(next(arguments), next(arguments), partial(next, arguments))
