"""MariaDB 10.7 and later, and MySQL 8, by PyMySQL and other drivers, sync or async."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    DDL,
    ColumnElement,
    Connection,
    FromClause,
    Table,
    TextClause,
    bindparam,
    collate,
    event,
    exc,
    func,
    literal_column,
    text,
)
from sqlalchemy import types as sqltypes
from sqlalchemy.dialects.mysql import VARCHAR, Insert, insert
from sqlalchemy.types import TypeEngine

from ..events import MAX_COUNT, Batch
from ..ledger import Ledger
from ..typing import UserIdType
from .base import Dialect, Fault, Flush, as_uuid, history_text, nil, rows_text

if TYPE_CHECKING:
    from ..schema import Tables
    from ..settings import Settings

USER_KEY, FEATURE_KEY = "user_key", "feature_key"
"""The virtual columns that stand for user and feature without NULLs: there are no functional indexes here."""
_TEXT = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"

# `over` laid over `base` key by key. JSON_MERGE_PATCH alone would delete keys whose new value is null and merge
# nested objects; with the common keys taken out of `base` first, JSON_MERGE_PRESERVE has nothing left to merge.
_MERGE = """JSON_MERGE_PRESERVE(JSON_MERGE_PATCH({base}, (
  SELECT CONCAT('{{', GROUP_CONCAT(CONCAT(JSON_QUOTE(k.name), '\\:null')), '}}')
  FROM JSON_TABLE(JSON_KEYS({over}), '$[*]' COLUMNS (name VARCHAR(4096) PATH '$')) k)), {over})"""


class MariaDBFlush(Flush):
    """Update the keys that exist, then insert the missing: an upsert would burn an id for every row.

    STRAIGHT_JOIN keeps the order of the rows, so that two writers never wait for each other in a circle.
    """

    def __init__(self, connection: Connection, tables: Tables, settings: Settings) -> None:
        self._tables = tables
        self._is_mariadb = bool(getattr(connection.dialect, "is_mariadb", False))
        self._hex = isinstance(tables.usage.c.user_id.type, sqltypes.Uuid) and not self._is_mariadb
        quote = connection.dialect.identifier_preparer.format_table
        names = {
            "usage": quote(tables.usage),
            "history": quote(tables.history),
            "user": "CAST(d.u AS UUID)" if self._native_uuid else "d.u",
            "nil": str(nil(tables.user_id_type)),
            "type": _json_type(tables.user_id_type),
            "give_way": _give_way(settings) if self._is_mariadb else "",
            "limit": MAX_COUNT,
        }
        names["rows"] = _ROWS.format(**names)
        names["buckets"] = _BUCKETS.format(**names)
        names["same"] = _SAME.format(**names)
        names["merged"] = _MERGED.format(
            newer=_MERGE.format(base="f.metadata", over="NULLIF(d.m, 'null')"),
            older=_MERGE.format(base="NULLIF(d.m, 'null')", over="f.metadata"),
        )
        self._update, self._missing = _sql(_UPDATE, names), _sql(_MISSING, names)
        self._update_history, self._missing_history = (
            _sql(_UPDATE_HISTORY, names),
            _sql(_MISSING_HISTORY, names),
        )
        self._insert = _insert_usage(tables.usage)
        self._insert_history = _insert_history(tables.history)

    @property
    def _native_uuid(self) -> bool:
        return isinstance(self._tables.usage.c.user_id.type, sqltypes.Uuid) and self._is_mariadb

    def apply(self, connection: Connection, ledger: Ledger, batch: Batch) -> bool:
        if not ledger.advance(connection, batch.number):
            return False
        if batch.counts:
            self._add_usage(connection, batch)
        if batch.counts and batch.counts[0].history:
            self._add_history(connection, batch)
        return True

    def _add_usage(self, connection: Connection, batch: Batch) -> None:
        rows = {"rows": rows_text(batch.counts, hex_users=self._hex)}
        if connection.execute(self._update, rows).rowcount == len(batch.counts):
            return
        now = connection.scalar(_NOW)
        missing = [batch.counts[number - 1] for number in connection.scalars(self._missing, rows)]
        if missing:
            connection.execute(
                self._insert,
                [
                    {
                        "user": count.user,
                        "feature": count.feature,
                        "extra": count.metadata,
                        "uses": min(count.uses, MAX_COUNT),
                        "used": min(count.last_used, now),
                    }
                    for count in missing
                ],
            )

    def _add_history(self, connection: Connection, batch: Batch) -> None:
        buckets = [(count, start, uses) for count in batch.counts for start, uses in count.history]
        rows = {"rows": history_text(batch.counts, hex_users=self._hex)}
        if connection.execute(self._update_history, rows).rowcount == len(buckets):
            return
        missing = [buckets[number - 1] for number in connection.scalars(self._missing_history, rows)]
        if missing:
            connection.execute(
                self._insert_history,
                [
                    {
                        "user": count.user,
                        "feature": count.feature,
                        "bucket": start,
                        "uses": min(uses, MAX_COUNT),
                    }
                    for count, start, uses in missing
                ],
            )


_NOW = text("SELECT UTC_TIMESTAMP(6)")
_ROWS = (
    "JSON_TABLE(:rows, '$[*]' COLUMNS (i FOR ORDINALITY, u {type} PATH '$.u', "
    f"f VARCHAR(100) {_TEXT} PATH '$.f', "
    "n BIGINT PATH '$.n', t DATETIME(6) PATH '$.t', m JSON PATH '$.m')) d"
)
_BUCKETS = (
    "JSON_TABLE(:rows, '$[*]' COLUMNS (i FOR ORDINALITY, u {type} PATH '$.u', "
    f"f VARCHAR(100) {_TEXT} PATH '$.f', "
    "n BIGINT PATH '$.n', b DATETIME(6) PATH '$.b')) d"
)
_SAME = f"f.{USER_KEY} = COALESCE({{user}}, {{nil}}) AND f.{FEATURE_KEY} = d.f"
_MERGED = (
    "CASE WHEN NULLIF(d.m, 'null') IS NULL THEN f.metadata "
    "WHEN f.metadata IS NULL OR JSON_TYPE(f.metadata) <> 'OBJECT' THEN d.m "
    "WHEN d.t >= f.last_used THEN {newer} ELSE {older} END"
)
_UPDATE = (
    "{give_way}UPDATE {rows} STRAIGHT_JOIN {usage} f ON {same} SET f.metadata = {merged}, "
    "f.usage_count = LEAST(COALESCE(f.usage_count, 0) + d.n, {limit}), "
    "f.last_used = GREATEST(f.last_used, LEAST(d.t, UTC_TIMESTAMP(6)))"
)
_MISSING = "SELECT d.i FROM {rows} LEFT JOIN {usage} f ON {same} WHERE f.id IS NULL ORDER BY d.i"
_UPDATE_HISTORY = (
    "{give_way}UPDATE {buckets} STRAIGHT_JOIN {history} f ON {same} AND f.bucket_start = d.b "
    "SET f.usage_count = LEAST(COALESCE(f.usage_count, 0) + d.n, {limit})"
)
_MISSING_HISTORY = (
    "SELECT d.i FROM {buckets} LEFT JOIN {history} f ON {same} AND f.bucket_start = d.b "
    "WHERE f.bucket_start IS NULL ORDER BY d.i"
)


def _sql(template: str, names: dict[str, Any]) -> TextClause:
    return text(template.format(**names))


def _json_type(user_id_type: UserIdType) -> str:
    return {"uuid": "VARCHAR(36)", "integer": "BIGINT", "string": f"VARCHAR(255) {_TEXT}"}[user_id_type]


def _give_way(settings: Settings) -> str:
    """The timeouts, for one statement: nothing stays in a session that a pooler may hand to somebody else."""
    lock, statement = max(math.ceil(settings.lock_timeout), 1), settings.statement_timeout
    return f"SET STATEMENT innodb_lock_wait_timeout={lock}, max_statement_time={statement:.3f} FOR "


def _insert_usage(usage: Table) -> Insert:
    # The column's own type would encode the JSON text once more.
    statement = insert(usage).values(
        user_id=bindparam("user"),
        feature_name=bindparam("feature"),
        metadata=bindparam("extra", type_=sqltypes.Text()),
        usage_count=bindparam("uses"),
        last_used=bindparam("used"),
    )
    new = statement.inserted  # another writer may have inserted the row since the look
    return statement.on_duplicate_key_update(
        metadata=func.coalesce(new.metadata, usage.c.metadata),
        usage_count=_saturated(usage, new),
        last_used=func.greatest(usage.c.last_used, new.last_used),
    )


def _insert_history(history: Table) -> Insert:
    statement = insert(history).values(
        user_id=bindparam("user"),
        feature_name=bindparam("feature"),
        bucket_start=bindparam("bucket"),
        usage_count=bindparam("uses"),
    )
    return statement.on_duplicate_key_update(usage_count=_saturated(history, statement.inserted))


def _saturated(table: Table, new: Any) -> Any:
    old = func.coalesce(table.c.usage_count, literal_column("0"))
    return func.least(old + new.usage_count, literal_column(str(MAX_COUNT)))


def _binary(value: ColumnElement[Any]) -> ColumnElement[Any]:
    return collate(func.convert(value.op("USING")(literal_column("utf8mb4"))), "utf8mb4_bin")


_COLLATION = text(
    "SELECT character_set_name, collation_name FROM information_schema.columns WHERE table_name = :table "
    "AND table_schema = COALESCE(:schema, DATABASE()) AND column_name = :column AND collation_name IS NOT NULL"
)


class MariaDB(Dialect):
    """MariaDB and MySQL."""

    def constrain(self, table: Table, name: str, user_id_type: UserIdType) -> None:
        make: Any = DDL  # SQLAlchemy leaves both of these untyped
        ddl = make(_add_unique(table, name, user_id_type, "%(fullname)s"))
        event.listen(table, "after_create", ddl.execute_if(dialect=("mysql", "mariadb")))

    def has_unique(self, connection: Connection, table: Table, name: str) -> bool:
        found = connection.execute(
            text(
                "SELECT count(*) FROM information_schema.statistics WHERE table_schema = COALESCE(:schema, DATABASE()) "
                "AND table_name = :table AND index_name = :name AND non_unique = 0"
            ),
            {"schema": table.schema, "table": table.name, "name": name},
        )
        return bool(found.scalar())

    def add_unique(self, connection: Connection, table: Table, name: str, user_id_type: UserIdType) -> None:
        fullname = connection.dialect.identifier_preparer.format_table(table)
        connection.execute(text(_add_unique(table, name, user_id_type, fullname, again=True)))

    hidden_columns = frozenset({USER_KEY, FEATURE_KEY})

    def key(self, rows: FromClause, user_id_type: UserIdType) -> list[ColumnElement[Any]]:
        # Somebody else's table may have a collation in which more names are the same.
        user, *rest = super().key(rows, user_id_type)
        rest[0] = _binary(rest[0])
        return [_binary(user) if user_id_type == "string" else user, *rest]

    def unique_statements(
        self, connection: Connection, table: Table, name: str, user_id_type: UserIdType
    ) -> tuple[str, str]:
        fullname = connection.dialect.identifier_preparer.format_table(table)
        drop = f"ALTER TABLE {fullname} DROP INDEX {name}, DROP COLUMN {USER_KEY}, DROP COLUMN {FEATURE_KEY}"
        return _add_unique(table, name, user_id_type, fullname), drop

    def users_schemas(self, schema: str | None, default: str | None) -> tuple[str | None, ...]:
        # A bare name in a foreign key is of the referring table's database, not of the connection's.
        return (None,) if schema is None else tuple(dict.fromkeys((schema, default)))

    def column_type(self, connection: Connection, table: str, schema: str | None, column: Any) -> TypeEngine[Any]:
        type_ = as_uuid(column["type"])
        if not isinstance(type_, sqltypes.String):
            return type_
        # A foreign key needs the same collation on both sides, and reflection leaves out the table's default.
        found = connection.execute(_COLLATION, {"schema": schema, "table": table, "column": column["name"]}).first()
        return VARCHAR(type_.length, charset=found[0], collation=found[1]) if found is not None else type_

    def begin(self, connection: Connection, settings: Settings) -> Connection:
        return connection.execution_options(isolation_level="READ COMMITTED")

    def flush(self, connection: Connection, tables: Tables, settings: Settings) -> Flush:
        return MariaDBFlush(connection, tables, settings)

    def classify(self, error: exc.DBAPIError) -> Fault:
        code = _code(error)
        if code in {1216, 1452}:
            return Fault.UNKNOWN_USER
        if code in {1044, 1045, 1049, 1054, 1142, 1143, 1146, 1227, 1290, 1698}:
            return Fault.CONFIGURATION
        if code in {1048, 1264, 1265, 1292, 1366, 1406, 3140, 3141, 4025, 4038, 4040}:
            return Fault.REFUSED
        return Fault.TRANSIENT

    def rolled_back(self, error: exc.DBAPIError) -> bool:
        return isinstance(error, exc.IntegrityError) or _code(error) == 1213  # Galera's answer to a lost certification


def _code(error: exc.DBAPIError) -> int:
    arguments = getattr(error.orig, "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else 0


def _add_unique(table: Table, name: str, user_id_type: UserIdType, fullname: str, *, again: bool = False) -> str:
    """Virtual columns, as stored ones forbid foreign keys that act; invisible, as nobody needs to see them."""
    kind = "UUID" if user_id_type == "uuid" else ("BIGINT" if user_id_type == "integer" else f"VARCHAR(255) {_TEXT}")
    maybe = "IF NOT EXISTS " if again else ""
    bucket = ", bucket_start" if "bucket_start" in table.c else ""
    return (
        f"ALTER TABLE {fullname} "
        f"ADD COLUMN {maybe}{USER_KEY} {kind} GENERATED ALWAYS AS (COALESCE(user_id, {nil(user_id_type)})) "
        "VIRTUAL INVISIBLE, "
        f"ADD COLUMN {maybe}{FEATURE_KEY} VARCHAR(100) {_TEXT} GENERATED ALWAYS AS (COALESCE(feature_name, '')) "
        "VIRTUAL INVISIBLE, "
        f"ADD UNIQUE INDEX {maybe}{name} ({USER_KEY}, {FEATURE_KEY}{bucket})"
    )


DIALECT = MariaDB()
