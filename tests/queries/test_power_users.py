"""Who uses the application, or one feature of it, most?"""

from __future__ import annotations

import pytest

from queries.clock import now, today
from queries.filled import USERS, Filled
from queries.oracle import DAY, Bucket, Rows, Use
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import power_users


@pytest.fixture
def shares(small: Filled) -> Filled:
    ann, bob = USERS[:2]
    usage = [
        Use(ann, "search", 30, now() - 2 * DAY),
        Use(ann, "export", 10, now() - 3 * DAY),
        Use(bob, "search", 35, now() - 9 * DAY),
        Use(None, "search", 25, now()),
    ]
    history = [Bucket(ann, "search", 5, today() - 2 * DAY), Bucket(None, "search", 15, today())]
    small.fill(Rows(now(), usage, history))
    return small


def test_overall(shares: Filled) -> None:
    ann, bob = USERS[:2]
    first, second = (ann, 40, 0.4, 2, now() - 2 * DAY), (bob, 35, 0.35, 1, now() - 9 * DAY)
    assert shares.ask(power_users()) == [first, second]
    assert shares.ask(power_users(limit=1)) == [first]


def test_of_one_feature(shares: Filled) -> None:
    ann, bob = USERS[:2]
    second = (ann, 30, pytest.approx(30 / 90), 1, now() - 2 * DAY)
    assert shares.ask(power_users("search")) == [(bob, 35, pytest.approx(35 / 90), 1, now() - 9 * DAY), second]
    assert shares.ask(power_users("unheard of")) == []


def test_of_a_period(shares: Filled) -> None:
    assert shares.ask(power_users(since=7 * DAY)) == [(USERS[0], 5, 0.25, 1, now() - 2 * DAY)]


def test_refuses_wrong_arguments() -> None:
    with pytest.raises(ConfigurationError, match="feature is the name of a feature"):
        power_users("")
    with pytest.raises(ConfigurationError, match="limit is a whole number of at least 1"):
        power_users(limit=True)
