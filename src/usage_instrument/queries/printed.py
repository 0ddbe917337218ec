"""A query as SQL text without parameters."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Dialect, Select


def printed(question: Select[*tuple[Any, ...]], dialect: Dialect) -> str:
    """The statement for this database, without a semicolon."""
    text = str(question.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    # Dialects with %s parameters double every percent sign for the driver.
    return text % () if dialect.paramstyle in {"format", "pyformat"} else text
