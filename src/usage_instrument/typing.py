"""The types of the public interface."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Literal, TypeAlias
from uuid import UUID


class _Unset(enum.Enum):
    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> Literal[False]:
        return False


UNSET = _Unset.UNSET
"""No value was passed. Unset is not None: a user of None is the anonymous user."""
Unset: TypeAlias = Literal[_Unset.UNSET]

UserId: TypeAlias = UUID | int | str | None
"""The id of a user: exactly one of these types. None is anonymous."""
UserIdType: TypeAlias = Literal["uuid", "integer", "string"]
"""The type of the `user_id` column."""
IdType: TypeAlias = Literal["integer", "bigint"]
"""The type of the column `feature_usage.id`. SQLite has one type for both."""
FlushStatements: TypeAlias = Literal["auto", "single", "portable"]
"""The statements of a flush on PostgreSQL."""
HistoryPartitions: TypeAlias = Literal["month", "none"]
"""How PostgreSQL stores the history: a partition for each month, or one table."""
Metadata: TypeAlias = Mapping[str, Any]
"""The context of a use: a JSON object."""
When: TypeAlias = Literal["success", "call", "failure"]
"""The calls of a tracked function that are uses."""
Outcome: TypeAlias = Literal["attempted", "success", "denied", "failed"]
"""The outcome of an access; `attempted` before the call."""
Audit: TypeAlias = Literal[False, True, "required"]
"""Whether accesses to a feature are recorded: never, with the next flush, or before they happen."""
Bucket: TypeAlias = Literal["hour", "day"]
"""The grain of the history."""
WriterKind: TypeAlias = Literal["process", "collector"]
"""What writes to the database: each process, or one collector for all processes of a host."""
Unit: TypeAlias = Literal["hour", "day", "week", "month"]
"""The grain of a trend. A week begins on Monday."""

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

Environ: TypeAlias = dict[str, Any]
StartResponse: TypeAlias = Callable[..., Callable[[bytes], object]]
WSGIApp: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]
