"""A question as SQL text, with nothing left to bind."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Dialect, Select


def printed(question: Select[*tuple[Any, ...]], dialect: Dialect) -> str:
    """The statement as this database takes it, for whoever only takes a text. It has no semicolon."""
    text = str(question.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    # Where parameters are %s, every percent sign is doubled for the driver to halve.
    return text % () if dialect.paramstyle in {"format", "pyformat"} else text
