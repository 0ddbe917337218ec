"""Records in the journal's files: a mark, a length, a checksum and JSON. Uses, counts and users as JSON."""

from __future__ import annotations

import datetime as dt
import json
import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeVar
from uuid import UUID

from usage_instrument.errors import UsageInstrumentError
from usage_instrument.events import Access, Count, Loss, Slice, Use
from usage_instrument.typing import UserId

T = TypeVar("T")

MALFORMED = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)
"""What reading a value of another shape raises."""
LATEST = 253_402_300_800_000_000
"""Microseconds from 1970 to the year 10000, which no datetime holds."""
_MARK = b"\xf5\x9d\xa7\xee"  # no part of JSON, which is written in ASCII
_HEAD = struct.Struct("<4sII")


class CorruptJournalError(UsageInstrumentError):
    """A file of the journal cannot be read."""


class NewerJournalError(CorruptJournalError):
    """A newer release wrote the journal, in a format that this one does not read."""

    def __init__(self, path: object, version: int, readable: int) -> None:
        super().__init__(f"{path} is of version {version}, and this release reads {readable}")

    @staticmethod
    def has_reason(reason: str) -> bool:
        """Whether an older release parked a journal for this reason."""
        return " is of version " in reason


def pack(value: object) -> bytes:
    """A value as a record. Raises TypeError or ValueError for what JSON cannot carry."""
    text = json.dumps(value, separators=(",", ":")).encode("ascii")
    return _HEAD.pack(_MARK, len(text), zlib.crc32(text)) + text


def unpack(data: bytes) -> Iterator[Any]:
    """The values of all whole records, in order. What a crash tore is skipped, in linear time."""
    start = data.find(_MARK)
    while 0 <= start <= len(data) - _HEAD.size:
        _, length, checksum = _HEAD.unpack_from(data, start)
        begin = start + _HEAD.size
        following = data.find(_MARK, begin)
        # A record holds no mark: one that reaches beyond the next mark is torn, and its bytes are not read again.
        if 0 < length <= (following if following >= 0 else len(data)) - begin:
            text = data[begin : begin + length]
            if zlib.crc32(text) == checksum:
                try:
                    yield json.loads(text)
                except MALFORMED:
                    pass
                start = following
                continue
        start = data.find(_MARK, start + 1)


def read(file: BinaryIO, size: int) -> Iterator[Any]:
    """The values of a file of whole records, of `size` bytes. Raises ValueError at the first that is not whole."""
    while head := file.read(_HEAD.size):
        if len(head) < _HEAD.size or not head.startswith(_MARK):
            raise ValueError("there is no record where one must begin")
        _, length, checksum = _HEAD.unpack(head)
        text = file.read(length) if 0 < length <= size else b""
        if not text or len(text) < length or zlib.crc32(text) != checksum:
            raise ValueError("a record is torn")
        yield json.loads(text)


# ---- values


def use_to_json(use: Use) -> list[Any]:
    """A use and its access, if it is audited."""
    fields: list[Any] = [use.feature, user_to_json(use.user), use.metadata, use.uses]
    if use.access is not None:
        id_, outcome, occurred_at, actor, request_id = use.access
        fields.append([id_.hex, outcome, occurred_at, user_to_json(actor), request_id])
    if use.at is not None:
        fields += [None] * (use.access is None) + [use.at]
    if use.dimensions or use.value is not None:
        fields += [None] * (6 - len(fields)) + [use.dimensions, use.value]
    return fields


def use_from_json(fields: list[Any]) -> Use:
    """The use again. Raises one of MALFORMED."""
    feature, user, metadata, uses, *more = fields
    if type(metadata) is not dict:
        _check_object(metadata)
    access, at, dimensions, value = None, None, None, None
    if len(more) > 2:
        dimensions, value = _measures(*more[2:])
    if more[1:] and (more[1] is not None or len(more) == 2):
        at = stamp(more[1])
    if more and (more[0] is not None or len(more) == 1):
        id_, outcome, occurred_at, actor, request_id = more[0]
        if request_id is not None:
            exactly(str, request_id)
        access = Access(UUID(hex=id_), exactly(str, outcome), stamp(occurred_at), user_from_json(actor), request_id)  # type: ignore[arg-type]
    return Use(exactly(str, feature), user_from_json(user), metadata, natural(uses), access, at, dimensions, value)


