"""A query as SQL text without parameters, laid out for people."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Dialect, Select

_WORDS = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|[(),]|\s+|[^\s'"`(),]+""")
_CLAUSES = frozenset({"SELECT", "FROM", "LEFT", "JOIN", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "UNION"})
"""The words that begin a line, within a query."""
_WIDTH = 100
_INDENT = "  "


def printed(question: Select[*tuple[Any, ...]], dialect: Dialect) -> str:
    """The statement for this database, without a semicolon."""
    text = str(question.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    # Dialects with %s parameters double every percent sign for the driver.
    return laid_out(text % () if dialect.paramstyle in {"format", "pyformat"} else text)


def laid_out(sql: str) -> str:
    """The same statement with a line for each clause, queries within it indented."""
    return "\n".join(part for line in _lines(_WORDS.findall(sql)) for part in _wrapped(line))


def _lines(words: list[str]) -> Iterator[str]:
    steps: list[int | None] = [0]
    """The indentation of each open bracket, the outermost first; None for one without a query."""
    line, gap, before = "", "", ""
    following = iter([*(word for word in words if not word.isspace()), ""])
    next(following, "")
    for word in words:
        if word.isspace():
            gap = " "
            continue
        after = next(following)
        ended = steps.pop() if word == ")" else None
        if ended or (steps[-1] is not None and word in _CLAUSES and before != "OUTER"):
            if line.strip():
                yield line
            line, gap = _INDENT * (sum(step or 0 for step in steps) + (ended or 1) - 1), ""
        line += gap + word
        if word == "(":
            is_query = after in ("SELECT", "WITH")
            # Within a list of columns, a query is a part of one.
            steps.append((1 if before in ("FROM", "JOIN", "AS") else 3) if is_query else None)
            if is_query:
                yield line
                line = _INDENT * sum(step or 0 for step in steps)
        gap, before = "", word
    yield line


def _wrapped(line: str) -> Iterator[str]:
    """The line, after commas outside of brackets where it is too long."""
    indent = line[: len(line) - len(line.lstrip())] + _INDENT * 2
    depth, shown, part = 0, "", ""
    for word in _WORDS.findall(line):
        depth += (word == "(") - (word == ")")
        part += word
        if word == "," and depth <= 0:
            if shown.strip() and len(shown + part) > _WIDTH:
                yield shown.rstrip()
                shown = indent + part.lstrip()
            else:
                shown += part
            part = ""
    if shown.strip() and len(shown + part) > _WIDTH:
        yield shown.rstrip()
        shown, part = indent, part.lstrip()
    yield (shown + part).rstrip()
