"""Aggregated uses on their way from the aggregator to the writer, bounded in keys and in bytes."""

from __future__ import annotations

import datetime as dt
import functools
import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from usage_instrument.events import Count, Slice, Use, is_exposure
from usage_instrument.runtime.threads import allocate_lock
from usage_instrument.typing import UserId

from .journal import ReadPosition

# One int per key packs the time of the last use (microseconds since 1970) and the number of uses: with a million
# keys, a tuple or a list of two numbers each would take half as much memory again.
_SHIFT = 60
_MASK = 2**_SHIFT - 1
_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - naive, as the columns are

Key = tuple[str, UserId]
SliceKey = tuple[dt.datetime, str, str]

METADATA_OVERHEAD = 200
"""Bytes in memory per metadata, beside its text: the string's own, its key, and a place in a dict."""
SLICE_BYTES = 500
"""Bytes in memory per slice of a count."""
ACCESS_OVERHEAD = 800
"""Bytes in memory per access, beside its metadata."""


class Aggregates:
    """Uses by bucket, feature and user. Nested dicts, because a tuple per key would cost 60 bytes each."""

    def __init__(self) -> None:
        self._buckets: dict[dt.datetime | None, dict[str, dict[UserId, int]]] = {}
        self._metadata: dict[Key, str] = {}
        self._first: dict[Key, int] = {}  # the time of the first exposure, for exposures alone
        self._slices: dict[Key, dict[SliceKey, Slice]] = {}  # for uses with dimensions or a number alone
        self.keys = 0
        self.uses = 0
        self.detail_bytes = 0
        """Bytes of metadata and slices."""

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
        """Add uses of one feature, last used at `stamp`, with at most `room` new keys; return the number of uses that
        found no room."""
        exposed = is_exposure(feature)
        bucket = None if exposed else bucket
        users = self._buckets.setdefault(bucket, {}).setdefault(feature, {})
        stamped = stamp << _SHIFT
        added = dropped = 0
        before = len(users)
        for user, number in uses:
            if room > 0 and number <= _MASK:
                size = len(users)
                known = users.setdefault(user, stamped | number)  # hashing a user twice would take as long again
                is_new = len(users) > size
            else:
                known, is_new = users.get(user, _MASK), False
            if is_new:
                room -= 1
            else:
                total = (known & _MASK) + number
                if total > _MASK:
                    dropped += number
                    continue
                users[user] = max(known >> _SHIFT << _SHIFT, stamped) | total
            if exposed:
                self._exposed_at((feature, user), stamp)
            added += number
        self.keys += len(users) - before
        self.uses += added
        return dropped

    def _exposed_at(self, key: Key, stamp: int) -> None:
        self._first[key] = min(self._first.get(key, stamp), stamp)

    def lacks(self, bucket: dt.datetime | None, feature: str, user: UserId) -> bool:
        """Whether a use would need a new key."""
        bucket = None if is_exposure(feature) else bucket
        return user not in self._buckets.get(bucket, {}).get(feature, {})

    @property
    def users(self) -> set[UserId]:
        """All users."""
        return {user for features in self._buckets.values() for users in features.values() for user in users}

    def of(self, user: UserId) -> list[Count]:
        """Copies of one user's counts."""
        return [
            _count(feature, user, users[user], self._metadata.get((feature, user)))
            for features in self._buckets.values()
            for feature, users in features.items()
            if user in users
        ]

    def merge_metadata(self, key: Key, newer: str, max_bytes: int) -> None:
        """Lay newer metadata (JSON text) over a key's own; if both together are too large, keep the newer alone."""
        older = self._metadata.get(key)
        if older is not None and older != newer:
            merged = json.dumps({**json.loads(older), **json.loads(newer)}, separators=(",", ":"))
            newer = merged if len(merged) <= max_bytes else newer
        self._take_metadata(key)
        self._metadata[key] = newer
        self.detail_bytes += size_of(newer)

    def add_slices(self, key: Key, slices: Iterable[Slice]) -> None:
        """Add the slices of uses that were added."""
        mine = self._slices.setdefault(key, {})
        before = len(mine)
        for each in slices:
            known = mine.get(each.key)
            mine[each.key] = each if known is None else known.plus(each)
        self.detail_bytes += SLICE_BYTES * (len(mine) - before)

    def _take_slices(self, key: Key) -> tuple[Slice, ...]:
        slices = self._slices.pop(key, None) if self._slices else None
        if slices is None:
            return ()
        self.detail_bytes -= SLICE_BYTES * len(slices)
        return tuple(slices.values())

    def _take_metadata(self, key: Key) -> str | None:
        metadata = self._metadata.pop(key, None)
        self.detail_bytes -= size_of(metadata)
        return metadata

    def discard(self, is_suppressed: Callable[[UserId], bool]) -> int:
        """Remove the counts of suppressed users; return the sum of their uses."""
        gone = 0
        for features in self._buckets.values():
            for feature, users in features.items():
                for user in [user for user in users if is_suppressed(user)]:
                    gone += users.pop(user) & _MASK
                    self.keys -= 1
                    self._take_metadata((feature, user))
                    self._take_slices((feature, user))
                    self._first.pop((feature, user), None)
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
            if len(self._buckets) > 1 or self._metadata or self._slices or self._first:
                user, packed = users.popitem()
                counts.append(self._taken(bucket, feature, user, packed))
            else:
                counts += self._taken_plain(bucket, feature, users, rows - len(counts))
        return counts

    def _taken_plain(
        self, bucket: dt.datetime | None, feature: str, users: dict[UserId, int], rows: int
    ) -> list[Count]:
        """Remove and return at most `rows` keys of a feature, while no key has more than its uses and their time."""
        counts = []
        for _ in range(min(rows, len(users))):
            user, packed = users.popitem()
            uses = packed & _MASK
            history = () if bucket is None else ((bucket, uses),)
            # Count() is a function in Python, and takes as long as all the rest.
            counts.append(tuple.__new__(Count, (feature, user, uses, _moment(packed >> _SHIFT), None, history, ())))
        self.keys -= len(counts)
        self.uses -= sum([count.uses for count in counts])
        return counts

    def _taken(self, bucket: dt.datetime | None, feature: str, user: UserId, packed: int) -> Count:
        self.keys -= 1
        first = self._first.pop((feature, user), None) if bucket is None else None
        history = [(bucket if first is None else _moment(first), packed & _MASK)]
        if len(self._buckets) > 1:  # an outage that lasted past midnight
            for other, features in self._buckets.items():
                more = features.get(feature, {}).pop(user, None) if other != bucket else None
                if more is not None:
                    self.keys -= 1
                    packed = max(packed >> _SHIFT, more >> _SHIFT) << _SHIFT | (packed & _MASK) + (more & _MASK)
                    history.append((other, more & _MASK))
        self.uses -= packed & _MASK
        count = _count(feature, user, packed, self._take_metadata((feature, user)))
        starts = tuple((start, number) for start, number in history if start is not None)
        return count._replace(history=starts, slices=self._take_slices((feature, user)))

    def absorb(self, newer: Aggregates, metadata_max_bytes: int) -> None:
        """Add newer aggregates to these."""
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
        for key, stamp in newer._first.items():
            self._exposed_at(key, stamp)
        for key, metadata in newer._metadata.items():
            self.merge_metadata(key, metadata, metadata_max_bytes)
        for key, slices in newer._slices.items():
            self.add_slices(key, slices.values())


