"""For the tests of an application: keeps its captures in memory, without a database or a thread."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from .capture.registry import Catalog, Feature, declared
from .capture.user_ids import user_id_of
from .errors import AuditUnavailable, MetadataError, UserIdError
from .events import Exposure, canonical_user, fitting_metadata, is_exposure
from .settings import Settings
from .typing import UNSET, Outcome, UserId, UserIdType

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from .events import Access, Use

__all__ = ["CapturedAccess", "CapturedExposure", "CapturedUsage", "CapturedUse", "Rejected", "capture_usage"]


class CapturedUse(NamedTuple):
    """A call of `track`, or a use of a tracked callable."""

    feature: str
    user: UserId = None
    metadata: dict[str, Any] | None = None
    uses: int = 1
    dimensions: dict[str, str] | None = None
    value: float | None = None


class CapturedAccess(NamedTuple):
    """A row of the audit trail: an access, or the attempt that is committed before it."""

    feature: str
    user: UserId
    outcome: Outcome
    actor: UserId = None
    metadata: dict[str, Any] | None = None


class CapturedExposure(NamedTuple):
    """A call of `variant` or `expose`."""

    experiment: str
    variant: str
    user: UserId = None
    unit: str | None = None
    """None: the user is the unit."""


class Rejected(NamedTuple):
    """A rejected use, or (in `metadata_lost`) a use without its metadata or dimensions, with the error."""

    feature: str
    error: Exception
    uses: int = 1


class CapturedUsage:
    """The recorder of `capture_usage`. It keeps captures in their order."""

    def __init__(self, catalog: Catalog, *, user_id_type: UserIdType | None = None, strict: bool = False) -> None:
        self.catalog = catalog
        self.strict = strict
        self.user_id_type = user_id_type
        self._max_bytes = Settings().metadata_max_bytes
        self._canonical = canonical_user(user_id_type) if user_id_type is not None else _as_given
        self.uses: list[CapturedUse] = []
        """The counted uses."""
        self.accesses: list[CapturedAccess] = []
        """The audited accesses; a required one is there twice, as `attempted` and with its outcome."""
        self.exposures: list[CapturedExposure] = []
        """The exposures to variants of experiments."""
        self.rejected: list[Rejected] = []
        """Uses with a bad user id or name."""
        self.metadata_lost: list[Rejected] = []
        """Uses counted without their metadata, or without their dimensions and value."""
        self.complaints: list[Exception] = []
        """Mistakes that lost no use."""

    @property
    def names(self) -> list[str]:
        """The features used, each once, in the order of their first use."""
        return list(dict.fromkeys(use.feature for use in self.uses))

    def count(self, feature: str, user: object = UNSET) -> int:
        """The number of uses of `feature`, by `user` if given; None is anonymous. Raises UserIdError."""
        if user is UNSET:
            return sum(use.uses for use in self.uses if use.feature == feature)
        who = _in_text(user_id_of(user))  # for a database, "42" is 42, and a UUID is its text
        return sum(use.uses for use in self.uses if use.feature == feature and _in_text(use.user) == who)

    def assert_tracked(self, feature: str, user: object = UNSET, times: int | None = None) -> None:
        """Raise AssertionError unless `feature` was used, by `user` and `times` times if given."""
        __tracebackhide__ = True  # pytest shows the line of the test
        found = self.count(feature, user)
        if found == times or (times is None and found):
            return
        who = "" if user is UNSET else f" by {user!r}"
        wanted = "at least once" if times is None else f"{times} times"
        raise AssertionError(f"{feature!r} was not used {wanted}{who}, but {found} times; {self._summary()}")

    def clear(self) -> None:
        """Forget the captures."""
        for kept in (self.uses, self.accesses, self.exposures, self.rejected, self.metadata_lost, self.complaints):
            kept.clear()

    def _summary(self) -> str:
        counts: Counter[str] = Counter()
        for use in self.uses:
            counts[f"{use.feature!r} by {use.user!r}"] += use.uses
        parts = [f"{what} {uses} times" for what, uses in counts.items()]
        parts += [f"{rejected.feature!r} rejected: {rejected.error}" for rejected in self.rejected]
        return "captured: " + ("; ".join(parts) or "nothing")

    def sink(self, feature: Feature) -> Callable[[UserId], object]:
        """As Recorder.sink."""
        return lambda user: self._keep(CapturedUse(feature.name, user))

    def record(self, use: Use) -> None:
        """As Recorder.record."""
        metadata = None
        if use.metadata:
            try:
                metadata = json.loads(fitting_metadata(use.metadata, self._max_bytes))
            except MetadataError as error:
                self.lose_metadata(use.feature, error)
        if use.access is not None:
            self._keep_access(use, use.access, metadata)
        if use.uses:
            self._keep(CapturedUse(use.feature, use.user, metadata, use.uses, use.dimensions, use.value))

    def hold(self, use: Use) -> Callable[[], object]:
        """As Recorder.hold."""
        return lambda: self.record(use)

    def unit_of(self, user: UserId) -> str:
        """As Recorder.unit_of."""
        return str(self._canonical(user))

    def admit(self, use: Use) -> None:
        """As Recorder.admit; accepts each access that a database would accept."""
        try:
            self._canonical(use.user)
        except UserIdError as error:
            raise AuditUnavailable.of(use.feature, str(error)) from None
        self.record(use)

    async def aadmit(self, use: Use) -> None:
        """As Recorder.aadmit."""
        self.admit(use)

    def _keep_access(self, use: Use, access: Access, metadata: dict[str, Any] | None) -> None:
        try:
            who, actor = self._canonical(use.user), self._canonical(access.actor)
        except UserIdError as error:  # the trail has such a row too, with a note about the id
            self.reject(use.feature, error, 0)
            who = actor = None
        self.accesses.append(CapturedAccess(use.feature, who, access.outcome, actor, metadata))

    def _keep(self, use: CapturedUse) -> None:
        exposure = Exposure.of(use.feature) if is_exposure(use.feature) else None
        try:
            user = self._canonical(use.user)
        except UserIdError as error:
            self.reject(use.feature if exposure is None else exposure.experiment, error, use.uses)
        else:
            if exposure is None:
                self.uses.append(use._replace(user=user))
            else:
                self.exposures.append(CapturedExposure(exposure.experiment, exposure.variant, user, exposure.unit))

    def reject(self, feature: str, error: Exception, uses: int = 1) -> None:
        """As Recorder.reject."""
        self._mistake(error, self.rejected, Rejected(feature, error, uses))

    def lose_metadata(self, feature: str, error: Exception) -> None:
        """As Recorder.lose_metadata."""
        self._mistake(error, self.metadata_lost, Rejected(feature, error))

    def complain(self, error: Exception) -> None:
        """As Recorder.complain."""
        self._mistake(error, self.complaints, error)

    def _mistake(self, error: Exception, kept: list[Any], *entries: object) -> None:
        kept.extend(entries)
        if self.strict:
            raise error
        error.__traceback__ = None  # its frames would keep the request and its body alive

    def request_ended(self) -> None:
        """As Recorder.request_ended."""

    def confirm_users(self, users: Collection[UserId]) -> None:
        """As Recorder.confirm_users."""

    async def ashutdown(self, timeout: float | None = None) -> bool:  # the protocol's
        """As Recorder.ashutdown."""
        return True


def _as_given(user: UserId) -> UserId:
    return user


def _in_text(user: UserId) -> str | None:
    if isinstance(user, str):
        with contextlib.suppress(UserIdError):
            user = canonical_user("uuid")(user)
    return None if user is None else str(user)


@contextlib.contextmanager
def capture_usage(
    *, catalog: Catalog = declared, user_id_type: UserIdType | None = None, strict: bool = False
) -> Iterator[CapturedUsage]:
    """Keep the captures inside, instead of the configured tracker.

    `catalog` is `Tracker.catalog` for a separate tracker. A user id that is not of `user_id_type` is rejected, as by
    the database; the default is that of the configured tracker, and without one all types are accepted. With `strict`,
    a mistake raises where it is made. Afterwards, the former recorder is back, or one that the app configured inside::

        with capture_usage() as usage:
            client.post("/events/7/follow")
        usage.assert_tracked("calendar_follow_event", user=42, times=1)
    """
    kind: UserIdType | None = user_id_type or getattr(catalog.recorder, "user_id_type", None)
    captured = CapturedUsage(catalog, user_id_type=kind, strict=strict)
    with catalog.stand_in(captured):
        yield captured
