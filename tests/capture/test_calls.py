"""`track`, `identify` and `discard`: what reaches a recorder, and that a mistake goes there instead of to the host."""

from __future__ import annotations

import typing
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from usage_instrument.capture import calls, context
from usage_instrument.capture.context import Request, holder
from usage_instrument.capture.registry import Catalog
from usage_instrument.errors import FeatureNameError, MetadataError, UsageInstrumentError, UserIdError
from usage_instrument.events import MAX_COUNT
from usage_instrument.testing import CapturedUsage, CapturedUse
from usage_instrument.typing import UNSET

ANNE = uuid.UUID(int=1)


@pytest.fixture
def usage() -> CapturedUsage:
    return CapturedUsage(Catalog())


@pytest.fixture
def request_() -> Iterator[Request]:
    request = Request("http", "POST")
    token = holder.set(request)
    yield request
    holder.reset(token)


def track(
    usage: CapturedUsage, feature: Any = "export", user: object = UNSET, metadata: Any = None, count: Any = 1
) -> None:
    calls.track(usage, feature, user, metadata, count)


def test_a_use(usage: CapturedUsage) -> None:
    track(usage)
    track(usage, user=5, metadata={"format": "csv"}, count=3)
    track(usage, user=None, metadata={"nested": [1]})
    assert usage.uses == [
        CapturedUse("export", None),
        CapturedUse("export", 5, {"format": "csv"}, 3),
        CapturedUse("export", None, {"nested": [1]}),
    ]


def test_explicit_users_go_before_all_others(usage: CapturedUsage, request_: Request) -> None:
    request_.identify(1)
    track(usage)
    with context.as_user(2):
        track(usage)
        track(usage, user=3)
        track(usage, user=None)
    assert [use.user for use in usage.uses] == [1, 2, 3, None]


def test_an_explicit_user_stands_where_the_stated_one_was_refused(usage: CapturedUsage) -> None:
    with context.as_user(object()):
        track(usage)
        track(usage, user=ANNE)
        track(usage, user=None)
    assert [use.user for use in usage.uses] == [ANNE, None]
    assert [type(rejected.error) for rejected in usage.rejected] == [UserIdError]


def test_nothing_is_captured_where_nothing_is(usage: CapturedUsage, request_: Request) -> None:
    with context.paused():
        track(usage)
        track(usage, user=ANNE)
    track(usage, "before")
    calls.discard()
    track(usage)
    track(usage, user=ANNE)
    assert usage.uses == [CapturedUse("before")]
    assert usage.rejected == []


def test_a_request_knows_what_it_counted(usage: CapturedUsage, request_: Request) -> None:
    track(usage)
    with context.as_user(ANNE):
        track(usage, "other")
    track(usage, "bad", user=object())
    with context.paused():
        track(usage, "paused")
    assert request_.counted == {usage.catalog.key("export"), usage.catalog.key("other")}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"feature": ""}, FeatureNameError),
        ({"feature": "x" * 101}, FeatureNameError),
        ({"feature": None}, FeatureNameError),
        ({"user": 1.5}, UserIdError),
        ({"user": True}, UserIdError),
        ({"user": object()}, UserIdError),
        ({"count": 0}, ValueError),
        ({"count": -1}, ValueError),
        ({"count": MAX_COUNT + 1}, ValueError),
        ({"count": 10**5000}, ValueError),
        ({"count": 1.0}, ValueError),
        ({"count": True}, ValueError),
        ({"count": "1"}, ValueError),
    ],
)
def test_a_mistake_is_rejected(usage: CapturedUsage, arguments: dict[str, Any], error: type[Exception]) -> None:
    track(usage, **arguments)
    assert usage.uses == []
    [rejected] = usage.rejected
    assert isinstance(rejected.error, error)
    assert rejected.uses == 1
    strict = CapturedUsage(Catalog(), strict=True)
    with pytest.raises(error):
        track(strict, **arguments)


def test_a_rejection_is_of_as_many_uses(usage: CapturedUsage) -> None:
    track(usage, user=object(), count=7)
    assert [rejected.uses for rejected in usage.rejected] == [7]


def test_the_largest_count(usage: CapturedUsage) -> None:
    track(usage, count=MAX_COUNT)
    assert usage.count("export") == MAX_COUNT


class Broken(typing.Mapping[str, Any]):
    """A mapping whose code fails."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("broken")

    def __iter__(self) -> Iterator[str]:
        yield "a"

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("metadata", [[1], "text", {b"1": 2}, {"a": object()}, {"a": ["\0"]}, Broken()], ids=range(6))
def test_metadata_that_cannot_be_kept_never_costs_the_use(usage: CapturedUsage, metadata: object) -> None:
    track(usage, metadata=metadata)
    assert usage.uses == [CapturedUse("export")]
    [lost] = usage.metadata_lost
    assert isinstance(lost.error, MetadataError | RuntimeError)
    assert usage.rejected == []


def test_identify(usage: CapturedUsage, request_: Request) -> None:
    calls.identify(usage, ANNE)
    track(usage)
    assert usage.uses == [CapturedUse("export", ANNE)]
    assert usage.complaints == []


def test_a_wrong_identify_is_said_and_rejects(usage: CapturedUsage, request_: Request) -> None:
    calls.identify(usage, ANNE)
    calls.identify(usage, object())
    track(usage)
    assert usage.uses == []
    assert [type(error) for error in usage.complaints] == [UserIdError]
    assert "the uses of this request are rejected" in str(usage.complaints[0])
    assert len(usage.rejected) == 1


def test_identify_outside_is_said(usage: CapturedUsage) -> None:
    calls.identify(usage, ANNE)
    track(usage)
    assert usage.uses == [CapturedUse("export", None)]
    [complaint] = usage.complaints
    assert isinstance(complaint, UsageInstrumentError)
    assert "outside of a request or task" in str(complaint)


def test_discard_outside_is_nothing(usage: CapturedUsage) -> None:
    calls.discard()
    track(usage)
    assert usage.uses == [CapturedUse("export")]
