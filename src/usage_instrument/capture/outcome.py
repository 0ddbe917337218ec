"""Whether the outcome of a tracked call is a use, whose use it is, and the hand-over to the recorder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usage_instrument.events import Use
from usage_instrument.runtime.processes import notice_fork
from usage_instrument.typing import UNSET, Unset, UserId

from .call_arguments import NOTHING, Said
from .context import Holder, holder, request_of
from .loaded_attributes import attributes_of, loaded_attribute

if TYPE_CHECKING:
    from .registry import Feature

STATUSLESS = frozenset({type(None), bool, int, float, str, bytes, list, dict, set})
"""Types of results that carry no HTTP status: most of them, told in one look."""


def settle(feature: Feature, held: Holder, result: object) -> None:
    """Count a success that said nothing itself, inside a request, task, `as_user` or `paused`."""
    if succeeded(held, result):
        count(feature, held)


def succeeded(held: Holder | None, result: object) -> bool | None:
    """Whether a call that returned `result` is a success (True), a failure (False), or neither (None).

    It is a success unless it ran in an HTTP request and its result is a response that says otherwise.
    """
    if held is None or type(result) in STATUSLESS:
        return True
    request = request_of(held)
    if request is None or request.kind != "http":
        return True
    status = None if type(result) is tuple and not request.allows_tuples else status_of(result)
    return True if status is None else request.judge(status)


def status_of(result: Any) -> int | None:
    """The status of a view's result: its `status_code`, or that of Flask's tuples `(body, status)`,
    `(body, status, headers)` and `(response, headers)`; None when it has none."""
    if type(result) is tuple:
        if len(result) not in (2, 3) or type(result[0]) is tuple:
            return None
        status = _integer(result[1])
        if status is None and type(result[1]) is str and result[1][:3].isdecimal() and result[1][3:4] == " ":
            status = int(result[1][:3])  # "404 NOT FOUND"
        if status is None:
            return status_of(result[0])
        # A tuple need not be a response. What no view would answer is a plain value.
        return status if 200 <= status < 600 else None
    if "_sa_instance_state" in attributes_of(result):  # an ORM's row is no response, whatever its columns are called
        return None
    try:
        return _integer(loaded_attribute(result, "status_code", run_property=True))
    except Exception:  # the host's property
        return None


def _integer(status: object) -> int | None:
    """An int, also an http.HTTPStatus; a Mock that claims to be one is none."""
    kind = type(status)
    return int(status) if issubclass(kind, int) and kind is not bool else None  # type: ignore[call-overload]


def count(feature: Feature, held: Holder | None, said: Said = NOTHING) -> None:
    """Hand one use over. Raises only what the recorder raises, which is nothing unless it is strict."""
    if held is not None and held.silent:
        return
    notice_fork()
    user, metadata = said
    if user is UNSET:
        user = _user_of(held)
    if isinstance(user, Exception):
        feature.catalog.recorder.reject(feature.name, user)
        return
    if user is UNSET:
        return
    request = request_of(held)
    if request is not None:
        request.counted.add(feature.key)
    if metadata is None or isinstance(metadata, Exception):
        feature.append(user)
    else:
        feature.catalog.recorder.record(Use(feature.name, user, metadata))
    if isinstance(metadata, Exception):
        feature.catalog.recorder.lose_metadata(feature.name, metadata)


def _user_of(held: Holder | None) -> UserId | Unset | Exception:
    try:
        return None if held is None else held.capture_user()
    except Exception as error:  # a refused statement, or the host's own way to find the user
        return error


class Capture:
    """The uses of one tracked function, told the outcomes of its calls."""

    __slots__ = ("counts", "feature")

    def __init__(self, feature: Feature, counts: bool | None) -> None:
        self.feature = feature
        self.counts = counts
        """What `succeeded` says of the calls that count; None where they count as they begin."""

    def called(self, said: Said) -> None:
        """The call begins."""
        count(self.feature, holder.get(), said)

    def returned(self, said: Said, result: object = None) -> None:
        """The call ended without an exception."""
        held = holder.get()
        if succeeded(held, result) is self.counts:
            count(self.feature, held, said)

    def raised(self, said: Said, error: Exception) -> None:
        """The call ended with an exception, which stays the one that the caller sees."""
        if self.counts is not False:
            return
        try:
            count(self.feature, holder.get(), said)
        except Exception as mistake:  # strict
            error.add_note(f"usage-instrument: {type(mistake).__name__}: {mistake}")
