"""The database of one tracker: its tables, and everything that opens a connection to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from usage_instrument.audit.gate import Gate
from usage_instrument.database import engines
from usage_instrument.errors import ConfigurationError
from usage_instrument.settings import Settings
from usage_instrument.typing import UserId

from .store import Store

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables


class Backend:
    """Opens no connection itself. Raises ConfigurationError for a database or tables that cannot work."""

    def __init__(self, database: engines.Database | None, settings: Settings, tables: Tables | None) -> None:
        if database is None and settings.enabled and settings.writer != "collector":
            raise ConfigurationError("no database: pass its URL, or an Engine")
        self.database = None if database is None else engines.parse(database)
        if self.database is not None:
            engines.connect(self.database)  # a missing driver raises here rather than at the first flush
        if tables is not None and not hasattr(tables, "user_id_type"):
            raise ConfigurationError(
                f"tables is what define_tables() returns, or Tables.of(Model), not {type(tables).__name__}"
            )
        self.tables_given = self._tables = tables
        self._schemas = engines.schema_translate_map(self.database)
        schema = settings.schema if tables is None else tables.usage.schema
        self._schema = self._schemas.get(schema, schema) if self._schemas else settings.schema
        self.user_id_type = tables.user_id_type if tables is not None else settings.user_id_type
        self._settings = settings
        self.name = "" if self.database is None else engines.named(self.database, self._schema)
        """The database's name for a journal; empty without a database."""

    def __str__(self) -> str:
        return "" if self.database is None else engines.masked(self.database)

    @property
    def _known(self) -> engines.Database:
        if self.database is None:
            raise ConfigurationError(
                "no database: this process has none of its own (writer='collector'), and needs one for this: "
                "pass its URL to configure()"
            )
        return self.database

    def connect(self) -> engines.Connector:
        """A new connector. Raises ConfigurationError."""
        return engines.connect(self._known, self._settings.statement_timeout)

    def _connect_committing(self) -> engines.Connector:
        # Half of the timeout: if a connection has silently ended, there is time for another one.
        return engines.connect_committing(self._known, max(self._settings.audit_timeout / 2, 0.1))

    def open_store(self) -> Store:
        """A store for the writer. Raises ConfigurationError."""
        return Store(self.connect(), self.tables(), self._settings)

    def new_gate(self, canonical: Callable[[UserId], UserId]) -> Gate:
        """A gate that commits accesses before they happen."""
        return Gate(self._settings, canonical, self._connect_committing, self.tables)

    def tables(self) -> Tables:
        """The given tables, or the default ones."""
        if self._tables is None:
            from usage_instrument.database.schema import default_tables

            self._tables = default_tables(self._settings.schema, self._settings.user_id_type)
        if self._schemas:
            self._tables, self._schemas = self._tables.translated(self._schemas), {}
        return self._tables
