"""The history in partitions by month: which there are, new ones, and the way of an existing table there and back.

Locks are short, as flushes and the host's own statements queue behind them: each statement waits for a tenth of a
second at most, and its caller tries again.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, MetaData, Table, inspect, text
from sqlalchemy.schema import CreateIndex

from ...partitions import AHEAD, Partition, Partitioning, Partitions, later
from ...users_column import UsersColumn
from .privileges import give, grant_alike

UPGRADE_CHECK = "feature_usage_history_before"
"""The constraint by which a table becomes a partition without a scan under a lock. It lives during the upgrade."""
_UPGRADE_KEY = "ix_feature_usage_history_partition_key"
_LOCK_TIMEOUT = "100ms"
_ROOM = "fillfactor = 85"  # as of the table, which has no storage parameters once it is partitioned
_PARTITIONED = text(
    "SELECT pg_has_role(c.relowner, 'USAGE'), date_trunc('month', timezone('utc', now())) FROM pg_class c "
    "WHERE c.oid = to_regclass(:table) AND c.relkind = 'p' AND pg_get_partkeydef(c.oid) = 'RANGE (bucket_start)'"
)
_PARTS = text(
    "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), bound = 'DEFAULT', "
    "CAST(substring(bound FROM 'FROM \\(''([^'']+)''\\)') AS timestamp), "
    "CAST(substring(bound FROM 'TO \\(''([^'']+)''\\)') AS timestamp), CAST(greatest(c.reltuples, 0) AS bigint) "
    "FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace, "
    "LATERAL pg_get_expr(c.relpartbound, c.oid) AS bound WHERE i.inhparent = to_regclass(:table) ORDER BY 3 NULLS FIRST"
)


class MonthlyPartitions(Partitioning):
    """Range partitions by the start of the bucket, and one for all other rows."""

    def find(self, connection: Connection, table: Table) -> Partitions | None:
        name = {"table": _quoted(connection, table)}
        whole = connection.execute(_PARTITIONED, name).one_or_none()
        if whole is None:
            return None
        parts = connection.execute(_PARTS, name).all()
        return Partitions(
            tuple(Partition(part[0], part[2], part[3], int(part[4])) for part in parts if not part[1]),
            next((str(part[0]) for part in parts if part[1]), None),
            bool(whole[0]),
            whole[1],
        )

    # ---- a new table

    def new(self, connection: Connection, table: Table) -> list[str]:
        # The database's clock chooses the months when this runs, as it may be part of a migration.
        start = _literal(f"CREATE TABLE {_named(connection, table, '_')}")
        return [
            _new_default(connection, table),
            "DO $$ DECLARE month timestamp := date_trunc('month', timezone('utc', now())); "  # noqa: ISC004
            f"BEGIN FOR number IN 0 .. {AHEAD} LOOP EXECUTE {start} || to_char(month, 'YYYY_MM') || "
            f"{_literal(f' PARTITION OF {_quoted(connection, table)} FOR VALUES FROM (')} || quote_literal(month) || "
            f"') TO (' || quote_literal(month + interval '1 month') || ') WITH ({_ROOM})'; "
            "month := month + interval '1 month'; END LOOP; END $$",
        ]

    # ---- a month

    def months_in_default(self, connection: Connection, parts: Partitions) -> list[tuple[dt.datetime, int]]:
        if parts.default is None:
            return []
        query = f"SELECT date_trunc('month', bucket_start), count(*) FROM {parts.default} GROUP BY 1 ORDER BY 1"  # noqa: S608
        return [(row[0], int(row[1])) for row in connection.exec_driver_sql(query)]

    def add_month(self, connection: Connection, table: Table, month: dt.datetime, *, patiently: bool) -> bool:
        end, whole = later(month), _quoted(connection, table)
        if not _is_alone(connection, whole):
            return False
        parts = self.find(connection, table)
        if parts is None or month not in parts.missing([month]):
            return True
        _lock_briefly(connection)
        if patiently:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        name = _named(connection, table, f"_{month:%Y_%m}")
        connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE {whole} INCLUDING DEFAULTS) WITH ({_ROOM})")
        give(connection, whole, name)
        if parts.default is not None:
            bounds = f"bucket_start >= {_moment(month)} AND bucket_start < {_moment(end)}"
            # Without rows of this month ATTACH locks it for long enough to see that.
            if connection.exec_driver_sql(f"SELECT EXISTS (SELECT FROM {parts.default} WHERE {bounds})").scalar():  # noqa: S608
                connection.exec_driver_sql(f"LOCK TABLE {parts.default} IN EXCLUSIVE MODE")
                columns = _columns(connection, table)
                connection.exec_driver_sql(
                    f"WITH moved AS (DELETE FROM {parts.default} WHERE {bounds} RETURNING {columns}) "  # noqa: S608
                    f"INSERT INTO {name} ({columns}) SELECT {columns} FROM moved"
                )
        connection.exec_driver_sql(
            f"ALTER TABLE {whole} ATTACH PARTITION {name} FOR VALUES FROM ({_moment(month)}) TO ({_moment(end)})"
        )
        return True

    def drop(self, connection: Connection, table: Table, part: Partition) -> bool:
        if not _is_alone(connection, _quoted(connection, table)):
            return False
        parts = self.find(connection, table)
        if parts is None or part.name not in {each.name for each in parts.ranges}:
            return False
        _lock_briefly(connection)
        connection.exec_driver_sql(f"DROP TABLE {part.name}")  # DETACH would lock the users table
        return True

    def analyze(self, connection: Connection, table: Table) -> None:
        connection.exec_driver_sql(f"ANALYZE {_quoted(connection, table)}")

    # ---- an existing table

    def is_prepared(self, connection: Connection, table: Table) -> bool:
        query = text("SELECT 1 FROM pg_constraint WHERE conrelid = to_regclass(:table) AND conname = :name")
        return connection.scalar(query, {"table": _quoted(connection, table), "name": UPGRADE_CHECK}) is not None

    def foreign_views(self, connection: Connection, table: Table, ours: Sequence[str]) -> list[str]:
        query = text(
            "SELECT DISTINCT CAST(CAST(r.ev_class AS regclass) AS text) FROM pg_depend d "
            "JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class c ON c.oid = r.ev_class "
            "WHERE d.classid = CAST('pg_rewrite' AS regclass) AND d.refobjid = to_regclass(:table) "
            "AND d.refclassid = CAST('pg_class' AS regclass) AND c.relkind IN ('v', 'm') ORDER BY 1"
        )
        known = {name.rpartition(".")[2] for name in ours}
        names = connection.scalars(query, {"table": _quoted(connection, table)})
        return [name for name in names if name.rpartition(".")[2] not in known]

    def preparations(self, table: Table) -> list[tuple[Callable[[Connection], object], bool]]:
        return [
            (partial(_build_key, table=table), False),
            (partial(_add_check, table=table), True),
            (partial(_validate_check, table=table), True),
        ]

    def abandon(self, connection: Connection, table: Table) -> None:
        _drop_check(connection, table)

    def partition(self, connection: Connection, table: Table, users: UsersColumn | None) -> None:
        whole = _quoted(connection, table)
        _lock_briefly(connection)
        connection.exec_driver_sql(f"LOCK TABLE {whole} IN ACCESS EXCLUSIVE MODE")
        bound: Any = connection.execute(
            text(
                "SELECT CAST(substring(pg_get_constraintdef(oid) FROM '''([^'']+)''') AS timestamp) FROM pg_constraint "
                "WHERE conrelid = to_regclass(:table) AND conname = :name"
            ),
            {"table": whole, "name": UPGRADE_CHECK},
        ).scalar()
        inspector = inspect(connection)
        old_name = f"{table.name}_before_{bound:%Y_%m}"
        old = _named(connection, table, f"_before_{bound:%Y_%m}")
        schema = table.schema
        key_name = inspector.get_pk_constraint(table.name, schema=schema)["name"]
        quote = connection.dialect.identifier_preparer.quote
        drop_key = f"DROP CONSTRAINT {quote(key_name)}, " if key_name else ""
        add_key = f"ADD CONSTRAINT {quote(f'{old_name}_pkey')} PRIMARY KEY USING INDEX {_UPGRADE_KEY}"
        connection.exec_driver_sql(f"ALTER TABLE {whole} {drop_key}{add_key}")
        indexes = connection.execute(
            text(
                "SELECT c.relname, quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_index i "
                "JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
                "WHERE i.indrelid = to_regclass(:table) AND NOT i.indisprimary ORDER BY 1"
            ),
            {"table": whole},
        ).all()
        for number, (_, index) in enumerate(indexes, 1):
            connection.exec_driver_sql(f"ALTER INDEX {index} RENAME TO {quote(f'{old_name}_{number}')}")
        connection.exec_driver_sql(f"ALTER TABLE {whole} RENAME TO {quote(old_name)}")
        _make_like(connection, table, old, "PARTITION BY RANGE (bucket_start)")
        connection.exec_driver_sql(f"ALTER TABLE {whole} ADD PRIMARY KEY (id, bucket_start)")
        _index(connection, table)
        if users is not None:
            _refer(connection, table, users)
        connection.exec_driver_sql(
            f"ALTER TABLE {whole} ATTACH PARTITION {old} FOR VALUES FROM (MINVALUE) TO ({_moment(bound)})"
        )
        connection.exec_driver_sql(f"ALTER TABLE {old} DROP CONSTRAINT {UPGRADE_CHECK}")
        connection.exec_driver_sql(_new_default(connection, table))

    def unpartition(self, connection: Connection, table: Table, users: UsersColumn | None) -> None:
        whole, new = _quoted(connection, table), _named(connection, table, "_whole")
        columns = _columns(connection, table)
        _make_like(connection, Table(f"{table.name}_whole", MetaData(), schema=table.schema), whole, f"WITH ({_ROOM})")
        connection.exec_driver_sql(f"INSERT INTO {new} ({columns}) SELECT {columns} FROM {whole}")  # noqa: S608
        connection.exec_driver_sql(f"DROP TABLE {whole}")
        quote = connection.dialect.identifier_preparer.quote
        connection.exec_driver_sql(f"ALTER TABLE {new} RENAME TO {quote(table.name)}")
        connection.exec_driver_sql(f"ALTER TABLE {whole} ADD PRIMARY KEY (id)")
        _index(connection, table)
        if users is not None:
            _refer(connection, table, users)


def _new_default(connection: Connection, table: Table) -> str:
    """The SQL that adds the partition of all other rows: without it, the database refuses them."""
    name = _named(connection, table, "_default")
    return f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF {_quoted(connection, table)} DEFAULT WITH ({_ROOM})"


def _build_key(connection: Connection, table: Table) -> None:
    """Build the index of the new primary key, while others write; outside a transaction."""
    name, index = _quoted(connection, table), _index_name(connection, table)
    query = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    is_valid = connection.scalar(query, {"name": index})
    if is_valid is False:  # an earlier attempt was killed
        connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY {index}")
    if not is_valid:
        connection.exec_driver_sql(f"CREATE UNIQUE INDEX CONCURRENTLY {_UPGRADE_KEY} ON {name} (id, bucket_start)")


def _add_check(connection: Connection, table: Table) -> None:
    """Add the constraint that old rows and those of the next months fulfil, without looking at them yet."""
    _lock_briefly(connection)
    _drop_check(connection, table)
    name = _quoted(connection, table)
    last: Any = connection.exec_driver_sql(
        f"SELECT date_trunc('month', greatest(timezone('utc', now()), max(bucket_start))) FROM {name}"  # noqa: S608
    ).scalar()
    bound = _moment(later(last, AHEAD))
    connection.exec_driver_sql(
        f"ALTER TABLE {name} ADD CONSTRAINT {UPGRADE_CHECK} CHECK (bucket_start < {bound}) NOT VALID"
    )


def _drop_check(connection: Connection, table: Table) -> None:
    """Drop that constraint."""
    connection.exec_driver_sql(f"ALTER TABLE {_quoted(connection, table)} DROP CONSTRAINT IF EXISTS {UPGRADE_CHECK}")


def _validate_check(connection: Connection, table: Table) -> None:
    """Compare all rows with the constraint, while others write."""
    name = _quoted(connection, table)
    connection.exec_driver_sql(f"ALTER TABLE {name} VALIDATE CONSTRAINT {UPGRADE_CHECK}")


def _make_like(connection: Connection, table: Table, source: str, storage: str) -> None:
    """Make a table with the columns, comments, privileges and owner of another one, and its numbers of ids."""
    name, has_identity = _quoted(connection, table), _has_identity(connection, source)
    like = f"LIKE {source} INCLUDING DEFAULTS INCLUDING COMMENTS{' INCLUDING IDENTITY' * has_identity}"
    connection.exec_driver_sql(f"CREATE TABLE {name} ({like}) {storage}")
    if has_identity:
        last = connection.exec_driver_sql(f"SELECT coalesce(max(id), 0) + 1 FROM {source}").scalar()  # noqa: S608
        connection.exec_driver_sql(f"ALTER TABLE {name} ALTER COLUMN id RESTART WITH {int(last or 1)}")
        connection.exec_driver_sql(f"ALTER TABLE {source} ALTER COLUMN id DROP IDENTITY")
    give(connection, source, name)
    if not has_identity:
        query = text("SELECT pg_get_serial_sequence(:table, 'id')")
        sequence = connection.scalar(query, {"table": source})
        if sequence is not None:
            connection.exec_driver_sql(f"ALTER SEQUENCE {sequence} OWNED BY {name}.id")
    grant_alike(connection, source, name)
    comment = connection.scalar(
        text("SELECT obj_description(CAST(:source AS regclass), 'pg_class')"), {"source": source}
    )
    if comment is not None:
        connection.exec_driver_sql(f"COMMENT ON TABLE {name} IS {_literal(comment)}")


def _has_identity(connection: Connection, name: str) -> bool:
    query = text(
        "SELECT attidentity <> '' FROM pg_attribute WHERE attrelid = CAST(:name AS regclass) AND attname = 'id'"
    )
    return bool(connection.scalar(query, {"name": name}))


def _index(connection: Connection, table: Table) -> None:
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        connection.execute(CreateIndex(index))


def _refer(connection: Connection, table: Table, users: UsersColumn) -> None:
    reference = users.sql_reference(connection.dialect)
    connection.exec_driver_sql(f"ALTER TABLE {_quoted(connection, table)} ADD {reference}")


def _is_alone(connection: Connection, name: str) -> bool:
    """Whether no other process changes the partitions, until the transaction ends."""
    query = text(
        "SELECT pg_try_advisory_xact_lock(CAST(CAST('pg_inherits' AS regclass) AS int), "
        "CAST(CAST(to_regclass(:table) AS bigint) - 2147483648 AS int))"
    )
    return bool(connection.scalar(query, {"table": name}))


def _lock_briefly(connection: Connection) -> None:
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")


def _columns(connection: Connection, table: Table) -> str:
    quote = connection.dialect.identifier_preparer.quote
    columns = inspect(connection).get_columns(table.name, schema=table.schema)
    return ", ".join(quote(column["name"]) for column in columns if not column.get("computed"))


def _index_name(connection: Connection, table: Table) -> str:
    schema = connection.dialect.identifier_preparer.quote_schema(table.schema) + "." if table.schema else ""
    return f"{schema}{_UPGRADE_KEY}"


def _quoted(connection: Connection, table: Table) -> str:
    return str(connection.dialect.identifier_preparer.format_table(table))


def _named(connection: Connection, table: Table, ending: str) -> str:
    return _quoted(connection, Table(f"{table.name}{ending}", MetaData(), schema=table.schema))


def _moment(moment: dt.datetime) -> str:
    return f"TIMESTAMP '{moment:%Y-%m-%d %H:%M:%S}'"


def _literal(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"
