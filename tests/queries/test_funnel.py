"""How many users take one step after the other?"""

from __future__ import annotations

from queries.clock import now, today
from queries.filled import USERS, Filled
from queries.oracle import DAY, Bucket, Rows
from usage_instrument.queries import funnel


def test_beside_the_window_before(small: Filled) -> None:
    """Of three users who began in the 7 days before the last 7, one takes the second step in the last 7."""
    begun = {USERS[0]: 2, USERS[1]: 8, USERS[2]: 9, USERS[3]: 13, USERS[4]: 14}
    history = [Bucket(user, "search", 1, today() - ago * DAY) for user, ago in begun.items()]
    history += [Bucket(USERS[1], "open", 1, today() - 6 * DAY), Bucket(USERS[2], "open", 1, today() - 5 * DAY)]
    small.fill(Rows(now(), history=[*history, Bucket(USERS[0], "open", 1, today() - 2 * DAY)]))
    assert small.ask(funnel(["search", "open"], 4 * DAY, since=7 * DAY, compare="previous")) == [
        (1, "search", 1, 3, -2, -2 / 3, 1.0, None, 0),
        (2, "open", 1, 1, 0, 0.0, 1.0, 1.0, 1),
    ]
