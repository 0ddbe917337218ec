"""The users whose rows were committed, as far as this process knows: one of them without a row was deleted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable
from itertools import islice

from usage_instrument.errors import UserIdError
from usage_instrument.typing import UserId

MOST = 10_000
"""Users who are remembered: the latest."""


class KnownUsers:
    """Remembers users for whom something was written, and the users of requests that have ended.

    Any thread adds, without a lock.
    """

    def __init__(self, canonical: Callable[[UserId], UserId]) -> None:
        self._canonical = canonical
        self._users: dict[UserId, None] = {}

    def add(self, users: Iterable[UserId]) -> None:
        """Remember users; the latest stand last."""
        known = self._users
        for user in users:
            known.pop(user, None)
            known[user] = None
        excess = len(known) - MOST
        if excess > 0:
            with contextlib.suppress(RuntimeError):  # another thread adds some, and removes what is too much
                for user in [*islice(known, excess)]:
                    known.pop(user, None)

    def among(self, users: Collection[UserId]) -> set[UserId]:
        """Those of the users, who have canonical ids, who are known."""
        return set(users) & set(self._canonical_ids()) if users else set()

    def _canonical_ids(self) -> Iterable[UserId]:
        # Not when they are added, which each request does.
        for user in [*self._users]:
            with contextlib.suppress(UserIdError):
                yield self._canonical(user)
