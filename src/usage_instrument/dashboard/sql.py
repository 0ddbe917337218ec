"""A question as the text that a person can run elsewhere."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa


def as_text(statement: sa.Select[*tuple[Any, ...]], connection: sa.Connection) -> str:
    """The statement in the SQL of this database, its values in place."""
    return str(statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))
