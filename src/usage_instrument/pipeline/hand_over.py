"""The pipeline of a process that writes nothing itself: a collector on its host writes the journal that it hands over.

A process hands over by giving up the lock of its journal's directory, after it has made the next one. So the collector
finds a directory of a living process as it finds one of a dead process. It deletes the directory after the commit.
"""

from __future__ import annotations

import datetime as dt
import time
from _thread import RLock
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import NamedTuple

from usage_instrument.audit.record import recordable
from usage_instrument.capture.call_arguments import log_lost_key
from usage_instrument.capture.registry import Catalog
from usage_instrument.errors import MetadataError, UsageInstrumentError, describe
from usage_instrument.events import Count, Loss, Use, fitting_metadata, uses_text
from usage_instrument.runtime import log
from usage_instrument.runtime.threads import END, BackgroundThread, Pause
from usage_instrument.settings import Settings
from usage_instrument.stats import Stats
from usage_instrument.typing import UserId

from . import losses
from .aggregator import BUSY_INTERVAL, INTERVAL, Aggregator, detail_of
from .base_pipeline import STALE, BasePipeline
from .batcher import Unwritten
from .buffer import Buffer, CaptureFailure, Drained
from .flush_request import FlushRequest
from .journal import DeclaredFeature, Directory, Journal, collector_seen, collector_silence, save_features
from .pending_counts import PendingCounts

_SHORTEST = 0.05
"""Seconds between two hand-overs at least."""
_LOOK = 0.02
"""Seconds between two looks for the end of a hand-over that a flush waits for."""
_PATIENCE = 2.0
"""Seconds after a hand-over in which a reader waits for its end."""
_SILENCE = 10.0
"""Seconds without a collector that are worth a line in the log."""
_REDECLARE = 86400.0
"""Seconds after which a living process declares its features again."""


class HandedOver(NamedTuple):
    """A directory that a collector has to write, as long as it exists."""

    path: Path
    uses: int
    at: float
    """By the monotonic clock."""


