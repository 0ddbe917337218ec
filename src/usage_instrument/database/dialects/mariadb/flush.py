"""The flush: update the existing keys, then insert the missing ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Table, insert, select, text
from sqlalchemy import Dialect as SQLAlchemyDialect
from sqlalchemy import types as sqltypes

from usage_instrument.events import MAX_COUNT, Batch, Count
from usage_instrument.settings import Settings
from usage_instrument.typing import UserIdType

from ...dimensions import DimensionRow
from ...exposures import ExposureRow
from ...ledger import QUEUE, QUEUE_ID, Ledger, utcnow
from ...live_tables import LiveTables
from ...tables import Tables
from ...user_text import bytewise_collation
from ..base import ConcurrentInsertError, Flush, anonymous_key
from ..batch_json import dimensions_json, exposures_json, has_metadata, history_json, usage_json
from ..batch_rows import (
    DIMENSIONS,
    EXPOSURES,
    HISTORY,
    USAGE,
    Values,
    dimension_values,
    exposure_values,
    history_values,
    usage_values,
)
from .locks import UserLocks, timeouts

USER_KEY, FEATURE_KEY = "user_key", "feature_key"
"""The virtual columns that hold user and feature without NULL: MariaDB has no functional indexes."""
_ROWS_PER_INSERT = 500
BINARY_TEXT = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"

# The keys of `over` replace those of `base`. JSON_MERGE_PATCH alone would delete keys whose new value is null and merge
# nested objects. So it first removes the common keys from `base`; JSON_MERGE_PRESERVE then adds those of `over`.
_MERGE = """JSON_MERGE_PRESERVE(JSON_MERGE_PATCH({base}, (
  SELECT CONCAT('{{', GROUP_CONCAT(CONCAT(JSON_QUOTE(k.name), '\\:null')), '}}')
  FROM JSON_TABLE(JSON_KEYS({over}), '$[*]' COLUMNS (name VARCHAR(4096) PATH '$')) k)), {over})"""


class MariaDBFlush(Flush):
    """Updates the existing keys, then inserts the missing ones: an upsert would consume an id for every row.

    Writers queue for each other before they lock a row that the host may need. From then on they wait for no lock: a
    transaction that waits can be part of a deadlock, and InnoDB rolls back the one with the fewest changes, the host's.
    """

    def __init__(
        self,
        connection: Connection,
        tables: Tables,
        settings: Settings,
        users: ColumnElement[Any] | None,
        reflected: LiveTables,
    ) -> None:
        self._writers = tables.writers
        self._user_locks = UserLocks(users, settings.lock_timeout)
        is_mariadb, native = bool(getattr(connection.dialect, "is_mariadb", False)), has_uuid(connection.dialect)
        self._hex = isinstance(tables.usage.c.user_id.type, sqltypes.Uuid) and not native
        quote = connection.dialect.identifier_preparer.format_table
        waiting, prefix = (
            timeouts(settings, seconds) if is_mariadb else ""
            for seconds in (max(math.ceil(settings.lock_timeout), 1), 0)
        )
        self._queue = text(f"{waiting}{_QUEUE.format(writers=quote(tables.writers))}")
        user = "CAST(d.u AS UUID)" if tables.user_id_type == "uuid" and native else "d.u"
        exact = f"CHARACTER SET utf8mb4 COLLATE {bytewise_collation(connection.dialect)}"
        same = _SAME.format(user=user, anonymous=anonymous_literal(tables.user_id_type, native))

        def statements(
            table: Table, columns: Sequence[str], rows: str, same: str, new: Mapping[str, str]
        ) -> _Statements:
            types = _key_types(reflected, tables, tables.usage if table is tables.exposures else table)
            unpacked = f"JSON_TABLE(:rows, '$[*]' COLUMNS (i FOR ORDINALITY, {rows.format(**types, exact=exact)})) d"
            return _Statements(prefix, quote(table), columns, unpacked, same, new)

        counted = {"usage_count": "d.n", "last_used": _USED}
        merged = _MERGED.format(
            bytes=settings.metadata_max_bytes,
            newer=_MERGE.format(base="f.metadata", over="NULLIF(d.m, 'null')"),
            older=_MERGE.format(base="NULLIF(d.m, 'null')", over="f.metadata"),
        )
        usage_columns = ("metadata", *USAGE)
        self._plain_usage = statements(tables.usage, usage_columns, _COUNTS, same, counted)
        self._usage = statements(tables.usage, usage_columns, _COUNTS, same, {"metadata": merged, **counted})
        self._history = statements(
            tables.history, HISTORY, _BUCKETS, f"{same} AND {_SAME_BUCKET}", {"usage_count": "d.n"}
        )
        exposed = {"user_id": user, "first_exposed_at": "d.s", "last_exposed_at": _USED, "exposures": "d.n"}
        self._exposures = statements(tables.exposures, EXPOSURES, _EXPOSED, _SAME_EXPOSURE, exposed)
        self._dimensions = statements(tables.dimensions, DIMENSIONS, _SLICED, f"{same} AND {_SAME_SLICE}", _SUMS)

    def apply(self, connection: Connection, ledger: Ledger, batch: Batch) -> bool:
        self.queue(connection)
        if not ledger.advance(connection, batch.number):
            return False
        if batch.counts:
            self._add_usage(connection, batch)
        if batch.counts and batch.counts[0].history:
            self.add_history(connection, batch.counts)
        return True

    def queue(self, connection: Connection) -> None:
        # On Galera the row of `make_queue`; elsewhere, or if somebody deletes it, the first one of another writer.
        connection.execute(self._queue)

    def make_queue(self, connection: Connection) -> None:
        # A row that nobody updates: a commit on one node of Galera aborts the transactions of the other nodes that
        # have locked a row that it changes. One server has them wait, so that it needs no such row.
        if not is_galera(connection):
            return
        writers, now = self._writers, utcnow()
        if connection.execute(select(writers.c.service).where(writers.c.writer_id == QUEUE_ID)).first() is None:
            row = {"writer_id": QUEUE_ID, "service": QUEUE, "last_batch": 0, "started_at": now, "heartbeat_at": now}
            connection.execute(insert(writers).prefix_with("IGNORE").values(row))

    def _add_usage(self, connection: Connection, batch: Batch) -> None:
        statements = self._usage if has_metadata(batch.counts) else self._plain_usage
        missing = statements.update(connection, usage_json(batch.counts), batch.counts)
        if missing:
            now = connection.scalar(_NOW)
            self._insert(connection, statements, [(count.metadata, *usage_values(count, now)) for count in missing])

    def add_history(self, connection: Connection, counts: Sequence[Count]) -> None:
        missing = self._history.update(connection, history_json(counts), history_values(counts))
        self._insert(connection, self._history, missing)

    def add_exposures(self, connection: Connection, rows: Sequence[ExposureRow]) -> None:
        missing = self._exposures.update(connection, exposures_json(rows), rows)
        if missing:
            now = connection.scalar(_NOW)
            self._insert(connection, self._exposures, [exposure_values(row, now) for row in missing])

    def add_dimensions(self, connection: Connection, rows: Sequence[DimensionRow]) -> None:
        missing = self._dimensions.update(connection, dimensions_json(rows), rows)
        self._insert(connection, self._dimensions, [dimension_values(row) for row in missing])

    def _insert(self, connection: Connection, statements: _Statements, rows: Sequence[Values]) -> None:
        """Insert many rows per statement. Drivers do that themselves, but not behind SET STATEMENT."""
        if not rows:
            return
        width, user = len(statements.columns), statements.columns.index("user_id")
        self._user_locks.acquire(connection, {row[user] for row in rows})
        for start in range(0, len(rows), _ROWS_PER_INSERT):
            values = [self._bound(value) for row in rows[start : start + _ROWS_PER_INSERT] for value in row]
            names = [f"v{number}" for number in range(len(values))]
            places = ", ".join(f"(:{', :'.join(names[at : at + width])})" for at in range(0, len(names), width))
            insert_ = text(statements.insert.replace("{places}", places))
            connection.execute(insert_, dict(zip(names, values, strict=True)))

    def _bound(self, value: object) -> object:
        if isinstance(value, UUID):
            return value.hex if self._hex else str(value)
        return value


T = TypeVar("T")


class _Statements:
    """The statements that add rows to one table."""

    def __init__(
        self, prefix: str, table: str, columns: Sequence[str], rows: str, same: str, new: Mapping[str, str]
    ) -> None:
        self.columns = columns

        def changes(prefix: str, new: Mapping[str, str]) -> str:
            return ", ".join(
                f"{prefix}{name} = {_CHANGES[name].format(old=prefix + name, new=value)}" for name, value in new.items()
            )

        key = next((each for each in ("unit", "bucket_start") if each in columns), "id")  # which is never NULL
        names = {"prefix": prefix, "table": table, "rows": rows, "same": same, "key": key}
        self._update = text(_UPDATE.format(**names, changes=changes("f.", new)))
        self._missing = text(_MISSING.format(**names))
        # Another writer may have inserted a row since the SELECT of the missing ones.
        again = changes("", {name: f"VALUES({name})" for name in new})
        self.insert = _INSERT.format(**names, columns=", ".join(columns), places="{places}", changes=again)

    def update(self, connection: Connection, json: str, rows: Sequence[T]) -> list[T]:
        """Add the rows that are there, and return the missing ones. Raises ConcurrentInsertError if a row was neither:
        another writer has inserted it since."""
        updated = connection.execute(self._update, {"rows": json}).rowcount
        if updated == len(rows):
            return []
        missing = [rows[number - 1] for number in connection.scalars(self._missing, {"rows": json})]
        if updated + len(missing) != len(rows):
            raise ConcurrentInsertError
        return missing


_QUEUE = "SELECT writer_id FROM {writers} ORDER BY writer_id LIMIT 1 FOR UPDATE"
_NOW = text("SELECT UTC_TIMESTAMP(6)")
_UPDATE = "{prefix}UPDATE {rows} STRAIGHT_JOIN {table} f ON {same} SET {changes}"
_MISSING = "SELECT d.i FROM {rows} LEFT JOIN {table} f ON {same} WHERE f.{key} IS NULL ORDER BY d.i"
_INSERT = "{prefix}INSERT INTO {table} ({columns}) VALUES {places} ON DUPLICATE KEY UPDATE {changes}"
_SAME = f"f.{USER_KEY} = COALESCE({{user}}, {{anonymous}}) AND f.{FEATURE_KEY} = d.f"
_MERGED = (
    "CASE WHEN NULLIF(d.m, 'null') IS NULL THEN f.metadata "
    "WHEN f.metadata IS NULL OR JSON_TYPE(f.metadata) <> 'OBJECT' THEN d.m "
    "WHEN d.t >= f.last_used THEN IF(LENGTH({newer}) <= {bytes}, {newer}, d.m) "
    "ELSE IF(LENGTH({older}) <= {bytes}, {older}, f.metadata) END"
)
_PAIR = "u {user_type} PATH '$.u', f {feature_type} PATH '$.f', n BIGINT PATH '$.n', "
_COUNTS = _PAIR + "t DATETIME(6) PATH '$.t', m JSON PATH '$.m'"
_BUCKETS = _PAIR + "b DATETIME(6) PATH '$.b'"
_EXPOSED = (
    "e VARCHAR(100) {exact} PATH '$.e', x VARCHAR(255) {exact} PATH '$.x', v VARCHAR(100) {exact} PATH '$.v', "
    "u {user_type} PATH '$.u', s DATETIME(6) PATH '$.s', t DATETIME(6) PATH '$.t', n BIGINT PATH '$.n'"
)
_SLICED = _PAIR + (
    "d VARCHAR(100) {exact} PATH '$.d', v VARCHAR(100) {exact} PATH '$.v', b DATETIME(6) PATH '$.b', "
    "c BIGINT PATH '$.c', s DOUBLE PATH '$.s', q DOUBLE PATH '$.q', l DOUBLE PATH '$.l', g DOUBLE PATH '$.g'"
)
_SAME_BUCKET = "f.bucket_start = d.b"
_SAME_EXPOSURE = "f.experiment = d.e AND f.unit = d.x AND f.variant = d.v"
_SAME_SLICE = f"f.dimension = d.d AND f.dimension_value = d.v AND {_SAME_BUCKET}"
_USED = "LEAST(d.t, UTC_TIMESTAMP(6))"
_SUMS = {
    "usage_count": "d.n", "value_count": "d.c", "value_sum": "d.s", "value_squares": "d.q", "value_minimum": "d.l",
    "value_maximum": "d.g",
}  # fmt: skip
_SATURATED = f"LEAST(COALESCE({{old}}, 0) + {{new}}, {MAX_COUNT})"
_EITHER = "COALESCE({old}, {new}), COALESCE({new}, {old})"
_CHANGES = {
    "metadata": "COALESCE({new}, {old})",
    "usage_count": _SATURATED,
    "last_used": "GREATEST({old}, {new})",
    "value_count": _SATURATED,
    "value_sum": "{old} + {new}",
    "value_squares": "{old} + {new}",
    "value_minimum": f"LEAST({_EITHER})",  # whose result is NULL if one of them is
    "value_maximum": f"GREATEST({_EITHER})",
    "user_id": "COALESCE({old}, {new})",
    "first_exposed_at": "LEAST({old}, {new})",
    "last_exposed_at": "GREATEST({old}, {new})",
    "exposures": _SATURATED,
}
"""What a column of an existing row becomes, of its value and the new one."""


def has_uuid(dialect: SQLAlchemyDialect) -> bool:
    """Whether the server has the type UUID; otherwise SQLAlchemy's Uuid is CHAR(32)."""
    return bool(dialect.supports_native_uuid)


