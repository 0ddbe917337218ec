"""Uses folded by feature and user while they wait for the writer, bounded by keys."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from usage_instrument.events import Count, Use
from usage_instrument.runtime.threads import allocate_lock
from usage_instrument.typing import UserId

# A key's value packs when it was last used (microseconds since 1970) and how often into one int: at a million
# keys, a tuple or a list of two numbers each would take half as much memory again.
_SHIFT = 60
_MASK = 2**_SHIFT - 1
_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - naive, as the columns are

Key = tuple[str, UserId]


class Aggregates:
    """Uses by bucket, feature and user. Nested, because a tuple a key would cost 60 bytes each."""

    def __init__(self) -> None:
        self._buckets: dict[dt.datetime | None, dict[str, dict[UserId, int]]] = {}
        self._metadata: dict[Key, dict[str, Any]] = {}
        self.keys = 0
        self.uses = 0

    def __bool__(self) -> bool:
        return self.keys > 0

    def add(
        self,
        bucket: dt.datetime | None,
        feature: str,
        uses: Iterable[tuple[UserId, int]],
        stamp: int,
        room: int,
    ) -> int:
        """Fold the uses of one feature, last used at `stamp`, into at most `room` new keys; return how many uses
        found no room."""
        users = self._buckets.setdefault(bucket, {}).setdefault(feature, {})
        stamped = stamp << _SHIFT
        added = dropped = 0
        before = len(users)
        for user, number in uses:
            known = users.get(user)
            if known is None:
                if room <= 0 or number > _MASK:
                    dropped += number
                    continue
                room -= 1
                users[user] = stamped | number
            else:
                total = (known & _MASK) + number
                if total > _MASK:
                    dropped += number
                    continue
                users[user] = max(known >> _SHIFT << _SHIFT, stamped) | total
            added += number
        self.keys += len(users) - before
        self.uses += added
        return dropped

    def lacks(self, bucket: dt.datetime | None, feature: str, user: UserId) -> bool:
        """Whether a use would take a new key."""
        return user not in self._buckets.get(bucket, {}).get(feature, {})

    @property
    def users(self) -> set[UserId]:
        """Who has used something."""
        return {user for features in self._buckets.values() for users in features.values() for user in users}

    def of(self, user: UserId) -> list[Count]:
        """What one user has used; all stays where it is."""
        return [
            _count(feature, user, users[user] >> _SHIFT, users[user] & _MASK, self._metadata.get((feature, user)))
            for features in self._buckets.values()
            for feature, users in features.items()
            if user in users
        ]

    def annotate(self, key: Key, metadata: dict[str, Any]) -> dict[str, Any]:
        """Lay newer metadata over a key's own and return the result."""
        known = self._metadata.get(key)
        merged = {**known, **metadata} if known else metadata
        self._metadata[key] = merged
        return merged

    def replace_metadata(self, key: Key, metadata: dict[str, Any]) -> None:
        """Forget a key's metadata for these: both together are too large."""
        self._metadata[key] = metadata

    def discard(self, is_gone: Callable[[UserId], bool]) -> int:
        """Let go of what these users have used; how many uses that was."""
        gone = 0
        for features in self._buckets.values():
            for feature, users in features.items():
                for user in [user for user in users if is_gone(user)]:
                    gone += users.pop(user) & _MASK
                    self.keys -= 1
                    self._metadata.pop((feature, user), None)
        self.uses -= gone
        return gone

    def take(self, rows: int) -> list[Count]:
        """Remove and return at most `rows` keys, each with all of its buckets."""
        counts: list[Count] = []
        while len(counts) < rows and self._buckets:
            bucket, features = next(iter(self._buckets.items()))
            if not features:
                del self._buckets[bucket]
                continue
            feature, users = next(iter(features.items()))
            if not users:
                del features[feature]
                continue
            user, packed = users.popitem()
            counts.append(self._count(bucket, feature, user, packed))
        return counts

    def _count(self, bucket: dt.datetime | None, feature: str, user: UserId, packed: int) -> Count:
        self.keys -= 1
        stamp, uses = packed >> _SHIFT, packed & _MASK
        history = [(bucket, uses)]
        if len(self._buckets) > 1:  # an outage that lasted past midnight
            for other, features in self._buckets.items():
                more = features.get(feature, {}).pop(user, None) if other != bucket else None
                if more is not None:
                    self.keys -= 1
                    stamp, uses = max(stamp, more >> _SHIFT), uses + (more & _MASK)
                    history.append((other, more & _MASK))
        self.uses -= uses
        counted = _count(feature, user, stamp, uses, self._metadata.pop((feature, user), None))
        return counted._replace(history=tuple((start, number) for start, number in history if start is not None))

    def absorb(self, newer: Aggregates, metadata_max_bytes: int) -> None:
        """Fold newer counts into these; metadata that is too large together is the newer alone."""
        for bucket, features in newer._buckets.items():
            for feature, users in features.items():
                mine = self._buckets.setdefault(bucket, {}).setdefault(feature, {})
                if not mine:
                    mine.update(users)
                    self.keys += len(users)
                    continue
                before = len(mine)
                for user, packed in users.items():
                    known = mine.get(user, 0)
                    stamp = max(known >> _SHIFT, packed >> _SHIFT)
                    mine[user] = stamp << _SHIFT | (known & _MASK) + (packed & _MASK)
                self.keys += len(mine) - before
        self.uses += newer.uses
        for key, metadata in newer._metadata.items():
            merged = self.annotate(key, metadata)
            if len(merged) > len(metadata) and size_of(merged) > metadata_max_bytes:
                self.replace_metadata(key, metadata)