class HandOverPipeline(BasePipeline):
    """One thread; no connection, and no driver. All processes of a host hand over at the same moments, so that a
    collector writes their uses in one batch."""

    def __init__(
        self,
        settings: Settings,
        database: str,
        catalog: Catalog,
        canonical: Callable[[UserId], UserId],
        sinks_changed: Callable[[], None],
    ) -> None:
        super().__init__(settings, database, sinks_changed, is_handed_over=True)
        if self.journal is not None:
            self.journal.is_erased = self._is_rejected
        self._interval = max(settings.flush_interval, _SHORTEST)
        self._catalog = catalog
        self._canonical = canonical
        self._turn = RLock()
        self.first_thread = BackgroundThread[FlushRequest]("hand-over", self._cycle, wanted=lambda: self.is_armed)
        self._requests: list[tuple[FlushRequest, int]] = []
        """Each with the number of hand-overs that must have ended."""
        self._handed: deque[HandedOver] = deque()
        self._hand_overs = 0
        self._uses = 0
        """Uses handed over so far."""
        self._round = self._this_round
        self._declared: set[DeclaredFeature] = set()
        self._next_redeclaration = 0.0
        self._losses: Counter[tuple[dt.date, str]] = Counter()
        self._dropped = self._rejected = self._metadata_lost = 0
        self._problem: str | None = None

    def _is_rejected(self, user: UserId) -> bool:
        """Whether the use has to be rejected, which is counted here: the journal does not take it."""
        try:
            self._canonical(user)
        except Exception:  # a subclass of the host's may raise anything
            return True
        return False

    # ---- what other pipelines do by their writer

    def look_into_outbox(self) -> None:
        """Rows were committed there: the collector finds them."""

    def confirm_users(self, users: Collection[UserId]) -> None:
        """A request of these users has ended, which the collector does not know."""

    # ---- the thread

    def start(self) -> bool:
        """As BasePipeline.start."""
        return self._ensure(self.first_thread)

    def relieve(self) -> None:
        """Revive the thread, and do its work where it cannot run (uWSGI without `--enable-threads`)."""
        if not self.is_armed:
            return
        now, last_cycle = time.monotonic(), self.first_thread.last_cycle
        since = now - (self._started if last_cycle is None else last_cycle)
        if self.first_thread.is_alive and since < STALE:
            return
        self._ensure(self.first_thread)
        if since >= STALE and now - self._relieved >= self._interval and self._turn.acquire(False):
            try:
                self._relieved = now
                self._work(None)
            finally:
                self._turn.release()

    def _cycle(self, request: FlushRequest | None) -> Pause:
        is_final = request is not None and request.final
        done = False
        try:
            with self._turn:
                self._work(request)
            done = True
        finally:
            if request is not None and (is_final or not done):
                request.give(done and not self.buffer.uses)
            if is_final:
                self._is_closing = False
                if self._unread:  # captured meanwhile
                    self.arm()
        return END if is_final else self._pause

    @property
    def _pause(self) -> float:
        if self._requests:
            return _LOOK
        usual = BUSY_INTERVAL if self.journal is not None and self.journal.is_busy else INTERVAL
        return min(usual, (self._this_round + 1) * self._interval - time.monotonic())

    @property
    def _this_round(self) -> int:
        """The same in all processes of a host: they share the monotonic clock."""
        return int(time.monotonic() // self._interval)

    def _work(self, request: FlushRequest | None) -> None:
        journal, stamp = self.journal, time.time_ns() // 1000
        if journal is None:
            return
        is_final = request is not None and request.final
        self._drain(journal, stamp)
        if journal.tick(stamp):
            self._sinks_changed()
        journal.rest()
        self._look()
        if request is not None and not is_final:
            if self.buffer.uses:  # the journal does not take them
                request.give(False)
            else:
                self._requests.append((request, self._hand_overs + (not journal.is_blank)))
        if is_final:
            self._end(journal, stamp)
        elif self._is_due(journal):
            self._hand_over(journal, stamp)
        self._answer()

    def _is_due(self, journal: Journal) -> bool:
        """Whether to hand over now. One directory at a time: while none is written, the present one grows instead."""
        is_asked = any(target > self._hand_overs for _, target in self._requests)
        if journal.is_blank:
            self._round = self._this_round
            return False
        return not self._handed and (is_asked or self._this_round != self._round)

    def _hand_over(self, journal: Journal, stamp: int, *, final: bool = False) -> None:
        self._round = self._this_round
        self._declare(journal)
        handed = journal.hand_over(stamp, final=final)
        if handed is not None:
            self._hand_overs += 1
            self._handed.append(HandedOver(*handed, time.monotonic()))
            self._uses += handed[1]
        self._sinks_changed()

    def _end(self, journal: Journal, stamp: int) -> None:
        for request, _ in self._requests:
            request.give(False)
        self._requests.clear()
        if not (journal.is_blank and journal.retire()):
            self._hand_over(journal, stamp, final=True)

    def _declare(self, journal: Journal) -> None:
        """Leave the declared features to the collector, if there are new ones."""
        now = time.monotonic()
        if now >= self._next_redeclaration:
            self._declared.clear()
            self._next_redeclaration = now + _REDECLARE
        self._catalog.declare_pending()
        features = {DeclaredFeature(each.name, each.description, each.source, each.display) for each in self._catalog}
        new = features - self._declared
        if new and journal.directory is not None:
            with suppress(OSError):
                save_features(journal.directory, self._settings.service, sorted(new, key=lambda each: each.name))
                self._declared |= new

    def _look(self) -> None:
        """Find out what the collector has written."""
        while self._handed and not self._handed[0].path.exists():
            self._handed.popleft()
        self._problem = None
        root = self._settings.journal
        if self._handed and root is not None and time.monotonic() - self._handed[0].at >= _SILENCE:
            self._problem = f"what was handed over waits: {_silence(root)}"
            log.warning(("collector", root), "%s", self._problem)

    def _answer(self) -> None:
        """Answer the flushes that are done, or out of time."""
        ended = self._hand_overs - len(self._handed)
        for request, target in self._requests:
            if ended >= target or request.left <= 0:
                request.give(ended >= target)
        self._requests = [(request, target) for request, target in self._requests if request.answer is None]

    # ---- uses that the journal did not take at once

    def _drain(self, journal: Journal, stamp: int) -> None:
        drained = self.buffer.drain()
        if not (any(drained) or self._losses):
            return
        self._open_journal()
        for failure in drained.failures:
            self._fail(failure)
        left = [use for use in self._recordable(drained) if not journal.put(use)]
        if len(left) <= self._settings.max_pending:
            self.buffer.rich.extend(use if use.at is not None else use._replace(at=stamp) for use in left)
        else:
            uses = sum(use.uses for use in left)
            self._dropped += uses
            self._lose(losses.MEMORY, uses, f"the journal takes no more, and {len(left)} uses wait (max_pending)")
        for (day, reason), uses in list(self._losses.items()):
            if journal.put(Loss(day, reason, uses)):
                del self._losses[day, reason]

    def _recordable(self, drained: Drained) -> Iterator[Use]:
        for feature, users in drained.plain:
            for user, number in Counter(users).items():
                yield from self._checked(Use(feature, user, None, number))
        for use in drained.rich:
            if use.access is not None:
                yield recordable(use, use.access, self._canonical, self._settings.metadata_max_bytes)
            if use.uses:
                yield from self._checked(use._replace(access=None))

    def _checked(self, use: Use) -> Iterable[Use]:
        """The use as the journal can hold it; none if it has to be rejected."""
        try:
            user = self._canonical(use.user)
        except Exception as error:  # a subclass of the host's may raise anything
            self._fail(CaptureFailure(use.feature, losses.USER_TYPE, use.uses, describe(error)))
            return ()
        try:
            size = self._settings.metadata_max_bytes
            metadata = fitting_metadata(use.metadata, size, log_lost_key) if use.metadata else None
        except MetadataError as error:
            self._fail(CaptureFailure(use.feature, "metadata", 0, str(error)))
            metadata = None
        return (use._replace(user=user, metadata=metadata),)

    def _fail(self, failure: CaptureFailure) -> None:
        if failure.uses:
            self._rejected += failure.uses
            self._lose(failure.reason, failure.uses, detail_of(failure))
        else:
            self._metadata_lost += 1
            log.warning(("lost", failure.reason), "%s", detail_of(failure))

    def _lose(self, reason: str, uses: int, detail: str) -> None:
        self._losses[losses.today(), reason] += uses
        lost = f"dropped {self._dropped}, rejected {self._rejected}, metadata lost {self._metadata_lost} so far"
        log.warning(("lost", reason), "%s (%s)", detail, lost)

    # ---- flush and shutdown

    def has_pending(self, *, final: bool) -> bool:
        """As BasePipeline.has_pending: a flush waits for the collector, an end does not."""
        return bool(self._unread or (self._handed and not final))

    def serve_here(self) -> None:
        """As BasePipeline.serve_here."""
        while (request := self.first_thread.take()) is not None:
            self._cycle(request)

    def closed(self, request: FlushRequest) -> bool:
        """The answer to a final request; logs what is left."""
        if not request.answer:
            log.warning("unwritten", "shut down with %s that the journal did not take", uses_text(self._unread))
        return bool(request.answer)

    # ---- figures

    @property
    def version(self) -> int:
        """Changes whenever a hand-over begins or ends."""
        return 2 * self._hand_overs - len(self._handed)

    def hold(self) -> AbstractContextManager[object]:
        """Hand nothing over meanwhile."""
        return self._turn

    def unwritten_users(self) -> set[UserId]:
        """The users of captured uses that are not known to be written."""
        self._settle()
        return {user for pending in self._unwritten() for user in pending.counts.users}

    def unwritten(self, users: Collection[UserId]) -> Unwritten:
        """The captured uses of a user, who may have several spellings, that are not known to be written."""
        self._settle()
        with self._turn:
            counts: list[Count] = []
            for pending in self._unwritten():
                for user in users:
                    counts += pending.counts.of(user)
            return Unwritten(self.version, None, None, tuple(counts))

    def _settle(self) -> None:
        """Wait for the end of a hand-over under way: a collector is at work on it."""
        deadline = time.monotonic() + _PATIENCE
        while self._handed and time.monotonic() < deadline:
            time.sleep(_LOOK)
            with self._turn:
                self._look()
            if self._problem is not None:
                return

    def _unwritten(self) -> Iterator[PendingCounts]:
        """The content of the journals of this process."""
        journal = self.journal
        if journal is None:
            return
        with self._turn:
            self._drain(journal, time.time_ns() // 1000)
            self._look()
            present = [] if journal.directory is None else [journal.directory.path]
            for path in (*present, *(handed.path for handed in self._handed)):
                with suppress(OSError, UsageInstrumentError):  # the collector has it
                    read, _ = Journal.load(Directory.open(path), journal.root, 0)
                    pending = PendingCounts(self._settings.max_pending, self._settings.max_pending_bytes)
                    Aggregator(Buffer(), pending, self._settings, self._canonical, read).aggregate()
                    yield pending

    def stats(self) -> Stats:
        """The figures of this process. Written are the uses that a collector has taken into the database, or counted
        among the losses there."""
        with self._turn:
            self._look()
            waiting, handed = self._unread, sum(each.uses for each in self._handed)
        heartbeat, last_cycle = None, self.first_thread.last_cycle
        if self.is_armed:
            heartbeat = max(time.monotonic() - (self._started if last_cycle is None else last_cycle), 0.0)
        error = self.first_thread.last_error
        return Stats(
            captured=self._uses + waiting + self._dropped + self._rejected,
            written=self._uses - handed,
            pending=waiting + handed,
            dropped=self._dropped,
            rejected=self._rejected,
            metadata_lost=self._metadata_lost,
            last_error=self._problem if error is None else f"the {self.first_thread.name} failed: {describe(error)}",
            heartbeat=heartbeat,
        )


def _silence(root: str) -> str:
    seen, remedy = collector_seen(root), f"run `usage-instrument collect --journal {root}`"
    if seen is None:
        return f"no collector was ever alive: {remedy}"
    if collector_silence(root) < _SILENCE:
        return "the collector is alive, and does not reach the database: see its log"
    return f"no collector was alive since {dt.datetime.fromtimestamp(seen, dt.UTC):%F %T} UTC: {remedy}"
