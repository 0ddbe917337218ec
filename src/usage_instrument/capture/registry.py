"""The features that the code declares; each owns one cell, whose `append` the recorder swaps."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Protocol

from usage_instrument.errors import AuditUnavailable
from usage_instrument.events import Use, check_feature
from usage_instrument.runtime.call_sites import caller
from usage_instrument.typing import UserId

logger = logging.getLogger("usage_instrument")


class Feature:
    """A declared feature. `append(user)` takes one plain use: it is the whole of a capture's hand-over."""

    __slots__ = ("append", "catalog", "decorates", "description", "key", "name", "source")

    append: Callable[[UserId], object]

    def __init__(self, catalog: Catalog, name: str, description: str | None, source: str | None) -> None:
        self.catalog = catalog
        self.name = name
        self.key = catalog.key(name)
        self.description = description
        self.source = source
        self.decorates: str | None = None
        """The `module:qualified_name` that `tracks` decorates with it, if it does."""

    def __repr__(self) -> str:
        return f"Feature({self.name!r})"


class Recorder(Protocol):
    """Who takes the uses: a tracker, or what stands in for it. Nothing here raises unless `strict` is set."""

    @property
    def catalog(self) -> Catalog:
        """The features declared to this recorder."""

    def sink(self, feature: Feature) -> Callable[[UserId], object]:
        """What one plain use of `feature` is handed to, by its user; the catalogue calls it to fill a cell."""

    def record(self, use: Use) -> None:
        """Take a use that is more than a user: with metadata, with a count, or under a name made at run time."""

    def admit(self, use: Use) -> None:
        """Commit an access before it happens; waits for the database. Raises AuditUnavailable."""

    async def aadmit(self, use: Use) -> None:
        """As admit, without blocking the event loop."""

    def reject(self, feature: str, error: Exception, uses: int = 1) -> None:
        """Count uses that cannot be kept, and say why."""

    def lose_metadata(self, feature: str, error: Exception) -> None:
        """Count metadata that cannot be kept, and say why; the use itself is recorded by the caller."""

    def complain(self, error: Exception) -> None:
        """Say a mistake that costs no use, once."""

    def request_ended(self) -> None:
        """A request ended: the moment to relieve a writer that died or starves."""

    async def ashutdown(self, timeout: float | None = None) -> bool:
        """Write what is pending and stop, for the end of a lifespan; True when nothing is left."""


class Catalog:
    """The declared features by name, and who records their uses at the moment."""

    def __init__(self, recorder: Recorder | None = None, *, is_shared: bool = False) -> None:
        self.is_shared = is_shared
        self._features: dict[str, Feature] = {}
        self._described: dict[str, str] = {}  # by name, the line that did
        self._displaced: list[Recorder] = []
        self.recorder: Recorder = recorder if recorder is not None else Unconfigured(self)
        """Who takes the uses."""

    def key(self, name: str) -> object:
        """What a request remembers to have counted: another tracker's feature of this name is another feature."""
        return name if self.is_shared else (id(self), name)

    def declare(
        self,
        name: str,
        *,
        description: str | None = None,
        fallback: str | None = None,
        source: str | None = None,
    ) -> Feature:
        """The feature of that name, declared by now.

        `description` is what its author says of it, `fallback` what a docstring says, `source` the
        `module:qualified_name` that declares it. Raises FeatureNameError for a name that cannot be one.
        """
        name = check_feature(name)
        feature = self._features.get(name)
        if feature is None:
            feature = Feature(self, name, description or fallback, source)
            feature.append = self.recorder.sink(feature)
            # setdefault: two threads may import two modules that declare the same feature.
            feature = self._features.setdefault(name, feature)
            recorder = None
            while recorder is not self.recorder:  # an attach() may run between any two of these steps
                recorder = self.recorder
                feature.append = recorder.sink(feature)
        if description is not None:
            line = caller()
            if name in self._described and feature.description != description:
                logger.warning(
                    "feature %r is described twice, differently: %r at %s and now %r at %s; the first stands, "
                    "so leave description= out of all but one",
                    name, feature.description, self._described[name], description, line,
                )  # fmt: skip
            else:
                feature.description = description
                self._described.setdefault(name, line)
        return feature

    def attach(self, recorder: Recorder) -> None:
        """From now on, this recorder takes the uses of every feature, declared or yet to be; while a stand-in does,
        after it."""
        if self._displaced:
            self._displaced[0] = recorder
        else:
            self._hand_to(recorder)

    @contextlib.contextmanager
    def stand_in(self, recorder: Recorder) -> Iterator[None]:
        """Inside, this recorder takes the uses, whoever is attached meanwhile."""
        self._displaced.append(self.recorder)
        self._hand_to(recorder)
        try:
            yield
        finally:
            self._hand_to(self._displaced.pop())

    def _hand_to(self, recorder: Recorder) -> None:
        self.recorder = recorder
        for feature in list(self._features.values()):
            feature.append = recorder.sink(feature)

    def __iter__(self) -> Iterator[Feature]:
        return iter(list(self._features.values()))

    def __len__(self) -> int:
        return len(self._features)

    def __contains__(self, name: object) -> bool:
        return name in self._features


