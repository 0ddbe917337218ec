"""The writer's work between batches: the heartbeat, the catalogue, the journals of dead writers, old rows, rollups."""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

from usage_instrument.capture.registry import Catalog, Feature
from usage_instrument.database.ledger import Ledger
from usage_instrument.runtime import log
from usage_instrument.settings import Settings
from usage_instrument.stats import Recovered
from usage_instrument.typing import UNSET, Unset

from . import journal
from .store import Store, WriteError

HEARTBEAT = 60.0
"""Seconds between two heartbeats of an idle writer."""
_DECLARE_AGAIN = 15.0
"""Seconds until the catalogue is written again after a transient error."""
_REDECLARE = 86400.0
"""Seconds after which a living process declares its features again."""
_RECOVERY = 60.0
"""Seconds between two searches for the journals of dead writers."""
_PRUNE = 86400.0
"""Seconds between two searches for old rows; the first is up to an hour after the start, at random, because a deploy
starts all processes of a fleet at once."""
_PRUNE_PHASE = 3600.0
_PRUNE_TURN = 0.5
"""Seconds that pruning may take between two batches; the rest waits for the next pause."""
_PRUNE_AGAIN = 900.0
"""Seconds until old rows are pruned again after a transient error."""
_ATTEMPTS = 3
"""Transient errors in a row after which pruning waits for the next day."""

Recover: TypeAlias = Callable[[Store, Callable[[], bool]], Recovered]


class Maintenance:
    """Each task is a transaction of its own. None delays a count for long."""

    def __init__(self, catalog: Catalog, settings: Settings, recover: Recover | None = None) -> None:
        self._catalog = catalog
        self._settings = settings
        self._recover = recover
        self._next_beat = self._next_recovery = self._next_declaration = self._next_redeclaration = 0.0
        self._declared: dict[str, tuple[str | None, ...]] = {}
        self._next_pruning = time.monotonic() + random.random() * _PRUNE_PHASE
        self._pruning: Iterator[int] | None = None
        self._failed_prunings = 0
        self.recovered = Recovered()

    def registered(self) -> None:
        """The writer's row was inserted."""
        self._next_beat = time.monotonic() + HEARTBEAT

    def beat(self, store: Store, ledger: Ledger) -> int | Unset:
        """The writer's position in the database, if it is time for a heartbeat; else UNSET. Raises WriteError."""
        now = time.monotonic()
        if now < self._next_beat:
            return UNSET
        position = store.beat(ledger)
        self._next_beat = now + HEARTBEAT
        return position

    def run(self, store: Store, ledger: Ledger, *, final: bool, asked: bool, interrupted: Callable[[], bool]) -> None:
        """Do what is due. Long tasks wait while a flush is `asked` for, and stop once `interrupted`. Raises
        WriteError."""
        now = time.monotonic()
        if now >= self._next_redeclaration:
            self._declared.clear()
            self._next_redeclaration = now + _REDECLARE
        if now >= self._next_declaration:
            self._declare(store, now)
        if self._recover is not None and now >= self._next_recovery and not final:
            self._next_recovery = now + _RECOVERY
            found = self._recover(store, interrupted)
            if found.unfinished and not interrupted():
                log.warning(
                    "unrecovered", "a journal could not be recovered: %s: %s", found.unfinished[0], found.last_error
                )
            self.recovered = self.recovered.plus(replace(found, parked=(), unfinished=(), last_error=None))
        if (now >= self._next_pruning or self._pruning is not None) and not final and not asked:
            self._prune(store, interrupted)

    def end(self) -> None:
        """The writer ends; the next one declares everything again."""
        self._declared.clear()
        self._pruning = None

    def _declare(self, store: Store, now: float) -> None:
        self._catalog.declare_pending()
        new = [feature for feature in self._catalog if self._declared.get(feature.name) != _texts(feature)]
        if not new:
            return
        try:
            store.declare(new, self._settings.service)
        except WriteError as error:
            if error.fault.is_transient:
                self._next_declaration = now + _DECLARE_AGAIN
                return
            log.warning("undeclared", "the catalogue was not written: %s", error)
        self._declared.update((feature.name, _texts(feature)) for feature in new)

    def _prune(self, store: Store, interrupted: Callable[[], bool]) -> None:
        now = time.monotonic()
        if self._pruning is None:
            self._pruning, self._next_pruning = self._old_rows(store), now + _PRUNE
        try:
            for rows in self._pruning:
                log.debug("pruned %d rows", rows)
                if interrupted() or time.monotonic() >= now + _PRUNE_TURN:
                    return
            self._failed_prunings = 0
        except (WriteError, OSError) as error:
            self._failed_prunings += 1
            if isinstance(error, WriteError) and error.fault.is_transient and self._failed_prunings < _ATTEMPTS:
                self._next_pruning = now + _PRUNE_AGAIN
            elif self._failed_prunings == 1 or self._failed_prunings == _ATTEMPTS:
                log.warning("unpruned", "old rows were not pruned: %s. Run `usage-instrument prune`", error)
        self._pruning = None

    def _old_rows(self, store: Store) -> Iterator[int]:
        retention, settings = store.retention, self._settings
        first_day = retention.first_day(dt.timedelta(seconds=settings.history_retention))
        first_moment = retention.first_month(first_day)
        yield from retention.make_partitions(first_moment)
        yield from retention.prune(first_moment)
        if store.exposure_problem is None:
            yield from retention.prune_exposures(first_day)
        if store.dimension_problem is None:
            yield from retention.prune_dimensions(first_day)
        root = settings.journal
        dead = retention.dead_writers(lambda: journal.writers(root) if root is not None else ())
        yield retention.forget(dead)
        if settings.history_months_after is not None:
            yield from retention.roll_up_days(retention.first_day(dt.timedelta(seconds=settings.history_months_after)))
        yield from retention.renew_rollups(first_moment)


def _texts(feature: Feature) -> tuple[str | None, ...]:
    return feature.description, feature.display
