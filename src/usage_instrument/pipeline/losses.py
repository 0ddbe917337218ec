"""The reasons why uses are dropped or rejected, as `feature_usage_losses` stores them."""

from __future__ import annotations

import datetime as dt

MEMORY = "memory full"
JOURNAL = "journal damaged"
IN_DOUBT = "in doubt"
FAILOVER = "lost in a failover"
USER_TYPE = "user id of another type"
UNKNOWN_USER = "unknown user"
REFUSED = "refused by the database"
CAPTURE = "bad capture"
SUPPRESSED = "opted out or forgotten"
ACCESS = "access not recorded"
"""Counted in accesses, not in uses."""


def today() -> dt.date:
    """The current day (UTC), under which a loss is counted."""
    return dt.datetime.now(dt.UTC).date()
