"""The columns of the tables, in the types of each database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    DDL,
    JSON,
    BigInteger,
    Column,
    Date,
    DateTime,
    Double,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    TextClause,
    Uuid,
    event,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import TypeEngine

from usage_instrument.events import NAME_LENGTH, STRING_ID_LENGTH
from usage_instrument.typing import IdType

from .text_types import BINARY, text_type, user_text_type

LINK_LENGTH = 64
"""Hexadecimal digits of a SHA-256."""
_SERVICE = "The program's name"


def define_usage(
    metadata: MetaData, schema: str | None, user_column: Callable[[], Column[Any]], id_type: IdType
) -> Table:
    """One row per user and feature."""
    usage = _table(
        "feature_usage",
        metadata,
        schema,
        "Which user used which feature how often: one row per user and feature",
        Column("id", Integer if id_type == "integer" else _big_number(), primary_key=True),
        user_column(),
        _feature(nullable=True),
        Column("metadata", _json_object(), nullable=True, comment="The latest context of the use"),
        Column("usage_count", Integer, nullable=True, server_default=text("1"), comment="Uses by this user"),
        Column(
            "last_used",
            _timestamp(),
            nullable=False,
            server_default=_Now("CURRENT_TIMESTAMP"),
            comment="The most recent use, UTC",
        ),
    )
    _leave_room(usage)
    return usage


def define_writers(metadata: MetaData, schema: str | None) -> Table:
    """The exactly-once ledger: one row per running writer."""
    return _table(
        "feature_usage_writers",
        metadata,
        schema,
        "The ledger that makes every batch count exactly once",
        Column("writer_id", Uuid, primary_key=True, comment="One writing process, from its first batch to its end"),
        _service(),
        Column("last_batch", BigInteger, nullable=False, server_default=text("0"), comment="The last batch applied"),
        Column("started_at", _timestamp(), nullable=False, comment="When it registered, UTC"),
        Column("heartbeat_at", _timestamp(), nullable=False, comment="When it last wrote, UTC"),
        Column(
            "suppression",
            BigInteger,
            nullable=False,
            server_default=text("0"),
            comment="Grows with each suppression: the writer then reads the suppressions",
        ),
    )


def define_history(
    metadata: MetaData, schema: str | None, user_column: Callable[[], Column[Any]], *, partitioned: bool
) -> Table:
    """One row per user, feature and hour or day."""
    options = {"postgresql_partition_by": "RANGE (bucket_start)"} if partitioned else {}
    history = _table(
        "feature_usage_history",
        metadata,
        schema,
        "Uses by user, feature and hour or day",
        # No query uses it, but logical replication and MariaDB's innodb_force_primary_key need a primary key.
        # That of a partitioned table must contain the column by which it is partitioned.
        Column("id", _big_number(), primary_key=True, autoincrement=True),
        user_column(),
        _feature(nullable=True),
        Column(
            "bucket_start",
            _timestamp(),
            primary_key=partitioned,
            nullable=False,
            comment="The start of the hour or day, UTC",
        ),
        Column("usage_count", Integer, nullable=True, server_default=text("1"), comment="Uses in this bucket"),
        **options,
    )
    if not partitioned:
        _leave_room(history)  # the rows of today are updated all day
    # Questions read the last days, and retention deletes the first.
    Index(f"ix_{history.name}_bucket_start", history.c.bucket_start)
    return history


def define_exposures(metadata: MetaData, schema: str | None, user_column: Callable[[], Column[Any]]) -> Table:
    """One row per experiment, unit and variant."""
    name = "feature_usage_exposures"
    exposures = _table(
        name,
        metadata,
        schema,
        "Which variant of an experiment a user or visitor saw, and when first",
        _exact("experiment", NAME_LENGTH, "The experiment, as the code names it"),
        _exact("unit", STRING_ID_LENGTH, "Who saw it: the user id as text, or the text that the code passes"),
        _exact("variant", NAME_LENGTH, "The variant; a unit with several rows saw several"),
        user_column(),
        Column("first_exposed_at", _timestamp(), nullable=False, comment="The first exposure, UTC"),
        Column("last_exposed_at", _timestamp(), nullable=False, comment="The most recent exposure, UTC"),
        Column("exposures", Integer, nullable=False, server_default=text("1"), comment="How often"),
    )
    Index(f"ix_{name}_user_id", exposures.c.user_id)
    # Retention looks for old rows by a column that never changes: an UPDATE of the others stays HOT.
    Index(f"ix_{name}_first_exposed_at", exposures.c.first_exposed_at)
    _leave_room(exposures)
    return exposures


def define_dimensions(metadata: MetaData, schema: str | None, user_column: Callable[[], Column[Any]]) -> Table:
    """One row per user, feature, day and value of a dimension."""
    name = "feature_usage_dimensions"
    dimensions = _table(
        name,
        metadata,
        schema,
        "Uses by user, feature, day and value of a dimension, and the numbers beside them",
        Column("id", _big_number(), primary_key=True),
        user_column(),
        _feature(nullable=False),
        _exact(
            "dimension", NAME_LENGTH, "The dimension, as the code names it; empty for all uses with a number", False
        ),
        _exact("dimension_value", NAME_LENGTH, "Its value", False),
        Column("bucket_start", _timestamp(), nullable=False, comment="The start of the day, UTC"),
        Column("usage_count", Integer, nullable=False, server_default=text("1"), comment="Uses on this day"),
        Column("value_count", Integer, nullable=False, server_default=text("0"), comment="Those with a number"),
        Column("value_sum", Double, nullable=False, server_default=text("0"), comment="The sum of the numbers"),
        Column("value_squares", Double, nullable=False, server_default=text("0"), comment="The sum of their squares"),
        Column("value_minimum", Double, nullable=True, comment="The least of them"),
        Column("value_maximum", Double, nullable=True, comment="The greatest of them"),
    )
    Index(f"ix_{name}_bucket_start", dimensions.c.bucket_start)
    # Questions are about one dimension of a feature, and the writer looks for its values.
    Index(f"ix_{name}_values", dimensions.c.feature_name, dimensions.c.dimension, dimensions.c.dimension_value)
    _leave_room(dimensions)
    return dimensions


OPTIONAL = "usage_instrument.optional"
"""The key in the `info` of a column without which everything else works."""


def define_catalog(metadata: MetaData, schema: str | None) -> Table:
    """One row per service and declared feature."""
    return _table(
        "feature_usage_catalog",
        metadata,
        schema,
        "Every feature that code declares, used or not",
        _service(primary_key=True),
        _feature(primary_key=True, nullable=False),
        Column("description", _text(), nullable=True, comment="Its description, by its author"),
        Column("display_name", _text(), nullable=True, comment="Its name for people", info={OPTIONAL: True}),
        Column("source", _text(), nullable=True, comment="The code that declares it"),
        Column("declared_at", _timestamp(), nullable=False, comment="When it was first declared, UTC"),
        Column("last_declared_at", _timestamp(), nullable=False, comment="When it was last declared, UTC"),
    )


def define_losses(metadata: MetaData, schema: str | None) -> Table:
    """One row per day, service and reason."""
    return _table(
        "feature_usage_losses",
        metadata,
        schema,
        "Uses that were dropped or rejected",
        Column("day", Date, primary_key=True, comment="UTC"),
        _service(primary_key=True),
        Column("reason", text_type(NAME_LENGTH), primary_key=True, comment="Why"),
        Column("uses", BigInteger, nullable=False, server_default=text("0"), comment="How many uses were lost"),
    )


def define_access(metadata: MetaData, schema: str | None, user_type: TypeEngine[Any]) -> Table:
    """The audit trail, append-only: one row per access, two if it is recorded before it happens.

    It has no foreign key: deleting a user removes nothing from the trail.
    """
    name = "feature_usage_access"
    access = _table(
        name,
        metadata,
        schema,
        "The audit trail: who accessed which feature, when, and with which outcome; rows are only added",
        Column("chain_id", Uuid, primary_key=True, comment="The chain; each writing process has its own"),
        Column("number", BigInteger, primary_key=True, autoincrement=False, comment="The position in the chain"),
        Column("occurred_at", _timestamp(), nullable=False, comment="When, UTC, by the clock of the process"),
        Column("access_id", Uuid, nullable=False, comment="The same for an attempt and its outcome"),
        Column("user_id", user_type, nullable=True, comment="The user; NULL is unknown"),
        Column("actor_id", user_type, nullable=True, comment="Who acted as the user; NULL is the user"),
        _feature(nullable=False),
        Column("outcome", text_type(16), nullable=False, comment="attempted, success, denied or failed"),
        Column("request_id", text_type(NAME_LENGTH), nullable=True, comment="The request's own id, if it has one"),
        _service(),
        Column("metadata", _long_text(), nullable=True, comment="The context, a JSON object to the letter"),
        Column("seal", _long_text(), nullable=False, comment="The salt of the personal data in the link"),
        Column("link", text_type(LINK_LENGTH), nullable=False, comment="A hash of this row and the link before it"),
    )
    Index(f"ix_{name}_user_id", access.c.user_id)
    is_other = access.c.actor_id.is_not(None)
    Index(f"ix_{name}_actor_id", access.c.actor_id, postgresql_where=is_other, sqlite_where=is_other)
    Index(f"ix_{name}_occurred_at", access.c.occurred_at)
    return access


def define_suppressions(metadata: MetaData, schema: str | None) -> Table:
    """Erased and opted-out users, as keyed hashes."""
    name = "feature_usage_suppressions"
    suppressions = _table(
        name,
        metadata,
        schema,
        "Users who are not counted, readable only with the key",
        Column("user_hash", text_type(64), primary_key=True, comment="The user: an HMAC by the setting privacy_key"),
        Column("state", text_type(16), nullable=False, comment="forgotten, opted_out or opted_in"),
        Column("key_id", text_type(16), nullable=False, comment="Which key that was, as a hash of it"),
        Column("changed_at", _timestamp(), nullable=False, comment="Since when, UTC"),
    )
    Index(f"ix_{name}_changed_at", suppressions.c.changed_at)
    return suppressions


def define_outbox(metadata: MetaData, schema: str | None, user_type: TypeEngine[Any]) -> Table:
    """One row per use that was captured in a transaction of the host's, until a writer counts it.

    It has no foreign key, which could refuse a row and with it the host's transaction, and no number of a sequence.
    """
    return _table(
        "feature_usage_outbox",
        metadata,
        schema,
        "Uses of committed transactions that a writer has not counted yet",
        Column("outbox_id", Uuid, primary_key=True, comment="One capture"),
        Column("user_id", user_type, nullable=True, comment="The user; NULL is anonymous"),
        _feature(nullable=False),
        Column("uses", Integer, nullable=False, server_default=text("1"), comment="How many uses"),
        Column("metadata", _long_text(), nullable=True, comment="The context, a JSON object"),
        Column("dimensions", _long_text(), nullable=True, comment="Its dimensions and number, a JSON array of both"),
        Column("used_at", _timestamp(), nullable=False, comment="When, UTC, by the clock of the process"),
        _service(),
    )


def define_alerts(metadata: MetaData, schema: str | None) -> Table:
    """One row per rule of `usage-instrument watch`, subject and channel, from the begin of an alert to the report of
    its end."""
    return _table(
        "feature_usage_alerts",
        metadata,
        schema,
        "Alerts of usage-instrument watch that have begun, until their end is reported",
        _exact("rule", NAME_LENGTH, "The rule, as its file names it"),
        _exact("subject", STRING_ID_LENGTH, "What it is about, such as a feature; of a user, a hash"),
        _exact("channel", NAME_LENGTH, "The channel that reports it"),
        Column("alert_id", Uuid, nullable=False, comment="In both reports, at random"),
        Column("facts", _long_text(), nullable=False, comment="What the reports say, a JSON object without user ids"),
        Column("begun_at", _timestamp(), nullable=False, comment="When it was found, UTC"),
        Column("reported_at", _timestamp(), nullable=True, comment="When the begin was delivered, UTC"),
        Column("ended_at", _timestamp(), nullable=True, comment="When it was found no more, UTC"),
        Column("claimed_by", Uuid, nullable=True, comment="The run that delivers it now"),
        Column("claimed_until", _timestamp(), nullable=True, comment="When another run may, UTC"),
        Column(
            "watched_at",
            _timestamp(),
            nullable=True,
            comment="When its rule was in a file, UTC, to a day",
            info={OPTIONAL: True},
        ),
    )


def define_trail(metadata: MetaData, schema: str | None) -> Table:
    """One row: the id of the audit trail."""
    return _table(
        "feature_usage_trail",
        metadata,
        schema,
        "The id of the audit trail: chains of another database do not verify here",
        Column("id", SmallInteger, primary_key=True, autoincrement=False, comment="1"),
        Column("trail_id", Uuid, nullable=False, comment="At random; in the first link of each chain"),
        Column("created_at", _timestamp(), nullable=False, comment="Since when, UTC"),
    )


def _big_number() -> TypeEngine[int]:
    """A key that the database numbers; SQLite numbers only an INTEGER, of 64 bits."""
    return BigInteger().with_variant(Integer, "sqlite")


def _table(
    name: str, metadata: MetaData, schema: str | None, comment: str, *columns: Column[Any], **options: Any
) -> Table:
    return Table(
        name,
        metadata,
        *columns,
        schema=schema,
        comment=comment,
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
        **options,
    )


ROOM_FOR_UPDATES: Any = DDL(  # type: ignore[no-untyped-call]
    "ALTER TABLE %(fullname)s SET (fillfactor = 85)"
).execute_if(dialect="postgresql")
"""HOT updates need free space on the page, and no index on a changed column: hence none on `last_used`."""


def _leave_room(table: Table) -> None:
    """SQLAlchemy 2.0 has no `postgresql_with` of a table."""
    event.listen(table, "after_create", ROOM_FOR_UPDATES)


# ---- columns


def _service(*, primary_key: bool = False) -> Column[Any]:
    return Column(
        "service",
        text_type(NAME_LENGTH),
        primary_key=primary_key,
        nullable=False,
        server_default=text("''"),
        comment=_SERVICE,
    )


def _exact(name: str, length: int, comment: str, primary_key: bool = True) -> Column[Any]:
    """A part of a key whose every difference counts: writers add up equal keys before they send them."""
    return Column(name, user_text_type(length), primary_key=primary_key, nullable=False, comment=comment)


def _feature(**options: Any) -> Column[Any]:
    return Column("feature_name", text_type(NAME_LENGTH), comment="The feature, as the code names it", **options)


def _json_object() -> TypeEngine[Any]:
    from sqlalchemy.dialects.postgresql import JSONB

    return JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def _timestamp() -> TypeEngine[Any]:
    """A time in UTC, in microseconds."""
    from sqlalchemy.dialects.mysql import DATETIME

    return DateTime().with_variant(DATETIME(fsp=6), "mysql", "mariadb")


def _text() -> TypeEngine[Any]:
    from sqlalchemy.dialects.mysql import TEXT

    return Text().with_variant(TEXT(**BINARY), "mysql", "mariadb")


def _long_text() -> TypeEngine[Any]:
    from sqlalchemy.dialects.mysql import LONGTEXT

    return Text().with_variant(LONGTEXT(**BINARY), "mysql", "mariadb")


class _Now(TextClause):
    """CURRENT_TIMESTAMP as a default."""

    inherit_cache = True


@compiles(_Now)
def _now(element: _Now, compiler: Any, **options: Any) -> str:
    return element.text


@compiles(_Now, "mysql", "mariadb")
def _now_of_mariadb(element: _Now, compiler: Any, **options: Any) -> str:
    return f"{element.text}(6)"  # the precision of the column, which MySQL requires
