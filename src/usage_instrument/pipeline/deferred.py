"""Aggregates that wait for their user's row to appear."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from usage_instrument.events import Count
from usage_instrument.typing import UserId


class DeferredCounts:
    """Aggregates whose user is not in the users table: the host's own transaction may not have committed yet."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since: dict[UserId, float] = {}
        self._counts: list[Count] = []

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def counts(self) -> Sequence[Count]:
        """What waits."""
        return self._counts

    @property
    def uses(self) -> int:
        """How many uses wait."""
        return sum(count.uses for count in self._counts)

    @property
    def users(self) -> Collection[UserId]:
        """The users waited for."""
        return self._since.keys()

    def defer(self, counts: Iterable[Count], now: float) -> None:
        """Keep these until their users appear or `now` (monotonic seconds) plus the patience has passed."""
        for count in counts:
            self._since.setdefault(count.user, now)
            self._counts.append(count)

    def discard(self, is_gone: Callable[[UserId], bool]) -> int:
        """Let go of what waits for these users; how many uses that was."""
        before = self.uses
        self._counts = [count for count in self._counts if not is_gone(count.user)]
        self._since = {user: since for user, since in self._since.items() if not is_gone(user)}
        return before - self.uses

    def release(self, unknown: Collection[UserId], now: float) -> tuple[list[Count], list[Count]]:
        """Remove and return the counts whose user is known by now, and those whose patience ran out."""
        known, late, still = [], [], []
        for count in self._counts:
            if count.user not in unknown:
                known.append(count)
            elif now >= self._since[count.user] + self._patience:
                late.append(count)
            else:
                still.append(count)
        self._counts = still
        waiting = {count.user for count in still}
        self._since = {user: since for user, since in self._since.items() if user in waiting}
        return known, late


def unique_parts(counts: Iterable[Count], rows: int) -> list[tuple[Count, ...]]:
    """Aggregates in parts of at most `rows`, no key twice within a part: what one statement takes."""
    parts: list[dict[tuple[str, UserId], Count]] = []
    following: dict[tuple[str, UserId], int] = {}  # the first part after the last one that holds the key
    for count in counts:
        key = (count.feature, count.user)
        index = following.get(key, 0)
        while index < len(parts) and len(parts[index]) >= rows:
            index += 1
        if index == len(parts):
            parts.append({})
        parts[index][key] = count
        following[key] = index + 1
    return [tuple(part.values()) for part in parts]
