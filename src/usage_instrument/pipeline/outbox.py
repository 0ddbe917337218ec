"""Uses in the host's own transactions: rows of `feature_usage_outbox` instead of hooks, where one database has both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy import exc

from usage_instrument.database import outbox
from usage_instrument.database.engines import named
from usage_instrument.errors import MetadataError, UserIdError
from usage_instrument.events import Use, fitting_metadata
from usage_instrument.runtime import log
from usage_instrument.typing import UserId

from .store import Store

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

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
        self._trusted_until = self._refused_until = 0.0

    def takes(self, bind: Any) -> bool:
        """Whether an Engine or Connection of the host's is on the database of the tables, and its outbox works."""
        if time.monotonic() < self._refused_until:
            return False
        engine: Engine = bind.engine
        found = self._here.get(engine)
        if found is None:
            found = self._here[engine] = self._is_here(engine)
        return found

    def _is_here(self, engine: Engine) -> bool:
        database = self._backend.database
        try:
            return database is not None and named(engine, None) == named(database, None)
        except Exception:  # an engine with a creator and no URL
            return False

    def put(self, connection: Connection, uses: Sequence[Use]) -> bool:
        """Insert the uses in the transaction of the connection; False if hooks must record them.

        Raises what the driver raises if the database refuses rows that it took a moment ago, and the transaction is
        lost with the statement.
        """
        try:
            rows = [self._row(use) for use in uses]
        except (UserIdError, MetadataError):  # which a hook rejects or reports
            return False
        tables, service = self._backend.tables(), self._settings.service
        is_safe = connection.dialect.name == "sqlite"  # a statement that fails leaves the transaction as it was
        try:
            if is_safe or time.monotonic() < self._trusted_until:
                outbox.put(connection, tables, service, rows)
            else:
                with connection.begin_nested():
                    outbox.put(connection, tables, service, rows)
                self._trusted_until = time.monotonic() + _TRUST
        except exc.SQLAlchemyError as error:
            if not is_safe and time.monotonic() < self._trusted_until:
                self._trusted_until = 0.0
                raise
            self._refused_until = time.monotonic() + _REFUSAL
            log.warning(
                "no outbox",
                "uses with commit= are recorded after the commit, as %s takes no rows (%s): run `usage-instrument db "
                "upgrade`, and grant INSERT",
                tables.outbox.fullname,
                type(error).__name__,
            )
            return False
        return True

    def _row(self, use: Use) -> Use:
        text = fitting_metadata(use.metadata, self._settings.metadata_max_bytes) if use.metadata else None
        return use._replace(user=self._canonical(use.user), metadata=text)

    def committed(self) -> None:
        """Rows were committed: have the writer look soon."""
        self._committed()