def _count(feature: str, user: UserId, stamp: int, uses: int, metadata: dict[str, Any] | None) -> Count:
    return Count(
        feature,
        user,
        uses,
        _EPOCH + dt.timedelta(microseconds=stamp),
        None if metadata is None else json.dumps(metadata, separators=(",", ":")),
    )


def size_of(metadata: dict[str, Any]) -> int:
    """Bytes of metadata as JSON, in ASCII."""
    return len(json.dumps(metadata, separators=(",", ":")))


class TakenCounts(NamedTuple):
    """What the writer takes over at once."""

    counts: Aggregates
    losses: Counter[tuple[dt.date, str]]
    accesses: list[Use]
    positions: tuple[Any, ...]


class PendingCounts:
    """What the aggregator has folded and the writer has not yet taken. Only these two threads meet at its lock."""

    def __init__(self, max_keys: int) -> None:
        self.lock = allocate_lock()
        self.max_keys = max_keys
        self.counts = Aggregates()
        self.losses: Counter[tuple[dt.date, str]] = Counter()
        self.accesses: list[Use] = []
        """For the audit trail, in their order; each takes the room of a key."""
        self.positions: tuple[Any, ...] = ()
        """How far the journal is read: what is here, or was taken, is all that stood before."""
        self.with_writer_keys = 0
        """Keys and accesses that the writer took and has not written; they count against the bound."""
        self.with_writer_uses = 0
        self.with_writer_accesses = 0

    @property
    def room(self) -> int:
        """How many further keys may wait."""
        return self.max_keys - self.counts.keys - len(self.accesses) - self.with_writer_keys

    @property
    def uses(self) -> int:
        """How many uses wait here or with the writer."""
        return self.counts.uses + self.with_writer_uses

    @property
    def audits(self) -> int:
        """How many accesses wait here or with the writer."""
        return len(self.accesses) + self.with_writer_accesses

    def take(self) -> TakenCounts:
        """Everything that waits, for the writer, and how far the journal is read by it."""
        with self.lock:
            counts, losses, accesses = self.counts, self.losses, self.accesses
            # Before they leave: whoever looks meanwhile may see uses twice, but never misses them.
            self.with_writer_keys += counts.keys + len(accesses)
            self.with_writer_uses += counts.uses
            self.with_writer_accesses += len(accesses)
            self.counts, self.losses, self.accesses = Aggregates(), Counter(), []
            return TakenCounts(counts, losses, accesses, self.positions)
