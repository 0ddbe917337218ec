"""The tables of one MetaData, as one value: what everything that writes or reads takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import MetaData, Table

from usage_instrument.errors import ConfigurationError
from usage_instrument.typing import UserIdType

INFO = "usage_instrument"
"""The key of a MetaData's `info` under which its tables are kept."""


@dataclass(frozen=True, eq=False, repr=False)
class Tables:
    """The tables of one MetaData: what `configure(tables=…)`, `Tracker` and every query take."""

    usage: Table
    """`feature_usage`: one row a user and feature."""
    writers: Table
    """`feature_usage_writers`: the ledger, one row a writing process."""
    history: Table
    """`feature_usage_history`: uses by user, feature and hour or day."""
    catalog: Table
    """`feature_usage_catalog`: every feature that code declares."""
    losses: Table
    """`feature_usage_losses`: what was dropped or rejected."""
    access: Table
    """`feature_usage_access`: the audit trail."""
    suppressions: Table
    """`feature_usage_suppressions`: who is not counted any more, as keyed hashes."""
    user_id_type: UserIdType
    """The type of a user's id."""
    users: str | None
    """The column of the users table that the foreign key refers to, if there is one."""

    def __repr__(self) -> str:
        return f"Tables({self.usage.fullname!r}, user_id_type={self.user_id_type!r}, users={self.users!r})"

    def __iter__(self) -> Iterator[Table]:
        return iter((self.usage, self.writers, self.history, self.catalog, self.losses, self.access, self.suppressions))

    @classmethod
    def of(cls, model: Any) -> Tables:
        """The tables that go with a model made by FeatureUsageMixin, or with its table. Raises ConfigurationError."""
        table = getattr(model, "__table__", model)
        for tables in every(table.metadata) if isinstance(table, Table) else ():
            if tables.usage is table:
                return tables
        raise ConfigurationError(f"{model!r} is neither a model of FeatureUsageMixin nor a feature_usage table")


def every(metadata: MetaData) -> list[Tables]:
    """What `define_tables` put into a MetaData, one a schema."""
    # Not in the table's own `info`, which Alembic would write into revisions.
    return list(metadata.info.get(INFO, {}).values())