def is_galera(connection: Connection) -> bool:
    """Whether the server is a node of a Galera cluster; asks it."""
    # By SHOW, as a server without Galera may lack the variable.
    _, state = connection.exec_driver_sql("SHOW VARIABLES LIKE 'wsrep_on'").first() or ("", "")
    return bool(state == "ON")


def anonymous_literal(user_id_type: UserIdType, native: bool) -> str:
    """The value of `user_key` for NULL."""
    literal = str(anonymous_key(user_id_type))
    return literal.replace("-", "") if user_id_type == "uuid" and not native else literal


def _key_types(reflected: LiveTables, tables: Tables, table: Table) -> dict[str, str]:
    """The types of user and feature in JSON_TABLE: their collations are those of the live keys, which may be older."""
    found = reflected.get_collations(table.name, schema=table.schema)
    if not found.keys() & {USER_KEY, FEATURE_KEY}:  # a table that `db upgrade` will make is like the first one
        found = reflected.get_collations(tables.usage.name, schema=table.schema)
    collations = {name: f"CHARACTER SET utf8mb4 COLLATE {collation}" for name, (_, collation) in found.items()}
    user = {
        "uuid": f"VARCHAR(36) {BINARY_TEXT}",
        "integer": "BIGINT",
        "string": f"VARCHAR(255) {collations.get(USER_KEY)}",
    }
    return {"user_type": user[tables.user_id_type], "feature_type": f"VARCHAR(100) {collations.get(FEATURE_KEY)}"}
