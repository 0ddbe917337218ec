"""Registers the features that the code declares, and connects them to the recorder of their uses.

A recorder replaces the `append` of every feature: a plain capture is one call of it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol

from usage_instrument.errors import AuditUnavailable
from usage_instrument.events import Exposure, Use, check_feature
from usage_instrument.runtime import log
from usage_instrument.runtime.call_sites import caller
from usage_instrument.typing import UserId

_UNCONFIGURED = (
    "usage-instrument is not configured: call usage_instrument.configure(), or, with an integration, set "
    "$USAGE_INSTRUMENT_DATABASE_URL"
)


class Feature:
    """A declared feature. `append(user)` records one plain use."""

    __slots__ = ("append", "catalog", "decorates", "description", "display", "key", "name", "source")

    append: Callable[[UserId], object]

    def __init__(self, catalog: Catalog, name: str, description: str | None, source: str | None) -> None:
        self.catalog = catalog
        self.name = name
        self.key = catalog.key(name)
        self.description = description
        self.display: str | None = None
        """The name for people."""
        self.source = source
        self.decorates: str | None = None
        """The `module:qualified_name` that `tracks` decorates, if any."""

    def __repr__(self) -> str:
        return f"Feature({self.name!r})"


class Experiment:
    """An experiment whose exposures this process records."""

    __slots__ = ("arms", "assigned", "order", "variants")

    def __init__(self, variants: Any = None, order: list[str] | None = None) -> None:
        self.variants = variants
        """Those of the latest `variant()`; None if only `expose()` has named the experiment."""
        self.order = order
        """The order of weights, which counts."""
        self.arms: dict[str, Feature] = {}
        """What records the exposures to a variant, by its name."""
        self.assigned: dict[UserId, tuple[str, Feature]] = {}
        """The variants of users that this process has seen."""


MAX_VARIANTS = 10_000
"""Variants of experiments that a process keeps ready. More names are made at run time, and would fill the memory."""


class Recorder(Protocol):
    """Takes the uses: a tracker, or a stand-in of tests. No method raises unless `strict` is set, except `admit`."""

    @property
    def catalog(self) -> Catalog:
        """The features declared to this recorder."""

    def sink(self, feature: Feature) -> Callable[[UserId], object]:
        """The function that takes one plain use of `feature`, by its user; it becomes `feature.append`."""

    def record(self, use: Use) -> None:
        """Take a use with metadata, with a count, with an access, or of an undeclared feature."""

    def hold(self, use: Use) -> Callable[[], object]:
        """Check a use now, as the rules and settings of the moment say, and return the function that records it."""

    def unit_of(self, user: UserId) -> str:
        """The text by which a user is assigned to variants: their id, as the tables hold it. Raises UserIdError."""

    def admit(self, use: Use) -> None:
        """Commit an access before it happens. Waits for the database. Raises AuditUnavailable."""

    async def aadmit(self, use: Use) -> None:
        """As admit, without blocking the event loop."""

    def reject(self, feature: str, error: Exception, uses: int = 1) -> None:
        """Count and report uses that cannot be kept."""

    def lose_metadata(self, feature: str, error: Exception) -> None:
        """Count and report metadata that cannot be kept. The caller records the use itself."""

    def complain(self, error: Exception) -> None:
        """Report a mistake that loses no use, once."""

    def request_ended(self) -> None:
        """A request ended: revive a writer that died or starves."""

    def confirm_users(self, users: Collection[UserId]) -> None:
        """A request of these users has ended with success: a row that one of them lacks now was deleted."""

    async def ashutdown(self, timeout: float | None = None) -> bool:
        """Write the pending uses and stop, at the end of a lifespan; True if nothing is left."""


class Catalog:
    """The declared features by name, and the recorder of their uses."""

    def __init__(self, recorder: Recorder | None = None, *, is_shared: bool = False) -> None:
        self.is_shared = is_shared
        self._features: dict[str, Feature] = {}
        self._exposures: dict[str, Feature] = {}
        self.experiments: dict[str, Experiment] = {}
        """The experiments whose exposures were recorded, by name."""
        self._stated: dict[tuple[str, str], str] = {}  # the line that states a text, by feature and option
        self._displaced: list[Recorder] = []
        self._pending: list[Callable[[], object]] = []
        self.recorder: Recorder = recorder if recorder is not None else Unconfigured(self)

    def key(self, name: str) -> object:
        """The key of a feature in `Request.counted`: two trackers may have features of one name."""
        return name if self.is_shared else (id(self), name)

    def declare(
        self,
        name: str,
        *,
        description: str | None = None,
        display: str | None = None,
        fallback: str | None = None,
        source: str | None = None,
    ) -> Feature:
        """The feature of that name, declared if it was not.

        `description` is the author's, `fallback` that of a docstring, `display` the name for people, `source` the
        `module:qualified_name` of the declaration. Raises FeatureNameError.
        """
        name = check_feature(name)
        feature = self._features.get(name)
        if feature is None:
            feature = self._connected(self._features, Feature(self, name, description or fallback, source))
        for option, text in (("description", description), ("display", display)):
            if text is not None:
                self._state(feature, option, text)
        return feature

    def exposed(self, exposure: Exposure) -> Feature:
        """A feature whose `append(user)` records one exposure. It is not among the declared features."""
        known = self._exposures.get(exposure.key)
        if known is not None:
            return known
        feature = Feature(self, exposure.key, None, None)
        if len(self._exposures) < MAX_VARIANTS:
            return self._connected(self._exposures, feature)
        log.once(
            "variants",
            "this process has exposed users to more than %d variants: the names of experiments and variants are fixed "
            "texts, and no ids belong in them; further ones are recorded more slowly",
            MAX_VARIANTS,
        )
        feature.append = lambda user: self.recorder.record(Use(feature.name, user))
        return feature

    def keeps(self, feature: Feature) -> bool:
        """Whether this feature of `exposed` is kept for the next exposure."""
        return self._exposures.get(feature.name) is feature

    def _connected(self, features: dict[str, Feature], feature: Feature) -> Feature:
        feature.append = self.recorder.sink(feature)
        # setdefault: two threads may import two modules that declare the same feature.
        feature = features.setdefault(feature.name, feature)
        recorder = None
        while recorder is not self.recorder:  # an attach() may run between any two of these steps
            recorder = self.recorder
            feature.append = recorder.sink(feature)
        return feature

    def _state(self, feature: Feature, option: str, text: str) -> None:
        """Keep the text that an option states, unless another place has stated another one."""
        key, line, known = (feature.name, option), caller(), getattr(feature, option)
        if key in self._stated and known != text:
            log.warning(
                (option, feature.name),
                "feature %r has two texts for %s=: %r at %s and %r at %s; the first one is kept, "
                "so leave it out of all but one",
                feature.name, option, known, self._stated[key], text, line,
            )  # fmt: skip
        else:
            setattr(feature, option, text)
            self._stated.setdefault(key, line)

    def declare_later(self, declare: Callable[[], object]) -> None:
        """Have a thread of the recorder's call this, so that many declarations delay no request."""
        self._pending.append(declare)

    def declare_pending(self) -> None:
        """Make the declarations that were left for later. Never raises."""
        while self._pending:
            with log.quietly("cannot declare the features of an app"):
                self._pending.pop()()

    def attach(self, recorder: Recorder) -> None:
        """Record the uses of all features, present and future, with this recorder. It waits for a stand-in to leave."""
        if self._displaced:
            self._displaced[0] = recorder
        else:
            self._hand_to(recorder)

    @contextlib.contextmanager
    def stand_in(self, recorder: Recorder) -> Iterator[None]:
        """Inside, this recorder takes the uses. A recorder that is attached meanwhile takes over afterwards."""
        self._displaced.append(self.recorder)
        self._hand_to(recorder)
        try:
            yield
        finally:
            self._hand_to(self._displaced.pop())

    def _hand_to(self, recorder: Recorder) -> None:
        self.recorder = recorder
        for feature in [*self._features.values(), *self._exposures.values()]:
            feature.append = recorder.sink(feature)

    def __iter__(self) -> Iterator[Feature]:
        return iter(list(self._features.values()))

    def __len__(self) -> int:
        return len(self._features)

    def __contains__(self, name: object) -> bool:
        return name in self._features


