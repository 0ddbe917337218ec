"""Text that is compared byte by byte on every database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import String
from sqlalchemy.types import TypeEngine

BINARY: dict[str, Any] = {"charset": "utf8mb4", "collation": "utf8mb4_bin"}
"""Stated for each column of MariaDB: the default of the database may lack characters, and ignores case. This one
ignores trailing spaces."""


def text_type(length: int) -> TypeEngine[Any]:
    """A text of at most `length` characters."""
    from sqlalchemy.dialects.mysql import VARCHAR

    return String(length).with_variant(VARCHAR(length, **BINARY), "mysql", "mariadb")


def user_text_type(length: int) -> TypeEngine[Any]:
    """A string user id of at most `length` characters, of which every difference counts."""
    from .user_text import UserText

    return String(length).with_variant(UserText(length), "mysql", "mariadb")
