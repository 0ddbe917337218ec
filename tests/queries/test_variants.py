"""Who met which variant of a feature?"""

from __future__ import annotations

from typing import Any

import pytest

from queries.clock import now
from queries.filled import USERS, Filled
from queries.oracle import DAY, Bucket, Rows, Sliced, Use
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import variants


def test_splits_users_and_uses(small: Filled) -> None:
    contexts: list[Any] = [{"color": "green"}, {"color": "green", "page": 2}, {"color": "blue"}, {"page": 1}]
    usage = [Use(user, "buy", 2, now(), extra) for user, extra in zip(USERS, contexts, strict=False)]
    usage += [Use(None, "buy", 7, now(), {"color": "blue"}), Use(USERS[4], "search", 1, now(), {"color": "green"})]
    small.fill(Rows(now(), usage))
    assert small.ask(variants("buy", "color")) == [("green", 2, 4, 0.5), ("blue", 1, 2, 0.25), (None, 1, 2, 0.25)]
    assert small.ask(variants("buy", "no such key")) == [(None, 4, 8, 1.0)]
    assert small.ask(variants("unheard of", "color")) == []


def test_counts_each_use_by_its_own_value_of_a_dimension(small: Filled) -> None:
    today = now().replace(hour=0, minute=0, second=0, microsecond=0)
    ada, bob, *_ = USERS

    def bought(user: Any, color: str, uses: int, ago: int = 0, key: str = "color") -> Sliced:
        return Sliced(user, "buy", key, color, today - ago * DAY, uses)

    values = [bought(ada, "green", 2), bought(ada, "green", 1, 9), bought(ada, "blue", 4), bought(bob, "blue", 8)]
    values += [bought(None, "blue", 99), bought(bob, "red", 5, key="size"), bought(ada, "", 7, key="")]
    usage = [Use(ada, "buy", 7, now(), {"color": "red", "": "none"}), Use(bob, "buy", 8, now(), None)]
    history = [Bucket(ada, "buy", 6, today), Bucket(ada, "buy", 1, today - 9 * DAY), Bucket(bob, "buy", 8, today)]
    small.fill(Rows(now(), usage, history, dimensions=values))
    found: list[Any] = [("blue", 2, 12, 1.0), ("green", 1, 3, 0.5)]
    for source in (None, "dimension"):
        assert small.ask(variants("buy", "color", source=source)) == found
        assert small.ask(variants("buy", "color", source=source, since=7 * DAY))[1] == ("green", 1, 2, 0.5)
        (_, green) = small.ask(variants("buy", "color", source=source, since=7 * DAY, compare="previous"))
        assert green[:5] == ("green", 1, 1, 0, 0.0)
    assert small.ask(variants("buy", "color", source="metadata")) == [(None, 1, 8, 0.5), ("red", 1, 7, 0.5)]
    assert small.ask(variants("buy", "")) == [(None, 1, 8, 0.5), ("none", 1, 7, 0.5)], "no dimension: all numbers"
    assert small.ask(variants("buy", "shape", source="dimension")) == []


@pytest.mark.parametrize(
    ("key", "wrong", "message"),
    [
        ("color", {"source": "both"}, "source is 'dimension', 'metadata' or None, not 'both'"),
        ("", {"source": "dimension"}, "the name of a dimension has 1 to 100 characters"),
        ("color", {"source": "dimension", "since": "7d", "tz": "Europe/Berlin"}, "by day \\(UTC\\).* pass no tz"),
    ],
)
def test_refuses_what_no_dimension_answers(key: str, wrong: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        variants("buy", key, **wrong)


@pytest.mark.parametrize(("feature", "key"), [("", "color"), (None, "color")])
def test_refuses_what_is_no_features_name(feature: Any, key: str) -> None:
    with pytest.raises(ConfigurationError, match="feature is the name of a feature"):
        variants(feature, key)


@pytest.mark.parametrize("key", [None, 1, "a\0b"])
def test_refuses_what_is_no_key(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="key is a key of the metadata"):
        variants("buy", key)
