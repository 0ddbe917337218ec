"""The tracker wires the stages together. It is the one boundary that never raises into the host."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from .audit.gate import Gate
from .capture import calls, context, experiments, request_transactions, session_transactions, user_ids
from .capture.context import CaptureScope
from .capture.decorator import TracksOptions, tracks
from .capture.registry import Catalog, Feature
from .database import engines
from .errors import AuditUnavailable, ConfigurationError, DimensionError, UserIdError, describe
from .events import Use, canonical_user, check_feature, fitting_metadata
from .pipeline import losses
from .pipeline.backend import Backend
from .pipeline.buffer import CaptureFailure
from .pipeline.flush_request import FlushRequest
from .pipeline.hand_over import HandOverPipeline
from .pipeline.journal import check_root
from .pipeline.outbox import Outbox
from .pipeline.pipeline import Pipeline
from .pipeline.read_your_writes import FeatureUse, UsageReader
from .runtime import log, processes
from .runtime.waiting import without_blocking
from .settings import Settings
from .stats import Stats
from .typing import UNSET, Audit, Metadata, UserId

if TYPE_CHECKING:
    from .database.tables import Tables
    from .privacy.api import Privacy
    from .privacy.merge import MergeReceipt

C = TypeVar("C", bound=Callable[..., Any])


class Held:
    """Uses that wait for a transaction of the host's. A call records them."""

    __slots__ = ("_tracker", "outbox", "uses")

    def __init__(self, tracker: Tracker, uses: Sequence[Use]) -> None:
        self._tracker = tracker
        self.outbox = tracker._outbox
        """Where they go if the transaction is in the database of the tables."""
        self.uses = uses

    def __call__(self) -> None:
        for use in self.uses:
            self._tracker._take(use)


