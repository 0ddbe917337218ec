"""Erases one user from tables, processes and journals, in an order in which no process can write them again."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, inspect, literal, select

from usage_instrument.audit import admin_chain
from usage_instrument.audit.erasure import erase, record_kept
from usage_instrument.audit.gate import SUPPRESSIONS_INTERVAL
from usage_instrument.database import outbox, suppressions
from usage_instrument.database.dialects import Fault
from usage_instrument.database.ledger import utcnow
from usage_instrument.database.suppressions import FORGOTTEN, FORGOTTEN_KEPT, Key
from usage_instrument.errors import UnknownUserError, UsageInstrumentError, UserIdError
from usage_instrument.pipeline.backend import Backend
from usage_instrument.pipeline.journal import directories_naming, parked_reason
from usage_instrument.pipeline.recovery import Recovery
from usage_instrument.pipeline.retry import persistently
from usage_instrument.pipeline.store import Store, WriteError
from usage_instrument.settings import Settings
from usage_instrument.typing import UserId

from .personal_data import count_rows, delete_rows, has_rows

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds to retry while a lock, the network or a slow process is in the way."""
_PAUSE, _MARGIN = 0.25, 2.0  # seconds


@dataclass(frozen=True)
class Receipt:
    """What `forget` did. It does not identify the user."""

    deleted: Mapping[str, int]
    """Deleted rows by table."""
    pseudonymised: int
    """Rows of the audit trail in which a pseudonym has replaced the user."""
    kept: int | None
    """Rows of the audit trail that still name the user, because of `keep_audit`; None if this role may not read it."""
    journals: tuple[str, ...]
    """Journal directories that may still name the user: parked, unreadable, or of a process that does not respond."""
    finished_at: dt.datetime
    """UTC, naive."""


