"""What could this user like that similar users use?"""

from __future__ import annotations

from uuid import uuid4

import pytest

from queries.clock import now
from queries.filled import USERS, Filled
from queries.oracle import Rows, Use
from usage_instrument.errors import ConfigurationError, UserIdError
from usage_instrument.queries import recommend


def test_the_most_similar_users_weigh_most(small: Filled) -> None:
    ann, bob, cid, dot, eve = USERS
    habits = {
        ann: ["search", "export"],
        bob: ["search", "export", "import"],  # two of three in common
        cid: ["search", "share", "print", "mail"],  # one of five
        dot: ["import", "share"],  # none
        eve: [],
    }
    usage = [Use(user, feature, 1, now()) for user, features in habits.items() for feature in features]
    small.fill(Rows(now(), [*usage, Use(None, "mail", 1, now())]))
    weight = 2 / 3 + 1 / 5
    others = [(name, pytest.approx(1 / 5 / weight), 1) for name in ("mail", "print", "share")]
    assert small.ask(recommend(ann)) == [("import", pytest.approx(2 / 3 / weight), 1), *others]
    assert small.ask(recommend(str(ann), 1)) == [("import", pytest.approx(2 / 3 / weight), 1)]
    assert small.ask(recommend(eve)) == []
    assert small.ask(recommend(uuid4())) == []


def test_refuses_the_anonymous_user() -> None:
    with pytest.raises(UserIdError, match="the anonymous user resembles nobody"):
        recommend(None)


def test_refuses_other_limits() -> None:
    with pytest.raises(ConfigurationError, match="limit is a whole number of at least 1"):
        recommend(USERS[0], 0)
