"""A question as text, for whoever has nothing but SQL."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Dialect, Select


def as_sql(question: Select[*tuple[Any, ...]], dialect: Dialect) -> str:
    """The statement with its values in it, to be pasted into a client of that database; `engine.dialect` is a dialect.

    Raises ConfigurationError for a database that is not supported.
    """
    text = str(question.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    # Where parameters are %s, SQLAlchemy has doubled every percent sign, expecting the driver to halve them.
    return text % () if dialect.paramstyle in {"format", "pyformat"} else text
