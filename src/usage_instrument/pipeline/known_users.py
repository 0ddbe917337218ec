"""The users whose rows were committed, as far as this process knows: one of them without a row was deleted."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable
from itertools import islice

from usage_instrument.errors import UserIdError
from usage_instrument.typing import UserId

MOST = 10_000
"""Users who are remembered: the latest."""
_GRACE = 0.5
"""Seconds after the end of a request in which a middleware further out may still commit."""


class KnownUsers:
    """Remembers users with written uses, and the users of requests that have ended.

    Any thread adds, without a lock.
    """

    def __init__(self, canonical: Callable[[UserId], UserId]) -> None:
        self._canonical = canonical
        self._users: dict[UserId, float] = {}
        """Since when each is known, by the monotonic clock."""

    def add(self, users: Iterable[UserId], since: float = 0.0) -> None:
        """Remember users; the latest stand last."""
        known = self._users
        for user in users:
            known[user] = min(known.pop(user, since), since)
        excess = len(known) - MOST
        if excess > 0:
            with contextlib.suppress(RuntimeError):  # another thread adds some, and removes what is too much
                for user in [*islice(known, excess)]:
                    known.pop(user, None)

    def confirm(self, users: Iterable[UserId]) -> None:
        """Remember the users of a request that has ended."""
        self.add(users, time.monotonic())

    def among(self, users: Collection[UserId]) -> set[UserId]:
        """Those of the users, who have canonical ids, who are known."""
        return set(users) & self._canonical_users().keys() if users else set()

    def wait_for(self, users: Collection[UserId]) -> bool:
        """Wait until those of the users who are known are so for long enough; False if they are already."""
        known = self._canonical_users() if users else {}
        pause = max((known[user] for user in users if user in known), default=0.0) + _GRACE - time.monotonic()
        if pause <= 0:
            return False
        time.sleep(pause)
        return True

    def _canonical_users(self) -> dict[UserId, float]:
        # Not when they are added, which each request does.
        found: dict[UserId, float] = {}
        for user, since in self._users.copy().items():  # in one step, as other threads add
            with contextlib.suppress(UserIdError):
                key = self._canonical(user)
                found[key] = min(found.get(key, since), since)
        return found
