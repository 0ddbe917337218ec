"""The captures that are a call instead of a decorator: `track`, and the statements `identify` and `discard`."""

from __future__ import annotations

import json
from collections.abc import Callable

from usage_instrument.errors import AuditUnavailable, CountError, UsageInstrumentError, UserIdError
from usage_instrument.events import MAX_COUNT, Access, Use, check_audit, check_feature, keep_metadata
from usage_instrument.typing import UNSET, Audit, Metadata, _Unset

from . import context, user_ids
from .access_events import new_access
from .registry import Recorder


def track(
    recorder: Recorder, feature: str, user: object, metadata: Metadata | None, count: int, audit: Audit = False
) -> None:
    """Hand one use to a recorder; whatever is wrong with it goes to `recorder.reject`. With `audit`, it is an access as
    well, which is committed by then if that is required. Raises AuditUnavailable, and ConfigurationError for audit."""
    access = None if not check_audit(audit) else new_access("success")
    if audit == "required":
        recorder.admit(_admittable(feature, user, metadata, access))
        access = None
    _take(recorder, feature, user, metadata, count, access)


async def atrack(
    recorder: Recorder, feature: str, user: object, metadata: Metadata | None, count: int, audit: Audit = False
) -> None:
    """As track, without blocking the event loop."""
    if check_audit(audit) == "required":
        await recorder.aadmit(_admittable(feature, user, metadata, new_access("success")))
        audit = False
    track(recorder, feature, user, metadata, count, audit)


def _admittable(feature: str, user: object, metadata: Metadata | None, access: Access | None) -> Use:
    """The access that a call of `track` is. Raises AuditUnavailable for what cannot be recorded as it is said."""
    try:
        who = context.known_user() if isinstance(user, _Unset) else user_ids.user_id_of(user)
        return Use(check_feature(feature), who, keep_metadata(metadata), 0, access)
    except Exception as error:
        raise AuditUnavailable(f"the access cannot be recorded: {error}") from error


def _take(
    recorder: Recorder, feature: str, user: object, metadata: Metadata | None, count: int, access: Access | None
) -> None:
    try:
        _track(recorder, feature, user, metadata, count, access)
    except Exception as error:
        name = feature if isinstance(feature, str) else type(feature).__name__
        recorder.reject(name, error, count if _is_count(count) else 1)


def _track(
    recorder: Recorder, feature: str, user: object, metadata: Metadata | None, count: int, access: Access | None
) -> None:
    feature = check_feature(feature)
    held = context.holder.get()
    is_use = held is None or not held.silent
    if not is_use and access is None:
        return
    who = context.known_user() if isinstance(user, _Unset) else user_ids.user_id_of(user)
    if not _is_count(count):
        raise CountError(f"count is a whole number from 1 to {MAX_COUNT}, not {count!r}")
    kept = None
    try:
        kept = keep_metadata(metadata)
    except Exception as error:
        recorder.lose_metadata(feature, error)
    recorder.record(Use(feature, who, kept, count if is_use else 0, access))
    request = context.request_of(held)
    if request is not None:
        key = recorder.catalog.key(feature)
        if access is not None:
            request.mark_access(key)
        if is_use:
            request.counted.add(key)


def screened(recorder: Recorder, rule: Callable[[Use], Use | None] | None, use: Use) -> list[Use]:
    """What the app's own rule leaves of a use; nothing, where it returns None or fails.

    Of an access, it may change the user and the metadata. That there was one, no rule can hide: where it lets nothing
    through, or fails, the access has no metadata.
    """
    if rule is None:
        return [use]
    left = _left(recorder, rule, use)
    if use.access is None:
        return [] if left is None else [left]
    bare = use._replace(uses=0, metadata=None)
    if left is None:
        return [bare]
    access = bare._replace(user=left.user, metadata=left.metadata)
    return [access, left] if use.uses else [access]


def _left(recorder: Recorder, rule: Callable[[Use], Use | None], use: Use) -> Use | None:
    try:
        known = use if not isinstance(use.metadata, str) else use._replace(metadata=json.loads(use.metadata))
        with context.paused():  # what it calls is no use
            left = rule(known)
        if left is None:
            return None
        if not isinstance(left, Use):
            raise UsageInstrumentError(f"before_track returns a Use or None, not {type(left).__name__}")
        if use.uses and not _is_count(left.uses):
            raise CountError(f"uses is a whole number from 1 to {MAX_COUNT}, not {left.uses!r}")
        user = user_ids.user_id_of(left.user)
        return Use(check_feature(left.feature), user, keep_metadata(left.metadata), left.uses)
    except Exception as error:
        recorder.reject(use.feature, error, use.uses)
        return None


def _is_count(count: object) -> bool:
    return type(count) is int and 1 <= count <= MAX_COUNT


def identify(recorder: Recorder, user: object, actor: object = UNSET) -> None:
    """State who the current request's or task's user is, and who acts as them; outside of one, complain."""
    try:
        stated = context.identify(user, actor)
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
