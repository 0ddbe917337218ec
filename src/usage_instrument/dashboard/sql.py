"""A question as the text that a person can run elsewhere."""

from __future__ import annotations

import copy
from typing import Any

import sqlalchemy as sa


def as_text(statement: sa.Select[*tuple[Any, ...]], connection: sa.Connection) -> str:
    """The statement in the SQL of this database, its values in place."""
    dialect = copy.copy(connection.dialect)
    # For some drivers, which look for their parameters in it, the text would have every percent sign twice.
    dialect.paramstyle, dialect.positional = "named", False
    dialect.identifier_preparer = dialect.preparer(dialect)
    return str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
