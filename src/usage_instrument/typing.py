"""The seams of the package on one page: what crosses a boundary, and the protocols on either side of it."""

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
"""Nothing was said. Unset is not None: a user of None is the anonymous user."""
Unset: TypeAlias = Literal[_Unset.UNSET]

UserId: TypeAlias = UUID | int | str | None
"""Who used a feature, as it travels through the package: exactly one of these types; None is anonymous."""
UserIdType: TypeAlias = Literal["uuid", "integer", "string"]
"""The type of the `user_id` column."""
Metadata: TypeAlias = Mapping[str, Any]
"""The context of a use: a JSON object."""
When: TypeAlias = Literal["success", "call", "failure"]
"""Which calls of a tracked function are uses."""
Outcome: TypeAlias = Literal["attempted", "success", "denied", "failed"]
"""What became of an access; `attempted` is said before a call, when nothing has become of it yet."""
Audit: TypeAlias = Literal[False, True, "required"]
"""Whether each access to a feature is recorded: not, with the next flush, or before it happens."""
Bucket: TypeAlias = Literal["hour", "day"]
"""The grain of the history."""
Unit: TypeAlias = Literal["hour", "day", "week", "month"]
"""What a trend goes by; a week begins on Monday."""

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

Environ: TypeAlias = dict[str, Any]
StartResponse: TypeAlias = Callable[..., Callable[[bytes], object]]
WSGIApp: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]
