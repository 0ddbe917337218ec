"""The lines that the log names are the host's own."""

from __future__ import annotations

import functools

import usage_instrument as usage
from usage_instrument.runtime import call_sites


def test_the_definition_of_a_function_is_below_its_decorators() -> None:
    @functools.lru_cache
    @usage.tracks("test_place.function")
    def function() -> None: ...

    line = test_the_definition_of_a_function_is_below_its_decorators.__code__.co_firstlineno + 1
    assert call_sites.definition(function) == f"{__file__}:{line}"
    assert call_sites.definition(functools.partial(print)) is None
    assert call_sites.definition(3) is None


def test_the_definition_of_what_wraps_itself_is_not_looked_for_for_ever() -> None:
    def function() -> None: ...

    function.__wrapped__ = function  # type: ignore[attr-defined]
    assert call_sites.definition(function) is None


def test_a_caller_is_outside_of_the_package() -> None:
    here = test_a_caller_is_outside_of_the_package.__code__.co_firstlineno
    assert call_sites.caller() == f"{__file__}:{here + 2}"
