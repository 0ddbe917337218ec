"""One spelling for one user: on MariaDB, `aDA` and `Ada` can be the same row of the users table."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sqlalchemy import Connection, text

from usage_instrument.typing import UserId

from . import dialects
from .tables import Tables
from .users_column import live_users_column

_USERS_A_QUERY = 100
_CACHED_USERS = 100_000


class Spellings:
    """The user ids as the users table spells them, where a foreign key binds the tables to its equality of strings.

    The spellings that were looked up are kept until `clear`.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._is_bound: bool | None = None if tables.user_id_type == "string" else False
        self._query: str | None = None
        self._found: dict[UserId, UserId] = {}

    @property
    def may_differ(self) -> bool:
        """Whether there is such a foreign key, as far as is known."""
        return self._is_bound is not False

    def of(self, user: UserId) -> UserId:
        """A user id in the spelling of the users table; unchanged if it was not looked up or found."""
        return self._found.get(user, user)

    def lacks(self, users: Iterable[UserId]) -> bool:
        """Whether `look_up` may have something to do for these users."""
        return self.may_differ and any(user is not None and user not in self._found for user in users)

    def look_up(self, connection: Connection, users: Collection[UserId]) -> None:
        """Look up the spellings of users, whose ids have the type of the column. Raises what SQLAlchemy raises."""
        if not self.lacks(users):
            return
        if self._is_bound is None:
            users_column = live_users_column(connection, self._tables.usage)
            dialect = dialects.get(connection.dialect.name)
            self._query = None if users_column is None else dialect.spelling_query(connection, users_column)
            self._is_bound = self._query is not None
        if self._query is None:
            return
        if len(self._found) > _CACHED_USERS:
            self._found = {}
        missing = [user for user in {*users} if user is not None and user not in self._found]
        for start in range(0, len(missing), _USERS_A_QUERY):
            ids = {f"u{number}": user for number, user in enumerate(missing[start : start + _USERS_A_QUERY])}
            # One comparison a user: the answer of an IN would not show which id found which row.
            query = text(" UNION ALL ".join(self._query.replace("{id}", name) for name in ids))
            self._found.update((row[0], row[1]) for row in connection.execute(query, ids))

    def has_found(self, user: UserId) -> bool:
        """Whether the users table had the user when it was looked up."""
        return user in self._found

    def clear(self) -> None:
        """Look up all users again: the host may have changed an id."""
        self._found = {}
