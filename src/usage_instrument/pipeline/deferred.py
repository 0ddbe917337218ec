"""Counts that wait for their user, and their way back into batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from usage_instrument.events import Count
from usage_instrument.typing import UserId


class DeferredCounts:
    """Counts whose user is not in the users table: the host's own transaction may not have committed yet."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since: dict[UserId, float] = {}
        self._counts: list[Count] = []

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def counts(self) -> Sequence[Count]:
        """All deferred counts."""
        return self._counts

    @property
    def uses(self) -> int:
        """The sum of their uses."""
        return sum(count.uses for count in self._counts)

    @property
    def users(self) -> Collection[UserId]:
        """The users of the deferred counts."""
        return self._since.keys()

    def defer(self, counts: Iterable[Count], now: float) -> None:
        """Keep counts for `patience` seconds; the time starts with a user's first count. `now` is monotonic."""
        for count in counts:
            self._since.setdefault(count.user, now)
            self._counts.append(count)

    def discard(self, is_suppressed: Callable[[UserId], bool]) -> int:
        """Remove the counts of suppressed users; return the sum of their uses."""
        before = self.uses
        self._counts = [count for count in self._counts if not is_suppressed(count.user)]
        self._since = {user: since for user, since in self._since.items() if not is_suppressed(user)}
        return before - self.uses

    def release(self, unknown: Collection[UserId], now: float) -> tuple[list[Count], list[Count]]:
        """Remove and return the counts whose user is no longer unknown, and those that waited too long."""
        known, late, kept = [], [], []
        for count in self._counts:
            if count.user not in unknown:
                known.append(count)
            elif now >= self._since[count.user] + self._patience:
                late.append(count)
            else:
                kept.append(count)
        self._counts = kept
        users = {count.user for count in kept}
        self._since = {user: since for user, since in self._since.items() if user in users}
        return known, late


def unique_parts(counts: Iterable[Count], rows: int) -> list[tuple[Count, ...]]:
    """Divide counts into parts of at most `rows`, each key at most once per part: one statement takes no key twice."""
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