class Unconfigured:
    """The recorder before `configure()`: records nothing, and logs that once."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def sink(self, feature: Feature) -> Callable[[UserId], object]:
        """As Recorder.sink."""
        return self._report

    def record(self, use: Use) -> None:
        """As Recorder.record."""
        self._report(None)

    def hold(self, use: Use) -> Callable[[], object]:
        """As Recorder.hold."""
        return lambda: self._report(None)

    def unit_of(self, user: UserId) -> str:
        """As Recorder.unit_of, of an id that is of the right type."""
        return str(user)

    def admit(self, use: Use) -> None:
        """As Recorder.admit; always raises."""
        raise AuditUnavailable.of(
            use.feature,
            f"{_UNCONFIGURED}, or in a test use capture_usage()",
        )

    async def aadmit(self, use: Use) -> None:
        """As Recorder.aadmit."""
        self.admit(use)

    def reject(self, feature: str, error: Exception, uses: int = 1) -> None:
        """As Recorder.reject."""
        self._report(None)

    def lose_metadata(self, feature: str, error: Exception) -> None:
        """As Recorder.lose_metadata."""

    def complain(self, error: Exception) -> None:
        """As Recorder.complain."""
        self._report(None)

    def request_ended(self) -> None:
        """As Recorder.request_ended."""

    def confirm_users(self, users: Collection[UserId]) -> None:
        """As Recorder.confirm_users."""

    async def ashutdown(self, timeout: float | None = None) -> bool:
        """As Recorder.ashutdown."""
        return True

    def _report(self, user: UserId) -> None:
        log.once("unconfigured", _UNCONFIGURED)


declared = Catalog(is_shared=True)
"""The features of `usage_instrument.tracks`, and of a middleware without a tracker of its own."""


_PARTIALS = (functools.partial, functools.partialmethod)


def features_of(endpoint: object, catalog: Catalog | None = None) -> frozenset[str]:
    """The features of a tracked callable, in one catalogue or any, also below decorators, partials and methods."""
    names: set[str] = set()
    seen: set[int] = set()
    while endpoint is not None and id(endpoint) not in seen:
        seen.add(id(endpoint))
        if isinstance(endpoint, type):  # not an inherited one: only instances of exactly the tracked class count
            endpoint = vars(endpoint).get("__init__")
        feature = getattr(endpoint, "_usage_feature", None)
        if isinstance(feature, Feature) and catalog in (None, feature.catalog):
            names.add(feature.name)
        # Only a partial's `func`: a Mock has endless ones.
        below = ("__wrapped__", "__func__", "func") if isinstance(endpoint, _PARTIALS) else ("__wrapped__", "__func__")
        inner = (getattr(endpoint, name, None) for name in below)
        endpoint = next((found for found in inner if found is not None), None)
    return frozenset(names)
