"""On how many days are users active?"""

from __future__ import annotations

from queries.clock import now, today
from queries.filled import USERS, Filled
from queries.oracle import DAY, Bucket, Rows
from usage_instrument.queries import stickiness


def test_beside_the_window_before(small: Filled) -> None:
    """The last 7 days have one user of two days and one of one, those before two of one and one of three."""
    days = {USERS[0]: (0, 6, 7), USERS[1]: (3, 8, 9, 13), USERS[2]: (13, 14)}
    history = [Bucket(user, "search", 1, today() - ago * DAY) for user, all_ in days.items() for ago in all_]
    small.fill(Rows(now(), history=history))
    assert small.ask(stickiness(since=7 * DAY, compare="previous")) == [
        (1, 1, 2, -1, -0.5, 0.5),
        (2, 1, 0, 1, None, 0.5),
        (3, 0, 1, -1, -1.0, None),
    ]