class Tracker:
    """Takes uses and writes their counts to the database.

    `database` is a URL (of a sync or an async driver), an Engine or an AsyncEngine; the tracker builds its own engine
    from it. `tables` is the result of `define_tables`, if the host has its own tables. The features of `catalog` are
    recorded here. Opens no connection and starts no thread before the first use. Raises ConfigurationError for a
    database or settings that cannot work.
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
        elif self.settings.enabled and self.settings.writer == "collector":
            raise ConfigurationError(
                'writer="collector" needs the setting journal: the directory that `usage-instrument collect` is given'
            )
        self._backend = Backend(database, self.settings, tables)
        self.database = self._backend.database
        self.tables_given = self._backend.tables_given
        self.user_id_type = self._backend.user_id_type
        self._canonical = canonical_user(self.user_id_type)
        self._is_plain = self.settings.enabled and not self.settings.strict and self.settings.before_track is None
        """Whether a capture needs no check."""
        self._left_behind: list[object] = []
        self.catalog = catalog if catalog is not None else Catalog()
        self._renew()
        session_transactions.follow()
        request_transactions.follow()
        self.catalog.attach(self)

    def __repr__(self) -> str:
        return f"Tracker({self._backend})"

    def _renew(self) -> None:
        """Make an empty pipeline without threads. Only assigns: a forked child runs it inside the fork."""
        shared = (self.catalog, self._canonical, self._replace_sinks)
        self._pipeline: Pipeline | HandOverPipeline = (
            HandOverPipeline(self.settings, self._backend.name, *shared)
            if self.settings.writer == "collector"
            else Pipeline(self.settings, self._backend, *shared)
        )
        self._gates = [self._backend.new_gate(self._canonical)]
        """The last one is open; the others are closed, or close."""
        self._outbox = (
            None if self.database is None else Outbox(self._backend, self.settings, self._canonical, self._outbox_grew)
        )
        self._reader = None if self.database is None else UsageReader(self.database, self._backend.tables)

    # ---- capture

    def track(
        self,
        feature: str,
        *,
        user: object = UNSET,
        metadata: Metadata | None = None,
        count: int = 1,
        audit: Audit = False,
        commit: object = None,
        dimensions: Mapping[str, object] | None = None,
        value: float | Decimal | None = None,
    ) -> None:
        """As usage_instrument.track, for this tracker."""
        calls.track(self, feature, user, metadata, count, audit, commit, (dimensions, value))

    async def atrack(
        self,
        feature: str,
        *,
        user: object = UNSET,
        metadata: Metadata | None = None,
        count: int = 1,
        audit: Audit = False,
        commit: object = None,
        dimensions: Mapping[str, object] | None = None,
        value: float | Decimal | None = None,
    ) -> None:
        """As track, without blocking the event loop."""
        await calls.atrack(self, feature, user, metadata, count, audit, commit, (dimensions, value))

    def variant(
        self,
        experiment: str,
        variants: Sequence[str] | Mapping[str, float],
        *,
        user: object = UNSET,
        unit: str | None = None,
    ) -> str:
        """As usage_instrument.variant, for this tracker."""
        return experiments.variant(experiment, variants, user=user, unit=unit, catalog=self.catalog)

    def expose(self, experiment: str, variant: str, *, user: object = UNSET, unit: str | None = None) -> None:
        """As usage_instrument.expose, for this tracker."""
        experiments.expose(experiment, variant, user=user, unit=unit, catalog=self.catalog)

    def unit_of(self, user: UserId) -> str:
        """As Recorder.unit_of."""
        return str(self._canonical(user))

    def sink(self, feature: Feature) -> Callable[[UserId], object]:
        """As Recorder.sink; once the threads run, it is the deque's own append."""
        if not self.settings.enabled:
            return lambda user: None
        if not self._is_plain:
            return lambda user: self.record(Use(feature.name, user))
        return self._pipeline.sink(feature.name) or partial(self._append_first, feature.name)

    def _append_first(self, feature: str, user: UserId) -> None:
        self._watch()
        self._pipeline.take(feature, user)
        self._write_after_exit()

    def _write_after_exit(self) -> None:
        if processes.has_exited():  # in an atexit handler of before our import
            self.shutdown()

    def _watch(self) -> None:
        processes.notice_fork()
        if not self._pipeline.is_armed:
            processes.watch(self)

    def record(self, use: Use) -> None:
        """As Recorder.record."""
        if self._is_plain:
            self._take(use)
        elif self.settings.enabled:
            for each in self._checked(use):
                self._take(each)

    def hold(self, use: Use) -> Callable[[], object]:
        """As Recorder.hold."""
        if self._is_plain:
            return Held(self, (use,))
        return Held(self, self._checked(use) if self.settings.enabled else ())

    def _checked(self, use: Use) -> list[Use]:
        """The uses to record of one, after the app's rule. Raises only if strict."""
        kept = calls.filtered(self, self.settings.before_track, use)
        if self.settings.strict:
            for each in kept:
                self._canonical(each.user)
                if each.metadata:
                    fitting_metadata(each.metadata, self.settings.metadata_max_bytes)
        return kept

    def _take(self, use: Use) -> None:
        self._watch()
        self._pipeline.record(use)
        self._write_after_exit()

    def admit(self, use: Use) -> None:
        """As Recorder.admit."""
        self._at_gate(use).admit(calls.filtered(self, self.settings.before_track, use)[0])

    async def aadmit(self, use: Use) -> None:
        """As Recorder.aadmit."""
        await self._at_gate(use).aadmit(calls.filtered(self, self.settings.before_track, use)[0])

    def _at_gate(self, use: Use) -> Gate:
        if not self.settings.enabled:
            raise AuditUnavailable.of(use.feature, "the tracker is not enabled; in a test, use capture_usage()")
        self._watch()
        return self._gates[-1]

    def reject(self, feature: str, error: Exception, uses: int = 1) -> None:
        """As Recorder.reject."""
        reason = losses.USER_TYPE if isinstance(error, UserIdError) else losses.CAPTURE
        self._capture_failed(CaptureFailure(feature, reason, uses, describe(error)), error)

    def lose_metadata(self, feature: str, error: Exception) -> None:
        """As Recorder.lose_metadata."""
        what = "dimensions and value" if isinstance(error, DimensionError) else "metadata"
        self._capture_failed(CaptureFailure(feature, "metadata", 0, f"{what} lost: {describe(error)}"), error)

    def _capture_failed(self, failure: CaptureFailure, error: Exception) -> None:
        if self.settings.enabled:
            if self.settings.strict:
                raise error
            self._watch()
            self._pipeline.buffer.failures.append(failure)
            self._pipeline.arm()

    def complain(self, error: Exception) -> None:
        """As Recorder.complain."""
        if self.settings.strict:
            raise error
        log.once(("complaint", str(error)), "%s", error)

    def request_ended(self) -> None:
        """As Recorder.request_ended."""
        self._pipeline.relieve()

    def confirm_users(self, users: Collection[UserId]) -> None:
        """As Recorder.confirm_users."""
        self._pipeline.confirm_users(users)

    def _outbox_grew(self) -> None:
        self._watch()
        self._pipeline.look_into_outbox()
        self._write_after_exit()

    # ---- the pipeline

    def _replace_sinks(self) -> None:
        """Give every feature its current sink, unless another recorder has taken over."""
        if self.catalog.recorder is self:
            self.catalog.attach(self)

    def reset_after_fork(self) -> None:
        """As Mortal.reset_after_fork. Keeps references to the parent's connections: closing them here would end them
        there."""
        self._left_behind += (self._pipeline, self._reader, self._gates)
        self._pipeline.abandon()
        self._renew()
        self._replace_sinks()

    # ---- flush, exit, figures

    def flush(self, timeout: float = 5.0) -> bool:
        """Write at once. True if nothing that was captured before the call is pending.

        Waits up to `timeout` seconds. If the database is away or refuses, it returns False and loses nothing.
        """
        return self._request_flush(timeout).wait()

    async def aflush(self, timeout: float = 5.0) -> bool:
        """As flush, without blocking the event loop."""
        return await self._request_flush(timeout).wait_async()

    def shutdown(self, timeout: float | None = None) -> bool:
        """Write what is pending and end the threads. True if nothing is left.

        Waits up to `timeout` seconds (`shutdown_timeout` by default). The next capture starts the threads again.
        """
        return self._begin_shutdown(timeout)()

    async def ashutdown(self, timeout: float | None = None) -> bool:
        """As shutdown, without blocking the event loop."""
        request, closed = self._request_flush(timeout, final=True), self._replace_gate().close()
        await request.wait_async()
        await closed.wait_async(request.left)
        return self._closed(request)

    def _begin_shutdown(self, timeout: float | None) -> Callable[[], bool]:
        request, closed = self._request_flush(timeout, final=True), self._replace_gate().close()

        def wait() -> bool:
            request.wait()
            closed.wait(request.left)
            return self._closed(request)

        return wait

    def _replace_gate(self) -> Gate:
        self._gates.append(self._backend.new_gate(self._canonical))
        return self._gates[-2]

    def _closed(self, request: FlushRequest) -> bool:
        if self._reader is not None:
            self._reader.dispose()
        return self._pipeline.closed(request)

    def _request_flush(self, timeout: float | None, *, final: bool = False) -> FlushRequest:
        processes.notice_fork()
        timeout = self.settings.shutdown_timeout if timeout is None else timeout
        return self._pipeline.request_flush(timeout, final=final)

    # ---- what a user has used

    def count(self, user: object, feature: str) -> int:
        """The number of uses of `feature` by `user`, of all time, unwritten uses of this process included.

        None is the anonymous user. Reads the database. Raises FeatureNameError, UserIdError and errors of SQLAlchemy.
        """
        feature = check_feature(feature)
        return sum(use.usage_count for use in self.user_features(user) if use.feature_name == feature)

    def user_features(self, user: object) -> list[FeatureUse]:
        """The features that `user` has used, the latest first, unwritten uses of this process included.

        None is the anonymous user. Reads the database. Raises UserIdError and errors of SQLAlchemy.
        """
        user_id = self._canonical(user_ids.user_id_of(user))
        processes.notice_fork()
        if self._reader is None:
            if self.settings.enabled:
                raise ConfigurationError("what a user has used stands in the database: pass its URL to configure()")
            return []
        return self._reader.features(user_id, self._pipeline)

    acount = without_blocking(count)

    auser_features = without_blocking(user_features)

    @property
    def privacy(self) -> Privacy:
        """Export, opt-out and erasure of one user."""
        from .privacy.api import Privacy

        return Privacy(self._backend, self.settings, self._canonical, self.flush)

    def merge(self, *, guest: object, user: object, force: bool = False) -> MergeReceipt:
        """Move the counts, history and exposures of a guest to a user (as Privacy.merge), for example at a login.

        Nothing happens if the tracker is not enabled.
        """
        from .privacy.merge import MergeReceipt

        if not self.settings.enabled:
            return MergeReceipt()
        return self.privacy.merge(guest=guest, user=user, force=force)

    amerge = without_blocking(merge)

    @property
    def exit_timeout(self) -> float:
        """As Mortal.exit_timeout."""
        return self.settings.shutdown_timeout

    def begin_exit(self, deadline: float) -> Callable[[], bool]:
        """As Mortal.begin_exit."""
        return self._begin_shutdown(max(deadline - time.monotonic(), 0.0))

    def stats(self) -> Stats:
        """This tracker's figures in this process."""
        stats = self._pipeline.stats()
        return replace(stats, audited=stats.audited + sum(gate.committed for gate in self._gates))

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
            context.check_user(user)
        return context.as_user(user, actor)

    def paused(self) -> CaptureScope:
        """Nothing inside the context is captured."""
        return context.paused()

    def discard(self) -> None:
        """Count neither the current request nor its later uses; earlier ones stand."""
        calls.discard()
