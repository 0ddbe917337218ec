"""Records in a file: a mark, a length, a checksum and JSON. What a crash tore is skipped, what follows is read."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from ..typing import UserId

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
