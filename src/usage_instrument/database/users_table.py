"""What `user_id` refers to: the host's users table, in a MetaData or in a database, and the type that fits it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from sqlalchemy import BigInteger, Column, Connection, MetaData, String, Table, Uuid, exc, inspect
from sqlalchemy import types as sqltypes
from sqlalchemy.types import TypeEngine

from usage_instrument.errors import ConfigurationError
from usage_instrument.events import STRING_ID_LENGTH
from usage_instrument.typing import UserIdType

from . import dialects

if TYPE_CHECKING:
    from sqlalchemy.engine.reflection import Inspector

_logger = logging.getLogger("usage_instrument")


def target_of(metadata: MetaData, schema: str | None, users: object, kind: UserIdType) -> Column[Any] | str | None:
    """What the foreign key refers to: a column, or its name where the table is not here yet."""
    users = getattr(users, "__table__", users)  # a model
    if users is None:
        return None
    if isinstance(users, Table):
        keys = list(users.primary_key.columns)
        if len(keys) != 1:
            raise ConfigurationError(
                f"the users table {users.name!r} has no primary key of one column; pass the column"
            )
        return fitting(keys[0], kind)
    if isinstance(users, Column):
        return fitting(users, kind)
    if not isinstance(users, str):
        raise ConfigurationError(
            f"users is 'auto', a model, a Table, a Column, 'schema.table.column' or None, not {users!r}"
        )
    if users == "auto":
        for place in dict.fromkeys((f"{schema}.users" if schema else "users", "users")):
            table = metadata.tables.get(place)
            if table is not None and "id" in table.c and fits(table.c.id.type, kind):
                _logger.info("feature_usage.user_id refers to %s.id, which this MetaData has", place)
                return table.c.id
        _logger.info("feature_usage.user_id has no foreign key: this MetaData has no users(id) of type %s", kind)
        return None
    place, dot, name = users.rpartition(".")
    if not dot:
        raise ConfigurationError(f"users={users!r} names no column; say 'table.column' or 'schema.table.column'")
    table = metadata.tables.get(place)
    return users if table is None or name not in table.c else fitting(table.c[name], kind)


def fitting(target: Column[Any], kind: UserIdType) -> Column[Any]:
    """The column itself, if its type fits. Raises ConfigurationError."""
    if not fits(target.type, kind):
        raise ConfigurationError(
            f"{target} is of type {target.type!r}, and user_id_type is {kind!r}; {_hint(kind_of(target.type))}"
        )
    return target


def _hint(kind: UserIdType | None) -> str:
    return f"say user_id_type={kind!r}" if kind is not None else "a user's id is a UUID, an integer or a string"


def kind_of(type_: TypeEngine[Any]) -> UserIdType | None:
    """The `user_id_type` that a column of this type asks for, if it can hold a user's id."""
    return next((kind for kind in get_args(UserIdType) if fits(type_, kind)), None)


def in_sql(connection: Connection, type_: TypeEngine[Any]) -> str:
    """A reflected type as the database writes it."""
    try:
        return str(type_.compile(connection.dialect))
    except exc.CompileError:  # what SQLAlchemy could not read
        return "of an unknown type"


def fits(type_: TypeEngine[Any], kind: UserIdType) -> bool:
    """Whether a column of this type can be what a user id of that kind refers to."""
    if kind == "uuid":
        return isinstance(type_, sqltypes.Uuid)
    if kind == "integer":
        return isinstance(type_, sqltypes.Integer)
    return isinstance(type_, sqltypes.String) and not isinstance(type_, sqltypes.Enum)


def user_type_of(target: Column[Any] | str | None, kind: UserIdType) -> TypeEngine[Any]:
    """The type of `user_id`: the target's own where a foreign key must match it to the letter."""
    if isinstance(target, Column):
        if isinstance(target.type, sqltypes.Uuid):
            return Uuid(native_uuid=target.type.native_uuid)
        return target.type
    if kind == "uuid":
        return Uuid()
    return BigInteger() if kind == "integer" else String(STRING_ID_LENGTH)


