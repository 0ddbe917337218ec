"""A query as SQL text without parameters, laid out for people."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Dialect, Select

_WORDS = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|[(),]|\s+|[^\s'"`(),]+""")
_CLAUSES = frozenset({"SELECT", "FROM", "LEFT", "JOIN", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "UNION"})
"""The words that begin a line, within a query."""
_BREAKS = frozenset({"AND", "OR", "WHEN", "ELSE"})
"""The words before which a long line is broken."""
_BEFORE = frozenset(
    {"SELECT", "", "(", ",", "WHEN", "THEN", "ELSE", "=", "!=", "<", "<=", ">", ">=", "BY", "ON", "WHERE"}
)
_AFTER = (
    frozenset({"", ")", ",", "THEN", "ELSE", "END", "AND", "OR", "DESC", "AS", "=", "!=", "<", "<=", ">", ">="})
    | _CLAUSES
)
"""Between these words, brackets around an expression are superfluous."""
_BINDING = frozenset(
    {",", "SELECT", "WITH", "AND", "OR", "NOT", "IS", "IN", "BETWEEN", "=", "!=", "<", "<=", ">", ">="}
)
"""Words in brackets that may need them."""
_OPERATORS = frozenset({"+", "-", "*", "/", "||", "INTERVAL"})
_WIDTH = 88
_SHORT = 72
"""A query of fewer characters within another one stays on its line."""
_INDENT = "  "
_Word: TypeAlias = tuple[str, str]
"""The space before a word or bracket, and the word."""


def printed(question: Select[*tuple[Any, ...]], dialect: Dialect) -> str:
    """The statement for this database as a person would write it, without a semicolon.

    The same rows in the same order; a sum has the database's own type, and is NULL where all summands are.
    """
    return _text(_readable(dialect)(dialect, question, compile_kwargs={"literal_binds": True}), dialect)


def defined(question: Select[*tuple[Any, ...]], dialect: Dialect) -> str:
    """The statement exactly as the queries execute it, with the types of their columns: for a view."""
    return _text(question.compile(dialect=dialect, compile_kwargs={"literal_binds": True}), dialect)


def _text(compiled: Any, dialect: Dialect) -> str:
    text = str(compiled)
    # Dialects with %s parameters double every percent sign for the driver.
    return laid_out(text % () if dialect.paramstyle in {"format", "pyformat"} else text)


def _readable(dialect: Dialect) -> Any:
    """The dialect's compiler, without what only a program needs."""
    compiler: Any = dialect.statement_compiler

    class Readable(compiler):  # type: ignore[misc]
        is_readable = True

        def visit_column(self, column: Any, *arguments: Any, include_table: bool = True, **options: Any) -> Any:
            tables = self.stack[-1].get("asfrom_froms", ()) if self.stack else ()
            is_only = len(tables) == 1 and column.table in tables
            return super().visit_column(column, *arguments, include_table=include_table and not is_only, **options)

        def visit_label(self, label: Any, *arguments: Any, **options: Any) -> Any:
            text = super().visit_label(label, *arguments, **options)
            if str(label.name).startswith("%("):  # SQLAlchemy's own, to which nothing refers
                return text.rpartition(" AS ")[0] or text
            return re.sub(r"^((?:\S+\.)?(\S+)) AS \2$", r"\1", text)

        def visit_coalesce_func(self, function: Any, **options: Any) -> Any:
            total = function.clauses.clauses[0]
            is_sum = getattr(total, "name", "") == "sum"
            if is_sum and getattr(total.clauses.clauses[0], "name", "") == "usage_count":  # of a row that is there
                return self.process(total, **options)
            return f"coalesce{self.function_argspec(function, **options)}"

        def order_by_clause(self, select: Any, **options: Any) -> Any:
            # Names are NULL in no row of ours.
            return re.sub(r"(\S*feature_name) IS NULL, (?=\1)", "", super().order_by_clause(select, **options))

        def limit_clause(self, select: Any, **options: Any) -> Any:
            return super().limit_clause(select, **options).removesuffix(" OFFSET 0")

    return Readable


