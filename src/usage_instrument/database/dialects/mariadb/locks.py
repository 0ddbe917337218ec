"""Row locks: timeouts for one statement, and share locks on users without waiting in the server."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from sqlalchemy import ClauseElement, ColumnElement, Connection, Executable, Select, exc, select
from sqlalchemy.ext.compiler import compiles

from usage_instrument.settings import Settings
from usage_instrument.typing import UserId

_USERS_PER_QUERY = 500
_PAUSE = 0.005
"""Seconds between two attempts to lock users."""
_PRIVILEGE_ERRORS = {1142, 1143}


def timeouts(settings: Settings, lock_timeout: int) -> str:
    """The prefix that sets timeouts for one statement, and permits an UPDATE by a join.

    Session variables would leak through a connection pooler.
    """
    return (
        f"SET STATEMENT sql_safe_updates=0, innodb_lock_wait_timeout={lock_timeout}, "
        f"max_statement_time={settings.statement_timeout:.3f} FOR "
    )


class Prefixed(Executable, ClauseElement):
    """A statement behind a text such as `SET STATEMENT … FOR`, for which SQLAlchemy has no construct."""

    inherit_cache = False

    def __init__(self, prefix: str, statement: Executable) -> None:
        self.prefix = prefix
        self.statement = statement


@compiles(Prefixed)
def _prefixed(element: Prefixed, compiler: Any, **options: Any) -> str:
    return f"{element.prefix}{compiler.process(element.statement, **options)}"


class UserLocks:
    """Share locks on rows of the users table."""

    def __init__(self, id_: ColumnElement[Any] | None, lock_timeout: float) -> None:
        self._id = id_
        self._timeout = lock_timeout

    def acquire(self, connection: Connection, users: Collection[UserId]) -> None:
        """Lock the rows of the existing users until the transaction ends.

        An INSERT takes these locks as well, but waits for them in the server's queue. A host that waits for a row of
        ours, while we wait for one of its users, is then in a deadlock, and the host is the victim. So locked rows are
        skipped and tried again for `lock_timeout` seconds. After that the INSERT reports them as locked.
        """
        deadline = time.monotonic() + self._timeout
        left = {user for user in users if user is not None}
        while left and self._id is not None:
            left -= self._found(connection, left, select(self._id).with_for_update(read=True, skip_locked=True))
            if time.monotonic() >= deadline:
                return
            left &= self._found(connection, left, select(self._id))
            if left:
                time.sleep(_PAUSE)

    def _found(self, connection: Connection, users: Collection[UserId], query: Select[Any]) -> set[UserId]:
        ids, found = list(users), set[UserId]()
        for start in range(0, len(ids), _USERS_PER_QUERY):
            part = ids[start : start + _USERS_PER_QUERY]
            try:
                found.update(connection.scalars(query.where(self._id.in_(part))))  # type: ignore[union-attr]
            except exc.DBAPIError as error:
                if getattr(error.orig, "args", (0,))[0] not in _PRIVILEGE_ERRORS:
                    raise
                self._id = None  # without the privilege to read users, the INSERT has to wait for them
                return set()
        return found
