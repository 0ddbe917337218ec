"""Subqueries that only some databases can answer well, each with the one that stands for it elsewhere."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import Lateral, Select, Subquery
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.visitors import InternalTraversal

from . import dialects

_ELSEWHERE = ("elsewhere", InternalTraversal.dp_clauseelement)


class PerRow(Lateral):
    """A subquery for each of the rows before it in a FROM."""

    inherit_cache = True
    _traverse_internals: ClassVar = [*Lateral._traverse_internals, _ELSEWHERE]  # type: ignore[misc] # as SQLAlchemy's
    elsewhere: Subquery


class ByBits(Subquery):
    """A subquery that adds bits up."""

    inherit_cache = True
    _traverse_internals: ClassVar = [*Subquery._traverse_internals, _ELSEWHERE]  # type: ignore[misc] # as SQLAlchemy's
    elsewhere: Subquery


def per_row(each: Select[*tuple[Any, ...]], at_once: Select[*tuple[Any, ...]], name: str) -> PerRow:
    """The subquery `each`, correlated with the rows before it; `at_once` where there is no LATERAL. Both have the same
    columns, and the join with either has the same condition."""
    made: PerRow = PerRow._construct(each.subquery(), name=name)
    made.elsewhere = at_once.subquery(name)
    return made


def by_bits(bits: Any, elsewhere: Any) -> ByBits:
    """The statement `bits` where the database can add bits up, else the subquery `elsewhere` of the same columns."""
    made: ByBits = ByBits._construct(bits, name=elsewhere.name)
    made.elsewhere = elsewhere
    return made


@compiles(PerRow)
def _per_row(element: Any, compiler: Any, **options: Any) -> str:
    if _dialect(compiler).has_lateral:
        return str(compiler.visit_lateral(element, **options))
    return _elsewhere(element, compiler, **options)


@compiles(ByBits)
def _by_bits(element: Any, compiler: Any, **options: Any) -> str:
    if _dialect(compiler).has_bits:
        return str(compiler.visit_subquery(element, **options))
    return _elsewhere(element, compiler, **options)


def _dialect(compiler: Any) -> type[dialects.Dialect]:
    """A statement that is printed without a database has what all of them can do."""
    name = compiler.dialect.name
    return dialects.Dialect if name == "default" else type(dialects.get(name))


def _elsewhere(element: Any, compiler: Any, from_linter: Any = None, **options: Any) -> str:
    if from_linter:  # which knows this element by its join, and not the subquery that stands for it
        from_linter.froms[element._de_clone()] = element.name
    return str(compiler.visit_subquery(element.elsewhere, **options))
