"""The options `dimensions=` and `value=`: checked, and as text and a number, when the call begins."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

from usage_instrument.errors import DimensionError, describe
from usage_instrument.events import check_dimension, is_encodable, plain_scalar, shortened, text_of
from usage_instrument.runtime import log
from usage_instrument.typing import UNSET

from .call_arguments import (
    NO_MEASURES,
    Args,
    Kwargs,
    Measures,
    ReadMeasures,
    argument_reader,
    check_sync,
    checked_source,
    parameters_of,
)

LARGEST = 1e15
"""The largest number: its square and the sums of many stay far from the bounds of a float."""


def measures_of(dimensions: object, value: object) -> Measures:
    """The dimensions and the number of a use. Raises DimensionError.

    A value of a dimension that is None is left out, and so is one that cannot be text, which the log reports.
    """
    kept = None if dimensions is None else _texts(dimensions)
    number = None if value is None else _number(value)
    return Measures(kept, number) if kept or number is not None else NO_MEASURES


def _texts(dimensions: object) -> dict[str, str] | None:
    if not issubclass(type(dimensions), Mapping):
        raise DimensionError(f"dimensions= is a mapping from names to values, not {type(dimensions).__name__}")
    found: dict[str, str] = {}
    for name, value in dimensions.items():  # type: ignore[attr-defined]  # a Mapping
        name = check_dimension(name)
        if value is None or value is UNSET:
            continue
        try:
            found[name] = dimension_text(value)
        except Exception as error:  # a subclass of the host's may raise anything
            log.warning(("dimension", name), "the dimension %r is left out: %s", name, describe(error))
    return found or None


def dimension_text(value: object) -> str:
    """A value of a dimension as text of at most 100 characters. Raises DimensionError.

    A bool is `true` or `false`, an int its digits, a float its shortest digits, an enum its value, a time in ISO form.
    A longer text is its first characters and a hash of all of it.
    """
    kind = type(value)  # not isinstance: a lazy proxy would load its object
    if issubclass(kind, enum.Enum):
        return dimension_text(value.value)  # type: ignore[attr-defined]  # an Enum
    if kind is bool:
        return "true" if value else "false"
    plain = value if issubclass(kind, str) else plain_scalar(value)
    text = text_of(plain) if isinstance(plain, str) else repr(plain)
    if "\0" in text or not is_encodable(text):
        raise DimensionError("a value of a dimension holds a NUL character or a lone surrogate")
    return shortened(text)


def _number(value: object) -> float:
    kind = type(value)
    if kind is bool or not issubclass(kind, Real | Decimal):
        raise DimensionError(f"value= is a number, not {kind.__name__}")
    try:
        number = float(value)  # type: ignore[arg-type]  # a number
    except (OverflowError, ValueError):  # of Decimal("sNaN")
        number = math.nan
    if not abs(number) <= LARGEST:
        raise DimensionError(f"value= is a finite number of at most {LARGEST:.0e}")
    return number


class StatedMeasures:
    """The options of a middleware for dimensions and a number: constants, or callables on the request.

    Raises DeclarationError and DimensionError.
    """

    def __init__(self, dimensions: object, value: object) -> None:
        self.constant = NO_MEASURES
        self.read: Callable[[Any], Measures | Exception] | None = None
        """Reads them from a request, if one of them is a callable."""
        if not (callable(dimensions) or callable(value)):
            self.constant = measures_of(dimensions, value)
            return
        for option, given in (("dimensions=", dimensions), ("value=", value)):
            if callable(given):
                check_sync(given, option)
        measures_of(None if callable(dimensions) else dimensions, None if callable(value) else value)

        def read(carrier: Any) -> Measures | Exception:
            try:
                return measures_of(
                    dimensions(carrier) if callable(dimensions) else dimensions,
                    value(carrier) if callable(value) else value,
                )
            except Exception as error:  # the host's, or its values are none
                return error

        self.read = read


class MeasureReader:
    """Makes the function that reads dimensions and a number from the arguments of a call, from the options of `tracks`.

    `dimensions` are names of arguments, a mapping, or a callable on the call's arguments; `value` is the name of an
    argument, a number, or a callable on the call's arguments. Raises DeclarationError and DimensionError.
    """

    def __init__(self, dimensions: object, value: object) -> None:
        self._dimensions = checked_source(dimensions, "dimensions=", _texts, check_dimension)
        if callable(value):
            check_sync(value, "value=")
        elif value is not None and not isinstance(value, str):
            _number(value)
        self._value = value

    def reader(self, function: object) -> ReadMeasures | None:
        """The reader of `function`; None if there is nothing to read.

        Raises DeclarationError for a name that is not an argument of the function.
        """
        if self._dimensions is None and self._value is None:
            return None
        dimensions, value = self._read_dimensions(function), self._read_value(function)

        def read(args: Args, kwargs: Kwargs) -> Measures | Exception:
            try:
                return measures_of(dimensions(args, kwargs), value(args, kwargs))
            except Exception as error:  # of the host's callable too
                return error

        return read

    def _read_dimensions(self, function: object) -> Callable[[Args, Kwargs], Any]:
        found = self._dimensions
        if isinstance(found, tuple):
            parameters = parameters_of(function)
            arguments = [(name, argument_reader(parameters, name)) for name in found]
            return lambda args, kwargs: {name: argument(args, kwargs) for name, argument in arguments}
        if callable(found):
            return lambda args, kwargs: found(*args, **kwargs)
        return lambda args, kwargs: found

    def _read_value(self, function: object) -> Callable[[Args, Kwargs], Any]:
        value = self._value
        if isinstance(value, str):
            argument = argument_reader(parameters_of(function), value)

            def read(args: Args, kwargs: Kwargs) -> Any:
                found = argument(args, kwargs)
                return None if found is UNSET else found

            return read
        if callable(value):
            return lambda args, kwargs: value(*args, **kwargs)
        return lambda args, kwargs: value
