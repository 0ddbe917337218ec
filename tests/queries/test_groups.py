"""How many users does each group have, and how many of them are active?"""

from __future__ import annotations

import datetime as dt
from collections import Counter

import pytest

from queries import clock
from queries.conftest import Past
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import groups

DAY = dt.timedelta(days=1)


@pytest.fixture(autouse=True)
def _used(past: Past) -> None:
    """Uses of three of the five users in the last days, of one of them a week ago, and an anonymous one."""
    uses = [(past.user_ids[0], 1, 3), (past.user_ids[1], 2, 2), (past.user_ids[2], 3, 1), (past.user_ids[0], 7, 4)]
    with past.engine.begin() as connection:
        for user, ago, number in [*uses, (None, 1, 10)]:
            day = clock.now().replace(hour=0, minute=0, second=0, microsecond=0) - ago * DAY
            row = {"user_id": user, "feature_name": "search", "bucket_start": day, "usage_count": number}
            connection.execute(past.tables.history.insert().values(row))


def test_users_by_a_column_of_theirs(past: Past) -> None:
    answer = past.ask(groups(past.users.c.name, since=7 * DAY, tables=past.tables))
    by_name = {name: rest for name, *rest in answer}
    assert {name: (users, active, share) for name, (users, active, share, _) in by_name.items()} == {
        f"user {number}": (1, int(number < 3), float(number < 3)) for number in range(5)
    }
    assert [name for name, *_ in answer] == sorted(by_name)
    named = past.ask(groups("users.name", since=7 * DAY, tables=past.tables))
    assert named == answer
    assert [type(value) for value in answer[0]] == [str, int, int, float, int]
    long_ago = past.ask(groups("name", since=8 * DAY, until=7 * DAY, tables=past.tables))
    assert Counter(active for _, _, active, _, _ in long_ago) == {0: 4, 1: 1}


def test_all_users_are_one_group(past: Past) -> None:
    assert past.ask(groups(since=4 * DAY, tables=past.tables)) == [(5, 3, 3 / 5, 6)]
    assert past.ask(groups(since=4 * DAY)) == [(3, 3, 1.0, 6)], "of those who ever used anything"
    assert past.ask(groups(since=1 * DAY, tables=past.tables)) == [(5, 0, 0.0, 0)]
    ((users, active, _, _),) = past.ask(groups(since=None, tables=past.tables))
    assert (users, active) == (5, 3)


def test_what_is_no_column_is_refused(past: Past) -> None:
    with pytest.raises(ConfigurationError, match=r"by is a column of .*users, such as 'users.plan', not 'other.plan'"):
        groups("other.plan", tables=past.tables)
    with pytest.raises(ConfigurationError, match="these tables refer to none"):
        groups("users.plan")


def test_beside_the_window_before(past: Past) -> None:
    compared = past.rows(groups("name", since=4 * DAY, compare="previous", tables=past.tables))
    found = {row.value: (row.users, row.unique_users, row.unique_users_before, row.uses_change) for row in compared}
    assert found == {
        "user 0": (1, 1, 1, -1), "user 1": (1, 1, 0, 2), "user 2": (1, 1, 0, 1), "user 3": (1, 0, 0, 0),
        "user 4": (1, 0, 0, 0),
    }  # fmt: skip
    ((users, active, active_before, change, relative, _, uses, uses_before, *_),) = past.ask(
        groups(since=4 * DAY, compare="previous", tables=past.tables)
    )
    assert (users, active, active_before, change, relative, uses, uses_before) == (5, 3, 1, 2, 2.0, 6, 4)
