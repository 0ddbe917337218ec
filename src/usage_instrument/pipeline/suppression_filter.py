"""Removes suppressed users from everything the writer holds, in memory and in the journal."""

from __future__ import annotations

from usage_instrument.database.ledger import Ledger
from usage_instrument.settings import Settings

from .batcher import Batcher
from .journal import Journal
from .rejection import Rejection
from .store import Store


class SuppressionFilter:
    """The store knows the suppressed users; the batcher and the journal hold their names."""

    def __init__(self, batcher: Batcher, rejection: Rejection, settings: Settings, journal: Journal | None) -> None:
        self._batcher = batcher
        self._rejection = rejection
        self._journal = journal
        self._is_enabled = settings.privacy_key is not None
        self._is_untidy = False

    def before_sending(self, store: Store, ledger: Ledger) -> None:
        """Remove known suppressed users. Raises WriteError."""
        if store.suppressions and self._batcher.names(store.suppressions):
            store.is_outdated(ledger)  # they may have opted in since
            self._discard(store)

    def rolled_back(self, store: Store) -> None:
        """Remove suppressed users from the batch too, after the database refused it because of them."""
        self._discard(store, batch=True)

    def without_sending(self, store: Store, ledger: Ledger) -> bool:
        """Look for users who were suppressed since, in a cycle that sent nothing. Raises WriteError."""
        names = self._journal is not None or self._batcher.deferred
        if not (self._is_enabled and names and store.is_outdated(ledger)):
            return False
        self._discard(store, rotate=True)
        return True

    def _discard(self, store: Store, *, batch: bool = False, rotate: bool = False) -> None:
        found = self._batcher.discard(store.suppressions, batch=batch)
        self._rejection.suppress(found.uses)
        if self._journal is not None and (found.has_erased or batch or rotate):
            self._journal.is_erased = store.suppressions.erases
            self._journal.rotate_soon()
            self._is_untidy = True

    def tidy(self, ledger: Ledger) -> None:
        """Delete their names from the disk as soon as no batch is on its way. Raises OSError."""
        if self._is_untidy and self._journal is not None and self._batcher.tidy(ledger):
            self._is_untidy = not self._journal.is_rotated
