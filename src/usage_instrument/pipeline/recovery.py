"""Recovery: writes the journals of dead writers to the tables. Each use counts once, also if the recovery is killed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from usage_instrument.capture.registry import Catalog
from usage_instrument.database.dialects import Fault
from usage_instrument.database.ledger import Ledger
from usage_instrument.errors import FeatureNameError
from usage_instrument.events import Batch, uses_text
from usage_instrument.runtime import log
from usage_instrument.settings import Settings
from usage_instrument.stats import Recovered
from usage_instrument.typing import UserId, _Unset

from .aggregator import Aggregator
from .buffer import Buffer
from .journal import (
    CorruptJournalError,
    Directory,
    Journal,
    NewerJournalError,
    SavedSnapshot,
    directories,
    has_snapshot,
    load_features,
)
from .known_users import KnownUsers
from .maintenance import Maintenance
from .pending_counts import PendingCounts
from .store import Store, WriteError
from .writer import Writer


class _OpenStore(NamedTuple):
    store: Store

    def open_store(self) -> Store:
        return self.store


class Recovery:
    """Adopts the journals below one root whose writers are dead. Two recoveries never take the same one."""

    def __init__(
        self,
        root: str,
        database: str,
        settings: Settings,
        canonical: Callable[[UserId], UserId],
        *,
        is_collecting: bool = False,
    ) -> None:
        self._is_collecting = is_collecting
        """Whether a collector takes the directories over from which nothing was ever sent."""
        self._root = root
        self._database = database
        self._settings = settings
        self._canonical = canonical

    def run(self, store: Store, stop: Callable[[], bool] = lambda: False) -> Recovered:
        """Recover every journal that can be recovered now; `stop` is asked between two batches. Never raises."""
        total = Recovered()
        try:
            found = list(directories(self._root))
        except (FileNotFoundError, NotADirectoryError):  # no process has kept a journal there
            return total
        except OSError as error:
            return Recovered(unfinished=(Path(self._root),), last_error=str(error))
        for path in found:
            if stop():
                break
            try:
                total = total.plus(self._recover(path, store, stop))
            except (OSError, WriteError) as error:
                total = total.plus(Recovered(unfinished=(path,), last_error=str(error)))
            except Exception as error:  # no journal stops the recovery of the others
                log.warning(("recovery", path), "the recovery of %s failed: %r", path, error, exc_info=True)
                total = total.plus(Recovered(unfinished=(path,), last_error=repr(error)))
        if total.uses:
            log.info("recovered %s from the journals of dead processes", uses_text(total.uses))
        return total

    def _recover(self, path: Path, store: Store, stop: Callable[[], bool]) -> Recovered:
        """Raises OSError, WriteError."""
        directory = Directory.adopt(path)
        if directory is None:
            return Recovered()
        try:
            reason = directory.parked_reason
            if reason is not None and not NewerJournalError.has_reason(reason):
                return Recovered()
            if directory.is_incomplete:
                directory.remove()
                return Recovered()
            if self._is_collecting and not has_snapshot(directory):
                return Recovered()
            journal, saved = Journal.load(
                directory, self._root, self._settings.journal_max_bytes, self._settings.resend_max_bytes
            )
            ledger = self._ledger(directory, saved, store)
            declare_features(store, [directory])
            return self._write(path, store, stop, journal, saved, ledger)
        except NewerJournalError as error:
            return Recovered() if reason is not None else Recovered(unfinished=(path,), last_error=str(error))
        except CorruptJournalError as error:
            log.warning(("parked", path), "the journal %s is parked, as it cannot be recovered: %s", path, error)
            directory.park(str(error))
            return Recovered(parked=(path,), last_error=str(error))
        finally:
            directory.release()

    def _ledger(self, directory: Directory, saved: SavedSnapshot | None, store: Store) -> Ledger:
        """The dead writer's own row, with its last applied batch. Raises CorruptJournalError, OSError, WriteError."""
        ledger = store.new_ledger(saved.writer_id if saved is not None else directory.writer_id)
        store.open()
        position = store.position(ledger)
        if not isinstance(position, _Unset):
            ledger.number, ledger.registered = position, True
        elif saved is not None and saved.registered:
            raise CorruptJournalError(
                f"its row {ledger.writer_id} in feature_usage_writers is gone (pruned, or the database was restored), "
                "so it is unknown which of its batches are counted"
            )
        elif directory.database not in (None, "", self._database):
            raise WriteError(Fault.CONFIGURATION, f"its uses are for {directory.database}, not for {self._database}")
        return ledger

    def _write(
        self,
        path: Path,
        store: Store,
        stop: Callable[[], bool],
        journal: Journal,
        saved: SavedSnapshot | None,
        ledger: Ledger,
    ) -> Recovered:
        """Write all its uses as its own writer, then delete it."""
        pending = PendingCounts(self._settings.max_pending, self._settings.max_pending_bytes)
        aggregator = Aggregator(Buffer(), pending, self._settings, self._canonical, journal)
        maintenance = Maintenance(Catalog(), self._settings)
        known = KnownUsers(self._canonical)
        writer = Writer(pending, self._settings, _OpenStore(store), aggregator, maintenance, known, journal)
        writer.resume(ledger, saved, _sent(journal, saved, ledger))
        done = False
        while not done and not stop():
            aggregator.aggregate()
            if not writer.write(final=True):
                break
            done = not journal.unread and writer.batcher.is_idle
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
            return replace(figures, unfinished=(path,), last_error=writer.retry.last_error or store.audit_problem)
        if journal.retire() and writer.ledger is not None and writer.ledger.registered:
            try:
                store.retire(writer.ledger)
            except WriteError as error:  # the row is pruned in time
                log.debug("%s", error)
        return replace(figures, journals=1)


def _sent(journal: Journal, saved: SavedSnapshot | None, ledger: Ledger) -> tuple[Batch, ...]:
    """The acknowledged batches that the database lacks, as far as the journal can give them. Raises OSError."""
    if saved is None:
        return ()
    try:
        return journal.sent_before(saved, ledger.number)
    except CorruptJournalError as error:
        log.warning(("archive", journal.root), "batches that the database may lack cannot be sent again: %s", error)
        return ()


def declare_features(store: Store, found: Iterable[Directory]) -> None:
    """Declare the features that processes have left in their directories. Raises WriteError."""
    catalogs: dict[str, Catalog] = {}
    for directory in found:
        service, features = load_features(directory)
        catalog = catalogs.setdefault(service, Catalog())
        for name, description, source, display in features:
            with suppress(FeatureNameError):
                catalog.declare(name, description=description, display=display, source=source)
    for service, catalog in catalogs.items():
        if catalog:
            store.declare([*catalog], service)
