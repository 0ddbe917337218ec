"""The host's users table: which column `user_id` refers to, and which type fits it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnClause,
    Connection,
    MetaData,
    Table,
    Uuid,
    exc,
    inspect,
    literal,
    select,
)
from sqlalchemy import column as column_clause
from sqlalchemy import table as table_clause
from sqlalchemy import types as sqltypes
from sqlalchemy.engine.reflection import Inspector
from sqlalchemy.types import TypeEngine

from usage_instrument.errors import ConfigurationError, UserIdError
from usage_instrument.events import STRING_ID_LENGTH, canonical_user
from usage_instrument.runtime import log
from usage_instrument.typing import UserId, UserIdType

from . import dialects
from .text_types import text_type, user_text_type
from .users_column import UsersColumn

# ---- in a MetaData


def defined_users_column(
    metadata: MetaData, schema: str | None, users: object, user_id_type: UserIdType
) -> Column[Any] | str | None:
    """The column that the foreign key refers to, or its name if its table is not in the MetaData yet."""
    users = getattr(users, "__table__", users)  # a model
    if users is None:
        return None
    if isinstance(users, Table):
        keys = list(users.primary_key.columns)
        if len(keys) != 1:
            raise ConfigurationError(
                f"the users table {users.name!r} has no primary key of one column; pass the column"
            )
        return _checked_type(keys[0], user_id_type)
    if isinstance(users, Column):
        return _checked_type(users, user_id_type)
    if not isinstance(users, str):
        raise ConfigurationError(
            f"users is 'auto', a model, a Table, a Column, 'schema.table.column' or None, not {users!r}"
        )
    if users == "auto":
        for name in dict.fromkeys((f"{schema}.users" if schema else "users", "users")):
            table = metadata.tables.get(name)
            if table is not None and "id" in table.c and fits(table.c.id.type, user_id_type):
                log.info("feature_usage.user_id refers to %s.id, which this MetaData has", name)
                return table.c.id
        log.info("feature_usage.user_id has no foreign key: this MetaData has no users(id) of type %s", user_id_type)
        return None
    if "." not in users:
        raise ConfigurationError(f"users={users!r} names no column; pass 'table.column' or 'schema.table.column'")
    name, _, column = users.rpartition(".")
    table = metadata.tables.get(name)
    return users if table is None or column not in table.c else _checked_type(table.c[column], user_id_type)


def _checked_type(column: Column[Any], user_id_type: UserIdType) -> Column[Any]:
    if fits(column.type, user_id_type):
        return column
    its = kind_of(column.type)
    fix = f"say user_id_type={its!r}" if its is not None else "a user's id is a UUID, an integer or a string"
    raise ConfigurationError(f"{column} is of type {column.type!r}, and user_id_type is {user_id_type!r}; {fix}")


def column_name(column: Column[Any] | str | None) -> str | None:
    """`table.column` or `schema.table.column`."""
    return f"{column.table.fullname}.{column.name}" if isinstance(column, Column) else column


# ---- types


def fits(type_: TypeEngine[Any], user_id_type: UserIdType) -> bool:
    """Whether a column of this type can hold user ids of that type."""
    if user_id_type == "uuid":
        return isinstance(type_, sqltypes.Uuid)
    if user_id_type == "integer":
        return isinstance(type_, sqltypes.Integer)
    return isinstance(type_, sqltypes.String) and not isinstance(type_, sqltypes.Enum)


def kind_of(type_: TypeEngine[Any]) -> UserIdType | None:
    """The `user_id_type` of a column of this type; None if it cannot hold user ids."""
    return next((each for each in get_args(UserIdType) if fits(type_, each)), None)


def user_id_column_type(users_column: Column[Any] | str | None, user_id_type: UserIdType) -> TypeEngine[Any]:
    """The type of `user_id`: that of the referenced column, which a foreign key must match exactly."""
    if isinstance(users_column, Column):
        if isinstance(users_column.type, sqltypes.Uuid):
            return Uuid(native_uuid=users_column.type.native_uuid)
        if isinstance(users_column.type, sqltypes.Integer):
            # PostgreSQL compares INT and BIGINT, so ids may outgrow INT. MariaDB requires the same type on both sides.
            return BigInteger().with_variant(users_column.type, "mysql", "mariadb")
        return users_column.type
    if user_id_type == "uuid":
        return Uuid()
    if user_id_type == "integer":
        return BigInteger()
    # A foreign key requires the same collation on both sides, and that of a table which is not here is unknown.
    return user_text_type(STRING_ID_LENGTH) if users_column is None else text_type(STRING_ID_LENGTH)


def in_sql(connection: Connection, type_: TypeEngine[Any]) -> str:
    """A reflected type in the database's own words."""
    try:
        return str(type_.compile(connection.dialect))
    except exc.CompileError:  # SQLAlchemy could not reflect it
        return "of an unknown type"


# ---- in a database


@dataclass(frozen=True)
class LiveColumn:
    """A column of a live table."""

    name: str
    type: TypeEngine[Any]


