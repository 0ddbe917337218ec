"""The journals of dead writers, brought into the tables: each of their uses once, also if this dies on the way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

from usage_instrument.capture.registry import Catalog
from usage_instrument.database.dialects import Fault
from usage_instrument.database.ledger import Ledger
from usage_instrument.events import in_words
from usage_instrument.settings import Settings
from usage_instrument.stats import Recovered
from usage_instrument.typing import UserId, _Unset

from .aggregator import Aggregator
from .buffer import Buffer
from .journal import CorruptJournalError, Directory, Journal, SavedSnapshot, directories, parked_reason
from .pending_counts import PendingCounts
from .store import Store, WriteError
from .writer import Writer

logger = logging.getLogger("usage_instrument")


class Recovery:
    """Adopts the journals in one place whose writers are dead; whoever comes second to one leaves it alone."""

    def __init__(
        self,
        place: str,
        database: str,
        settings: Settings,
        canonical: Callable[[UserId], UserId],
        new_ledger: Callable[[UUID | None], Ledger],
    ) -> None:
        self._place = place
        self._database = database
        self._settings = settings
        self._canonical = canonical
        self._new_ledger = new_ledger

    def run(self, store: Store, stop: Callable[[], bool] = lambda: False) -> Recovered:
        """Take over what can be taken over now; `stop` is asked between two batches' worth of it. Never raises."""
        total = Recovered()
        try:
            found = list(directories(self._place))
        except OSError:  # nothing was ever kept there
            return total
        for path in found:
            if stop():
                break
            try:
                home = Directory.adopt(path) if parked_reason(path) is None else None
            except OSError as error:
                total = total.plus(Recovered(unfinished=(path,), last_error=str(error)))
                continue
            if home is not None:
                try:
                    total = total.plus(self._take_over(home, store, stop))
                finally:
                    home.release()
        if total.uses:
            logger.info("recovered %s from the journals of dead processes", in_words(total.uses))
        return total

    def _take_over(self, home: Directory, store: Store, stop: Callable[[], bool]) -> Recovered:
        try:
            if home.unborn:
                home.remove()
                return Recovered()
            journal, frame = Journal.adopted(home, self._place, self._settings.journal_max_bytes)
            ledger = self._ledger(home, frame, store)
        except CorruptJournalError as error:
            return self._park(home, str(error))
        except (OSError, WriteError) as error:
            return Recovered(unfinished=(home.path,), last_error=str(error))
        return self._empty(home, store, stop, journal, frame, ledger)

    def _ledger(self, home: Directory, frame: SavedSnapshot | None, store: Store) -> Ledger:
        """The dead writer's own row, which tells what it has written. Raises CorruptJournalError, WriteError."""
        ledger = self._new_ledger(frame.writer_id if frame is not None else home.writer_id)
        store.open()
        position = store.position(ledger)
        if not isinstance(position, _Unset):
            ledger.number, ledger.registered = position, True
        elif frame is not None and frame.registered:
            raise CorruptJournalError(
                f"its row {ledger.writer_id} in feature_usage_writers is gone (pruned, or the database was restored), "
                "so that nobody can tell which of its batches are counted"
            )
        elif home.database not in (None, self._database):
            raise WriteError(Fault.CONFIGURATION, f"its uses are for {home.database}, not for {self._database}")
        return ledger

    def _empty(
        self,
        home: Directory,
        store: Store,
        stop: Callable[[], bool],
        journal: Journal,
        frame: SavedSnapshot | None,
        ledger: Ledger,
    ) -> Recovered:
        pending = PendingCounts(self._settings.max_pending)
        aggregator = Aggregator(Buffer(), pending, self._settings, self._canonical, lambda request: None, journal)
        writer = Writer(pending, self._settings, Catalog(), lambda: store, self._new_ledger, journal)
        writer.resume(ledger, frame)
        done = False
        while not done and not stop():
            aggregator.aggregate()
            if not writer.cycle(final=True):
                break
            done = not journal.unread and writer.idle
        figures = Recovered(
            written=writer.written,
            dropped=aggregator.dropped + writer.dropped,
            rejected=aggregator.rejected + writer.rejection.rejected,
            metadata_lost=aggregator.metadata_lost + writer.rejection.metadata_lost,
            audited=writer.audited,
            audit_lost=aggregator.audit_lost + writer.rejection.audit_lost,
            retries=writer.retry.retries,
        )
        if not done:
            return replace(figures, unfinished=(home.path,), last_error=writer.retry.last_error or store.audit_problem)
        if journal.retire() and writer.ledger is not None and writer.ledger.registered:
            try:
                store.retire(writer.ledger)
            except WriteError as error:  # the row is pruned in time
                logger.debug("%s", error)
        return replace(figures, journals=1)

    @staticmethod
    def _park(home: Directory, reason: str) -> Recovered:
        logger.warning("a journal is set aside, because it cannot be recovered: %s: %s", home.path, reason)
        try:
            home.park(reason)
        except OSError as error:
            logger.warning("and that could not be noted: %s", error)
        return Recovered(parked=(home.path,), last_error=reason)
