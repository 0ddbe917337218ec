"""Records in a file: a mark, a length, a checksum and JSON. What a crash tore is skipped, what follows is read."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from usage_instrument.events import Access, Use
from usage_instrument.typing import UserId

_MARK = b"\xf5\x9d\xa7\xee"  # no part of JSON, which is written in ASCII
_HEAD = struct.Struct("<4sII")


def packed(value: object) -> bytes:
    """A value as a record. Raises TypeError or ValueError for what JSON cannot carry."""
    text = json.dumps(value, separators=(",", ":")).encode("ascii")
    return _HEAD.pack(_MARK, len(text), zlib.crc32(text)) + text


def unpacked(data: bytes) -> Iterator[Any]:
    """The values of all whole records, in order."""
    start = data.find(_MARK)
    while 0 <= start <= len(data) - _HEAD.size:
        _, length, checksum = _HEAD.unpack_from(data, start)
        text = data[start + _HEAD.size : start + _HEAD.size + length]
        if len(text) == length and zlib.crc32(text) == checksum:
            yield json.loads(text)
            start += _HEAD.size + length
        else:
            start += 1
        start = data.find(_MARK, start)


def use_to_json(use: Use) -> list[Any]:
    """A use, and what the audit trail is to hold of it, as JSON."""
    fields: list[Any] = [use.feature, user_to_json(use.user), use.metadata, use.uses]
    if use.access is not None:
        id_, outcome, occurred_at, actor, request_id = use.access
        fields.append([id_.hex, outcome, occurred_at, user_to_json(actor), request_id])
    return fields


def use_from_json(fields: list[Any]) -> Use:
    """The use again. Raises ValueError, TypeError for what is none."""
    feature, user, metadata, uses, *more = fields
    access = None
    if more:
        id_, outcome, occurred_at, actor, request_id = more[0]
        access = Access(UUID(hex=id_), outcome, occurred_at, user_from_json(actor), request_id)
    return Use(feature, user_from_json(user), metadata, uses, access)


def user_to_json(user: UserId) -> object:
    """A user id as JSON that tells its type."""
    if isinstance(user, UUID):
        return "u" + user.hex
    return "s" + user if isinstance(user, str) else user


def user_from_json(value: Any) -> UserId:
    """The user id again. Raises ValueError for what is none."""
    if value is None or type(value) is int:
        return value
    if isinstance(value, str) and value[:1] in {"u", "s"}:
        return UUID(hex=value[1:]) if value[0] == "u" else value[1:]
    raise ValueError("no user id")
