"""Users who are not counted: keyed hashes in `feature_usage_suppressions`, and this process's copy of them."""

from __future__ import annotations

import datetime as dt
import hmac
from collections.abc import Collection
from typing import Literal, TypeAlias
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Table, insert, literal, select, true, update

from usage_instrument.errors import ConfigurationError, UserIdError
from usage_instrument.events import canonical_user
from usage_instrument.runtime import log
from usage_instrument.typing import UserId

from .expressions import Ago
from .spellings import Spellings
from .tables import Tables
from .upsert import upsert

State: TypeAlias = Literal["forgotten", "forgotten_kept", "opted_out", "opted_in"]
FORGOTTEN: State = "forgotten"
FORGOTTEN_KEPT: State = "forgotten_kept"
"""Forgotten, but the audit trail goes on naming the user."""
OPTED_OUT: State = "opted_out"
OPTED_IN: State = "opted_in"
_NOT_COUNTED = (FORGOTTEN, FORGOTTEN_KEPT, OPTED_OUT)
_MARGIN = dt.timedelta(hours=1)
"""Rows of the last hour are read again: a row may be committed long after its `changed_at`."""
_CACHED_USERS = 100_000


class Key:
    """The secret with which users are hashed."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self.id = self._hash("key")[:16]
        """Identifies the key without revealing it."""
        self.mark = self._hash("mark")
        """The `user_hash` of the row that marks this key as the one of the database; no user has it."""

    def hash_of(self, user: UserId) -> str:
        """64 hexadecimal digits. 7 and "7" are different users."""
        kind = "uuid" if isinstance(user, UUID) else "integer" if isinstance(user, int) else "string"
        return self._hash(f"user {kind} {user}")

    def pseudonym_of(self, user: UserId) -> str:
        """The first 16 digits of the hash, for display."""
        return self.hash_of(user)[:16]

    def _hash(self, text: str) -> str:
        return hmac.digest(self._secret, text.encode("utf-8", "surrogatepass"), "sha256").hex()


class Suppressions:
    """This process's copy of the table."""

    def __init__(self, tables: Tables, secret: str | None) -> None:
        self._table = tables.suppressions
        self._canonical = canonical_user(tables.user_id_type)
        self._key = None if secret is None else Key(secret)
        self._states: dict[bytes, State] = {}
        self._is_confirmed = False
        self._newest: dt.datetime | None = None
        self._cache: dict[UserId, State | None] = {}
        self.spellings = Spellings(tables)
        """The users are compared in these spellings, as far as they are looked up."""

    def __bool__(self) -> bool:
        return bool(self._states)

    def read(self, connection: Connection) -> bool:
        """Read new rows; True if there were any. Raises ConfigurationError if this process has another key than the
        others.

        A row of another key stops this process only if there is no row of its own key, such as the mark: otherwise any
        role that may insert could stop all processes.
        """
        table = self._table
        query = select(table.c.user_hash, table.c.state, table.c.key_id, table.c.changed_at)
        if self._newest is not None:
            query = query.where(table.c.changed_at >= self._newest - _MARGIN)
        now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
        changed, foreign = False, 0
        for row in connection.execute(query):
            is_own = self._key is not None and row.key_id == self._key.id
            self._is_confirmed = self._is_confirmed or is_own
            user = _unhexed(row.user_hash) if is_own else None
            if user is None:
                # Without a key, only users who must not be counted are a reason to stop: the mark is none.
                foreign += self._key is not None or row.state != OPTED_IN
                continue
            if self._key is not None and row.user_hash == self._key.mark:
                continue
            changed = changed or self._states.get(user) != row.state
            self._states[user] = row.state
            # A time in the future would hide all later rows.
            self._newest = (
                min(row.changed_at, now) if self._newest is None else max(self._newest, min(row.changed_at, now))
            )
        if foreign and not self._is_confirmed:
            raise _foreign(table, self._key)
        if foreign:
            log.warning(
                "foreign suppressions", "%s has %d rows of another privacy_key: ignored", table.fullname, foreign
            )
        if changed:
            self.spellings.clear()
            self._cache = {}  # a new dict: a thread in `state` still writes to the old one
        return changed

    def state(self, user: UserId) -> State | None:
        """The state of a user, whose id may have any form; None without a row. Any thread may call it."""
        if not self._states or user is None or self._key is None:
            return None
        user = self.spellings.of(user)
        cache = self._cache
        try:
            return cache[user]
        except KeyError:
            pass
        if len(cache) >= _CACHED_USERS:
            cache.clear()
        try:
            found = self._states.get(bytes.fromhex(self._key.hash_of(self._spelled(user))))
        except UserIdError:
            found = None
        cache[user] = found
        return found

    def suppresses(self, user: UserId) -> bool:
        """Whether the user is not counted."""
        return self.state(user) in _NOT_COUNTED

    def erases(self, user: UserId) -> bool:
        """Whether the user is erased: no count may name them, in memory or on the disk."""
        return self.state(user) in (FORGOTTEN, FORGOTTEN_KEPT)

    def pseudonymises(self, user: UserId) -> bool:
        """Whether a pseudonym replaces the user in the audit trail."""
        return self.state(user) == FORGOTTEN

    def pseudonym(self, user: UserId) -> str | None:
        """The pseudonym of a user that the audit trail must not name; None for every other user."""
        if self._key is None or not self.pseudonymises(user):
            return None
        return self._key.pseudonym_of(self._spelled(user))

    def _spelled(self, user: UserId) -> UserId:
        return self.spellings.of(self._canonical(user))


