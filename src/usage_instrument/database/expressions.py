"""What each database writes in its own way: the clock, the calendar, real numbers, text out of JSON.

They stand in a Select of any dialect; the dialect that the statement is compiled for says what they are in SQL. The
clock is the server's, in UTC.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, TypeVar, cast

from sqlalchemy import ColumnElement, Date, DateTime, Double, Text, literal, literal_column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from usage_instrument.typing import Unit

from . import dialects
from .dialects import Dialect

T = TypeVar("T")


class Expression(FunctionElement[T]):
    """What a dialect writes."""

    inherit_cache = True

    def written(self, dialect: Dialect, arguments: Iterator[str]) -> str:
        """The SQL of it, from the SQL of its arguments; one that nobody asks for is not bound either."""
        raise NotImplementedError


@compiles(Expression)
def _written(element: Expression[Any], compiler: Any, **options: Any) -> str:
    if compiler.dialect.name == "default":  # str() of a statement, for a person to read
        return str(compiler.visit_function(element, **options))
    arguments = (compiler.process(argument, **options) for argument in element.clauses)
    return element.written(dialects.get(compiler.dialect.name), arguments)


class Ago(Expression[dt.datetime]):
    """The moment that lies so far before now; part of a second counts as one."""

    name = "ago"
    type = DateTime()
    inherit_cache = True

    def __init__(self, since: dt.timedelta = dt.timedelta(0)) -> None:
        super().__init__(literal_column(str(-(-since // _SECOND))))

    def written(self, dialect: Dialect, arguments: Iterator[str]) -> str:
        seconds = int(next(arguments))
        if not seconds:
            return dialect.now()
        unit = next(unit for unit, length in _LENGTHS.items() if seconds % length == 0)
        return dialect.ago(seconds // _LENGTHS[unit], unit)


_SECOND = dt.timedelta(seconds=1)
_LENGTHS: dict[Literal["day", "hour", "second"], int] = {"day": 86_400, "hour": 3_600, "second": 1}
"""The units in which a person would say how long ago, in seconds."""


class Instant(Expression[dt.datetime]):
    """A moment that the question names, UTC and naive."""

    name = "instant"
    type = DateTime()
    inherit_cache = True

    def __init__(self, moment: dt.datetime) -> None:
        super().__init__(literal_column(f"'{moment.isoformat()}'"))

    def written(self, dialect: Dialect, arguments: Iterator[str]) -> str:
        return dialect.instant(dt.datetime.fromisoformat(next(arguments).strip("'")))


class StartOf(Expression[dt.datetime]):
    """The start of the hour, day, week (Monday) or month that a moment lies in."""

    name = "start_of"
    type = DateTime()
    inherit_cache = True

    def __init__(self, unit: Unit, moment: ColumnElement[Any]) -> None:
        super().__init__(literal_column(unit), moment)

    def written(self, dialect: Dialect, arguments: Iterator[str]) -> str:
        unit, moment = arguments
        return dialect.start_of(cast(Unit, unit), moment)


class Later(Expression[dt.datetime]):
    """A moment, a number of units later."""

    name = "later"
    type = DateTime()
    inherit_cache = True

    def __init__(self, unit: Unit, moment: ColumnElement[Any], number: ColumnElement[int]) -> None:
        super().__init__(literal_column(unit), moment, number)

    def written(self, dialect: Dialect, arguments: Iterator[str]) -> str:
        unit, moment, number = arguments
        return dialect.later(cast(Unit, unit), moment, f"({number})")


class Day(Expression[dt.date]):
    """The date of a moment."""

    name = "day"
    type = Date()
    inherit_cache = True

    def written(self, dialect: Dialect, arguments: Iterator[str]) -> str:
        return dialect.day(*arguments)


class Real(Expression[float]):
    """A number as a float: by itself, a quotient is a Decimal here, and whole there."""

    name = "real"
    type = Double()
    inherit_cache = True

    def written(self, dialect: Dialect, arguments: Iterator[str]) -> str:
        return dialect.real(*arguments)


class JSONText(Expression[str]):
    """What a JSON object holds under a key, as text; NULL where that is null, or where there is no such key."""

    name = "json_text"
    type = Text()
    inherit_cache = True

    def __init__(self, document: ColumnElement[Any], key: str) -> None:
        super().__init__(document, literal(key), literal(json.dumps(key)))

    def written(self, dialect: Dialect, arguments: Iterator[str]) -> str:
        return dialect.json_text(next(arguments), next(arguments), partial(next, arguments))
