"""The tables of one MetaData as one value, which everything that reads or writes takes."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import MetaData, Table

from usage_instrument.errors import ConfigurationError
from usage_instrument.typing import HistoryPartitions, UserIdType

from .rollups import RollupTables

INFO = "usage_instrument"
"""The key of `MetaData.info` that holds its tables, by the full name of `feature_usage`."""
UNIQUE_USAGE = "uq_feature_usage_user_feature"
UNIQUE_HISTORY = "uq_feature_usage_history_user_feature_bucket"
UNIQUE_DIMENSIONS = "uq_feature_usage_dimensions_user_feature_value_bucket"


@dataclass(frozen=True, eq=False, repr=False)
class Tables:
    """The tables of one MetaData: the argument of `configure(tables=…)`, `Tracker` and every query."""

    usage: Table
    """`feature_usage`: one row per user and feature."""
    writers: Table
    """`feature_usage_writers`: the exactly-once ledger, one row per writing process."""
    history: Table
    """`feature_usage_history`: uses by user, feature and hour or day."""
    catalog: Table
    """`feature_usage_catalog`: every feature that code declares."""
    losses: Table
    """`feature_usage_losses`: uses that were dropped or rejected."""
    access: Table
    """`feature_usage_access`: the audit trail."""
    suppressions: Table
    """`feature_usage_suppressions`: erased and opted-out users, as keyed hashes."""
    trail: Table
    """`feature_usage_trail`: the id of the audit trail."""
    exposures: Table
    """`feature_usage_exposures`: which unit saw which variant of an experiment."""
    dimensions: Table
    """`feature_usage_dimensions`: uses by user, feature, day and value of a dimension."""
    outbox: Table
    """`feature_usage_outbox`: uses of committed transactions that a writer has not counted yet."""
    alerts: Table
    """`feature_usage_alerts`: what `usage-instrument watch` has reported."""
    user_id_type: UserIdType
    """The type of a user's id."""
    users: str | None
    """The column that the foreign key refers to; None without a foreign key."""
    history_partitions: HistoryPartitions | None = None
    """How the history is stored; None is as it is."""
    history_rollups: bool | None = None
    """Whether the history has rollups; None is as it is."""

    def __repr__(self) -> str:
        return f"Tables({self.usage.fullname!r}, user_id_type={self.user_id_type!r}, users={self.users!r})"

    def __iter__(self) -> Iterator[Table]:
        return iter(
            (
                *(self.usage, self.writers, self.history, self.catalog, self.losses),
                *(self.access, self.suppressions, self.trail, self.exposures, self.dimensions),
                *(self.outbox, self.alerts),
            )
        )

    @property
    def uniques(self) -> tuple[tuple[Table, str], ...]:
        """The tables with a unique index on user, feature and what else their rows are by, and its name."""
        return (self.usage, UNIQUE_USAGE), (self.history, UNIQUE_HISTORY), (self.dimensions, UNIQUE_DIMENSIONS)

    @property
    def of_users(self) -> tuple[Table, ...]:
        """The tables whose rows belong to users: `user_id` refers to the users table."""
        return self.usage, self.history, self.exposures, self.dimensions

    @functools.cached_property
    def rollups(self) -> RollupTables | None:
        """The rollups of the history, if questions may use them."""
        return RollupTables.of(self.history) if self.history_rollups else None

    def translated(self, schemas: Mapping[str | None, str | None]) -> Tables:
        """The same tables in the schemas of a `schema_translate_map`."""
        if not schemas:
            return self
        metadata = MetaData()

        def moved(table: Table) -> Table:
            to: Any = schemas.get(table.schema, table.schema)
            return table.to_metadata(
                metadata, schema=to, referred_schema_fn=lambda *names: schemas.get(names[-1], names[-1])
            )

        tables: dict[str, Any] = {name: moved(value) for name, value in vars(self).items() if isinstance(value, Table)}
        return replace(self, users=None if self.users is None else _in_schema(self.users, schemas), **tables)

    @classmethod
    def of(cls, model: Any) -> Tables:
        """The tables of a model made by FeatureUsageMixin, or of its table. Raises ConfigurationError."""
        table = getattr(model, "__table__", model)
        for tables in defined_tables(table.metadata) if isinstance(table, Table) else ():
            if tables.usage is table:
                return tables
        raise ConfigurationError(f"{model!r} is neither a model of FeatureUsageMixin nor a feature_usage table")


def _in_schema(column: str, schemas: Mapping[str | None, str | None]) -> str:
    table, _, name = column.rpartition(".")
    schema, _, table = table.rpartition(".")
    return ".".join(part for part in (schemas.get(schema or None, schema), table, name) if part)


def defined_tables(metadata: MetaData) -> list[Tables]:
    """The result of each `define_tables` call on a MetaData, one per schema."""
    # Not in `Table.info`, which Alembic would render into revisions.
    return list(metadata.info.get(INFO, {}).values())
