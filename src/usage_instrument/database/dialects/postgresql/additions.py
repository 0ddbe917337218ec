"""How the rows of a batch, which arrive as one JSON parameter, are added to the rows of each table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnClause,
    ColumnElement,
    DateTime,
    Double,
    FromClause,
    Select,
    String,
    Table,
    TableValuedAlias,
    Text,
    bindparam,
    case,
    cast,
    collate,
    column,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB, Insert, insert

from ...tables import Tables
from ..base import MAX_COUNT_SQL, anonymous_key

UTC_NOW: ColumnElement[Any] = literal_column("timezone('utc', statement_timestamp())", DateTime())
_ZERO: ColumnElement[Any] = literal_column("0")
FEATURE = column("f", Text)
_NUMBER, _TIME = column("n", BigInteger), column("t", DateTime)
_BUCKET, _METADATA = column("b", DateTime), column("m", JSONB)
_FIRST = column("s", DateTime)


@dataclass(frozen=True)
class Addition:
    """What happens to a table for each row of the parameter."""

    table: Table
    rows: FromClause
    row_key: Sequence[ColumnElement[Any]]
    """What identifies a row of the parameter: user and feature, and what follows them."""
    values: Mapping[str, ColumnElement[Any]]
    """A new row, by column."""
    order: Sequence[ColumnElement[Any]]
    """The order in which all writers lock the rows."""
    existing: Mapping[str, ColumnElement[Any]]
    """What an existing row becomes, by column."""
    conflicting: Callable[[Any], Mapping[str, ColumnElement[Any]]]
    """As `existing`, from the columns of the row that meets it."""

    @property
    def source(self) -> Select[Any]:
        """The new rows, sorted."""
        return select(*self.values.values()).order_by(*self.order)

    def upsert(self, key: Sequence[ColumnElement[Any]], source: Select[Any] | None = None) -> Insert:
        """Adds the rows; `key` are the expressions of the unique index."""
        given = self.source if source is None else source
        statement = insert(self.table).from_select(list(self.values), given)
        return statement.on_conflict_do_update(index_elements=key, set_=dict(self.conflicting(statement.excluded)))


def usage_columns(*, with_metadata: bool, with_history: bool = False) -> list[ColumnClause[Any]]:
    """The columns of the counts, beside user and feature."""
    return [_NUMBER, _TIME, *([_METADATA] * with_metadata), *([_BUCKET] * with_history)]


def usage_addition(tables: Tables, rows: FromClause, max_bytes: int, *, with_metadata: bool) -> Addition:
    """The counts of users and features."""
    old = tables.usage.c
    values: dict[str, ColumnElement[Any]] = {
        "user_id": rows.c.u,
        "feature_name": rows.c.f,
        "usage_count": _limited(rows.c.n),
        "last_used": func.least(rows.c.t, UTC_NOW),
        **({"metadata": rows.c.m} if with_metadata else {}),
    }

    def changes(new: Any, used: ColumnElement[Any]) -> dict[str, ColumnElement[Any]]:
        is_newer = used >= old.last_used  # which is not ahead: a time that is may be compared as it is
        return {
            "usage_count": _saturated(old.usage_count, new["usage_count"]),
            "last_used": func.greatest(old.last_used, new["last_used"]),
            **({"metadata": _merged(old.metadata, new["metadata"], is_newer, max_bytes)} if with_metadata else {}),
        }

    return Addition(
        tables.usage,
        rows,
        (rows.c.u, rows.c.f),
        values,
        _order(rows),
        changes(values, rows.c.t),  # Citus takes no clock within CASE
        lambda new: changes(new, new["last_used"]),
    )


def history_columns() -> list[ColumnClause[Any]]:
    """The columns of the buckets, beside user and feature."""
    return [_NUMBER, _BUCKET]


def history_addition(tables: Tables, rows: FromClause) -> Addition:
    """The counts of users, features and buckets."""
    old = tables.history.c
    values = {
        "user_id": rows.c.u,
        "feature_name": rows.c.f,
        "bucket_start": rows.c.b,
        "usage_count": _limited(rows.c.n),
    }
    key = (rows.c.u, rows.c.f, rows.c.b)

    def changes(new: Any) -> dict[str, ColumnElement[Any]]:
        return {"usage_count": _saturated(old.usage_count, new["usage_count"])}

    return Addition(tables.history, rows, key, values, _order(rows, rows.c.b), changes(values), changes)


def exposure_addition(tables: Tables) -> Addition:
    """The exposures of units to variants."""
    names = [column(name, Text) for name in "exv"]
    rows = unpacked(column("u", tables.usage.c.user_id.type), *names, _FIRST, _TIME, _NUMBER)
    old, key = tables.exposures.c, (rows.c.e, rows.c.x, rows.c.v)
    values: dict[str, ColumnElement[Any]] = {
        "experiment": rows.c.e,
        "unit": rows.c.x,
        "variant": rows.c.v,
        "user_id": rows.c.u,
        "first_exposed_at": func.least(rows.c.s, UTC_NOW),
        "last_exposed_at": func.least(rows.c.t, UTC_NOW),
        "exposures": _limited(rows.c.n),
    }

    def changes(new: Any) -> dict[str, ColumnElement[Any]]:
        return {
            "user_id": func.coalesce(old.user_id, new["user_id"]),
            "first_exposed_at": func.least(old.first_exposed_at, new["first_exposed_at"]),
            "last_exposed_at": func.greatest(old.last_exposed_at, new["last_exposed_at"]),
            "exposures": _saturated(old.exposures, new["exposures"]),
        }

    return Addition(tables.exposures, rows, key, values, by_bytes(*key), changes(values), changes)


def dimension_addition(tables: Tables) -> Addition:
    """The counts of users, features, days and values of dimensions."""
    reals, counts = [column(name, Double) for name in "sqlg"], [column(name, BigInteger) for name in "nc"]
    rows = user_rows(tables, column("d", Text), column("v", Text), _BUCKET, *counts, *reals)
    old, key = tables.dimensions.c, (rows.c.u, rows.c.f, rows.c.d, rows.c.v, rows.c.b)
    numbers = (*(_limited(rows.c[name]) for name in "nc"), *(rows.c[name] for name in "sqlg"))
    columns = [each.name for each in tables.dimensions.c if not each.primary_key]
    values = dict(zip(columns, (*key, *numbers), strict=True))

    def changes(new: Any) -> dict[str, ColumnElement[Any]]:
        return {
            "usage_count": _saturated(old.usage_count, new["usage_count"]),
            "value_count": _saturated(old.value_count, new["value_count"]),
            "value_sum": old.value_sum + new["value_sum"],
            "value_squares": old.value_squares + new["value_squares"],
            "value_minimum": func.least(old.value_minimum, new["value_minimum"]),  # which ignores NULL
            "value_maximum": func.greatest(old.value_maximum, new["value_maximum"]),
        }

    order = _order(rows, *by_bytes(rows.c.d, rows.c.v), rows.c.b)
    return Addition(tables.dimensions, rows, key, values, order, changes(values), changes)


def user_rows(tables: Tables, *columns: ColumnClause[Any]) -> TableValuedAlias:
    """The rows of the parameter `rows`, with user and feature."""
    return unpacked(column("u", tables.usage.c.user_id.type), FEATURE, *columns)


def unpacked(*columns: ColumnClause[Any]) -> TableValuedAlias:
    """The rows of the parameter `rows`."""
    rows = func.json_to_recordset(cast(bindparam("rows", type_=Text()), JSON))
    return rows.table_valued(*columns).render_derived("d", with_types=True)


def key_of_rows(addition: Addition, tables: Tables) -> list[ColumnElement[Any]]:
    """The values of the unique index for the rows of the parameter, as `unique_key` has them of a table."""
    if addition.table is tables.exposures:
        return [*addition.row_key]
    user, *rest = addition.row_key
    return [func.coalesce(user, anonymous_key(tables.user_id_type)), *rest]


def by_bytes(*columns: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    """An ORDER BY of user ids and texts by their bytes."""
    return [collate(each, "C") if isinstance(each.type, String) else each for each in columns]


def _order(rows: FromClause, *more: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    """By the bytes of user and feature, the anonymous user last, as the batcher sorts."""
    return [rows.c.u.is_(None), *by_bytes(rows.c.u, rows.c.f), *more]


def _limited(number: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.least(number, MAX_COUNT_SQL)


def _saturated(old: ColumnElement[Any], new: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.least(cast(func.coalesce(old, _ZERO), BigInteger) + new, MAX_COUNT_SQL)


def _merged(
    old: ColumnElement[Any], fresh: ColumnElement[Any], is_newer: ColumnElement[bool], max_bytes: int
) -> ColumnElement[Any]:
    """Newer keys win. The newer metadata replaces a value that is no object, and one that would become too large."""
    both = case((is_newer, old.op("||")(fresh)), else_=fresh.op("||")(old))
    limit: ColumnElement[Any] = literal_column(str(max_bytes))
    both = case((func.octet_length(cast(both, Text)) <= limit, both), (is_newer, fresh), else_=old)
    is_object = func.jsonb_typeof(old) == literal_column("'object'")
    return case((fresh.is_(None), old), (is_object, both), else_=fresh)
