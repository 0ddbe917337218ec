"""A question as SQL text, with nothing left to bind."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Dialect, Select


def printed(question: Select[*tuple[Any, ...]], dialect: Dialect) -> str:
    """The statement as this database takes it, for whoever only takes a text. It has no semicolon."""
    # With named parameters, of which none is left, no percent sign is doubled.
    plain: Any = type(dialect)
    form = plain(paramstyle="named")
    form.identifier_preparer = dialect.identifier_preparer
    return str(question.compile(dialect=form, compile_kwargs={"literal_binds": True}))
