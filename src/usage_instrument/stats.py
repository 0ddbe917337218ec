"""The tracker's own figures: captured + recovered = written + pending + dropped + rejected, in uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """A look at one tracker in this process; exact after `flush()`, a moment's approximation otherwise."""

    captured: int = 0
    """Uses captured, kept or not."""
    recovered: int = 0
    """Uses taken over from the journals of dead processes."""
    written: int = 0
    """Uses that a committed transaction has put into the table."""
    pending: int = 0
    """Uses that wait: to be folded, to be written, for their user's row."""
    dropped: int = 0
    """Uses given up: memory was full, or a batch's fate could not be known."""
    rejected: int = 0
    """Uses refused: a bad user id, an unknown user, a value that the database does not take."""
    metadata_lost: int = 0
    """Uses that were kept without their metadata."""
    audited: int = 0
    """Rows that a committed transaction has put into the audit trail."""
    audit_pending: int = 0
    """Accesses that wait to be written there."""
    audit_lost: int = 0
    """Accesses given up: memory was full, or their fate could not be known."""
    retries: int = 0
    """Attempts to write that failed and were, or will be, repeated."""
    last_error: str | None = None
    """What the last failed attempt died of, without credentials; None after a success."""
    heartbeat: float | None = None
    """Seconds since the folder last looked; None when it is not running."""
    writer_id: str | None = None
    """This process's row in `feature_usage_writers`; None before the first batch."""


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What became of the uses that were found, in uses; they are taken over only once their fate is known."""

    journals: int = 0
    """Directories that are empty now, and deleted."""
    written: int = 0
    dropped: int = 0
    rejected: int = 0
    metadata_lost: int = 0
    audited: int = 0
    audit_lost: int = 0
    retries: int = 0
    parked: tuple[Path, ...] = ()
    """Directories that need a person's look."""
    unfinished: tuple[Path, ...] = ()
    """Directories that have to be tried again."""
    last_error: str | None = None

    @property
    def uses(self) -> int:
        """How many uses were taken over."""
        return self.written + self.dropped + self.rejected

    def plus(self, other: Recovered) -> Recovered:
        """Both together."""
        return Recovered(
            journals=self.journals + other.journals,
            written=self.written + other.written,
            dropped=self.dropped + other.dropped,
            rejected=self.rejected + other.rejected,
            metadata_lost=self.metadata_lost + other.metadata_lost,
            audited=self.audited + other.audited,
            audit_lost=self.audit_lost + other.audit_lost,
            retries=self.retries + other.retries,
            parked=self.parked + other.parked,
            unfinished=self.unfinished + other.unfinished,
            last_error=other.last_error or self.last_error,
        )
