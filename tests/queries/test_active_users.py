"""How many users are active by day, week and month, and how often do they come back?"""

from __future__ import annotations

import pytest

from queries.clock import now, today
from queries.filled import USERS, Filled
from queries.oracle import DAY, HOUR, Bucket, Rows
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import active_users


def test_counts_each_user_once_a_period(small: Filled) -> None:
    history = [
        Bucket(USERS[0], feature, 1, today() - ago * DAY) for ago in range(40) for feature in ("search", "export")
    ]
    history += [
        Bucket(USERS[1], "search", 9, today() - 6 * DAY),
        Bucket(USERS[1], "search", 9, today() - 6 * DAY + HOUR),
    ]
    history += [Bucket(USERS[2], "search", 1, today() - 27 * DAY), Bucket(USERS[3], "search", 1, today() - 28 * DAY)]
    small.fill(Rows(now(), history=[*history, Bucket(None, "search", 99, today())]))
    assert small.ask(active_users()) == [(today().date(), 1, 2, 3, (28 + 1 + 1) / 28 / 3)]
    assert small.ask(active_users("export")) == [(today().date(), 1, 1, 1, 1.0)]


def test_nobody_is_a_row_of_zeros(small: Filled) -> None:
    assert small.ask(active_users()) == [(today().date(), 0, 0, 0, 0.0)]


def test_refuses_what_is_no_features_name() -> None:
    with pytest.raises(ConfigurationError, match="feature is the name of a feature"):
        active_users("")
