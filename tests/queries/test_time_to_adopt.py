"""How long does it take users to begin with a feature?"""

from __future__ import annotations

import datetime as dt
from uuid import UUID

import pytest
import sqlalchemy as sa

from queries.clock import now, today
from queries.filled import USERS, Filled
from queries.oracle import DAY, HOUR, Bucket, Rows
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import time_to_adopt


def test_the_curve_ends_with_the_share_and_has_the_quantiles(small: Filled) -> None:
    """Of five users four adopt: on the same day, twice after three days, and after ten."""
    users = [*USERS, UUID(int=9)]
    begun = today() - 20 * DAY
    history = [Bucket(user, "sign_in", 1, begun) for user in users[:5]]
    history += [Bucket(user, "export", 1, begun + days * DAY) for user, days in zip(users, (0, 3, 3, 10), strict=False)]
    history += [Bucket(users[0], "export", 9, begun + 5 * DAY), Bucket(users[5], "export", 1, today() - 200 * DAY)]
    small.fill(Rows(now(), history=history))
    assert small.ask(time_to_adopt("export", since=28 * DAY)) == [
        (0, 1, 1, 0.2, 5, 0, 3, 3, 10),
        (3, 2, 3, 0.6, 5, 0, 3, 3, 10),
        (10, 1, 4, 0.8, 5, 0, 3, 3, 10),
    ]
    assert small.ask(time_to_adopt("share", since=28 * DAY)) == []


def test_beside_the_window_before(small: Filled) -> None:
    """Of two users of the last 14 days one adopts after 4 days, of three before them one after 2, and one after 6."""
    begun = {USERS[0]: 5, USERS[1]: 13, USERS[2]: 14, USERS[3]: 20, USERS[4]: 27}
    adopted = {USERS[1]: 9, USERS[3]: 18, USERS[4]: 21}
    history = [Bucket(user, "sign_in", 1, today() - ago * DAY) for user, ago in begun.items()]
    history += [Bucket(user, "export", 1, today() - ago * DAY) for user, ago in adopted.items()]
    small.fill(Rows(now(), history=history))
    asked = time_to_adopt("export", since=14 * DAY, compare="previous")
    found = small.connection.execute(asked).mappings().all()
    names = ("days", "unique_users", "adopted", "adopted_before", "share", "started", "started_before")
    assert [tuple(row[name] for name in names) for row in found] == [
        (2, 0, 0, 1, 0.0, 2, 3),
        (4, 1, 1, 1, 0.5, 2, 3),
        (6, 0, 1, 2, 0.5, 2, 3),
    ]
    assert {(row["median"], row["median_before"], row["median_relative_change"]) for row in found} == {(4, 2, 1.0)}
    (nobody, *_) = small.connection.execute(time_to_adopt("export", since=10 * DAY, compare="previous")).mappings()
    assert [nobody[name] for name in ("started", "median", "upper_quartile", "median_change")] == [1, None, None, None]


def test_a_column_of_the_host_is_the_start(filled: Filled) -> None:
    created: dict[UUID, dt.datetime | None] = {
        USERS[0]: today() - 9 * DAY + 23 * HOUR,
        USERS[1]: today() - 8 * DAY,
        USERS[2]: None,
        USERS[3]: today() - 2 * DAY + HOUR,
    }
    history = [Bucket(user, "export", 1, today() - 3 * DAY) for user in USERS]
    filled.fill(Rows(now(), history=history, plans=dict.fromkeys(USERS, "pro"), created=created))
    expected = [(0, 1, 1, 1 / 3, 3, 0, 5, 6, 6), (5, 1, 2, 2 / 3, 3, 0, 5, 6, 6), (6, 1, 3, 1.0, 3, 0, 5, 6, 6)]
    for start in ("users.created_at", "created_at", filled.people.c.created_at):
        assert filled.ask(time_to_adopt("export", start, tables=filled.tables)) == [
            pytest.approx(row) for row in expected
        ]
    asked = time_to_adopt("export", "created_at", since=8 * DAY, compare="previous", tables=filled.tables)
    names = ("days", "adopted", "adopted_before", "started", "started_before")
    assert [tuple(row[name] for name in names) for row in filled.connection.execute(asked).mappings()] == [
        (0, 1, 0, 1, 2),
        (5, 1, 1, 1, 2),
        (6, 1, 2, 1, 2),
    ]


def test_another_start_is_refused(small: Filled) -> None:
    for start, why in (
        ("people.created_at", "start is a column of users, such as 'users.created_at', not 'people.created_at'"),
        (7, "start is a column of the users table"),
        (sa.table("people", sa.column("id")).c.id, "no primary key"),
    ):
        with pytest.raises(ConfigurationError, match=why):
            time_to_adopt("export", start, tables=small.tables)
    with pytest.raises(ConfigurationError, match="refer to none: pass a column such as User"):
        time_to_adopt("export", "users.created_at")
