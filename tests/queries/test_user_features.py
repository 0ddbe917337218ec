"""Which features did this user use lately?"""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import uuid4

import pytest

from conftest import Database
from queries.clock import now, today
from queries.conftest import Past
from queries.filled import USERS, Filled
from queries.oracle import DAY, Bucket, Rows, Use
from reading import made
from usage_instrument.errors import ConfigurationError, UserIdError
from usage_instrument.queries import user_features


def features(past: Past, *arguments: Any) -> list[str]:
    return [row[0] for row in past.ask(user_features(*arguments))]


def test_tells_a_users_last_seven_days(past: Past) -> None:
    assert past.ask(user_features(past.user_ids[0])) == [
        ("search", 3, now() - dt.timedelta(days=1), {"page": 1}),
        ("export", 2**31 - 1, now() - dt.timedelta(days=6), {"format": "csv", "nested": [1, None]}),
    ]
    assert features(past, past.user_ids[1]) == ["search"]
    assert features(past, past.user_ids[4]) == []
    assert features(past, uuid4()) == []


def test_goes_back_as_far_as_it_is_told(past: Past) -> None:
    ann = past.user_ids[0]
    assert features(past, ann, dt.timedelta(days=2)) == ["search"]
    assert features(past, ann, dt.timedelta(days=31)) == ["search", "export", "share"]
    assert features(past, ann, None) == ["search", "export", "share"]
    assert features(past, ann, now() - dt.timedelta(days=2)) == ["search"]
    there = dt.timezone(dt.timedelta(hours=14))
    assert features(past, ann, (now() - dt.timedelta(days=1)).replace(tzinfo=dt.UTC).astimezone(there)) == ["search"]


def test_beside_the_window_before(filled: Filled) -> None:
    history = [Bucket(USERS[0], "search", 1 + ago, today() - ago * DAY) for ago in (0, 2, 9)]
    history += [Bucket(USERS[0], "export", 4, today() - 8 * DAY), Bucket(USERS[1], "export", 9, today())]
    history += [Bucket(USERS[0], "share", 7, today() - 5 * DAY), Bucket(USERS[0], "old", 7, today() - 14 * DAY)]
    usage = [Use(USERS[0], name, 99, now(), {"page": name}) for name in ("search", "export", "share")]
    filled.fill(Rows(now(), usage, history))
    assert filled.ask(user_features(USERS[0], compare="previous")) == [
        ("search", 4, 10, -6, -0.6, today(), {"page": "search"}),
        ("share", 7, 0, 7, None, today() - 5 * DAY, {"page": "share"}),
        ("export", 0, 4, -4, -1.0, None, None),
    ]
    with pytest.raises(ConfigurationError, match="pass since"):
        user_features(USERS[0], None, compare="previous")


def test_takes_the_anonymous_user_and_the_text_of_a_uuid(past: Past) -> None:
    assert features(past, None) == ["search"]
    assert features(past, str(past.user_ids[2])) == ["search"]


@pytest.mark.parametrize(("kind", "user"), [("integer", 7), ("string", "seven")])
def test_takes_ids_of_other_types(database: Database, kind: Any, user: Any) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type=kind)
    with engine.begin() as connection:
        connection.execute(tables.usage.insert().values(user_id=user, feature_name="search", last_used=now()))
        for asked in (user_features(user), user_features(user, tables=tables)):
            assert [row.usage_count for row in connection.execute(asked)] == [1]


@pytest.mark.parametrize("user", [7, "no uuid", True, 1.5])
def test_refuses_ids_that_the_tables_cannot_hold(past: Past, user: Any) -> None:
    with pytest.raises(UserIdError):
        user_features(user, tables=past.tables)


def test_refuses_another_since() -> None:
    with pytest.raises(ConfigurationError, match="since is a timedelta"):
        user_features(uuid4(), 7)  # type: ignore[call-overload]
