"""`dimensions=` and `value=` of decorators and middlewares: read when the call begins, and never in its way."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

import usage_instrument as usage
from usage_instrument.capture.decorator import Tracks
from usage_instrument.errors import DeclarationError, DimensionError
from usage_instrument.testing import CapturedUsage, CapturedUse, capture_usage


@pytest.fixture
def captured() -> Iterator[CapturedUsage]:
    """The captures of a test."""
    with capture_usage() as found:
        yield found


def test_arguments_of_a_call_are_dimensions_and_a_number(captured: CapturedUsage) -> None:
    @usage.tracks("pay", dimensions=["currency", "new"], value="amount", user_arg="user")
    def pay(user: int, amount: float | None, currency: str = "EUR", **more: Any) -> None: ...

    pay(7, 12.5)
    pay(7, 3, currency="USD", new=True)
    pay(7, None, new=None)
    assert captured.uses == [
        CapturedUse("pay", 7, None, 1, {"currency": "EUR"}, 12.5),
        CapturedUse("pay", 7, None, 1, {"currency": "USD", "new": "true"}, 3.0),
        CapturedUse("pay", 7, None, 1, {"currency": "EUR"}, None),
    ]
    assert not captured.metadata_lost


def test_mappings_and_callables_are_too(captured: CapturedUsage) -> None:
    @usage.tracks("export", dimensions={"format": "csv"}, value=1)
    async def export() -> None: ...

    @usage.tracks("import", dimensions=lambda rows: {"size": len(rows)}, value=len, when="call")
    def import_(rows: list[int]) -> None: ...

    asyncio.run(export())
    import_([1, 2])
    assert [(use.dimensions, use.value) for use in captured.uses] == [({"format": "csv"}, 1.0), ({"size": "2"}, 2.0)]


def test_a_callable_that_raises_loses_no_use(captured: CapturedUsage) -> None:
    @usage.tracks("export", dimensions=lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    def export() -> str:
        return "done"

    @usage.tracks("pay", value=lambda: "much", metadata={"a": 1})  # type: ignore[arg-type, return-value]
    def pay() -> None: ...

    assert export() == "done"
    pay()
    assert captured.uses == [CapturedUse("export"), CapturedUse("pay", None, {"a": 1})]
    assert [type(lost.error) for lost in captured.metadata_lost] == [ZeroDivisionError, DimensionError]


def test_an_audited_call_is_counted_by_them(captured: CapturedUsage) -> None:
    @usage.tracks("open", dimensions=["drawer"], audit=True)
    def open_(drawer: int) -> None:
        if not drawer:
            raise ValueError

    open_(7)
    with pytest.raises(ValueError):
        open_(0)
    assert [use.dimensions for use in captured.uses] == [{"drawer": "7"}]
    assert [access.outcome for access in captured.accesses] == ["success", "failed"]


def test_a_decorator_with_them_pickles() -> None:
    tracks = usage.tracks("pay", dimensions=["currency"], value="amount")
    copied = pickle.loads(pickle.dumps(tracks))
    assert isinstance(copied, Tracks)
    with capture_usage() as captured:

        @copied
        def pay(amount: int, currency: str) -> None: ...

        pay(3, "EUR")
    assert captured.uses == [CapturedUse("pay", None, None, 1, {"currency": "EUR"}, 3.0)]


async def _coroutine() -> None: ...


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"dimensions": "format"}, DeclarationError, r"not the str 'format'; try \['format'\]"),
        ({"dimensions": 7}, DeclarationError, "a list of argument names, a mapping, or a callable"),
        ({"dimensions": [7]}, DimensionError, "the name of a dimension is a str, not int"),
        ({"dimensions": {"": 1}}, DimensionError, "the name of a dimension has 1 to 100 characters"),
        ({"dimensions": ["unknown"]}, DeclarationError, "there is no argument 'unknown'"),
        ({"dimensions": _coroutine}, DeclarationError, "dimensions= takes a plain function"),
        ({"value": "unknown"}, DeclarationError, "there is no argument 'unknown'"),
        ({"value": True}, DimensionError, "value= is a number, not bool"),
        ({"value": _coroutine}, DeclarationError, "value= takes a plain function"),
    ],
)
def test_a_wrong_declaration_raises_at_once(options: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        usage.tracks("export", **options)(lambda kind: None)
