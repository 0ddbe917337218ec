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


def test_beside_the_days_before(small: Filled) -> None:
    """The users of yesterday, of the 7 days before the last 7, and of the 28 days before the last 28."""
    days = {USERS[0]: (0, 8, 30), USERS[1]: (1, 7, 13, 55), USERS[2]: (1, 14, 27, 28), USERS[3]: (0, 56)}
    history = [Bucket(user, "search", 1, today() - ago * DAY) for user, all_ in days.items() for ago in all_]
    small.fill(Rows(now(), history=[*history, Bucket(None, "search", 1, today() - DAY)]))
    (found,) = small.connection.execute(active_users(compare="previous")).mappings()
    assert [found[name] for name in ("dau", "dau_before", "dau_change", "dau_relative_change")] == [2, 2, 0, 0.0]
    assert [found[name] for name in ("wau", "wau_before", "wau_change", "wau_relative_change")] == [4, 2, 2, 1.0]
    assert [found[name] for name in ("mau", "mau_before", "mau_change", "mau_relative_change")] == [4, 3, 1, 1 / 3]
    assert small.ask(active_users("export", compare="previous")) == [(today().date(), *[0, 0, 0, None] * 3, 0.0)]
    with pytest.raises(ConfigurationError, match="compare is 'previous' or None, not 'last'"):
        active_users(compare="last")  # type: ignore[call-overload]


def test_nobody_is_a_row_of_zeros(small: Filled) -> None:
    assert small.ask(active_users()) == [(today().date(), 0, 0, 0, 0.0)]


def test_refuses_what_is_no_features_name() -> None:
    with pytest.raises(ConfigurationError, match="feature is the name of a feature"):
        active_users("")
