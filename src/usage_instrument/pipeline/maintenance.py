"""What the writer does between batches: the heartbeat, the catalogue, the journals of dead writers, old rows."""

from __future__ import annotations

import datetime as dt
import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

from usage_instrument.capture.registry import Catalog
from usage_instrument.database.ledger import Ledger
from usage_instrument.settings import Settings
from usage_instrument.stats import Recovered

from . import journal
from .store import Store, WriteError

logger = logging.getLogger("usage_instrument")

HEARTBEAT = 60.0
"""Seconds between two heartbeats of an idle writer."""
RECOVERY = 60.0
"""Seconds between two looks for the journals of dead writers."""
REDECLARE = 86400.0
"""Seconds after which a living process declares its features again."""

PRUNE = 86400.0
"""Seconds between two looks for rows that are too old."""
PRUNE_PHASE = 3600.0
"""Seconds within which the first of these looks lies, at random: a deploy starts all processes of a fleet at once."""
PRUNE_TURN = 0.5
"""Seconds that deleting such rows may take between two batches; what is left waits for the next pause."""

PRUNE_AGAIN = 900.0
"""Seconds until it is tried again when something was in the way that passes."""
WORTH_A_LINE = 3
"""Attempts in a row after which what passes has not passed."""

Recover: TypeAlias = Callable[[Store, Callable[[], bool]], Recovered]


class Maintenance:
    """Each in a transaction of its own, once there is a row in the ledger; none of it delays a count for long."""

    def __init__(
        self, catalog: Catalog, settings: Settings, say: Callable[[str], None], recover: Recover | None
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._say = say
        self._recover = recover
        self._next_beat = self._next_recovery = self._next_declaration = self._redeclare = 0.0
        self._declared: dict[str, str | None] = {}
        self._next_pruning = time.monotonic() + random.random() * PRUNE_PHASE
        self._pruning: Iterator[int] | None = None
        self._prunings_failed = 0
        self.recovered = Recovered()

    def registered(self) -> None:
        """A row was written just now."""
        self._next_beat = time.monotonic() + HEARTBEAT

    def keep(self, store: Store, ledger: Ledger, *, final: bool, asked: bool, hurried: Callable[[], bool]) -> None:
        """Do what is due; what can wait does so while somebody has `asked` for a flush, or does while it is done, as
        `hurried` tells. Raises WriteError."""
        now = time.monotonic()
        if now >= self._next_beat and not final:
            store.beat(ledger)
            self._next_beat = now + HEARTBEAT
        if now >= self._redeclare:
            self._declared.clear()
            self._redeclare = now + REDECLARE
        if now >= self._next_declaration:
            self._declare(store, now)
        if self._recover is not None and now >= self._next_recovery and not final:
            self._next_recovery = now + RECOVERY
            found = self._recover(store, hurried)
            if found.unfinished and not hurried():
                self._say(f"a journal could not be recovered: {found.unfinished[0]}: {found.last_error}")
            self.recovered = self.recovered.plus(replace(found, parked=(), unfinished=(), last_error=None))
        if (now >= self._next_pruning or self._pruning is not None) and not final and not asked:
            self._prune(store, hurried)

    def forget(self) -> None:
        """Declare everything anew when the writer starts again."""
        self._declared.clear()
        self._pruning = None

    def _declare(self, store: Store, now: float) -> None:
        new = [feature for feature in self._catalog if self._declared.get(feature.name, "") != feature.description]
        if new:
            try:
                store.declare(new, self._settings.service)
            except WriteError as error:
                # It delays no count. What passes is tried again soon, all else with the next new feature or day.
                if error.fault.is_transient:
                    self._next_declaration = now + HEARTBEAT / 4
                    return
                self._say(f"the catalogue was not written: {error}")
            self._declared.update((feature.name, feature.description) for feature in new)

    def _prune(self, store: Store, hurried: Callable[[], bool]) -> None:
        now = time.monotonic()
        if self._pruning is None:
            self._pruning, self._next_pruning = self._old_rows(store), now + PRUNE
        try:
            for rows in self._pruning:
                logger.debug("pruned %d rows", rows)
                if hurried() or time.monotonic() >= now + PRUNE_TURN:
                    return
            self._prunings_failed = 0
        except (WriteError, OSError) as error:
            # It delays no count. Somebody else's locks pass; all else is said once, and waits for the next day.
            self._prunings_failed += 1
            lasting = not isinstance(error, WriteError) or not error.fault.is_transient
            if self._prunings_failed == (1 if lasting else WORTH_A_LINE):
                self._say(f"old rows were not pruned, which `usage-instrument prune` does as well: {error}")
            elif not lasting and self._prunings_failed < WORTH_A_LINE:
                self._next_pruning = now + PRUNE_AGAIN
        self._pruning = None

    def _old_rows(self, store: Store) -> Iterator[int]:
        retention, settings = store.retention, self._settings
        yield from retention.prune(retention.first_day(dt.timedelta(seconds=settings.history_retention)))
        place = settings.journal
        dead = retention.dead_writers(lambda: journal.writers(place) if place is not None else ())
        yield retention.forget(dead)