class Erasure:
    """The erasure of one user from one database."""

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        canonical: Callable[[UserId], UserId],
        store: Store,
        user: UserId,
        key: Key,
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._canonical = canonical
        self._store = store
        self._user = user
        self._key = key
        self._tables = backend.tables()

    def run(self, flush: Callable[[], object], *, actor: UserId, keep_audit: bool, force: bool) -> Receipt:
        """Erase everywhere; `flush` writes the pending counts of this process. Raises UnknownUserError and
        UsageInstrumentError; running it again is safe."""
        tables = self._tables
        in_trail = self._count_in_trail()
        if in_trail is None and not keep_audit:
            raise UsageInstrumentError(
                "nothing was done, as this role may not read the audit trail: run `usage-instrument forget` as the "
                "owner of the tables, or let the trail keep what it has (keep_audit)"
            )
        if not (force or in_trail or self._is_known()):
            raise UnknownUserError("there is no trace of this user; to forget them all the same, pass force=True")
        if in_trail is not None and self._store.audit_problem is None:
            self._do(partial(admin_chain.end, tables=tables, key=self._settings.audit_key))  # or nothing is done
        state = FORGOTTEN_KEPT if keep_audit else FORGOTTEN
        self._do(partial(suppressions.suppress, tables=tables, key=self._key, user=self._user, state=state))
        # In a transaction of its own: the state must be committed before writers read it.
        self._do(partial(suppressions.announce, tables=tables))
        announced = time.monotonic()
        if keep_audit and self._store.audit_problem is None:
            name, audit_key = self._key.pseudonym_of(self._user), self._settings.audit_key
            record = partial(record_kept, tables=tables, audit_key=audit_key, pseudonym=name, actor=actor)
            self._do(partial(record, chain=self._store.new_chain() if in_trail is None else None))
        flush()
        # All batches in flight are committed by now, and no later one can name the user.
        deleted = self._empty_outbox()
        for table in self._store.tables_of_users:
            deleted[table.fullname] = self._do(partial(delete_rows, table=table, user=self._user))
        pseudonymised = 0 if keep_audit else self._pseudonymise(actor)
        journals = self._empty_journals(flush)
        if not keep_audit and self._has_trail():
            self._await_gates(announced)
            pseudonymised += self._pseudonymise(actor)
        kept = self._count_in_trail() if keep_audit else 0
        return Receipt(deleted, pseudonymised, kept, journals, utcnow())

    def _empty_outbox(self) -> dict[str, int]:
        """Delete from the outbox first: a writer moves its rows to the others. The schema before has none."""
        table = self._tables.outbox
        if not self._do(lambda connection: inspect(connection).has_table(table.name, schema=table.schema)):
            return {}
        return {table.fullname: self._do(partial(outbox.remove_of, tables=self._tables, user=self._user))}

    def _do(self, work: Callable[[Connection], T]) -> T:
        return persistently(partial(self._store.transact, work), PATIENCE)

    def _is_known(self) -> bool:
        def look_up(connection: Connection) -> bool:
            is_suppressed = suppressions.state_of(connection, self._tables, self._key, self._user) is not None
            waiting = (self._tables.outbox,) if self._store.has_outbox else ()
            return is_suppressed or any(
                has_rows(connection, table, self._user) for table in (*self._store.tables_of_users, *waiting)
            )

        return self._do(look_up) or self._store.has_user(self._user) or bool(self._naming_journals())

    # ---- the audit trail

    def _count_in_trail(self) -> int | None:
        """How many of its rows name the user; None if this role may not read it."""
        if self._store.audit_problem is not None:
            return 0
        try:
            return self._do(partial(count_rows, table=self._tables.access, user=self._user))
        except WriteError as error:
            if error.fault is Fault.CONFIGURATION:
                return None
            raise

    def _has_trail(self) -> bool:
        query = select(literal(1)).select_from(self._tables.access).limit(1)
        return self._store.audit_problem is None and self._do(lambda connection: connection.scalar(query)) is not None

    def _await_gates(self, announced: float) -> None:
        """Wait until the gates of other processes have committed or given up the rows that they made before."""
        last = announced + SUPPRESSIONS_INTERVAL + 2 * self._settings.audit_timeout + _MARGIN
        time.sleep(max(last - time.monotonic(), 0.0))

    def _pseudonymise(self, actor: UserId) -> int:
        """Replace the user in all rows of the trail, and return their number."""
        if self._store.audit_problem is not None:
            return 0
        audit_key, pseudonym = self._settings.audit_key, self._key.pseudonym_of(self._user)
        erase_some = partial(
            erase, tables=self._tables, audit_key=audit_key, user=self._user, pseudonym=pseudonym, actor=actor
        )
        total = 0
        while True:
            try:
                rows = self._do(erase_some)
            except WriteError as error:
                raise UsageInstrumentError(
                    f"the counts are deleted, but the audit trail still names the user: {error}. Run `usage-instrument "
                    "forget` as the owner of the tables, or choose to keep it (keep_audit)"
                ) from error
            if not rows:
                return total
            total += rows

    # ---- the journals

    def _empty_journals(self, flush: Callable[[], object]) -> tuple[str, ...]:
        """Write the journals of dead processes, and wait until living ones have rewritten theirs. Returns the
        directories that may still name the user."""
        root = self._settings.journal
        if root is None:
            return ()
        recovery = Recovery(root, self._backend.name, self._settings, self._canonical)
        deadline = time.monotonic() + 2 * self._settings.flush_interval + PATIENCE
        while True:
            recovery.run(self._store)
            flush()
            found = self._naming_journals()
            if all(parked_reason(path) is not None for path in found) or time.monotonic() >= deadline:
                return tuple(map(str, found))
            time.sleep(_PAUSE)

    def _naming_journals(self) -> list[Path]:
        """The journals that name the user, in any form that the host gave the id."""

        def is_among(given: set[UserId]) -> bool:
            users = set()
            for each in given:
                with contextlib.suppress(UserIdError):
                    users.add(self._canonical(each))
            return self._user in persistently(partial(self._store.spellings_of, users), PATIENCE)

        root = self._settings.journal
        try:
            return [] if root is None else list(directories_naming(root, is_among))
        except OSError as error:
            raise UsageInstrumentError(f"the journals cannot be searched: {error}") from error
