"""Captures by a call instead of a decorator: `track`, and the statements `identify` and `discard`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeAlias

from usage_instrument.errors import AuditUnavailable, CountError, UsageInstrumentError, UserIdError
from usage_instrument.events import MAX_COUNT, Access, Exposure, Use, check_audit, check_feature, is_exposure
from usage_instrument.typing import UNSET, Audit, Metadata

from . import context, transactions, user_ids
from .call_arguments import NO_MEASURES, Kept, Measures, kept_metadata
from .dimensions import measures_of
from .kept_uses import TransactionLostError
from .recording import new_access
from .registry import Recorder

Measured: TypeAlias = tuple[object, object]
"""What `dimensions=` and `value=` are given."""
NOTHING_MEASURED: Measured = (None, None)


def track(
    recorder: Recorder,
    feature: str,
    user: object,
    metadata: Metadata | None,
    count: int,
    audit: Audit = False,
    commit: object = None,
    measured: Measured = NOTHING_MEASURED,
) -> None:
    """Hand uses to a recorder. A mistake in them goes to `recorder.reject`.

    With `audit`, they are an access as well; with `"required"`, it is committed before this returns. With `commit`, the
    uses wait for a transaction. Raises AuditUnavailable, ConfigurationError for a wrong `audit`, and as
    `transactions.check_commit`.
    """
    if commit is not None:
        transactions.check_commit(commit)
    access = None if audit is False or not check_audit(audit) else new_access("success")
    if audit == "required":
        recorder.admit(_admittable(feature, user, metadata, access))
        access = None
    in_time = True
    try:
        in_time = _track(recorder, feature, user, metadata, count, access, commit, measured)
    except TransactionLostError as lost:
        raise lost.error from None
    except Exception as error:
        name = feature if isinstance(feature, str) else type(feature).__name__
        recorder.reject(name, error, count if _is_count(count) else 1)
    if not in_time:
        recorder.complain(transactions.no_transaction(feature, commit))


async def atrack(
    recorder: Recorder,
    feature: str,
    user: object,
    metadata: Metadata | None,
    count: int,
    audit: Audit = False,
    commit: object = None,
    measured: Measured = NOTHING_MEASURED,
) -> None:
    """As track, without blocking the event loop."""
    if commit is not None:
        transactions.check_commit(commit)
    if check_audit(audit) == "required":
        await recorder.aadmit(_admittable(feature, user, metadata, new_access("success")))
        audit = False
    track(recorder, feature, user, metadata, count, audit, commit, measured)


def _admittable(feature: str, user: object, metadata: Metadata | None, access: Access | None) -> Use:
    """The access to admit. Raises AuditUnavailable for a value that cannot be recorded."""
    try:
        who = context.known_user() if user is UNSET else context.user_here(user)
        return Use(check_feature(feature), who, kept_metadata(metadata), 0, access)
    except Exception as error:
        raise AuditUnavailable(f"the access cannot be recorded: {error}") from error


def _track(
    recorder: Recorder,
    feature: str,
    user: object,
    metadata: Metadata | None,
    count: int,
    access: Access | None,
    commit: object,
    measured: Measured,
) -> bool:
    """False if there was no transaction to wait for."""
    feature = check_feature(feature)
    held = context.holder.get()
    is_use = held is None or not held.silent
    if not is_use and access is None:
        return True
    who = context.known_user() if user is UNSET else context.user_here(user)
    if not _is_count(count):
        raise CountError(f"count is a whole number from 1 to {MAX_COUNT}, not {count!r}")
    kept = None if metadata is None else _kept(recorder, feature, metadata)
    dimensions, value = measured  # `==` of an array has no truth
    by = NO_MEASURES if dimensions is None and value is None else _measures(recorder, feature, dimensions, value)
    in_time = True
    if commit is None or not is_use:
        recorder.record(Use(feature, who, kept, count if is_use else 0, access, None, by.dimensions, by.value))
    else:
        if access is not None:  # it has happened, whatever the transaction does
            recorder.record(Use(feature, who, kept, 0, access))
        use = Use(feature, who, kept, count, None, transactions.now(), by.dimensions, by.value)
        in_time = transactions.keep(recorder, use, commit)
    request = context.request_of(held)
    if request is not None:
        key = recorder.catalog.key(feature)
        if access is not None:
            request.mark_access(key)
        if is_use:
            request.counted.add(key)
            if who is not request.noted:
                request.note_user(who)
    return in_time


def _kept(recorder: Recorder, feature: str, metadata: Metadata) -> Kept:
    try:
        return kept_metadata(metadata)
    except Exception as error:
        recorder.lose_metadata(feature, error)
    return None


def _measures(recorder: Recorder, feature: str, dimensions: object, value: object) -> Measures:
    try:
        return measures_of(dimensions, value)
    except Exception as error:
        recorder.lose_metadata(feature, error)
    return NO_MEASURES


def filtered(recorder: Recorder, rule: Callable[[Use], Use | None] | None, use: Use) -> list[Use]:
    """The uses to record after the app's `before_track` rule; none if the rule returns None or fails.

    The rule may change the user and the metadata of an access, but never hide it: if the rule returns None or fails,
    the access is recorded without metadata.
    """
    if rule is None:
        return [use]
    if is_exposure(use.feature):
        return _filtered_exposure(recorder, rule, use)
    left = _apply(recorder, rule, use)
    if use.access is None:
        return [] if left is None else [left]
    bare = use._replace(uses=0, metadata=None, dimensions=None, value=None)
    if left is None:
        return [bare]
    access = bare._replace(user=left.user, metadata=left.metadata)
    return [access, left] if use.uses else [access]


def _filtered_exposure(recorder: Recorder, rule: Callable[[Use], Use | None], use: Use) -> list[Use]:
    """The rule sees a use of the experiment, with the variant as metadata, and may change its user or drop it."""
    exposure = Exposure.of(use.feature)
    left = _apply(recorder, rule, Use(exposure.experiment, use.user, {"variant": exposure.variant}))
    is_kept = left is not None and (left.user is not None or exposure.unit is not None)
    return [use._replace(user=left.user)] if left is not None and is_kept else []


def _apply(recorder: Recorder, rule: Callable[[Use], Use | None], use: Use) -> Use | None:
    try:
        known = use if not isinstance(use.metadata, str) else use._replace(metadata=json.loads(use.metadata))
        with context.paused():  # its own calls are no uses
            left = rule(known)
        if left is None:
            return None
        if not isinstance(left, Use):
            raise UsageInstrumentError(f"before_track returns a Use or None, not {type(left).__name__}")
        if use.uses and not _is_count(left.uses):
            raise CountError(f"uses is a whole number from 1 to {MAX_COUNT}, not {left.uses!r}")
        user = user_ids.user_id_of(left.user)
        by = measures_of(left.dimensions, left.value)
        return Use(check_feature(left.feature), user, kept_metadata(left.metadata), left.uses, None, use.at, *by)
    except Exception as error:
        recorder.reject(use.feature, error, use.uses)
        return None


def _is_count(count: object) -> bool:
    return type(count) is int and 1 <= count <= MAX_COUNT


def identify(recorder: Recorder, user: object, actor: object = UNSET) -> None:
    """Set the user of the current request or task, and who acts as them. Outside of one, complain."""
    try:
        stated = context.identify(user, actor)
    except UserIdError as error:
        recorder.complain(UserIdError(f"identify(): {error}; the uses of this request are rejected"))
    else:
        if not stated:
            recorder.complain(
                UsageInstrumentError("identify() outside of a request or task has no effect: use as_user() or user=")
            )


def discard() -> None:
    """Do not count the current request."""
    request = context.current_request()
    if request is not None:
        request.discard()
