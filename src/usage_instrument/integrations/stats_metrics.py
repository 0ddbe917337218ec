"""What of `stats()` is a metric, for whatever system shows it; neither features nor users are among its labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from usage_instrument import _default

if TYPE_CHECKING:
    from usage_instrument.stats import Stats
    from usage_instrument.tracker import Tracker


class Figure(NamedTuple):
    """One number of Stats."""

    field: str
    name: str
    """Words, which each system joins in its own way."""
    unit: str
    description: str
    grows: bool = True
    """Whether it only ever grows, until the process or the tracker is a new one."""


_USES = "{use}"
_ACCESSES = "{access}"
FIGURES = (
    Figure("captured", "uses captured", _USES, "Uses captured, kept or not."),
    Figure("recovered", "uses recovered", _USES, "Uses taken over from the journals of dead processes."),
    Figure("written", "uses written", _USES, "Uses that are in the table."),
    Figure("dropped", "uses dropped", _USES, "Uses given up: memory was full, or a batch's fate could not be known."),
    Figure("rejected", "uses rejected", _USES, "Uses refused, such as those of an unknown user."),
    Figure("pending", "uses pending", _USES, "Uses that wait to be written.", grows=False),
    Figure("metadata_lost", "metadata lost", _USES, "Uses that were kept without their metadata."),
    Figure("audited", "accesses audited", _ACCESSES, "Rows that are in the audit trail."),
    Figure("audit_lost", "accesses lost", _ACCESSES, "Accesses that are not in the audit trail, and never will be."),
    Figure("audit_pending", "accesses pending", _ACCESSES, "Accesses that wait to be written.", grows=False),
    Figure("retries", "retries", "{attempt}", "Attempts to write that failed."),
    Figure(
        "heartbeat", "heartbeat", "s", "Seconds since the folder last looked; absent when it is not running.", False
    ),
)


def source(tracker: Tracker | None) -> Callable[[], Stats]:
    """Where the figures come from: this tracker, or whichever is configured at the moment."""
    return _default.stats if tracker is None else tracker.stats
