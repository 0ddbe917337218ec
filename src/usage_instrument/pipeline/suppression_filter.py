"""What the writer holds of users who are not to be counted: found, given up, and deleted from the disk."""

from __future__ import annotations

from usage_instrument.database.ledger import Ledger
from usage_instrument.settings import Settings

from .batcher import Batcher
from .journal import Journal
from .rejection import Rejection
from .store import Store


class SuppressionFilter:
    """Between the store, which knows who is suppressed, and the batcher and the journal, which name them."""

    def __init__(self, batcher: Batcher, rejection: Rejection, settings: Settings, journal: Journal | None) -> None:
        self._batcher = batcher
        self._rejection = rejection
        self._journal = journal
        self._looks = settings.privacy_key is not None
        self._untidy = False

    def screen(self, store: Store, ledger: Ledger) -> None:
        """Before anything is sent, give up what is held of who is suppressed. Raises WriteError."""
        if store.suppressions and self._batcher.meets(store.suppressions):
            store.is_outdated(ledger)  # they may have opted in since
            self._give_up(store)

    def rolled_back(self, store: Store, number: int) -> None:
        """The same, and of the batch of this number, after a definite rollback because somebody is suppressed."""
        self._give_up(store, number)

    def look(self, store: Store, ledger: Ledger) -> bool:
        """Where nothing was sent, which would tell: what waits, or the journal, may name who is suppressed by now. True
        if somebody is. Raises WriteError."""
        names = self._journal is not None or len(self._batcher.waiting)
        if not (self._looks and names and store.is_outdated(ledger)):
            return False
        self._give_up(store, renew=True)
        return True

    def _give_up(self, store: Store, number: int | None = None, *, renew: bool = False) -> None:
        found = self._batcher.screen(store.suppressions, number)
        self._rejection.silence(found.uses)
        if self._journal is not None and (found.met or number is not None or renew):
            self._journal.is_erased = store.suppressions.erases
            self._journal.rotate_soon()
            self._untidy = True

    def tidy(self) -> None:
        """Leave nothing on the disk of what is not held any more, as soon as nothing is on its way. Raises OSError."""
        if self._untidy and self._journal is not None and self._batcher.tidy():
            self._untidy = not self._journal.is_rotated
