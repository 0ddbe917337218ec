"""Wires buffer, aggregator, writer and store together, and is the one boundary that never raises into the host."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from .audit.gate import Gate
from .capture import calls, context, user_ids
from .capture.context import CaptureScope
from .capture.decorator import TracksOptions, tracks
from .capture.registry import Catalog, Feature
from .database import engines
from .errors import AuditUnavailable, UserIdError, describe
from .events import Use, canonical_user, check_feature, fitting_metadata
from .pipeline import losses
from .pipeline.backend import Backend
from .pipeline.buffer import CaptureFailure
from .pipeline.journal import check_root
from .pipeline.pipeline import Pipeline
from .pipeline.read_your_writes import FeatureUse, UsageReader
from .runtime import processes
from .runtime.flush_request import FlushRequest
from .runtime.waiting import Answer, in_worker_thread
from .settings import Settings
from .stats import Stats
from .typing import UNSET, Audit, Metadata, UserId

if TYPE_CHECKING:
    from .database.tables import Tables
    from .privacy.api import Privacy

C = TypeVar("C", bound=Callable[..., Any])

logger = logging.getLogger("usage_instrument")


class Tracker:
    """Takes uses and brings their counts into the database.

    `database` is a URL (of a sync or an async driver), an Engine or an AsyncEngine; the tracker builds an engine of
    its own from it. `tables` are those of `define_tables`, if the host has its own. The features of `catalog` are
    recorded here from now on. Raises ConfigurationError for a database or settings that cannot work. Opens no
    connection and starts no thread before the first use.
    """

    def __init__(
        self,
        database: engines.Database | None,
        settings: Settings | None = None,
        tables: Tables | None = None,
        *,
        catalog: Catalog | None = None,
    ) -> None:
        self.settings = settings if settings is not None else Settings.from_environment()
        if self.settings.journal is not None:
            check_root(self.settings.journal)
        self._backend = Backend(database, self.settings, tables)
        self.database = self._backend.database
        self.tables_given = self._backend.tables_given
        self.user_id_type = self._backend.user_id_type
        self._canonical = canonical_user(self.user_id_type)
        self._left_behind: list[object] = []
        self._said: set[str] = set()
        self.catalog = catalog if catalog is not None else Catalog()
        self._renew()
        self.catalog.attach(self)

    def __repr__(self) -> str:
        return f"Tracker({self._backend})"

    def _renew(self) -> None:
        """An empty pipeline without threads. Only assigns: a forked child runs it in the fork itself."""
        self._pipeline = Pipeline(self.settings, self._backend, self.catalog, self._canonical, self._swap)
        self._gate = self._backend.new_gate(self._canonical)
        self._live = None if self.database is None else UsageReader(self.database, self._backend.tables)

    # ---- capture

    def track(
        self,
        feature: str,
        *,
        user: object = UNSET,
        metadata: Metadata | None = None,
        count: int = 1,
        audit: Audit = False,
    ) -> None:
        """As usage_instrument.track, for this tracker."""
        calls.track(self, feature, user, metadata, count, audit)

    async def atrack(
        self,
        feature: str,
        *,
        user: object = UNSET,
        metadata: Metadata | None = None,
        count: int = 1,
        audit: Audit = False,
    ) -> None:
        """As track, without blocking the event loop."""
        await calls.atrack(self, feature, user, metadata, count, audit)

    def sink(self, feature: Feature) -> Callable[[UserId], object]:
        """As Recorder.sink: the deque's own append once the threads run, so that a capture costs that and no more."""
        if not self.settings.enabled:
            return lambda user: None
        if self.settings.strict or self.settings.before_track is not None:
            return lambda user: self.record(Use(feature.name, user))
        return self._pipeline.sink(feature.name) or partial(self._append_first, feature.name)

    def _append_first(self, feature: str, user: UserId) -> None:
        self._live_on()
        self._pipeline.take(feature, user)

    def _live_on(self) -> None:
        processes.notice_fork()
        if not self._pipeline.armed:
            processes.watch(self)

    def record(self, use: Use) -> None:
        """As Recorder.record."""
        if not self.settings.enabled:
            return
        for kept in calls.filtered(self, self.settings.before_track, use):
            if self.settings.strict:
                self._canonical(kept.user)
                if kept.metadata:
                    fitting_metadata(kept.metadata, self.settings.metadata_max_bytes)
            self._live_on()
            self._pipeline.record(kept)

    def admit(self, use: Use) -> None:
        """As Recorder.admit."""
        self._at_gate(use).admit(calls.filtered(self, self.settings.before_track, use)[0])

    async def aadmit(self, use: Use) -> None:
        """As Recorder.aadmit."""
        await self._at_gate(use).aadmit(calls.filtered(self, self.settings.before_track, use)[0])

    def _at_gate(self, use: Use) -> Gate:
        if not self.settings.enabled:
            raise AuditUnavailable.of(use.feature, "the tracker is not enabled; in a test, use capture_usage()")
        self._live_on()
        return self._gate

    def reject(self, feature: str, error: Exception, uses: int = 1) -> None:
        """As Recorder.reject."""
        reason = losses.USER_TYPE if isinstance(error, UserIdError) else losses.CAPTURE
        self._fail(CaptureFailure(feature, reason, uses, describe(error)), error)

    def lose_metadata(self, feature: str, error: Exception) -> None:
        """As Recorder.lose_metadata."""
        self._fail(CaptureFailure(feature, "metadata", 0, f"metadata lost: {describe(error)}"), error)

    def _fail(self, failure: CaptureFailure, error: Exception) -> None:
        if self.settings.enabled:
            if self.settings.strict:
                raise error
            processes.notice_fork()
            self._pipeline.buffer.failures.append(failure)
            self._arm()

    def complain(self, error: Exception) -> None:
        """As Recorder.complain."""
        if self.settings.strict:
            raise error
        if str(error) not in self._said:
            self._said.add(str(error))
            logger.warning("%s", error)

    def request_ended(self) -> None:
        """As Recorder.request_ended."""
        self._pipeline.relieve()

    # ---- the pipeline

    def _arm(self) -> None:
        if not self._pipeline.armed:
            processes.watch(self)
            self._pipeline.arm()

    def _swap(self) -> None:
        """Give every feature the sink of the moment, unless another recorder has taken over."""
        if self.catalog.recorder is self:
            self.catalog.attach(self)

    def reset_after_fork(self) -> None:
        """As Mortal.reset_after_fork. The parent's connection stays referenced: closing it here would end it there."""
        self._left_behind += (self._pipeline, self._live, self._gate)
        self._pipeline.abandon()
        self._renew()
        self._swap()

    # ---- flush, exit, figures

    def flush(self, timeout: float = 5.0) -> bool:
        """Write at once; True when nothing that was captured before the call is pending any more.

        Waits up to `timeout` seconds. False also when the database refuses or is away; nothing is lost by that.
        """
        return self._ask(timeout).wait()

    async def aflush(self, timeout: float = 5.0) -> bool:
        """As flush, without blocking the event loop."""
        return await self._ask(timeout).wait_async()

    def shutdown(self, timeout: float | None = None) -> bool:
        """Write what is pending and end the threads; True when nothing is left.

        Waits up to `timeout` seconds (`shutdown_timeout` unless given). The next capture starts anew.
        """
        request, gate = self._ask(timeout, final=True), self._close_gate()
        request.wait()
        gate.wait(request.left)
        return self._closed(request)

    async def ashutdown(self, timeout: float | None = None) -> bool:
        """As shutdown, without blocking the event loop."""
        request, gate = self._ask(timeout, final=True), self._close_gate()
        await request.wait_async()
        await gate.wait_async(request.left)
        return self._closed(request)

    def _close_gate(self) -> Answer[bool]:
        gate, self._gate = self._gate, self._backend.new_gate(self._canonical)
        self._gate.committed = gate.committed  # of the tracker, as all figures are
        return gate.close()

    def _closed(self, request: FlushRequest) -> bool:
        if self._live is not None:
            self._live.dispose()
        return self._pipeline.closed(request)

    def _ask(self, timeout: float | None, *, final: bool = False) -> FlushRequest:
        processes.notice_fork()
        return self._pipeline.ask(self.settings.shutdown_timeout if timeout is None else timeout, final=final)

    # ---- what a user has used

    def count(self, user: object, feature: str) -> int:
        """How often `user` has used `feature`, of all time, with what this process has not written yet.

        None is the anonymous user. Asks the database, and raises what SQLAlchemy raises; FeatureNameError and
        UserIdError for what no feature and no user can be.
        """
        check_feature(feature)
        return sum(use.usage_count for use in self.user_features(user) if use.feature_name == feature)

    def user_features(self, user: object) -> list[FeatureUse]:
        """What `user` has used, of all time and the latest first, with what this process has not written yet.

        None is the anonymous user. Asks the database, and raises what SQLAlchemy raises; UserIdError for what no user
        can be.
        """
        user_id = self._canonical(user_ids.user_id_of(user))
        processes.notice_fork()
        return [] if self._live is None else self._live.features(user_id, self._pipeline)

    async def acount(self, user: object, feature: str) -> int:
        """As count, without blocking the event loop."""
        return await in_worker_thread(partial(self.count, user, feature))

    async def auser_features(self, user: object) -> list[FeatureUse]:
        """As user_features, without blocking the event loop."""
        return await in_worker_thread(partial(self.user_features, user))

    @property
    def privacy(self) -> Privacy:
        """What a user may ask for: their own data, not to be counted, to be forgotten."""
        from .privacy.api import Privacy

        return Privacy(self._backend, self.settings, self._canonical, self.flush)

    @property
    def exit_timeout(self) -> float:
        """As Mortal.exit_timeout."""
        return self.settings.shutdown_timeout

    def begin_exit(self, deadline: float) -> Callable[[], bool]:
        """As Mortal.begin_exit."""
        left = max(deadline - time.monotonic(), 0.0)
        request, gate = self._ask(left, final=True), self._close_gate()

        def wait() -> bool:
            request.wait()
            gate.wait(request.left)
            return self._closed(request)

        return wait

    def stats(self) -> Stats:
        """This tracker's figures in this process."""
        stats = self._pipeline.stats()
        return replace(stats, audited=stats.audited + self._gate.committed)

    # ---- who, and whether

    def tracks(self, feature: str, **options: Unpack[TracksOptions]) -> Callable[[C], C]:
        """As usage_instrument.tracks, for this tracker."""
        return tracks(feature, catalog=self.catalog, **options)

    def identify(self, user: object, *, actor: object = UNSET) -> None:
        """As usage_instrument.identify, for this tracker."""
        calls.identify(self, user, actor)

    def as_user(self, user: object, *, actor: object = UNSET) -> CaptureScope:
        """As usage_instrument.as_user, for this tracker."""
        if self.settings.strict:
            user_ids.user_id_of(user)
        return context.as_user(user, actor)

    def paused(self) -> CaptureScope:
        """Nothing inside is captured."""
        return context.paused()

    def discard(self) -> None:
        """The current request is no use: stops the middleware's count and later ones; earlier ones stand."""
        calls.discard()