def _measures(dimensions: Any, value: Any) -> tuple[dict[str, str] | None, float | None]:
    """The dimensions and the number of a use. Raises one of MALFORMED."""
    if dimensions is not None:
        dimensions = {exactly(str, name): exactly(str, text) for name, text in exactly(dict, dimensions).items()}
    return dimensions, None if value is None else _finite(value)


def _finite(value: Any) -> float:
    number = exactly(float, value)
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    return number


def count_to_json(count: Count) -> list[Any]:
    """A count, as the snapshot keeps it."""
    history = [[start.isoformat(), uses] for start, uses in count.history]
    user = user_to_json(count.user)
    fields = [count.feature, user, count.uses, count.last_used.isoformat(), count.metadata, history]
    if count.slices:
        fields.append([[each.start.isoformat(), *each[1:]] for each in count.slices])
    return fields


def count_from_json(fields: list[Any]) -> Count:
    """The count again. Raises one of MALFORMED."""
    feature, user, uses, last_used, metadata, history, *more = fields
    _check_object(metadata)
    return Count(
        exactly(str, feature),
        user_from_json(user),
        natural(uses),
        dt.datetime.fromisoformat(last_used),
        metadata,
        tuple((dt.datetime.fromisoformat(start), natural(number)) for start, number in history),
        tuple(_slice_from_json(*each) for each in (more[0] if more else ())),
    )


def _slice_from_json(start: str, dimension: Any, value: Any, uses: Any, *numbers: Any) -> Slice:
    number, total, squares, *ends = numbers
    least, greatest = (None if each is None else _finite(each) for each in ends)
    return Slice(
        dt.datetime.fromisoformat(start),
        exactly(str, dimension),
        exactly(str, value),
        natural(uses),
        natural(number),
        _finite(total),
        _finite(squares),
        least,
        greatest,
    )


def loss_to_json(loss: Loss) -> list[Any]:
    """Uses that were lost."""
    return [loss.day.isoformat(), loss.reason, loss.uses]


def loss_from_json(fields: list[Any]) -> Loss:
    """The loss again. Raises one of MALFORMED."""
    day, reason, uses = fields
    return Loss(dt.date.fromisoformat(day), exactly(str, reason), natural(uses))


def user_to_json(user: UserId) -> object:
    """A user id, with its type."""
    if isinstance(user, UUID):
        return "u" + user.hex
    return "s" + user if isinstance(user, str) else user


def user_from_json(value: Any) -> UserId:
    """The user id again. Raises one of MALFORMED."""
    if value is None or type(value) is int:
        return value
    if isinstance(value, str) and value[:1] in {"u", "s"}:
        return UUID(hex=value[1:]) if value[0] == "u" else value[1:]
    raise ValueError("no user id")


def exactly(kind: type[T], value: Any) -> T:
    """The value, if it is of this very type. Raises TypeError."""
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected, not {type(value).__name__}")
    return value


def natural(value: Any) -> int:
    """The value, if it is an int of at least 0. Raises TypeError, ValueError."""
    if exactly(int, value) < 0:
        raise ValueError("a number is negative")
    return int(value)


def stamp(value: Any) -> int:
    """The value, if it is a time in microseconds since 1970. Raises TypeError, ValueError."""
    if natural(value) >= LATEST:
        raise ValueError("a time is beyond the year 9999")
    return int(value)


def _check_object(metadata: Any) -> None:
    """Metadata is None, or a JSON object as text. Raises one of MALFORMED."""
    if metadata is not None:
        exactly(dict, json.loads(exactly(str, metadata)))
