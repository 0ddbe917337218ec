"""`usage-instrument db dbt`: the tables as a source of dbt."""

from __future__ import annotations

import json
from collections.abc import Iterator

import typer
from sqlalchemy import Column, Table

from usage_instrument.database.schema import default_tables

from .options import Schema

_VALUES = {
    ("feature_usage_access", "outcome"): ("attempted", "success", "denied", "failed"),
    ("feature_usage_suppressions", "state"): ("forgotten", "opted_out", "opted_in"),
}
"""The values of columns that have a few."""


def dbt(schema: Schema = None) -> None:
    """Print a source for dbt (YAML), with descriptions and tests of the tables.

    It needs no database. Without --schema, the source is in the schema of the target.
    """
    typer.echo("\n".join(_lines(schema)))


def _lines(schema: str | None) -> Iterator[str]:
    tables = [*default_tables(schema)]
    yield from (
        "version: 2",
        "",
        "sources:",
        "  - name: usage_instrument",
        f"    description: {_text('Which user used which feature how often. All times are UTC.')}",
        f"    schema: {_text(schema or '{{ target.schema }}')}",
        "    tables:",
    )
    for table in tables:
        yield f"      - name: {table.name}"
        yield f"        description: {_text(table.comment or '')}"
        yield "        columns:"
        for column in table.c:
            yield f"          - name: {column.name}"
            yield f"            description: {_text(column.comment or 'The number of the row')}"
            tests = [*_tests(table, column)]
            if tests:
                yield "            data_tests:"
                yield from (f"              - {test}" for test in tests)


def _tests(table: Table, column: Column[object]) -> Iterator[str]:
    """What the table enforces. Keys of several columns need a package of dbt, and so have no test here."""
    if not column.nullable:
        yield "not_null"
    if column.primary_key and len(table.primary_key.columns) == 1:
        yield "unique"
    values = _VALUES.get((table.name, column.name))
    if values:
        yield f"accepted_values: {{values: [{', '.join(map(_text, values))}]}}"


def _text(text: str) -> str:
    """A text in YAML, which takes a JSON string as one."""
    return json.dumps(text, ensure_ascii=False)
