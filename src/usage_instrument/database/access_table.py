"""The table `feature_usage_access`: append-only, one row an access, or two where it is recorded before it happens."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Index, MetaData, String, Table, Text, Uuid, text
from sqlalchemy.types import TypeEngine

from usage_instrument.events import NAME_LENGTH

from .columns import feature_column, timestamp

NAME = "feature_usage_access"
LINK_LENGTH = 64
"""Of a SHA-256 in hexadecimal digits."""


def define_access(metadata: MetaData, schema: str | None, user_type: TypeEngine[Any]) -> Table:
    """The table in a MetaData. No foreign key: deleting a user takes nothing out of the trail."""
    access = Table(
        NAME,
        metadata,
        Column("chain_id", Uuid, primary_key=True, comment="The chain; each writing process has one of its own"),
        Column("number", BigInteger, primary_key=True, autoincrement=False, comment="The place in the chain, from 1"),
        Column("occurred_at", timestamp(), nullable=False, comment="When, UTC, by the clock of the process"),
        Column("access_id", Uuid, nullable=False, comment="The same for an attempt and its outcome"),
        Column("user_id", user_type, nullable=True, comment="Whose access it is; NULL is nobody known"),
        Column("actor_id", user_type, nullable=True, comment="Who acted as the user; NULL is the user"),
        feature_column(nullable=False),
        Column("outcome", String(16), nullable=False, comment="attempted, success, denied or failed"),
        Column("request_id", String(NAME_LENGTH), nullable=True, comment="The request's own id, if it has one"),
        Column("service", String(NAME_LENGTH), nullable=False, server_default=text("''"), comment="The program's name"),
        Column("metadata", _long_text(), nullable=True, comment="The context, a JSON object to the letter"),
        Column("seal", _long_text(), nullable=False, comment="The salt of what the link says of persons"),
        Column("link", String(LINK_LENGTH), nullable=False, comment="A hash over this row and the link before it"),
        schema=schema,
        comment="The audit trail: who accessed which feature, when, and with which outcome; rows are only added",
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
    )
    Index(f"ix_{NAME}_user_id", access.c.user_id)
    is_other = access.c.actor_id.is_not(None)
    Index(f"ix_{NAME}_actor_id", access.c.actor_id, postgresql_where=is_other, sqlite_where=is_other)
    Index(f"ix_{NAME}_occurred_at", access.c.occurred_at)
    return access


def _long_text() -> TypeEngine[Any]:
    from sqlalchemy.dialects.mysql import LONGTEXT

    return Text().with_variant(LONGTEXT(), "mysql", "mariadb")
