"""Uses in the host's own transactions: rows of `feature_usage_outbox` instead of hooks, where one database has both."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy import Engine

from usage_instrument.database import outbox
from usage_instrument.database.driver_errors import Fault, describe
from usage_instrument.errors import MetadataError, UserIdError
from usage_instrument.events import Use, fitting_metadata
from usage_instrument.runtime import log
from usage_instrument.typing import UserId

from .host_connections import (
    HostConnection,
    TransactionEndedError,
    aborts,
    adapt,
    fault_of,
    is_aborted,
    is_ended,
    is_same,
    key_of,
    place_of,
)
from .store import Store

if TYPE_CHECKING:
    from usage_instrument.settings import Settings

    from .backend import Backend

_LOOK = 60.0
"""Seconds between two looks for rows that other processes left."""
_REFUSAL = 60.0
"""Seconds for which hooks replace the rows of a bind that has no table, or may not insert."""


class _Target:
    """What is known of an engine, or of an alias of Django's."""

    __slots__ = ("insert", "is_here", "refused_until")

    def __init__(self, *, is_here: bool) -> None:
        self.is_here = is_here
        """Whether it is on the database of the tables."""
        self.refused_until = 0.0
        self.insert: outbox.Insert | None = None
        """Compiled for its dialect by the first use."""


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

    def is_due(self, store: Store | None, *, asked: bool = False) -> bool:
        """Whether to look now; at each flush that somebody `asked` for. A process that writes nothing else opens no
        connection for it."""
        if self.is_asked:
            return True
        return store is not None and store.has_outbox and (asked or time.monotonic() >= self._next_look)

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
        self._engines: WeakKeyDictionary[Engine, _Target] = WeakKeyDictionary()
        self._aliases: dict[Hashable, _Target] = {}

    def is_here(self, bind: Any) -> bool:
        """Whether an Engine or Connection of the host's, or one of Django's, is on the database of the tables."""
        return (self._engines.get(bind) or self._target(bind)).is_here

    def takes(self, bind: Any) -> bool:
        """Whether it is, and its outbox works."""
        target = self._target(bind)
        return target.is_here and (not target.refused_until or time.monotonic() >= target.refused_until)

    def _target(self, bind: Any) -> _Target:
        key = bind if isinstance(bind, Engine) else key_of(bind)
        known: Any = self._aliases if isinstance(key, tuple) else self._engines
        found: _Target | None = known.get(key)
        if found is None:
            found = known[key] = _Target(is_here=self._is_here(key))
        return found

    def _is_here(self, key: Hashable) -> bool:
        database = self._backend.database
        if database is None or is_same(key, database):
            return database is not None
        ours, theirs = place_of(database), place_of(key)
        if ours is not None and ours == theirs:
            return True
        names = theirs or "a database that its URL does not name", ours or self._backend
        log.once(
            ("elsewhere", *map(str, names)),
            "commit= finds a transaction in %s, and the tables are in %s: a hook counts such uses after the commit, "
            "and a crash in between loses them. If both are one database, write its host, port and name alike",
            *names,
        )
        return False

    def put(self, connection: Any, uses: Sequence[Use]) -> bool:
        """Insert all the uses in the transaction of the connection, or none and return False: hooks must record them.

        Raises what the driver raises if the transaction is lost with the statement.
        """
        if not uses:  # the app's rule has dropped them
            return True
        try:
            host = adapt(connection)
            target = self._target(connection)
            if target.insert is None:
                target.insert = outbox.Insert(self._backend.tables(), host.dialect, self._settings.service)
            insert = target.insert
            parameters = [insert.parameters(self._row(use)) for use in uses]
        except (UserIdError, MetadataError):  # which a hook rejects or reports
            return False
        except Exception as error:
            return self._failed(error)
        # SQLite and MariaDB undo a statement that fails, but an executemany is several.
        execute = host.execute_in_savepoint if len(parameters) > 1 or aborts(host) else host.execute
        try:
            execute(insert.text, parameters)
        except TransactionEndedError as ended:
            if is_aborted(host, ended.error):  # by the host, whose COMMIT rolls back: the uses go with its rows
                return True
            raise ended.error from None
        except Exception as error:
            if is_aborted(host, error):
                return True
            if is_ended(host, error):
                raise
            return self._refused(target, host, error)
        return True

    def _refused(self, target: _Target, host: HostConnection, error: Exception) -> bool:
        if fault_of(host, error) is not Fault.CONFIGURATION:
            return self._failed(error)
        target.refused_until = time.monotonic() + _REFUSAL
        log.warning(
            "no outbox",
            "uses with commit= are recorded after the commit, as %s takes no rows (%s): run `usage-instrument db "
            "upgrade`, and grant INSERT",
            self._backend.tables().outbox.fullname,
            type(error).__name__,
        )
        return False

    @staticmethod
    def _failed(error: Exception) -> bool:
        log.warning(
            "no outbox row", "uses of one transaction are recorded after its commit, not with it: %s", describe(error)
        )
        return False

    def _row(self, use: Use) -> Use:
        text = fitting_metadata(use.metadata, self._settings.metadata_max_bytes) if use.metadata else None
        user = self._canonical(use.user)
        if user is use.user and text is use.metadata:  # as of most uses
            return use
        return use._replace(user=user, metadata=text)

    def committed(self) -> None:
        """Rows were committed: have the writer look soon."""
        self._committed()
