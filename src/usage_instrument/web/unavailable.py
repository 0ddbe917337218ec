"""The 503 that a client gets for an access that could not be recorded, and so did not happen."""

from __future__ import annotations

import logging

from usage_instrument.errors import AuditUnavailable
from usage_instrument.runtime import log

STATUS = AuditUnavailable.status_code
STATUS_LINE = f"{STATUS} Service Unavailable"
BODY = b"Service Unavailable\n"
HEADERS = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(BODY))), ("Retry-After", "5")]
TRY_AGAIN = 1013
"""The code that closes a WebSocket then (RFC 6455, as registered)."""


def report(error: AuditUnavailable) -> None:
    """Log the reason, which the client does not get."""
    log.emit(logging.ERROR, "%s", error)
