"""Who met which variant of a feature?"""

from __future__ import annotations

from typing import Any

import pytest

from queries.clock import now
from queries.filled import USERS, Filled
from queries.oracle import Rows, Use
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


@pytest.mark.parametrize(("feature", "key"), [("", "color"), (None, "color")])
def test_refuses_what_is_no_features_name(feature: Any, key: str) -> None:
    with pytest.raises(ConfigurationError, match="feature is the name of a feature"):
        variants(feature, key)


@pytest.mark.parametrize("key", [None, 1, "a\0b"])
def test_refuses_what_is_no_key(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="key is a key of the metadata"):
        variants("buy", key)
