"""The flush: update the existing keys, then insert the missing ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence, Sized
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Table, TextClause, insert, select, text
from sqlalchemy import Dialect as SQLAlchemyDialect
from sqlalchemy import types as sqltypes

from usage_instrument.events import MAX_COUNT, Batch, Count
from usage_instrument.settings import Settings
from usage_instrument.typing import UserId, UserIdType

from ...dimensions import DimensionRow
from ...exposures import ExposureRow
from ...ledger import QUEUE, QUEUE_ID, Ledger, utcnow
from ...tables import Tables
from ...user_text import bytewise_collation
from ..base import ConcurrentInsertError, Flush, anonymous_key
from ..batch_json import dimensions_json, exposures_json, has_metadata, history_json, usage_json
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
        self, connection: Connection, tables: Tables, settings: Settings, users: ColumnElement[Any] | None
    ) -> None:
        self._writers = tables.writers
        self._user_locks = UserLocks(users, settings.lock_timeout)
        is_mariadb, native = bool(getattr(connection.dialect, "is_mariadb", False)), has_uuid(connection.dialect)
        self._hex = isinstance(tables.usage.c.user_id.type, sqltypes.Uuid) and not native
        quote = connection.dialect.identifier_preparer.format_table
        names = {
            "usage": quote(tables.usage),
            "history": quote(tables.history),
            "exposures": quote(tables.exposures),
            "dimensions": quote(tables.dimensions),
            "same_exposure": _SAME_EXPOSURE,
            "user": "CAST(d.u AS UUID)" if tables.user_id_type == "uuid" and native else "d.u",
            "anonymous": anonymous_literal(tables.user_id_type, native),
            "writers": quote(tables.writers),
            "waiting": timeouts(settings, max(math.ceil(settings.lock_timeout), 1)) if is_mariadb else "",
            "not_waiting": timeouts(settings, 0) if is_mariadb else "",
            "limit": MAX_COUNT,
            "bytes": settings.metadata_max_bytes,
        }
        names["rows"] = _ROWS.format(**names, **_key_types(connection, tables, tables.usage))
        names["buckets"] = _BUCKETS.format(**names, **_key_types(connection, tables, tables.history))
        exact = f"CHARACTER SET utf8mb4 COLLATE {bytewise_collation(connection.dialect)}"
        names["exposed"] = _EXPOSED.format(**_key_types(connection, tables, tables.usage), exact=exact)
        dimension_types = _key_types(connection, tables, tables.dimensions)
        names["sliced"] = _SLICED.format(**dimension_types, exact=exact)
        names["same"] = _SAME.format(**names)
        names["same_slice"] = _SAME_SLICE.format(**names)
        names["merged"] = _MERGED.format(
            bytes=settings.metadata_max_bytes,
            newer=_MERGE.format(base="f.metadata", over="NULLIF(d.m, 'null')"),
            older=_MERGE.format(base="NULLIF(d.m, 'null')", over="f.metadata"),
        )
        self._queue = _sql(_QUEUE, names)
        self._update = _sql(_UPDATE, {**names, "metadata": f"f.metadata = {names['merged']}, "})
        self._plain_update = _sql(_UPDATE, {**names, "metadata": ""})
        self._missing = _sql(_MISSING, names)
        self._update_history, self._missing_history = (
            _sql(_UPDATE_HISTORY, names),
            _sql(_MISSING_HISTORY, names),
        )
        self._update_exposures, self._missing_exposures = (
            _sql(_UPDATE_EXPOSURES, names),
            _sql(_MISSING_EXPOSURES, names),
        )
        self._update_dimensions, self._missing_dimensions = (
            _sql(_UPDATE_DIMENSIONS, names),
            _sql(_MISSING_DIMENSIONS, names),
        )
        names["places"] = "{places}"
        self._insert_dimensions = _INSERT_DIMENSIONS.format(**names)
        self._insert_exposures = _INSERT_EXPOSURES.format(**names)
        self._insert_usage, self._insert_history = _INSERT.format(**names), _INSERT_HISTORY.format(**names)

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
        rows = {"rows": usage_json(batch.counts)}
        update = self._update if has_metadata(batch.counts) else self._plain_update
        updated = connection.execute(update, rows).rowcount
        if updated == len(batch.counts):
            return
        now = connection.scalar(_NOW)
        missing = [batch.counts[number - 1] for number in connection.scalars(self._missing, rows)]
        _check(batch.counts, updated, missing)
        values = (
            (
                self._user(count.user),
                count.feature,
                count.metadata,
                min(count.uses, MAX_COUNT),
                min(count.last_used, now),
            )
            for count in missing
        )
        self._user_locks.acquire(connection, {count.user for count in missing})
        self._insert(connection, self._insert_usage, values)

    def add_history(self, connection: Connection, counts: Sequence[Count]) -> None:
        buckets = [(count, start, uses) for count in counts for start, uses in count.history]
        rows = {"rows": history_json(counts)}
        updated = connection.execute(self._update_history, rows).rowcount
        if updated == len(buckets):
            return
        missing = [buckets[number - 1] for number in connection.scalars(self._missing_history, rows)]
        _check(buckets, updated, missing)
        values = (
            (self._user(count.user), count.feature, start, min(uses, MAX_COUNT)) for count, start, uses in missing
        )
        self._user_locks.acquire(connection, {count.user for count, _, _ in missing})
        self._insert(connection, self._insert_history, values)

    def add_exposures(self, connection: Connection, rows: Sequence[ExposureRow]) -> None:
        given = {"rows": exposures_json(rows)}
        updated = connection.execute(self._update_exposures, given).rowcount
        if updated == len(rows):
            return
        now = connection.scalar(_NOW)
        missing = [rows[number - 1] for number in connection.scalars(self._missing_exposures, given)]
        _check(rows, updated, missing)
        values = (
            (*row[:3], self._user(row.user), min(row.first, now), min(row.last, now), min(row.exposed, MAX_COUNT))
            for row in missing
        )
        self._user_locks.acquire(connection, {row.user for row in missing})
        self._insert(connection, self._insert_exposures, values)

    def add_dimensions(self, connection: Connection, rows: Sequence[DimensionRow]) -> None:
        given = {"rows": dimensions_json(rows)}
        updated = connection.execute(self._update_dimensions, given).rowcount
        if updated == len(rows):
            return
        missing = [rows[number - 1] for number in connection.scalars(self._missing_dimensions, given)]
        _check(rows, updated, missing)
        values = (
            (
                self._user(user),
                feature,
                each.dimension,
                each.value,
                each.start,
                min(each.uses, MAX_COUNT),
                min(each.numbers, MAX_COUNT),
                *each[5:],
            )
            for user, feature, each in missing
        )
        self._user_locks.acquire(connection, {row.user for row in missing})
        self._insert(connection, self._insert_dimensions, values)

    def _user(self, user: UserId) -> object:
        if isinstance(user, UUID):
            return user.hex if self._hex else str(user)
        return user

    @staticmethod
    def _insert(connection: Connection, statement: str, values: Iterable[tuple[object, ...]]) -> None:
        """Insert many rows per statement. Drivers do that themselves, but not behind SET STATEMENT."""
        rows = iter(values)
        while part := list(itertools.islice(rows, _ROWS_PER_INSERT)):
            width = len(part[0])
            names = [f"v{number}" for number in range(len(part) * width)]
            places = ", ".join(f"(:{', :'.join(names[at : at + width])})" for at in range(0, len(names), width))
            parameters = dict(zip(names, itertools.chain.from_iterable(part), strict=True))
            connection.execute(text(statement.replace("{places}", places)), parameters)


def _check(rows: Sized, updated: int, missing: Sized) -> None:
    """Raises ConcurrentInsertError if a row was neither updated nor missing: another writer has inserted it since."""
    if updated + len(missing) != len(rows):
        raise ConcurrentInsertError


_QUEUE = "{waiting}SELECT writer_id FROM {writers} ORDER BY writer_id LIMIT 1 FOR UPDATE"
_NOW = text("SELECT UTC_TIMESTAMP(6)")
_ROWS = (
    "JSON_TABLE(:rows, '$[*]' COLUMNS (i FOR ORDINALITY, u {user_type} PATH '$.u', f {feature_type} PATH '$.f', "
    "n BIGINT PATH '$.n', t DATETIME(6) PATH '$.t', m JSON PATH '$.m')) d"
)
_BUCKETS = (
    "JSON_TABLE(:rows, '$[*]' COLUMNS (i FOR ORDINALITY, u {user_type} PATH '$.u', f {feature_type} PATH '$.f', "
    "n BIGINT PATH '$.n', b DATETIME(6) PATH '$.b')) d"
)
_SAME = f"f.{USER_KEY} = COALESCE({{user}}, {{anonymous}}) AND f.{FEATURE_KEY} = d.f"
_MERGED = (
    "CASE WHEN NULLIF(d.m, 'null') IS NULL THEN f.metadata "
    "WHEN f.metadata IS NULL OR JSON_TYPE(f.metadata) <> 'OBJECT' THEN d.m "
    "WHEN d.t >= f.last_used THEN IF(LENGTH({newer}) <= {bytes}, {newer}, d.m) "
    "ELSE IF(LENGTH({older}) <= {bytes}, {older}, f.metadata) END"
)
_UPDATE = (
    "{not_waiting}UPDATE {rows} STRAIGHT_JOIN {usage} f ON {same} SET {metadata}"
    "f.usage_count = LEAST(COALESCE(f.usage_count, 0) + d.n, {limit}), "
    "f.last_used = GREATEST(f.last_used, LEAST(d.t, UTC_TIMESTAMP(6)))"
)
_MISSING = "SELECT d.i FROM {rows} LEFT JOIN {usage} f ON {same} WHERE f.id IS NULL ORDER BY d.i"
_UPDATE_HISTORY = (
    "{not_waiting}UPDATE {buckets} STRAIGHT_JOIN {history} f ON {same} AND f.bucket_start = d.b "
    "SET f.usage_count = LEAST(COALESCE(f.usage_count, 0) + d.n, {limit})"
)
# Another writer may have inserted a row since the SELECT of the missing ones.
_INSERT = (
    "{not_waiting}INSERT INTO {usage} (user_id, feature_name, metadata, usage_count, last_used) VALUES {places} "
    "ON DUPLICATE KEY UPDATE metadata = COALESCE(VALUES(metadata), metadata), "
    "usage_count = LEAST(COALESCE(usage_count, 0) + VALUES(usage_count), {limit}), "
    "last_used = GREATEST(last_used, VALUES(last_used))"
)
_INSERT_HISTORY = (
    "{not_waiting}INSERT INTO {history} (user_id, feature_name, bucket_start, usage_count) VALUES {places} "
    "ON DUPLICATE KEY UPDATE usage_count = LEAST(COALESCE(usage_count, 0) + VALUES(usage_count), {limit})"
)
_MISSING_HISTORY = (
    "SELECT d.i FROM {buckets} LEFT JOIN {history} f ON {same} AND f.bucket_start = d.b "
    "WHERE f.bucket_start IS NULL ORDER BY d.i"
)
_EXPOSED = (
    "JSON_TABLE(:rows, '$[*]' COLUMNS (i FOR ORDINALITY, e VARCHAR(100) {exact} PATH '$.e', "
    "x VARCHAR(255) {exact} PATH '$.x', v VARCHAR(100) {exact} PATH '$.v', u {user_type} PATH '$.u', "
    "s DATETIME(6) PATH '$.s', t DATETIME(6) PATH '$.t', n BIGINT PATH '$.n')) d"
)
_SAME_EXPOSURE = "f.experiment = d.e AND f.unit = d.x AND f.variant = d.v"
_UPDATE_EXPOSURES = (
    "{not_waiting}UPDATE {exposed} STRAIGHT_JOIN {exposures} f ON {same_exposure} "
    "SET f.user_id = COALESCE(f.user_id, {user}), f.first_exposed_at = LEAST(f.first_exposed_at, d.s), "
    "f.last_exposed_at = GREATEST(f.last_exposed_at, LEAST(d.t, UTC_TIMESTAMP(6))), "
    "f.exposures = LEAST(f.exposures + d.n, {limit})"
)
_MISSING_EXPOSURES = (
    "SELECT d.i FROM {exposed} LEFT JOIN {exposures} f ON {same_exposure} WHERE f.unit IS NULL ORDER BY d.i"
)
_INSERT_EXPOSURES = (
    "{not_waiting}INSERT INTO {exposures} (experiment, unit, variant, user_id, first_exposed_at, last_exposed_at, "
    "exposures) VALUES {places} ON DUPLICATE KEY UPDATE user_id = COALESCE(user_id, VALUES(user_id)), "
    "first_exposed_at = LEAST(first_exposed_at, VALUES(first_exposed_at)), "
    "last_exposed_at = GREATEST(last_exposed_at, VALUES(last_exposed_at)), "
    "exposures = LEAST(exposures + VALUES(exposures), {limit})"
)
_SLICED = (
    "JSON_TABLE(:rows, '$[*]' COLUMNS (i FOR ORDINALITY, u {user_type} PATH '$.u', f {feature_type} PATH '$.f', "
    "d VARCHAR(100) {exact} PATH '$.d', v VARCHAR(100) {exact} PATH '$.v', b DATETIME(6) PATH '$.b', "
    "n BIGINT PATH '$.n', c BIGINT PATH '$.c', s DOUBLE PATH '$.s', q DOUBLE PATH '$.q', l DOUBLE PATH '$.l', "
    "g DOUBLE PATH '$.g')) d"
)
_SAME_SLICE = "{same} AND f.dimension = d.d AND f.dimension_value = d.v AND f.bucket_start = d.b"
_UPDATE_DIMENSIONS = (
    "{not_waiting}UPDATE {sliced} STRAIGHT_JOIN {dimensions} f ON {same_slice} "
    "SET f.usage_count = LEAST(f.usage_count + d.n, {limit}), f.value_count = LEAST(f.value_count + d.c, {limit}), "
    "f.value_sum = f.value_sum + d.s, f.value_squares = f.value_squares + d.q, "
    "f.value_minimum = LEAST(COALESCE(f.value_minimum, d.l), COALESCE(d.l, f.value_minimum)), "
    "f.value_maximum = GREATEST(COALESCE(f.value_maximum, d.g), COALESCE(d.g, f.value_maximum))"
)
_MISSING_DIMENSIONS = (
    "SELECT d.i FROM {sliced} LEFT JOIN {dimensions} f ON {same_slice} WHERE f.bucket_start IS NULL ORDER BY d.i"
)
_INSERT_DIMENSIONS = (
    "{not_waiting}INSERT INTO {dimensions} (user_id, feature_name, dimension, dimension_value, bucket_start, "
    "usage_count, value_count, value_sum, value_squares, value_minimum, value_maximum) VALUES {places} "
    "ON DUPLICATE KEY UPDATE usage_count = LEAST(usage_count + VALUES(usage_count), {limit}), "
    "value_count = LEAST(value_count + VALUES(value_count), {limit}), value_sum = value_sum + VALUES(value_sum), "
    "value_squares = value_squares + VALUES(value_squares), "
    "value_minimum = LEAST(COALESCE(value_minimum, VALUES(value_minimum)), "
    "COALESCE(VALUES(value_minimum), value_minimum)), "
    "value_maximum = GREATEST(COALESCE(value_maximum, VALUES(value_maximum)), "
    "COALESCE(VALUES(value_maximum), value_maximum))"
)


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


def _sql(template: str, names: dict[str, Any]) -> TextClause:
    return text(template.format(**names))


def _key_types(connection: Connection, tables: Tables, table: Table) -> dict[str, str]:
    """The types of user and feature in JSON_TABLE: their collations are those of the live keys, which may be older."""
    found = connection.execute(_COLLATIONS, {"schema": table.schema, "table": table.name}).all()
    if not found:  # a table that `db upgrade` will make is like the first one
        found = connection.execute(_COLLATIONS, {"schema": table.schema, "table": tables.usage.name}).all()
    collations = {row[0]: f"CHARACTER SET utf8mb4 COLLATE {row[1]}" for row in found}
    user = {
        "uuid": f"VARCHAR(36) {BINARY_TEXT}",
        "integer": "BIGINT",
        "string": f"VARCHAR(255) {collations.get(USER_KEY)}",
    }
    return {"user_type": user[tables.user_id_type], "feature_type": f"VARCHAR(100) {collations.get(FEATURE_KEY)}"}


_COLLATIONS = text(
    "SELECT column_name, collation_name FROM information_schema.columns WHERE table_name = :table AND "
    "table_schema = COALESCE(:schema, DATABASE()) AND column_name IN ('user_key', 'feature_key')"
)
