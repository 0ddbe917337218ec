"""A subquery for each row of the rows that it is joined to, on a database that has LATERAL."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import Lateral, Select, Subquery
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.visitors import InternalTraversal

from . import dialects


class PerRow(Lateral):
    """A subquery for each of the rows before it in a FROM, or for all of them at once where there is no LATERAL.

    Both have the same columns, and the join with either has the same condition.
    """

    inherit_cache = True
    _traverse_internals: ClassVar = [  # type: ignore[misc] # as SQLAlchemy's own classes have it
        *Lateral._traverse_internals,
        ("at_once", InternalTraversal.dp_clauseelement),
    ]
    at_once: Subquery


def per_row(each: Select[*tuple[Any, ...]], at_once: Select[*tuple[Any, ...]], name: str) -> PerRow:
    """The subquery `each`, correlated with the rows before it; `at_once` where there is no LATERAL."""
    made: PerRow = PerRow._construct(each.subquery(), name=name)
    made.at_once = at_once.subquery(name)
    return made


@compiles(PerRow)
def _compile(element: Any, compiler: Any, from_linter: Any = None, **options: Any) -> str:
    name = compiler.dialect.name
    if name != "default" and dialects.get(name).has_lateral:
        return str(compiler.visit_lateral(element, from_linter=from_linter, **options))
    if from_linter:  # which knows this element by its join, and not the subquery that stands for it
        from_linter.froms[element._de_clone()] = element.name
    return str(compiler.visit_subquery(element.at_once, **options))
