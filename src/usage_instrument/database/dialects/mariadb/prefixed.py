"""A statement behind `SET STATEMENT … FOR`: settings of its own, of which nothing stays in the session."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ClauseElement, Executable
from sqlalchemy.ext.compiler import compiles


class Prefixed(Executable, ClauseElement):
    """What SQLAlchemy has no place for: a text before the verb."""

    inherit_cache = False

    def __init__(self, prefix: str, statement: Executable) -> None:
        self.prefix = prefix
        self.statement = statement


@compiles(Prefixed)
def _prefixed(element: Prefixed, compiler: Any, **options: Any) -> str:
    return f"{element.prefix}{compiler.process(element.statement, **options)}"
