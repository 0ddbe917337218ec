"""The host's users whom a batch's new rows refer to: their rows are shared without ever waiting in the server."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, exc, select

from usage_instrument.typing import UserId

_AT_A_TIME = 500
_PAUSE = 0.005
_FORBIDDEN = {1142, 1143}


class Parents:
    """The users table, as far as new rows refer to it."""

    def __init__(self, id_: ColumnElement[Any] | None, patience: float) -> None:
        self._id = id_
        self._patience = patience

    def hold(self, connection: Connection, users: Collection[UserId]) -> None:
        """Share the rows of those users who are there, until the transaction ends.

        An INSERT takes these locks as well, but it waits for them in the server's queue: there, the host that waits
        for a row of ours and we who wait for a user of the host's are a deadlock, of which the host is the victim.
        So rows that the host has locked are passed over and asked for again, `lock_timeout` long. After that it is
        for the INSERT to say that they are locked.
        """
        deadline = time.monotonic() + self._patience
        left = {user for user in users if user is not None}
        while left and self._id is not None:
            left -= self._found(connection, left, select(self._id).with_for_update(read=True, skip_locked=True))
            if time.monotonic() >= deadline:
                return
            left &= self._found(connection, left, select(self._id))
            if left:
                time.sleep(_PAUSE)

    def _found(self, connection: Connection, users: Collection[UserId], look: Select[Any]) -> set[UserId]:
        asked, found = list(users), set[UserId]()
        for start in range(0, len(asked), _AT_A_TIME):
            try:
                found.update(connection.scalars(look.where(self._id.in_(asked[start : start + _AT_A_TIME]))))  # type: ignore[union-attr]
            except exc.DBAPIError as error:
                if getattr(error.orig, "args", (0,))[0] not in _FORBIDDEN:
                    raise
                self._id = None  # a role that may not read the users has to wait for them
                return set()
        return found
