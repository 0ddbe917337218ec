"""How many users are active by day, week and month, and how often do they come back?"""

from __future__ import annotations

import datetime as dt

import pytest

from queries.filled import USERS, Filled
from queries.oracle import DAY, HOUR, Bucket, Rows, floor
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import active_users

NOW = dt.datetime.now(dt.UTC).replace(tzinfo=None)
TODAY = floor("day", NOW)


def test_counts_each_user_once_a_period(small: Filled) -> None:
    history = [Bucket(USERS[0], feature, 1, TODAY - ago * DAY) for ago in range(40) for feature in ("search", "export")]
    history += [Bucket(USERS[1], "search", 9, TODAY - 6 * DAY), Bucket(USERS[1], "search", 9, TODAY - 6 * DAY + HOUR)]
    history += [Bucket(USERS[2], "search", 1, TODAY - 27 * DAY), Bucket(USERS[3], "search", 1, TODAY - 28 * DAY)]
    small.fill(Rows(NOW, history=[*history, Bucket(None, "search", 99, TODAY)]))
    assert small.ask(active_users()) == [(TODAY.date(), 1, 2, 3, (28 + 1 + 1) / 28 / 3)]
    assert small.ask(active_users("export")) == [(TODAY.date(), 1, 1, 1, 1.0)]


def test_nobody_is_a_row_of_zeros(small: Filled) -> None:
    assert small.ask(active_users()) == [(TODAY.date(), 0, 0, 0, 0.0)]


def test_refuses_what_is_no_features_name() -> None:
    with pytest.raises(ConfigurationError, match="feature is the name of a feature"):
        active_users("")
