"""How often was a feature used with each value of a dimension?"""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from queries.clock import now
from queries.filled import USERS, Filled
from queries.oracle import DAY, Rows, Sliced, floor
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import dimensions

ADA, BOB, *_ = USERS


def rows(today: dt.datetime) -> list[Sliced]:
    return [
        Sliced(ADA, "export", "format", "csv", today, 3, 2, 5.0, 13.0, 2.0, 3.0),
        Sliced(ADA, "export", "format", "csv", today - 40 * DAY, 1),
        Sliced(BOB, "export", "format", "pdf", today, 1),
        Sliced(None, "export", "format", "csv", today, 2),
        Sliced(ADA, "export", "", "", today, 2, 2, 5.0, 13.0, 2.0, 3.0),
        Sliced(ADA, "search", "format", "csv", today, 9),
    ]


def test_each_use_counts_by_the_value_that_it_had(small: Filled) -> None:
    small.fill(Rows(now(), dimensions=rows(floor("day", now()))))
    nothing = (None, None, None, None)
    assert small.ask(dimensions("export", "format", since=DAY)) == [
        ("format", "csv", 1, 5, 5 / 6, 5.0, 2.5, 2.0, 3.0),
        ("format", "pdf", 1, 1, 1 / 6, *nothing),
    ]
    assert small.ask(dimensions("export"))[0] == ("", "", 1, 2, 1.0, 5.0, 2.5, 2.0, 3.0)
    by_user = small.ask(dimensions("export", "format", by="user"))
    assert [row[:5] for row in by_user] == [
        ("format", "csv", ADA, 1, 4), ("format", "csv", None, 0, 2), ("format", "pdf", BOB, 1, 1)
    ]  # fmt: skip
    assert small.ask(dimensions("unheard of")) == []


@pytest.mark.parametrize(
    "wrong",
    [{"feature": ""}, {"feature": "export", "dimension": "a\0b"}, {"feature": "export", "by": "feature"}],
    ids=repr,
)
def test_refuses_wrong_arguments(wrong: Any) -> None:
    with pytest.raises(ConfigurationError):
        dimensions(**wrong)


def test_beside_the_window_before(filled: Filled) -> None:
    filled.fill(Rows(now(), dimensions=rows(floor("day", now()))))
    asked = dimensions("export", "format", since=30 * DAY, compare="previous")
    found = {row[1]: (row[2], row[3], *row[6:9]) for row in filled.ask(asked)}
    assert found == {"csv": (1, 1, 5, 1, 4), "pdf": (1, 0, 1, 0, 1)}
    by_user = filled.ask(dimensions("export", "format", by="user", since=30 * DAY, compare="previous"))
    assert [(*row[1:3], *row[7:9]) for row in by_user] == [
        ("csv", ADA, 3, 1), ("csv", None, 2, 0), ("pdf", BOB, 1, 0)
    ]  # fmt: skip