def live_column(
    connection: Connection, inspector: Inspector, schema: str | None, table: str, name: str
) -> dict[str, Any] | None:
    """A column of a live table, its type as it really is; None where it is not."""
    if not table or not inspector.has_table(table, schema=schema):
        return None
    dialect = dialects.get(connection.dialect.name)
    for column in inspector.get_columns(table, schema=schema):
        if column["name"] == name:
            return {"name": name, "type": dialect.column_type(connection, table, schema, column)}
    return None


def live_target(connection: Connection, usage: Table) -> tuple[str | None, str, str] | None:
    """The schema, table and column that the `user_id` of a live table refers to; None without a foreign key."""
    for foreign in inspect(connection).get_foreign_keys(usage.name, schema=usage.schema):
        if foreign["constrained_columns"] == ["user_id"]:
            return foreign["referred_schema"], foreign["referred_table"], foreign["referred_columns"][0]
    return None


def stand_in(metadata: MetaData, schema: str | None, table: str, column: dict[str, Any]) -> Column[Any]:
    """The host's users table, as far as a foreign key needs it; never created from here."""
    column_: Column[Any] = Column(column["name"], column["type"], primary_key=True)
    Table(table, metadata, column_, schema=schema)
    return column_


class Users(NamedTuple):
    """What a database has for `user_id` to refer to."""

    target: Column[Any] | str | None
    why: str
    """One sentence on that choice."""
    misfit: UserIdType | None = None
    """What `user_id_type` would have to be for the users that were found and passed over."""


def find_users(
    connection: Connection, metadata: MetaData, schema: str | None, users: object, kind: UserIdType
) -> Users:
    """Look for the users table; a stand-in for it goes into the MetaData. Raises ConfigurationError."""
    if users == "auto":
        return _find_by_name(connection, metadata, schema, kind)
    target: Column[Any] | str | None
    if isinstance(users, str):
        place, _, name = users.rpartition(".")
        users_schema, _, table = place.rpartition(".")
        column = live_column(connection, inspect(connection), users_schema or None, table, name)
        if column is None:
            raise ConfigurationError(
                f"users={users!r}: this database has no such column; say 'table.column' or 'schema.table.column'"
            )
        target = fitting(stand_in(metadata, users_schema or None, table, column), kind)
    else:
        target = target_of(metadata, schema, users, kind)
        if isinstance(target, Column):
            its = target.table
            target = stand_in(metadata, its.schema, its.name, {"name": target.name, "type": target.type})
    if target is None:
        return Users(None, "user_id has no foreign key")
    return Users(target, f"user_id refers to {name_of(target)}")


def _find_by_name(connection: Connection, metadata: MetaData, schema: str | None, kind: UserIdType) -> Users:
    """`users(id)`, if its type fits."""
    inspector = inspect(connection)
    found = None
    for place in dialects.get(connection.dialect.name).users_schemas(schema, inspector.default_schema_name):
        column = live_column(connection, inspector, place, "users", "id")
        if column is not None and fits(column["type"], kind):
            target = stand_in(metadata, place, "users", column)
            return Users(target, f"user_id refers to {name_of(target)}, which this database has")
        found = found or column
    if found is None:
        other = live_column(connection, inspector, None, "user", "id")  # as Flask-SQLAlchemy names it
        hint = "" if other is None else "; users='user.id' makes it refer to the table user"
        return Users(None, f"user_id has no foreign key: there is no table users with a column id{hint}")
    reason = f"users.id is {in_sql(connection, found['type'])}, and user_id_type is {kind!r}"
    return Users(None, f"user_id has no foreign key: {reason}", kind_of(found["type"]))


def name_of(target: Column[Any] | str | None) -> str | None:
    """The column that the foreign key refers to, as text."""
    return f"{target.table.fullname}.{target.name}" if isinstance(target, Column) else target
