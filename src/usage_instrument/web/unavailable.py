"""What a client gets where an access could not be recorded, and so did not happen: 503, try again."""

from __future__ import annotations

import logging

from usage_instrument.errors import AuditUnavailable

logger = logging.getLogger("usage_instrument")

STATUS = AuditUnavailable.status_code
STATUS_LINE = f"{STATUS} Service Unavailable"
BODY = b"Service Unavailable\n"
HEADERS = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(BODY))), ("Retry-After", "5")]
TRY_AGAIN = 1013
"""The code that closes a WebSocket then (RFC 6455, as registered)."""


def say(error: AuditUnavailable) -> None:
    """For whoever runs the app; the client is not told why."""
    logger.error("%s", error)
