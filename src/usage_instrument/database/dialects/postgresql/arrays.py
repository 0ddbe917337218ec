"""A batch as one array a column, in PostgreSQL's binary format.

The server unpacks these in an eighth of the time that JSON takes it, and psycopg sends them as they are. Lists, which
it encodes item by item, make a flush slower than JSON does.
"""

from __future__ import annotations

import datetime as dt
import functools
import struct
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    TEXT,
    VARCHAR,
    BigInteger,
    ColumnClause,
    Connection,
    Integer,
    Select,
    String,
    Text,
    Uuid,
    bindparam,
    column,
    func,
    select,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.types import UserDefinedType

from usage_instrument.events import Count
from usage_instrument.typing import UserId, UserIdType

from ...tables import Tables
from .additions import FEATURE

if TYPE_CHECKING:
    from psycopg.adapt import Dumper

T = TypeVar("T")

_UUID, _TEXT, _VARCHAR, _BIGINT, _TIMESTAMP, _JSONB = 2950, 25, 1043, 20, 1114, 3802
"""Each type's number in `pg_type`, which an array begins with."""
_USER_TYPES: dict[UserIdType, int] = {"uuid": _UUID, "integer": _BIGINT, "string": _VARCHAR}
_TEXTS = {String, VARCHAR, Text, TEXT}
_NULL = struct.pack(">i", -1)
_HEAD, _LENGTH, _NUMBER = struct.Struct(">5i"), struct.Struct(">i"), struct.Struct(">iq")
_UUID_LENGTH = _LENGTH.pack(16)
_EPOCH = dt.datetime(2000, 1, 1)  # noqa: DTZ001 - naive, as the columns are
_MICROSECOND = dt.timedelta(microseconds=1)


class PackedArray(bytes):
    """An array in the format in which the server receives it. A type of its own, as psycopg has one for bytes."""

    __slots__ = ()


class _Packed(UserDefinedType[PackedArray]):
    """The parameter: SQLAlchemy passes it on unchanged."""

    cache_ok = True


class UsageArrays:
    """The counts of a batch: the rows that a statement reads, and the parameters that hold them."""

    def __init__(self, tables: Tables) -> None:
        user = tables.usage.c.user_id.type
        self._user_type = _USER_TYPES[tables.user_id_type]
        # That of the host's users may be another one, such as CHAR, which compares differently.
        self._is_common = (
            isinstance(user, Integer)
            or (isinstance(user, Uuid) and user.native_uuid)
            or (isinstance(user, String) and type(user) in _TEXTS and user.collation is None)
        )
        # Without its length: a cast to it would shorten the ids one by one.
        of_text = String() if isinstance(user, String) else user
        self._user: ColumnClause[Any] = column("u", BigInteger() if isinstance(user, Integer) else of_text)

    def fit(self, connection: Connection) -> bool:
        """Whether user ids are of a common type, and the connection sends parameters in the binary format, and all
        texts."""
        if not self._is_common or connection.dialect.driver not in {"psycopg", "psycopg_async"}:
            return False
        from psycopg import AsyncClientCursor, ClientCursor

        own = _of_driver(connection)
        # A cursor of these writes the values into the statement, and one that a function makes may. JSON has escapes
        # for what an encoding lacks.
        factory = own.cursor_factory
        is_binary = isinstance(factory, type) and not issubclass(factory, ClientCursor | AsyncClientCursor)
        return is_binary and own.info.encoding == "utf-8"

    def rows(self, columns: Iterable[ColumnClause[Any]]) -> Select[Any]:
        """The rows of the parameters, with user and feature."""
        return select(*(_unnested(each) for each in (self._user, FEATURE, *columns)))

    def parameters(
        self, connection: Connection, counts: Sequence[Count], with_metadata: bool, with_history: bool
    ) -> dict[str, PackedArray]:
        """The values of the parameters, for a connection that they fit."""
        _of_driver(connection).adapters.register_dumper(PackedArray, _dumper())
        # Not by zip(): its iterators, one a count, would make Python's garbage collector run more often.
        arrays = {
            "u": _packed(self._user_type, _users([count.user for count in counts])),
            "f": _packed(_TEXT, _each([count.feature for count in counts], _text)),
            "n": _packed(_BIGINT, _each([count.uses for count in counts], _number)),
            "t": _packed(_TIMESTAMP, _each([count.last_used for count in counts], _time)),
        }
        if with_metadata:
            # 1 is the version of the format.
            texts = [_NULL if count.metadata is None else _text(f"\1{count.metadata}") for count in counts]
            arrays["m"] = _packed(_JSONB, texts)
        if with_history:
            arrays["b"] = _packed(_TIMESTAMP, _each([count.history[0][0] for count in counts], _time))
        return {_parameter(name): array for name, array in arrays.items()}


def _of_driver(connection: Connection) -> Any:
    """psycopg's connection, which SQLAlchemy wraps if it is async."""
    return connection.connection.driver_connection


@functools.cache
def _dumper() -> type[Dumper]:
    from psycopg.adapt import Buffer, Dumper
    from psycopg.pq import Format

    class PackedDumper(Dumper):
        format = Format.BINARY  # of the type that the statement casts the parameter to

        def dump(self, obj: PackedArray) -> Buffer:
            return obj

    return PackedDumper


def _parameter(name: str) -> str:
    return f"{name}_array"


def _unnested(each: ColumnClause[Any]) -> Any:
    packed = bindparam(_parameter(each.name), type_=_Packed())
    # In the SELECT list, not in FROM: there, each array would be stored once more before it is read.
    return func.unnest(sql_cast(packed, ARRAY(each.type)), type_=each.type).label(each.name)


def _packed(type_: int, elements: Collection[bytes]) -> PackedArray:
    """A flat array that may have NULLs."""
    return PackedArray(_HEAD.pack(1, 1, type_, len(elements), 1) + b"".join(elements))


def _each(values: Collection[T], encode: Callable[[T], bytes]) -> list[bytes]:
    """The values encoded, each distinct one once: a batch has few features, times and numbers."""
    known = {value: encode(value) for value in set(values)}
    return [known[value] for value in values]


def _users(users: Sequence[UserId]) -> list[bytes]:
    return [_UUID_LENGTH + user.int.to_bytes(16, "big") if isinstance(user, UUID) else _other(user) for user in users]


def _other(user: UserId) -> bytes:
    if user is None:
        return _NULL
    return _number(user) if isinstance(user, int) else _text(cast("str", user))


def _text(value: str) -> bytes:
    encoded = value.encode()
    return _LENGTH.pack(len(encoded)) + encoded


def _number(value: int) -> bytes:
    return _NUMBER.pack(8, value)


def _time(moment: dt.datetime) -> bytes:
    return _number((moment - _EPOCH) // _MICROSECOND)