def size_of(metadata: str | None) -> int:
    """Bytes in memory of metadata (JSON text in ASCII)."""
    return 0 if metadata is None else len(metadata) + METADATA_OVERHEAD


def size_of_details(count: Count) -> int:
    """Bytes in memory of the metadata and the slices of a count."""
    return size_of(count.metadata) + SLICE_BYTES * len(count.slices)


def size_of_access(access: Use) -> int:
    """Bytes in memory of a recordable access."""
    return size_of(access.metadata if isinstance(access.metadata, str) else None) + ACCESS_OVERHEAD


def _count(feature: str, user: UserId, packed: int, metadata: str | None) -> Count:
    return Count(feature, user, packed & _MASK, _moment(packed >> _SHIFT), metadata)


@functools.lru_cache(64)  # all uses of a cycle have one time
def _moment(stamp: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=stamp)


class TakenCounts(NamedTuple):
    """Everything that the writer takes over at once."""

    counts: Aggregates
    losses: Counter[tuple[dt.date, str]]
    accesses: list[Use]
    positions: tuple[ReadPosition, ...]
    """How far the journal was read for this."""


class PendingCounts:
    """Counts that the aggregator has made and the writer has not yet taken. Only these two share its lock."""

    def __init__(self, max_keys: int, max_bytes: int = 2**26) -> None:
        self.lock = allocate_lock()
        self.max_keys = max_keys
        self.max_bytes = max_bytes
        self.counts = Aggregates()
        self.losses: Counter[tuple[dt.date, str]] = Counter()
        self.accesses: list[Use] = []
        """For the audit trail, in order; each takes the room of a key."""
        self.access_bytes = 0
        self.positions: tuple[ReadPosition, ...] = ()
        """How far the journal is read: everything before is here, or was taken."""
        self.with_writer_keys = 0
        """Keys and accesses that the writer took and has not written; they count against the bound."""
        self.with_writer_bytes = 0
        self.with_writer_uses = 0
        self.with_writer_accesses = 0

    @property
    def room(self) -> int:
        """The number of further keys that fit."""
        return self.max_keys - self.counts.keys - len(self.accesses) - self.with_writer_keys

    @property
    def bytes(self) -> int:
        """Bytes of metadata, slices and accesses, here and with the writer."""
        return self.counts.detail_bytes + self.access_bytes + self.with_writer_bytes

    @property
    def uses(self) -> int:
        """Uses here and with the writer."""
        return self.counts.uses + self.with_writer_uses

    @property
    def audits(self) -> int:
        """Accesses here and with the writer."""
        return len(self.accesses) + self.with_writer_accesses

    def take(self) -> TakenCounts:
        """Hand everything to the writer."""
        with self.lock:
            counts, losses, accesses = self.counts, self.losses, self.accesses
            # Counted as the writer's before they leave: a concurrent reader may see uses twice, but misses none.
            self.with_writer_keys += counts.keys + len(accesses)
            self.with_writer_bytes += counts.detail_bytes + self.access_bytes
            self.with_writer_uses += counts.uses
            self.with_writer_accesses += len(accesses)
            self.counts, self.losses, self.accesses, self.access_bytes = Aggregates(), Counter(), [], 0
            return TakenCounts(counts, losses, accesses, self.positions)
