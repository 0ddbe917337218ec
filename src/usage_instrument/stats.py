"""The figures of a tracker. In uses: captured + recovered = written + pending + dropped + rejected."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """The figures of one tracker in this process; exact after `flush()`, else approximate."""

    captured: int = 0
    """Uses captured."""
    recovered: int = 0
    """Uses recovered from the journals of dead processes."""
    written: int = 0
    """Uses in committed transactions."""
    pending: int = 0
    """Uses that wait to be aggregated or written, or for the row of their user."""
    dropped: int = 0
    """Uses lost: memory was full, or the fate of a batch is unknown."""
    rejected: int = 0
    """Uses refused: a bad user id, an unknown user, or a value that the database refuses."""
    metadata_lost: int = 0
    """Uses kept without their metadata."""
    outbox_pending: int = 0
    """Uses of committed transactions that wait in `feature_usage_outbox`, of all processes, when the writer last
    looked: at each flush(), after commits of this process, and once a minute."""
    audited: int = 0
    """Rows of the audit trail in committed transactions."""
    audit_pending: int = 0
    """Accesses that wait to be written."""
    audit_lost: int = 0
    """Accesses lost: memory was full, or their fate is unknown."""
    retries: int = 0
    """Failed attempts to write that are retried."""
    last_error: str | None = None
    """The error of the last attempt, without credentials; None after a success."""
    heartbeat: float | None = None
    """Seconds since the latest cycle of the aggregator began; None when it is not running."""
    writer_id: str | None = None
    """This process's row in `feature_usage_writers`; None before the first batch."""


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """The outcome of a recovery, in uses."""

    journals: int = 0
    """Directories recovered and deleted."""
    written: int = 0
    dropped: int = 0
    rejected: int = 0
    metadata_lost: int = 0
    audited: int = 0
    audit_lost: int = 0
    retries: int = 0
    parked: tuple[Path, ...] = ()
    """Directories that need a person."""
    unfinished: tuple[Path, ...] = ()
    """Directories to retry."""
    last_error: str | None = None

    @property
    def uses(self) -> int:
        """The uses recovered."""
        return self.written + self.dropped + self.rejected

    def plus(self, other: Recovered) -> Recovered:
        """The sum of both."""
        mine, others = (
            {field.name: getattr(each, field.name) for field in fields(Recovered) if field.name != "last_error"}
            for each in (self, other)
        )
        return Recovered(
            **{name: mine[name] + others[name] for name in mine}, last_error=other.last_error or self.last_error
        )