def laid_out(sql: str) -> str:
    """The same statement with a line for each clause, longer queries within it indented."""
    words: list[_Word] = []
    gap = ""
    for word in _WORDS.findall(sql):
        if word.isspace():
            gap = " "
        elif word not in ("INNER", "OUTER"):  # JOIN, LEFT JOIN
            words.append((gap, word))
            gap = ""
    words = _without_superfluous_brackets(words)
    return "\n".join(part for line in _lines(words) for part in _wrapped(line))


def _pairs(words: Sequence[_Word]) -> dict[int, int]:
    """The index of each closing bracket by that of its opening one, inner pairs first."""
    found, opened = {}, []
    for index, (_, word) in enumerate(words):
        if word == "(":
            opened.append(index)
        elif word == ")":
            found[opened.pop()] = index
    return found


def _without_superfluous_brackets(words: list[_Word]) -> list[_Word]:
    removed: set[int] = set()
    for first, last in _pairs(words).items():
        before = words[first - 1][1] if first else ""
        after = words[last + 1][1] if last + 1 < len(words) else ""
        inner, depth = [], 0
        content = [words[index][1] for index in range(first + 1, last) if index not in removed]
        for word in content:
            depth -= word == ")"
            if depth == 0 and word not in "()":
                inner.append(word)
            depth += word == "("
        is_atom = len(inner) == 1 and content[0] == inner[0] and not inner[0].startswith("-")
        is_whole = (before == "WHEN" and after == "THEN") or (before == "WHERE" and after in _CLAUSES | {"", ")"})
        if not inner or inner[0] in ("SELECT", "WITH"):
            continue
        is_free = before in _BEFORE and after in _AFTER and _BINDING.isdisjoint(inner)
        if is_whole or is_free or (is_atom and before in _BEFORE | _OPERATORS):
            removed |= {first, last}
    kept: list[_Word] = []
    space = ""
    for index, (gap, word) in enumerate(words):
        if index not in removed:
            kept.append((gap or space, word))
            space = ""
        elif word == "(":
            space = space or gap
    return kept


def _lines(words: list[_Word]) -> Iterator[str]:
    pairs = _pairs(words)
    steps: list[int | None] = [0]
    """The indentation of each open bracket, the outermost first; None for one without a query on lines of its own."""
    line, before = "", ""
    for index, (gap, word) in enumerate(words):
        ended = steps.pop() if word == ")" else None
        if ended or (steps[-1] is not None and word in _CLAUSES and before != "LEFT"):
            if line.strip():
                yield line
            line, gap = _INDENT * (sum(step or 0 for step in steps) + (ended or 1) - 1), ""
        line += gap + word
        if word == "(":
            content = words[index + 1 : pairs[index]]
            is_long = sum(len(gap) + len(word) for gap, word in content) > _SHORT
            is_query = is_long and content[0][1] in ("SELECT", "WITH")
            # Within a list of columns, a query is a part of one.
            steps.append(
                (1 if before in ("FROM", "JOIN", "LATERAL", "AS", "MATERIALIZED") else 3) if is_query else None
            )
            if is_query:
                yield line
                line = _INDENT * sum(step or 0 for step in steps)
        before = word
    yield line


def _wrapped(line: str) -> Iterator[str]:
    """The line, in parts that are short enough where commas, conditions and cases outside of brackets allow it."""
    indent = line[: len(line) - len(line.lstrip())] + _INDENT * 2
    parts, depth, is_between = [""], 0, False
    for word in _WORDS.findall(line):
        depth += (word == "(") - (word == ")")
        if depth <= 0 and word in _BREAKS and not (is_between and word == "AND"):
            parts.append("")
        is_between = word == "BETWEEN" or (is_between and word != "AND")
        parts[-1] += word
        if depth <= 0 and word == ",":
            parts.append("")
    shown = ""
    for part in parts:
        if shown.strip() and len((shown + part).rstrip()) > _WIDTH:
            yield shown.rstrip()
            shown = indent + part.lstrip()
        else:
            shown += part
    yield shown.rstrip()
