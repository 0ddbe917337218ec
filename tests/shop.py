"""A table of the host's, whose rows stand beside uses."""

from __future__ import annotations

import sqlalchemy as sa

PURCHASES = sa.Table("purchases", sa.MetaData(), sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False))


def begin_by_hand(engine: sa.Engine) -> sa.Engine:
    """Have SAVEPOINT work on SQLite: its driver begins no transaction before one."""
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def connected(connection: sa.engine.interfaces.DBAPIConnection, _: object) -> None:
            connection.isolation_level = None

        @sa.event.listens_for(engine, "begin")
        def begun(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN")

    return engine
