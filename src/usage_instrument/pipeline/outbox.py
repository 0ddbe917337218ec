"""Uses in the host's own transactions: rows of `feature_usage_outbox` instead of hooks, where one database has both."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy import Dialect, Engine

from usage_instrument.database import outbox
from usage_instrument.errors import MetadataError, UserIdError
from usage_instrument.events import Use, fitting_metadata
from usage_instrument.runtime import log
from usage_instrument.typing import UserId

from .host_connections import adapt, is_at, key_of
from .store import Store

if TYPE_CHECKING:
    from usage_instrument.settings import Settings

    from .backend import Backend

_LOOK = 60.0
"""Seconds between two looks for rows that other processes left."""
_TRUST = 60.0
"""Seconds for which an INSERT that succeeded within a savepoint is repeated without one."""
_REFUSAL = 60.0
"""Seconds for which hooks replace the rows of a database that refused one."""


class OutboxSchedule:
    """When the writer looks into the outbox, and what it moved."""

    def __init__(self) -> None:
        self.is_asked = False
        """Whether this process has committed rows since the last look."""
        self.moved = 0
        """Uses taken out of it."""
        self.rejected = 0
        self.waiting = 0
        """Uses that were left there at the last look."""
        self._next_look = 0.0

    def is_due(self, store: Store | None) -> bool:
        """Whether to look now. A process that writes nothing else opens no connection for it."""
        return self.is_asked or (store is not None and store.has_outbox and time.monotonic() >= self._next_look)

    def looked(self, waiting: int) -> None:
        """A look has ended."""
        self.waiting = waiting
        self._next_look = time.monotonic() + _LOOK


class Outbox:
    """Puts uses into the transactions of the host's connections to the database of the tables."""

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        canonical: Callable[[UserId], UserId],
        committed: Callable[[], object],
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._canonical = canonical
        self._committed = committed
        self._here: WeakKeyDictionary[Engine, bool] = WeakKeyDictionary()
        self._django_here: dict[Hashable, bool] = {}
        self._inserts: WeakKeyDictionary[Dialect, outbox.Insert] = WeakKeyDictionary()
        self._trusted_until = self._refused_until = 0.0

    def takes(self, bind: Any) -> bool:
        """Whether an Engine or Connection of the host's, or one of Django's, is on the database of the tables, and its
        outbox works."""
        if time.monotonic() < self._refused_until:
            return False
        key = key_of(bind)
        known: Any = self._here if isinstance(key, Engine) else self._django_here
        found: bool | None = known.get(key)
        if found is None:
            database = self._backend.database
            found = known[key] = database is not None and is_at(key, database)
        return found

    def put(self, connection: Any, uses: Sequence[Use]) -> bool:
        """Insert the uses in the transaction of the connection; False if hooks must record them.

        Raises what the driver raises if the database refuses rows that it took a moment ago, and the transaction is
        lost with the statement.
        """
        if not uses:  # the app's rule has dropped them
            return True
        try:
            rows = [self._row(use) for use in uses]
        except (UserIdError, MetadataError):  # which a hook rejects or reports
            return False
        host = adapt(connection)
        is_safe = host.survives
        try:
            insert = self._insert(host.dialect)
            parameters = [insert.parameters(row) for row in rows]
            if is_safe or time.monotonic() < self._trusted_until:
                host.execute(insert.text, parameters)
            else:
                with host.savepoint():
                    host.execute(insert.text, parameters)
                self._trusted_until = time.monotonic() + _TRUST
        except host.errors as error:
            if host.is_lost(error) or (not is_safe and time.monotonic() < self._trusted_until):
                self._trusted_until = 0.0
                raise
            self._refused_until = time.monotonic() + _REFUSAL
            log.warning(
                "no outbox",
                "uses with commit= are recorded after the commit, as %s takes no rows (%s): run `usage-instrument db "
                "upgrade`, and grant INSERT",
                self._backend.tables().outbox.fullname,
                type(error).__name__,
            )
            return False
        return True

    def _insert(self, dialect: Dialect) -> outbox.Insert:
        found = self._inserts.get(dialect)
        if found is None:
            found = outbox.Insert(self._backend.tables(), dialect, self._settings.service)
            self._inserts[dialect] = found
        return found

    def _row(self, use: Use) -> Use:
        text = fitting_metadata(use.metadata, self._settings.metadata_max_bytes) if use.metadata else None
        return use._replace(user=self._canonical(use.user), metadata=text)

    def committed(self) -> None:
        """Rows were committed: have the writer look soon."""
        self._committed()
