"""The type of string user ids on MariaDB and MySQL. The collation is chosen when the server is known."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Dialect
from sqlalchemy.dialects.mysql import VARCHAR
from sqlalchemy.ext.compiler import compiles


class UserText(VARCHAR):
    """A text of which every difference counts, also that of trailing spaces."""

    __visit_name__ = "VARCHAR"

    def __init__(self, length: int) -> None:
        super().__init__(length, charset="utf8mb4", collation="utf8mb4_bin")


def on_server(type_: Any, dialect: Dialect) -> Any:
    """The type with the collation of this server."""
    return VARCHAR(type_.length, charset=type_.charset, collation=bytewise_collation(dialect))


@compiles(UserText)
def _compile(type_: UserText, compiler: Any, **options: Any) -> str:
    return str(compiler.process(on_server(type_, compiler.dialect), **options))


def bytewise_collation(dialect: Dialect) -> str:
    """The collation of utf8mb4 for which every difference counts: `utf8mb4_bin` ignores trailing spaces."""
    if getattr(dialect, "is_mariadb", False):
        return "utf8mb4_nopad_bin"
    version = getattr(dialect, "server_version_info", None) or (8, 0, 17)
    return "utf8mb4_0900_bin" if version >= (8, 0, 17) else "utf8mb4_bin"
