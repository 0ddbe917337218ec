"""The column of the users table that `user_id` refers to."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Dialect, Table, inspect

from .live_tables import LiveTables


@dataclass(frozen=True)
class UsersColumn:
    """The column of a users table that `user_id` refers to."""

    schema: str | None
    table: str
    column: str

    @classmethod
    def parse(cls, name: str) -> UsersColumn:
        """From `table.column` or `schema.table.column`."""
        rest, _, column = name.rpartition(".")
        schema, _, table = rest.rpartition(".")
        return cls(schema or None, table, column)

    def sql_table(self, dialect: Dialect) -> str:
        """The quoted name of its table, with its schema."""
        preparer = dialect.identifier_preparer
        schema = f"{preparer.quote_schema(self.schema)}." if self.schema else ""
        return f"{schema}{preparer.quote(self.table)}"

    def sql_reference(self, dialect: Dialect) -> str:
        """The foreign key of a `user_id`, which a deleted user's rows follow."""
        column = dialect.identifier_preparer.quote(self.column)
        referred = f"{self.sql_table(dialect)} ({column})"
        return f"FOREIGN KEY (user_id) REFERENCES {referred} ON DELETE CASCADE ON UPDATE CASCADE"

    def __str__(self) -> str:
        return ".".join(part for part in (self.schema, self.table, self.column) if part)


def live_users_column(connection: Connection, usage: Table, live: LiveTables | None = None) -> UsersColumn | None:
    """The column that the `user_id` of a live table refers to; None without a foreign key."""
    for key in (live or inspect(connection)).get_foreign_keys(usage.name, schema=usage.schema):
        if key["constrained_columns"] == ["user_id"]:
            return UsersColumn(key["referred_schema"], key["referred_table"], key["referred_columns"][0])
    return None
