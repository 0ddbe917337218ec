"""The numbers of `stats()` as metrics for any system, without users or features as labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from usage_instrument import _default

if TYPE_CHECKING:
    from usage_instrument.stats import Stats
    from usage_instrument.tracker import Tracker


class Metric(NamedTuple):
    """One number of Stats."""

    field: str
    name: str
    """Words, which each system joins with its own separator."""
    unit: str
    description: str
    grows: bool = True
    """Whether it is a counter, which only grows until the process or the tracker restarts."""


_USES = "{use}"
_ACCESSES = "{access}"
METRICS = (
    Metric("captured", "uses captured", _USES, "Uses captured, kept or not."),
    Metric("recovered", "uses recovered", _USES, "Uses recovered from the journals of dead processes."),
    Metric("written", "uses written", _USES, "Uses that are in the table."),
    Metric("dropped", "uses dropped", _USES, "Uses dropped: memory was full, or the outcome of a batch is unknown."),
    Metric("rejected", "uses rejected", _USES, "Uses rejected, such as those of an unknown user."),
    Metric("pending", "uses pending", _USES, "Uses that wait to be written.", grows=False),
    Metric(
        "outbox_pending",
        "uses in outbox",
        _USES,
        "Uses of committed transactions that wait in feature_usage_outbox, of all processes.",
        grows=False,
    ),
    Metric("metadata_lost", "metadata lost", _USES, "Uses that were recorded without their metadata."),
    Metric("audited", "accesses audited", _ACCESSES, "Rows that are in the audit trail."),
    Metric("audit_lost", "accesses lost", _ACCESSES, "Accesses that could not be recorded in the audit trail."),
    Metric("audit_pending", "accesses pending", _ACCESSES, "Accesses that wait to be written.", grows=False),
    Metric("retries", "retries", "{attempt}", "Failed attempts to write."),
    Metric(
        "heartbeat",
        "heartbeat",
        "s",
        "Seconds since the last cycle of the aggregator; absent when it is not running.",
        False,
    ),
)


def source(tracker: Tracker | None) -> Callable[[], Stats]:
    """The stats of a tracker, by default of the one that is configured at the moment."""
    return _default.stats if tracker is None else tracker.stats
