"""What else do the users of a feature use?"""

from __future__ import annotations

from uuid import UUID

import pytest

from queries.clock import now
from queries.filled import Filled
from queries.oracle import Rows, Use
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import related_features

PEOPLE = [UUID(int=number + 2**64) for number in range(20)]


@pytest.fixture
def habits(small: Filled) -> Filled:
    """All sign in; who imports, exports, nearly always; one of them found a secret."""
    users = {"sign in": PEOPLE, "import": PEOPLE[:6], "export": PEOPLE[1:7], "secret": PEOPLE[:1], "other": PEOPLE[9:]}
    usage = [Use(user, feature, 1, now()) for feature, those in users.items() for user in those]
    small.fill(Rows(now(), [*usage, Use(None, "import", 1, now())]))
    return small


def test_neither_the_popular_nor_the_rare_come_first(habits: Filled) -> None:
    assert habits.ask(related_features("import")) == [
        ("export", 5, 5 / 20, 5 / 6, pytest.approx((5 / 6) / (6 / 20))),
        ("secret", 1, 1 / 20, 1 / 6, pytest.approx((1 / 6) / (1 / 20))),
        ("sign in", 6, 6 / 20, 1.0, 1.0),
    ]
    assert [row[0] for row in habits.ask(related_features("import", 1))] == ["export"]


def test_nobody_is_related_to_nothing(habits: Filled) -> None:
    assert habits.ask(related_features("unheard of")) == []


def test_refuses_wrong_arguments() -> None:
    with pytest.raises(ConfigurationError, match="feature is the name of a feature"):
        related_features("")
    with pytest.raises(ConfigurationError, match="limit is a whole number of at least 1"):
        related_features("import", 0)
