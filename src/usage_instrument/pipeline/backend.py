"""The database of one tracker: its tables, and what writes to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

from usage_instrument.audit.gate import Gate
from usage_instrument.database import engines
from usage_instrument.database.ledger import Ledger
from usage_instrument.errors import ConfigurationError
from usage_instrument.settings import Settings
from usage_instrument.typing import UserId

from .store import Store

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables


class Backend:
    """Opens no connection. Raises ConfigurationError for a database, or tables, that cannot work."""

    def __init__(self, database: engines.Database | None, settings: Settings, tables: Tables | None) -> None:
        if database is None and settings.enabled:
            raise ConfigurationError("no database: pass its URL, or an Engine")
        self.database = None if database is None else engines.parse(database)
        if self.database is not None:
            engines.connect(self.database)  # a missing driver is told here, not by the first flush
        if tables is not None and not hasattr(tables, "user_id_type"):
            raise ConfigurationError(
                f"tables is what define_tables() returns, or Tables.of(Model), not {type(tables).__name__}"
            )
        self.tables_given = self._tables = tables
        self.user_id_type = tables.user_id_type if tables is not None else settings.user_id_type
        self._settings = settings

    def __str__(self) -> str:
        return "" if self.database is None else engines.masked(self.database)

    @property
    def name(self) -> str:
        """Which database that is, for a journal; empty for none."""
        return "" if self.database is None else engines.named(self.database, self._settings.schema)

    def connect(self) -> engines.Connector:
        """A connector of one's own. Raises ConfigurationError."""
        if self.database is None:
            raise ConfigurationError("no database")
        return engines.connect(self.database, self._settings.statement_timeout)

    def _connect_committing(self) -> engines.Connector:
        if self.database is None:
            raise ConfigurationError("no database")
        # A connection that has silently ended leaves time for another one.
        return engines.connect_committing(self.database, max(self._settings.audit_timeout / 2, 0.1))

    def open_store(self) -> Store:
        """What the writer writes to. Raises ConfigurationError."""
        return Store(self.connect(), self.tables(), self._settings)

    def new_ledger(self, writer_id: UUID | None) -> Ledger:
        """A writer's row, of a new writer without an id."""
        return Ledger(self.tables(), self._settings.service, writer_id)

    def new_gate(self, canonical: Callable[[UserId], UserId]) -> Gate:
        """What commits accesses before they happen."""
        return Gate(self._settings, canonical, self._connect_committing, self.tables)

    def tables(self) -> Tables:
        """Those that were given, or the default ones."""
        if self._tables is None:
            from sqlalchemy import MetaData

            from usage_instrument.database.schema import define_tables

            self._tables = define_tables(
                MetaData(), schema=self._settings.schema, users=None, user_id_type=self._settings.user_id_type
            )
        return self._tables
