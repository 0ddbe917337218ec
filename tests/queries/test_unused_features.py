"""Which features does nobody use, or nobody any more?"""

from __future__ import annotations

import pytest

from queries.clock import now
from queries.filled import Filled
from queries.oracle import DAY, Declaration, Rows, Use
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import unused_features


def declared(feature: str, days_ago: int = 0, service: str = "web") -> Declaration:
    return Declaration(service, feature, now() - 200 * DAY, now() - days_ago * DAY, "What it is")


@pytest.fixture
def years(small: Filled) -> Filled:
    usage = [Use(None, name, 3, now() - ago * DAY) for name, ago in [("search", 1), ("fax", 120), ("old name", 50)]]
    catalog = [
        declared("search"),
        declared("fax"),
        declared("idle"),
        declared("moved", 90),
        declared("moved", 0, "worker"),
        declared("gone", 31),
        declared("missing today", 29),
        # Nobody runs this service any more, so it has retired nothing.
        declared("asleep", 150, "reports"),
    ]
    small.fill(Rows(now(), usage, catalog=catalog))
    return small


def test_never_used(years: Filled) -> None:
    assert [row[:2] for row in years.ask(unused_features())] == [
        ("asleep", "never"),
        ("gone", "retired"),
        ("idle", "never"),
        ("missing today", "never"),
        ("moved", "never"),
    ]


def test_not_used_since(years: Filled) -> None:
    answer = years.ask(unused_features(30 * DAY))
    assert [row[:2] for row in answer[-2:]] == [("fax", "dormant"), ("old name", "undeclared")]
    assert answer[-2:] == [
        ("fax", "dormant", 3, now() - 120 * DAY, now() - 200 * DAY, "What it is"),
        ("old name", "undeclared", 3, now() - 50 * DAY, None, None),
    ]
    assert len(answer) == 7
    assert len(years.ask(unused_features(now() - 60 * DAY))) == 6


def test_refuses_another_since() -> None:
    with pytest.raises(ConfigurationError, match="since goes back from 0 to 36500 days, not -1d"):
        unused_features(-1 * DAY)
