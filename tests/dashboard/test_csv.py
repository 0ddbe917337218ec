"""The files: no cell is a formula, and every value can be read again."""

from __future__ import annotations

import csv as reader
import datetime as dt
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_instrument.dashboard.csv import written


def cells(*values: Any) -> list[str]:
    _, row = reader.reader(io.StringIO(written([f"c{n}" for n in range(len(values))], [values]).decode(), newline=""))
    return row


@pytest.mark.parametrize(
    "value",
    ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1", "=cmd|' /C calc'!A0", '=HYPERLINK("x")'],
)
def test_what_a_spreadsheet_would_compute_is_text(value: str) -> None:
    assert cells(value) == [f"'{value}"]


def test_a_semicolon_starts_no_cell() -> None:
    assert b'"a;=1+1"' in written(["name"], [["a;=1+1"]])


def test_values_are_written_plainly() -> None:
    moment = dt.datetime(2026, 3, 1, 12, 30, 5)
    assert cells(-5, 0.25, None, moment, moment.date(), {"a": "é"}, True) == [
        "-5", "0.25", "", "2026-03-01T12:30:05", "2026-03-01", '{"a": "é"}', "True",
    ]  # fmt: skip


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1, max_size=4))
def test_any_text_comes_back(values: list[str]) -> None:
    found = cells(*values)
    assert [cell.removeprefix("'") for cell in found] == [value.removeprefix("'") for value in values]
    for cell in found:
        assert not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