def live_column(
    connection: Connection, inspector: Inspector, schema: str | None, table: str, name: str
) -> LiveColumn | None:
    """A column of a live table with its exact type; None if there is no such column."""
    if not table or not inspector.has_table(table, schema=schema):
        return None
    dialect = dialects.get(connection.dialect.name)
    for column in inspector.get_columns(table, schema=schema):
        if column["name"] == name:
            return LiveColumn(name, dialect.column_type(connection, table, schema, column))
    return None


class Users(NamedTuple):
    """The users table that was found in a database."""

    column: Column[Any] | str | None
    why: str
    """What `user_id` refers to and why, in one sentence."""
    other_type: UserIdType | None = None
    """The `user_id_type` of a users table that was skipped because its ids are of another type."""


def find_users(
    connection: Connection, metadata: MetaData, schema: str | None, users: object, user_id_type: UserIdType
) -> Users:
    """Look up the users table, and define as much of it in the MetaData as a foreign key needs.

    Raises ConfigurationError.
    """
    if users == "auto":
        return _find_by_name(connection, metadata, schema, user_id_type)
    column: Column[Any] | str | None
    if isinstance(users, str):
        users_column = UsersColumn.parse(users)
        live = live_column(
            connection, inspect(connection), users_column.schema, users_column.table, users_column.column
        )
        if live is None:
            raise ConfigurationError(
                f"users={users!r}: this database has no such column; create it by the app's own migrations first, "
                "or name another as 'table.column' or 'schema.table.column'"
            )
        obstacle = dialects.get(connection.dialect.name).equality_obstacle(connection, users_column)
        if user_id_type == "string" and obstacle:
            raise ConfigurationError(f"users={users!r}: {users_column} {obstacle}; pass users=None")
        column = _checked_type(_define_users(metadata, users_column.schema, users_column.table, live), user_id_type)
    else:
        column = defined_users_column(metadata, schema, users, user_id_type)
        if isinstance(column, Column):
            its = column.table
            column = _define_users(metadata, its.schema, its.name, LiveColumn(column.name, column.type))
    if column is None:
        return Users(None, "user_id has no foreign key")
    return Users(column, f"user_id refers to {column_name(column)}")


def is_in_users_table(connection: Connection, schema: str | None, users: object, user: UserId) -> bool:
    """Whether a live users table, which `users=` names, has the user, also if no foreign key can refer to it.

    With `"auto"` and None, it is `users(id)`. False if there is no such column, or if its type holds no such id.
    """
    inspector = inspect(connection)
    for place in _named_columns(connection, inspector, schema, users):
        live = live_column(connection, inspector, place.schema, place.table, place.column)
        kind = None if live is None else kind_of(live.type)
        if live is None or kind is None:
            continue
        id_: ColumnClause[Any] = column_clause(live.name, live.type)
        try:
            canonical = canonical_user(kind)(user)
        except UserIdError:
            return False
        table = table_clause(place.table, id_, schema=place.schema)
        return connection.scalar(select(literal(1)).select_from(table).where(id_ == canonical).limit(1)) is not None
    return False


def _named_columns(
    connection: Connection, inspector: Inspector, schema: str | None, users: object
) -> Iterable[UsersColumn]:
    users = getattr(users, "__table__", users)  # a model
    if isinstance(users, Table):
        users = next(iter(users.primary_key.columns), None)
    if isinstance(users, Column):
        users = column_name(users)
    if isinstance(users, str) and "." in users:
        return [UsersColumn.parse(users)]
    schemas = dialects.get(connection.dialect.name).users_schemas(schema, inspector.default_schema_name)
    return [UsersColumn(place, "users", "id") for place in schemas]


def _find_by_name(connection: Connection, metadata: MetaData, schema: str | None, user_id_type: UserIdType) -> Users:
    inspector = inspect(connection)
    skipped = None
    dialect = dialects.get(connection.dialect.name)
    for place in dialect.users_schemas(schema, inspector.default_schema_name):
        live = live_column(connection, inspector, place, "users", "id")
        if live is not None and fits(live.type, user_id_type):
            users = UsersColumn(place, "users", "id")
            obstacle = dialect.foreign_key_obstacle(connection, users)
            if obstacle is not None:
                name = str(users).removesuffix(".id")
                return Users(
                    None,
                    f"user_id has no foreign key: {name} {obstacle}; "
                    "--users TABLE.COLUMN names another table, --users none stops the search",
                )
            column = _define_users(metadata, place, "users", live)
            return Users(column, f"user_id refers to {column_name(column)}, which this database has")
        skipped = skipped or live
    if skipped is None:
        user = live_column(connection, inspector, None, "user", "id")  # Flask-SQLAlchemy's name for the model User
        hint = "" if user is None else "; users='user.id' makes it refer to the table user"
        return Users(None, f"user_id has no foreign key: there is no table users with a column id{hint}")
    reason = f"users.id is {in_sql(connection, skipped.type)}, and user_id_type is {user_id_type!r}"
    return Users(None, f"user_id has no foreign key: {reason}", kind_of(skipped.type))


def _define_users(metadata: MetaData, schema: str | None, table: str, live: LiveColumn) -> Column[Any]:
    column: Column[Any] = Column(live.name, live.type, primary_key=True)
    Table(table, metadata, column, schema=schema)
    return column