def _unhexed(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None


def state_of(connection: Connection, tables: Tables, key: Key, user: UserId) -> State | None:
    """The state of one user in the table."""
    table = tables.suppressions
    found: State | None = connection.scalar(select(table.c.state).where(table.c.user_hash == key.hash_of(user)))
    return found


def any_suppressed(connection: Connection, tables: Tables, key: Key | None, users: Collection[UserId]) -> bool:
    """Whether one of the users is not counted, by the rows in the table. Raises ConfigurationError as
    `Suppressions.read` does."""
    table = tables.suppressions

    def has(condition: ColumnElement[bool]) -> bool:
        return connection.scalar(select(literal(1)).select_from(table).where(condition).limit(1)) is not None

    if key is None:
        if has(table.c.state != OPTED_IN):
            raise _foreign(table, key)
        return False
    # In this order: the first row of all, which another process may add in between, has the same key.
    if has(true()) and not has(table.c.key_id == key.id):
        raise _foreign(table, key)
    return any(state_of(connection, tables, key, user) in _NOT_COUNTED for user in users)


def _foreign(table: Table, key: Key | None) -> ConfigurationError:
    reason = "is not set" if key is None else "is not the one of these rows"
    return ConfigurationError(
        f"{table.fullname} was written with a privacy_key, and here privacy_key {reason}: "
        "set the same privacy_key in every process"
    )


def mark(connection: Connection, tables: Tables, key: Key) -> None:
    """Mark this key as the one of the database, so that rows of other keys stop no process; the caller commits."""
    table = tables.suppressions
    if connection.scalar(select(table.c.user_hash).where(table.c.user_hash == key.mark)) is None:
        values = {
            "user_hash": key.mark,
            "state": OPTED_IN,
            "key_id": key.id,
            "changed_at": dt.datetime.now(dt.UTC).replace(tzinfo=None),
        }
        connection.execute(insert(table).values(values))


def suppress(connection: Connection, tables: Tables, key: Key, user: UserId, state: State) -> None:
    """Set the state of a user; the caller commits.

    Opting out does not undo erasure. Opting in without a row adds none. A concurrent call for the same user violates
    the primary key.
    """
    unchanged = {
        *((OPTED_OUT, FORGOTTEN), (OPTED_OUT, FORGOTTEN_KEPT), (FORGOTTEN_KEPT, FORGOTTEN)),
        (OPTED_IN, None),
    }
    if (state, state_of(connection, tables, key, user)) in unchanged:
        return
    now = connection.scalar(select(Ago()))  # by the server's clock: that of a process may be years ahead
    if isinstance(now, str):  # SQLite stores times as text
        now = dt.datetime.fromisoformat(now)
    changed = {"state": state, "key_id": key.id, "changed_at": now}
    upsert(connection, tables.suppressions, {"user_hash": key.hash_of(user)}, changed)


def announce(connection: Connection, tables: Tables) -> None:
    """Make every writer read the suppressions before its next batch; the caller commits.

    The suppression itself is committed before. This locks every row of the ledger, so no earlier batch is in flight
    afterwards, and none can be applied later: its writer expects another value of `suppression` in its row.
    """
    writers = tables.writers
    # In one order, so that two callers do not deadlock.
    locked = connection.scalars(select(writers.c.writer_id).order_by(writers.c.writer_id).with_for_update()).all()
    # By key, which sql_safe_updates requires. A writer that registers meanwhile reads the suppressions first.
    connection.execute(
        update(writers).where(writers.c.writer_id.in_(locked)).values(suppression=writers.c.suppression + 1)
    )
