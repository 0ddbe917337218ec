"""The captures that are a call instead of a decorator: `track`, and the statements `identify` and `discard`."""

from __future__ import annotations

import json
from collections.abc import Callable

from . import context, identity
from .errors import CountError, UsageInstrumentError, UserIdError
from .events import MAX_COUNT, Use, check_feature, keep_metadata
from .typing import UNSET, Metadata, Recorder


def track(recorder: Recorder, feature: str, user: object, metadata: Metadata | None, count: int) -> None:
    """Hand one use to a recorder; whatever is wrong with it goes to `recorder.reject`."""
    try:
        _track(recorder, feature, user, metadata, count)
    except Exception as error:
        name = feature if isinstance(feature, str) else type(feature).__name__
        recorder.reject(name, error, count if _is_count(count) else 1)


def _track(recorder: Recorder, feature: str, user: object, metadata: Metadata | None, count: int) -> None:
    feature = check_feature(feature)
    held = context.holder.get()
    if held is not None and held.silent:
        return
    who = context.current_user() if user is UNSET else identity.user_id_of(user)
    if who is UNSET:
        return
    if not _is_count(count):
        raise CountError(f"count is a whole number from 1 to {MAX_COUNT}, not {count!r}")
    kept = None
    try:
        kept = keep_metadata(metadata)
    except Exception as error:
        recorder.lose_metadata(feature, error)
    recorder.record(Use(feature, who, kept, count))
    request = context.request_of(held)
    if request is not None:
        request.counted.add(recorder.catalog.key(feature))


def screened(recorder: Recorder, rule: Callable[[Use], Use | None], use: Use) -> Use | None:
    """What the app's own rule leaves of a use; None where that is nothing. A rule that fails lets nothing through."""
    try:
        known = use if not isinstance(use.metadata, str) else use._replace(metadata=json.loads(use.metadata))
        with context.paused():  # what it calls is no use
            left = rule(known)
        if left is None:
            return None
        if not isinstance(left, Use):
            raise UsageInstrumentError(f"before_track returns a Use or None, not {type(left).__name__}")
        if not _is_count(left.uses):
            raise CountError(f"uses is a whole number from 1 to {MAX_COUNT}, not {left.uses!r}")
        user = identity.user_id_of(left.user)
        return Use(check_feature(left.feature), user, keep_metadata(left.metadata), left.uses)
    except Exception as error:
        recorder.reject(use.feature, error, use.uses)
        return None


def _is_count(count: object) -> bool:
    return type(count) is int and 1 <= count <= MAX_COUNT


def identify(recorder: Recorder, user: object) -> None:
    """State who the current request's or task's user is; outside of one, complain."""
    try:
        stated = context.identify(user)
    except UserIdError as error:
        recorder.complain(UserIdError(f"identify(): {error}; this request's uses are rejected"))
    else:
        if not stated:
            recorder.complain(
                UsageInstrumentError("identify() outside a request or task is ignored; use as_user() or user= there")
            )


def discard() -> None:
    """The current request is no use."""
    request = context.current_request()
    if request is not None:
        request.discard()
