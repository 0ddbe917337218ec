"""What a question's page draws is what it answers."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from usage_instrument.dashboard.drawings import DRAWN, DrawnBars, DrawnGrid, DrawnSteps, drawn
from usage_instrument.queries.funnel import FUNNEL
from usage_instrument.queries.lifecycle import LIFECYCLE
from usage_instrument.queries.questions import QUESTIONS
from usage_instrument.queries.retention import RETENTION
from usage_instrument.queries.rhythm import RHYTHM
from usage_instrument.queries.top_features import TOP

MONDAY = dt.datetime(2026, 11, 2)
WEEK = dt.timedelta(days=7)


def cohort(week: int, users: int, *returned: int) -> list[dict[str, Any]]:
    return [
        {
            "cohort": MONDAY + week * WEEK,
            "period": period,
            "unique_users": users,
            "returned": number,
            "share": number / users,
            "is_running": week + period == 2,
        }
        for period, number in enumerate(returned)
    ]


def test_cohorts_are_a_triangle_with_the_share_of_all() -> None:
    found = drawn(RETENTION, [*cohort(0, 10, 10, 4, 1), *cohort(1, 30, 30, 6), *cohort(2, 5, 5)], "week")
    assert isinstance(found, DrawnGrid)
    assert (found.head, found.size, found.across, found.columns) == (
        "First use", "Users", "Steps later, by week", ("0", "1", "2"),
    )  # fmt: skip
    shown = [[row.head, row.size, *(cell and cell.text for cell in row.cells)] for row in found.rows]
    assert shown == [
        ["2 Nov 2026", "10", "100%", "40%", "10%"],
        ["9 Nov 2026", "30", "100%", "20%", None],
        ["16 Nov 2026", "5", "100%", None, None],
        ["All", "45", "100%", "40%", None],  # without the week that is not over
    ]
    first, later, last = found.rows[0].cells
    assert first is not None
    assert later is not None
    assert last is not None
    assert later.title == "2 Nov 2026, 1: 4 of 10"
    assert last.title == "2 Nov 2026, 2: 1 of 10, so far"
    assert [cell.is_running for cell in (first, later, last)] == [False, False, True]
    assert first.level == later.level > last.level > 0, "shaded beside the largest of the later weeks"


def test_a_lifecycle_has_those_who_left_below_the_ground() -> None:
    kinds = ("new_users", "returning_users", "resurrected_users", "dormant_users")
    numbers = [(4, 0, 0, 0), (1, 3, 0, 1), (0, 2, 1, 2)]
    rows = [
        {"bucket_start": MONDAY + n * WEEK, **dict(zip(kinds, values, strict=True)), "is_running": n == 2}
        for n, values in enumerate(numbers)
    ]
    found = drawn(LIFECYCLE, rows, "week")
    assert isinstance(found, DrawnBars)
    assert found.chart.legend == ("new", "returning", "resurrected", "dormant")
    assert [[segment.number for segment in bar.segments] for bar in found.chart.bars] == [[1], [1, 2, 4], [2, 3, 4]]
    assert found.chart.bars[1].title == "9 Nov 2026: 4 users, 1 new, 3 returning, 1 dormant"
    assert [bar.is_running for bar in found.chart.bars] == [False, False, True]
    assert all(segment.y >= found.chart.ground for bar in found.chart.bars for segment in bar.segments[2:])


def test_steps_show_who_left_and_whose_order_is_unknown() -> None:
    counts = [("search", 40, 0), ("open", 10, 4), ("book", 10, 0), ("pay", 0, 0)]
    rows = [{"feature_name": name, "unique_users": users, "order_unknown": n} for name, users, n in counts]
    found = drawn(FUNNEL, rows, "week")
    assert isinstance(found, DrawnSteps)
    assert [(step.width, step.left, step.unknown_width) for step in found.steps] == [
        (100, None, 0), (25, 30, 10), (25, 0, 0), (0, 10, 0),
    ]  # fmt: skip
    assert found.unknown == 4
    assert not found.is_empty
    nobody = drawn(FUNNEL, [{**row, "unique_users": 0, "order_unknown": 0} for row in rows], "week")
    assert isinstance(nobody, DrawnSteps)
    assert [step.share for step in nobody.steps] == [None] * 4
    assert nobody.is_empty


def test_a_rhythm_is_a_week_of_hours() -> None:
    rows = [
        {"weekday": day, "hour": hour, "uses": day * hour, "unique_users": 1, "share": 0.0}
        for day in range(1, 8)
        for hour in range(24)
    ]
    found = drawn(RHYTHM, rows, "day")
    assert isinstance(found, DrawnGrid)
    assert (found.size, found.across, found.columns[::23]) == (None, "Hour", ("0", "23"))
    assert [row.head for row in found.rows][::6] == ["Monday", "Sunday"]
    last = found.rows[6].cells[23]
    assert last is not None
    assert (last.text, last.title, last.level) == ("161", "Sunday, 23: 161 uses", 9)
    first = found.rows[0].cells[0]
    assert first is not None
    assert (first.text, first.level) == ("0", 0)


def test_nothing_and_too_much_are_not_drawn() -> None:
    row = cohort(0, 1, 1)
    assert drawn(RETENTION, [], "day") is drawn(RETENTION, row * (DRAWN + 1), "day") is drawn(TOP, [{}], "day") is None


@pytest.mark.parametrize("question", [each for each in QUESTIONS if each.drawing], ids=lambda each: each.name)
def test_a_drawing_names_columns_of_its_answer(question: Any) -> None:
    names = {column.name for column in question.columns}
    drawing = vars(question.drawing).values()
    assert {name for each in drawing for name in (each if isinstance(each, tuple) else (each,)) if name} <= names
