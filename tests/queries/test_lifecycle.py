"""How many users are new, come back, or stay away?"""

from __future__ import annotations

from queries.clock import now, today
from queries.filled import USERS, Filled
from queries.oracle import DAY, Bucket, Rows
from usage_instrument.queries import lifecycle


def test_beside_the_window_before(small: Filled) -> None:
    """Yesterday and today beside the two days before. A user who began then is not new now."""
    days = {USERS[0]: (9, 3, 2, 1), USERS[1]: (2, 0), USERS[2]: (1, 0)}
    history = [Bucket(user, "search", 1, today() - ago * DAY) for user, all_ in days.items() for ago in all_]
    small.fill(Rows(now(), history=history))
    found = small.connection.execute(lifecycle(by="day", since=2 * DAY, compare="previous")).mappings().all()
    kinds = ("new_users", "returning_users", "resurrected_users", "dormant_users")
    assert [[(row[kind], row[f"{kind}_before"]) for kind in kinds] for row in found] == [
        [(1, 0), (1, 0), (0, 1), (1, 0)],
        [(0, 1), (1, 1), (1, 0), (1, 0)],
    ]
    assert [(row["bucket_start"], row["new_users_change"], row["is_running"]) for row in found] == [
        (today() - DAY, 1, False),
        (today(), -1, True),
    ]
