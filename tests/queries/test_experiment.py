"""The figures of an experiment: who is a unit, what counts after the exposure, and what cannot be known."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from queries.filled import USERS, Filled
from queries.oracle import DAY, HOUR, Bucket, Exposed, Rows, Sliced
from usage_instrument import queries as q
from usage_instrument.errors import ConfigurationError
from usage_instrument.experiments import VariantFigures, figures_of

NOON = dt.datetime(2026, 3, 10, 12)
TODAY = dt.datetime(2026, 3, 10)
ADA, BOB, CLEO, DAN, EVE = USERS


def figures(filled: Filled, exposures: list[Exposed], history: list[Bucket], **span: Any) -> dict[str, Any]:
    filled.fill(Rows(NOON, [], history, [], dict.fromkeys(USERS), exposures))
    rows = filled.connection.execute(q.experiment("page", "buy", **span)).mappings()
    return {row["variant"]: {name: row[name] for name in row if name != "variant"} for row in rows}


def seen(user: Any, variant: str, at: dt.datetime = NOON, unit: str | None = None) -> Exposed:
    return Exposed("page", unit or str(user), variant, user, at)


def test_uses_of_the_first_day_count_and_are_told_apart(filled: Filled) -> None:
    history = [
        Bucket(ADA, "buy", 2, TODAY),  # before or after noon
        Bucket(ADA, "buy", 3, TODAY + DAY),
        Bucket(BOB, "buy", 5, TODAY),
        Bucket(CLEO, "buy", 7, TODAY - DAY),
        Bucket(DAN, "search", 9, TODAY + DAY),
    ]
    found = figures(filled, [seen(user, "new") for user in (ADA, BOB, CLEO, DAN)], history)
    assert found == {
        "new": {
            "units": 4,
            "without_user": 0,
            "converted": 2,
            "order_unknown": 1,
            "excluded": 0,
            "uses": 10,
            "uses_order_unknown": 7,
            "uses_squares": 50.0,
        }
    }


def test_with_hours_the_first_hour_is_unknown_instead_of_the_first_day(filled: Filled) -> None:
    at = NOON + dt.timedelta(minutes=30)
    history = [
        Bucket(ADA, "buy", 1, NOON - HOUR),  # before
        Bucket(ADA, "buy", 2, NOON),  # the same hour
        Bucket(ADA, "buy", 4, NOON + HOUR),  # after
        Bucket(BOB, "buy", 8, NOON),
    ]
    found = figures(filled, [seen(ADA, "new", at), seen(BOB, "new", NOON)], history)["new"]
    assert (found["uses"], found["uses_order_unknown"]) == (14, 2)
    assert (found["converted"], found["order_unknown"]) == (2, 0)


def test_a_unit_that_saw_several_variants_is_in_no_figure(filled: Filled) -> None:
    exposures = [
        seen(ADA, "new"),
        seen(ADA, "old"),
        seen(BOB, "new", unit="phone"),  # two units of one user
        seen(BOB, "old", unit="laptop"),
        seen(CLEO, "new", unit="phone 2"),
        seen(CLEO, "new", unit="laptop 2"),  # one user, one unit
        seen(None, "red", unit="visitor 1"),  # the visitor has become a user, under another variant
        seen(DAN, "old", unit="visitor 1"),
        seen(None, "old", unit="visitor 2"),
        seen(None, "new", unit="visitor 3"),
        seen(None, "old", unit="visitor 3"),
    ]
    found = figures(filled, exposures, [Bucket(user, "buy", 1, TODAY + DAY) for user in USERS])
    assert {name: (row["units"], row["without_user"], row["converted"]) for name, row in found.items()} == {
        "new": (1, 0, 1),
        "old": (1, 1, 0),
        "red": (0, 0, 0),
    }
    assert {row["excluded"] for row in found.values()} == {4}


def test_a_window_is_of_first_exposures_and_ends_the_uses(filled: Filled) -> None:
    exposures = [seen(ADA, "new", NOON - 2 * DAY), seen(ADA, "old"), seen(BOB, "new"), seen(BOB, "old", NOON + DAY)]
    history = [Bucket(BOB, "buy", 1, TODAY), Bucket(BOB, "buy", 10, TODAY + DAY)]
    found = figures(filled, exposures, history, since=TODAY.date(), until=TODAY.date())
    assert {name: (row["units"], row["uses"], row["excluded"]) for name, row in found.items()} == {
        "new": (1, 1, 0),
        "old": (0, 0, 0),  # Ada came before, and saw it within
    }


def test_days_of_a_window_may_be_those_of_a_time_zone(filled: Filled) -> None:
    last, tz = dt.datetime(2026, 3, 28, 22, 30), "Europe/Berlin"  # its 29 March has 23 hours: 23:00 to 22:00 UTC
    exposures = [seen(ADA, "new", last), seen(BOB, "new", last + HOUR), seen(CLEO, "old", last + DAY)]
    history = [Bucket(BOB, "buy", n, last.replace(minute=0) + hours * HOUR) for n, hours in ((1, 2), (2, 23), (4, 24))]
    day = dt.date(2026, 3, 29)
    found = figures(filled, exposures, history, since=day, until=day, tz=tz)
    assert {name: (row["units"], row["uses"]) for name, row in found.items()} == {"new": (1, 3)}
    query = q.experiments(since=day, until=day, tz=tz)
    assert [tuple(row)[:3] for row in filled.connection.execute(query)] == [("page", "new", 1)]
    with pytest.raises(ConfigurationError, match="by day"):
        q.experiment("page", "buy", metric="value", since=day, tz=tz)


def test_sums_beyond_64_bits_are_figures(filled: Filled) -> None:
    most = 2**31 - 1
    history = [Bucket(ADA, "buy", most, TODAY + number * DAY) for number in range(400)]
    row = figures(filled, [seen(ADA, "new")], history)["new"]
    assert row["uses"] == most * 400
    assert row["uses_squares"] == pytest.approx((most * 400) ** 2)
    assert VariantFigures("new", row["units"], row["converted"], row["uses"], row["uses_squares"]).mean == most * 400


def test_numbers_count_from_the_day_of_the_first_exposure_on(filled: Filled) -> None:
    def paid(user: Any, value: float, at: dt.datetime, dimension: str = "", text: str = "") -> Sliced:
        return Sliced(user, "buy", dimension, text, at, 1, 1, value, value**2, value, value)

    numbers = [
        paid(ADA, 2.5, TODAY),  # before or after noon
        paid(ADA, 4.0, TODAY + DAY),
        paid(ADA, 4.0, TODAY + DAY, "currency", "EUR"),  # the same again, by a dimension
        paid(BOB, -1.0, TODAY),
        paid(CLEO, 99.0, TODAY - DAY),
        paid(None, 99.0, TODAY + DAY),
    ]
    exposures = [seen(user, "new") for user in (ADA, BOB, CLEO, DAN)]
    filled.fill(Rows(NOON, [], [], [], dict.fromkeys(USERS), exposures, dimensions=numbers))
    (row,) = filled.connection.execute(q.experiment("page", "buy", metric="value")).mappings()
    assert dict(row) == {
        "variant": "new",
        "units": 4,
        "without_user": 0,
        "converted": 2,
        "order_unknown": 1,
        "value": 5.5,
        "value_order_unknown": 1.5,
        "value_squares": 43.25,
        "excluded": 0,
    }
    (figures,) = figures_of([dict(row)])
    assert (figures.total, figures.total_squares, figures.mean) == (5.5, 43.25, 1.375)


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 101, None, 7])
def test_a_wrong_name_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="the name of an experiment"):
        q.experiment(name, "buy")
    with pytest.raises(ConfigurationError, match="feature"):
        q.experiment("page", name)
    with pytest.raises(ConfigurationError, match="metric is 'converted', 'uses' or 'value'"):
        q.experiment("page", "buy", metric="revenue")  # type: ignore[arg-type]