class Unconfigured:
    """The recorder before `configure()`: takes nothing, and says so once."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._said = False

    def sink(self, feature: Feature) -> Callable[[UserId], object]:
        """As Recorder.sink."""
        return self._say

    def record(self, use: Use) -> None:
        """As Recorder.record."""
        self._say(None)

    def admit(self, use: Use) -> None:
        """As Recorder.admit: nobody gets through."""
        raise AuditUnavailable.of(
            use.feature,
            "usage-instrument is not configured: call usage_instrument.configure(), or in a test use capture_usage()",
        )

    async def aadmit(self, use: Use) -> None:
        """As Recorder.aadmit."""
        self.admit(use)

    def reject(self, feature: str, error: Exception, uses: int = 1) -> None:
        """As Recorder.reject."""
        self._say(None)

    def lose_metadata(self, feature: str, error: Exception) -> None:
        """As Recorder.lose_metadata."""

    def complain(self, error: Exception) -> None:
        """As Recorder.complain."""
        self._say(None)

    def request_ended(self) -> None:
        """As Recorder.request_ended."""

    async def ashutdown(self, timeout: float | None = None) -> bool:
        """As Recorder.ashutdown."""
        return True

    def _say(self, user: UserId) -> None:
        if not self._said:
            self._said = True
            logger.warning("usage-instrument is not configured: nothing is counted until usage_instrument.configure()")


declared = Catalog(is_shared=True)
"""The features that `usage_instrument.tracks` and a middleware without a tracker of its own declare."""


_PARTIALS = (functools.partial, functools.partialmethod)


def features_of(endpoint: object, catalog: Catalog | None = None) -> frozenset[str]:
    """The names of the features, of one catalogue or any, that a callable is tracked for, also below decorators,
    partials and methods."""
    names: set[str] = set()
    seen: set[int] = set()
    while endpoint is not None and id(endpoint) not in seen:
        seen.add(id(endpoint))
        if isinstance(endpoint, type):  # not what it inherits: instances of exactly a tracked class count
            endpoint = vars(endpoint).get("__init__")
        feature = getattr(endpoint, "_usage_feature", None)
        if isinstance(feature, Feature) and catalog in (None, feature.catalog):
            names.add(feature.name)
        # Only a partial's `func`: what a Mock answers to that name never ends.
        below = ("__wrapped__", "__func__", "func") if isinstance(endpoint, _PARTIALS) else ("__wrapped__", "__func__")
        inner = (getattr(endpoint, name, None) for name in below)
        endpoint = next((found for found in inner if found is not None), None)
    return frozenset(names)
