"""Who is not to be counted: keyed hashes in `feature_usage_suppressions`, and what one process knows of them."""

from __future__ import annotations

import datetime as dt
import hmac
from typing import TYPE_CHECKING, Literal, TypeAlias
from uuid import UUID

from sqlalchemy import Column, Connection, Index, MetaData, String, Table, select, update

from usage_instrument.errors import ConfigurationError, UserIdError
from usage_instrument.events import canonical_user
from usage_instrument.typing import UserId

from .columns import timestamp
from .expressions import Ago
from .upsert import upsert

if TYPE_CHECKING:
    from .tables import Tables

NAME = "feature_usage_suppressions"
State: TypeAlias = Literal["forgotten", "opted_out", "opted_in"]
FORGOTTEN: State = "forgotten"
OPTED_OUT: State = "opted_out"
OPTED_IN: State = "opted_in"
_MARGIN = dt.timedelta(hours=1)
"""What is read again: a row may be committed long after its time was asked for."""
_REMEMBERED = 100_000  # users, whose hashes need not be made again


def define_suppressions(metadata: MetaData, schema: str | None) -> Table:
    """The table in a MetaData."""
    table = Table(
        NAME,
        metadata,
        Column("user_hash", String(64), primary_key=True, comment="The user: an HMAC by the setting privacy_key"),
        Column("state", String(16), nullable=False, comment="forgotten, opted_out or opted_in"),
        Column("key_id", String(16), nullable=False, comment="Which key that was, as a hash of it"),
        Column("changed_at", timestamp(), nullable=False, comment="Since when, UTC"),
        schema=schema,
        comment="Who is not counted any more, told by nobody without the key",
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
    )
    Index(f"ix_{NAME}_changed_at", table.c.changed_at)
    return table


class Key:
    """The secret by which users become hashes that only its owner can tell."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self.id = self._hash("key")[:16]
        """Tells keys apart, and nothing of them."""

    def hash_of(self, user: UserId) -> str:
        """A user as 64 hexadecimal digits. 7 and "7" are different people."""
        kind = "uuid" if isinstance(user, UUID) else "integer" if isinstance(user, int) else "string"
        return self._hash(f"user {kind} {user}")

    def pseudonym_of(self, user: UserId) -> str:
        """The beginning of their hash, for where people read it."""
        return self.hash_of(user)[:16]

    def _hash(self, text: str) -> str:
        return hmac.digest(self._secret, text.encode("utf-8", "surrogatepass"), "sha256").hex()


class Suppressions:
    """What has been read of the table by now."""

    def __init__(self, tables: Tables, secret: str | None) -> None:
        self._table = tables.suppressions
        self._canonical = canonical_user(tables.user_id_type)
        self._key = None if secret is None else Key(secret)
        self._states: dict[bytes, State] = {}
        self._newest: dt.datetime | None = None
        self._remembered: dict[UserId, State | None] = {}

    def __bool__(self) -> bool:
        return bool(self._states)

    def read(self, connection: Connection) -> bool:
        """Read what is new; True if that was anything. Raises ConfigurationError where the key is not the one."""
        table = self._table
        asked = select(table.c.user_hash, table.c.state, table.c.key_id, table.c.changed_at)
        if self._newest is not None:
            asked = asked.where(table.c.changed_at >= self._newest - _MARGIN)
        changed = False
        for row in connection.execute(asked):
            if self._key is None or row.key_id != self._key.id:
                said = "is not set" if self._key is None else "is not the one that they were written with"
                raise ConfigurationError(
                    f"{table.fullname} names users who are not to be counted, and privacy_key {said}: "
                    "every process has to have the same"
                )
            user = bytes.fromhex(row.user_hash)
            changed = changed or self._states.get(user) != row.state
            self._states[user] = row.state
            self._newest = row.changed_at if self._newest is None else max(self._newest, row.changed_at)
        if changed:
            self._remembered = {}  # a thread that is about to remember does so in the old one
        return changed

    def state(self, user: UserId) -> State | None:
        """What holds for a user, in whatever form the host gave the id; None for who was never asked about. Any thread
        may ask."""
        if not self._states or user is None or self._key is None:
            return None
        remembered = self._remembered
        try:
            return remembered[user]
        except KeyError:
            pass
        if len(remembered) >= _REMEMBERED:
            remembered.clear()
        try:
            found = self._states.get(bytes.fromhex(self._key.hash_of(self._canonical(user))))
        except UserIdError:
            found = None
        remembered[user] = found
        return found

    def silences(self, user: UserId) -> bool:
        """Whether nothing of this user is to be counted."""
        return self.state(user) in (FORGOTTEN, OPTED_OUT)

    def forgets(self, user: UserId) -> bool:
        """Whether nothing is to tell of this user."""
        return self.state(user) == FORGOTTEN

    def pseudonym(self, user: UserId) -> str | None:
        """What stands for a user of whom nothing is to tell; None for everybody else."""
        if self._key is None or not self.forgets(user):
            return None
        return self._key.pseudonym_of(self._canonical(user))


def state_of(connection: Connection, tables: Tables, key: Key, user: UserId) -> State | None:
    """What the table says of one user."""
    table = tables.suppressions
    found: State | None = connection.scalar(select(table.c.state).where(table.c.user_hash == key.hash_of(user)))
    return found


def suppress(connection: Connection, tables: Tables, key: Key, user: UserId, state: State) -> None:
    """Have the table say so; the caller commits. Who opts out stays forgotten, if they were, and nothing is kept of
    whom nothing was known and who opts in. Who does the same at that moment fails on the primary key."""
    if (state, state_of(connection, tables, key, user)) in {(OPTED_OUT, FORGOTTEN), (OPTED_IN, None)}:
        return
    table, user_hash = tables.suppressions, key.hash_of(user)
    now = connection.scalar(select(Ago()))  # the server's: that of a process may be years ahead
    if isinstance(now, str):  # SQLite keeps times as text
        now = dt.datetime.fromisoformat(now)
    upsert(connection, table, {"user_hash": user_hash}, {"state": state, "key_id": key.id, "changed_at": now})


def announce(connection: Connection, tables: Tables) -> None:
    """Have every writer look again before its next batch; the caller commits.

    The table has to say so by then, committed. Each row in the ledger is locked on the way, hence no batch is on its
    way any more that was made before, and none that was made before can be applied later: its writer has another
    number in mind than the row has now.
    """
    writers = tables.writers
    # In one order: who does the same at that moment waits, and is not waited for.
    connection.execute(select(writers.c.writer_id).order_by(writers.c.writer_id).with_for_update()).all()
    connection.execute(update(writers).values(suppression=writers.c.suppression + 1))
