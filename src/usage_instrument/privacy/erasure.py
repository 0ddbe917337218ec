"""To forget a user: what is told, awaited and erased, in the order that lets nobody bring them back."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, literal, select

from usage_instrument.audit.erasure import erase
from usage_instrument.audit.gate import SUPPRESSIONS_INTERVAL
from usage_instrument.database import suppressions
from usage_instrument.database.dialects import Fault
from usage_instrument.database.ledger import utcnow
from usage_instrument.database.suppressions import FORGOTTEN, Key
from usage_instrument.errors import UnknownUserError, UsageInstrumentError, UserIdError
from usage_instrument.pipeline.backend import Backend
from usage_instrument.pipeline.journal import directories_naming, parked_reason
from usage_instrument.pipeline.recovery import Recovery
from usage_instrument.pipeline.store import Store, WriteError, persistently
from usage_instrument.settings import Settings
from usage_instrument.typing import UserId

from .personal_data import count_rows, delete_rows, is_named

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds for what is in the way: a lock, the network, a process that is slow."""
_PAUSE = 0.25  # seconds between two looks at the journals
_MARGIN = 2.0  # seconds


@dataclass(frozen=True)
class Receipt:
    """What `forget` did. It tells nothing of who that was."""

    deleted: Mapping[str, int]
    """Rows that are gone, by table."""
    pseudonymised: int
    """Rows of the audit trail that named them, and have a pseudonym instead."""
    kept: int | None
    """Rows of the audit trail that still name them, as was asked for; None where this role may not read it."""
    journals: tuple[str, ...]
    """Directories in the journal that may still name them: set aside, unreadable, or a process does not answer."""
    finished_at: dt.datetime
    """When that was (UTC, naive)."""


class Forgetting:
    """One user, on their way out of one database."""

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

    def run(self, flush: Callable[[], object], *, keep_audit: bool, force: bool) -> Receipt:
        """All of it; `flush` has this process write what it holds. Raises UnknownUserError and, where something is in
        the way, UsageInstrumentError: to run it again is safe."""
        tables = self._tables
        in_trail = self._count_in_trail()
        if in_trail is None and not keep_audit:
            raise UsageInstrumentError(
                "nothing was done, as this role may not read the audit trail: run `usage-instrument forget` as who owns"
                " the tables, or let the trail keep what it has (keep_audit)"
            )
        if not (force or in_trail or self._is_known()):
            raise UnknownUserError("nothing tells of such a user; to forget them all the same, say force=True")
        self._do(partial(suppressions.suppress, tables=tables, key=self._key, user=self._user, state=FORGOTTEN))
        # In another transaction: whoever is told to look has to find it.
        self._do(partial(suppressions.announce, tables=tables))
        announced = time.monotonic()
        flush()
        # Whatever was on its way is in the tables by now, and nothing that names them can follow.
        deleted = {
            table.fullname: self._do(partial(delete_rows, table=table, user=self._user))
            for table in (tables.usage, tables.history)
        }
        pseudonymised = 0 if keep_audit else self._pseudonymise()
        journals = self._empty_journals(flush)
        if not keep_audit and self._has_trail():
            # What the gates of other processes had made rows of before is committed, or given up, by then.
            last = announced + SUPPRESSIONS_INTERVAL + 2 * self._settings.audit_timeout + _MARGIN
            time.sleep(max(last - time.monotonic(), 0.0))
            pseudonymised += self._pseudonymise()
        kept = self._count_in_trail() if keep_audit else 0
        return Receipt(deleted, pseudonymised, kept, journals, utcnow())

    def _do(self, work: Callable[[Connection], T]) -> T:
        return persistently(partial(self._store.transact, work), PATIENCE)

    def _is_known(self) -> bool:
        tables = self._tables

        def look(connection: Connection) -> bool:
            is_suppressed = suppressions.state_of(connection, tables, self._key, self._user) is not None
            counted = (tables.usage, tables.history)
            return is_suppressed or any(is_named(connection, table, self._user) for table in counted)

        return self._do(look) or self._store.has_user(self._user) or bool(self._mentions())

    # ---- the audit trail

    def _count_in_trail(self) -> int | None:
        """How many rows of it name the user; None where this role may not read it."""
        if self._store.audit_problem is not None:
            return 0
        try:
            return self._do(partial(count_rows, table=self._tables.access, user=self._user))
        except WriteError as error:
            if error.fault is Fault.CONFIGURATION:
                return None
            raise

    def _has_trail(self) -> bool:
        """Whether anything was ever audited."""
        asked = select(literal(1)).select_from(self._tables.access).limit(1)
        return self._store.audit_problem is None and self._do(lambda connection: connection.scalar(asked)) is not None

    def _pseudonymise(self) -> int:
        if self._store.audit_problem is not None:
            return 0
        audit_key, pseudonym = self._settings.audit_key, self._key.pseudonym_of(self._user)
        some = partial(erase, tables=self._tables, audit_key=audit_key, user=self._user, pseudonym=pseudonym)
        total = 0
        while True:
            try:
                rows = self._do(some)
            except WriteError as error:
                raise UsageInstrumentError(
                    f"the counts are gone, and the audit trail still names the user: {error}. Run `usage-instrument "
                    "forget` as who owns the tables, or choose to keep it (keep_audit)"
                ) from error
            if not rows:
                return total
            total += rows

    # ---- the journals

    def _empty_journals(self, flush: Callable[[], object]) -> tuple[str, ...]:
        """Have the journals name them no more: those of the dead are written, the living write theirs anew. Which ones
        may still do so after a while."""
        place = self._settings.journal
        if place is None:
            return ()
        recovery = Recovery(place, self._backend.name, self._settings, self._canonical, self._backend.new_ledger)
        deadline = time.monotonic() + 2 * self._settings.flush_interval + PATIENCE
        while True:
            recovery.run(self._store)
            flush()
            found = self._mentions()
            if all(parked_reason(path) is not None for path in found) or time.monotonic() >= deadline:
                return tuple(map(str, found))
            time.sleep(_PAUSE)

    def _mentions(self) -> list[Path]:
        """The journals that name the user, in whatever form the host gave the id."""

        def is_meant(given: UserId) -> bool:
            try:
                return self._canonical(given) == self._user
            except UserIdError:
                return False

        place = self._settings.journal
        try:
            return [] if place is None else list(directories_naming(place, is_meant))
        except OSError as error:
            raise UsageInstrumentError(f"the journals cannot be searched: {error}") from error
