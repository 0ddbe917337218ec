"""What the writer does between batches: the heartbeat, the catalogue, the journals of dead writers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from .catalog import Catalog
from .dialects import Fault
from .ledger import Ledger
from .stats import Recovered
from .store import Store, WriteError

HEARTBEAT = 60.0
"""Seconds between two heartbeats of an idle writer."""
RECOVERY = 60.0
"""Seconds between two looks for the journals of dead writers."""
REDECLARE = 86400.0
"""Seconds after which a living process declares its features again."""

Recover: TypeAlias = Callable[[Store, Callable[[], bool]], Recovered]


class Housekeeping:
    """Each in a transaction of its own, once there is a row in the ledger; none of it delays a count for long."""

    def __init__(self, catalog: Catalog, service: str, say: Callable[[str], None], recover: Recover | None) -> None:
        self._catalog = catalog
        self._service = service
        self._say = say
        self._recover = recover
        self._next_beat = self._next_recovery = self._next_declaration = self._redeclare = 0.0
        self._declared: dict[str, str | None] = {}
        self.recovered = Recovered()

    def registered(self) -> None:
        """A row was written just now."""
        self._next_beat = time.monotonic() + HEARTBEAT

    def keep(self, store: Store, ledger: Ledger, *, final: bool, hurried: Callable[[], bool]) -> None:
        """Do what is due; `hurried` is asked between two pieces of longer work. Raises WriteError."""
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

    def forget(self) -> None:
        """Declare everything anew when the writer starts again."""
        self._declared.clear()

    def _declare(self, store: Store, now: float) -> None:
        new = [feature for feature in self._catalog if self._declared.get(feature.name, "") != feature.description]
        if new:
            try:
                store.declare(new, self._service)
            except WriteError as error:
                # It delays no count. What passes is tried again soon, all else with the next new feature or day.
                if error.fault is Fault.TRANSIENT:
                    self._next_declaration = now + HEARTBEAT / 4
                    return
                self._say(f"the catalogue was not written: {error}")
            self._declared.update((feature.name, feature.description) for feature in new)
