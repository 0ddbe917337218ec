"""Driver errors: how they are classified and how they are described."""

from __future__ import annotations

import enum

from usage_instrument.errors import UsageInstrumentError

_LENGTH_MAX = 300


class Fault(enum.Enum):
    """How the writer responds to an error."""

    TRANSIENT = "transient"
    """A retry on the same connection may succeed: a lock, a deadlock, a timeout."""
    TIMEOUT = "timeout"
    """A statement took longer than it may; with fewer rows it may succeed."""
    LOCKED = "locked"
    """Another transaction holds a lock on a row; the other rows may succeed."""
    CONNECTION_LOST = "connection lost"
    """A retry may succeed, but only on a new connection: the server restarts, or has become read-only."""
    INTERNAL = "internal"
    """The server fails at the statement. A retry may succeed; if it fails alike three times, somebody has to look."""
    CONFIGURATION = "configuration"
    """A retry succeeds only after somebody corrects the tables, the privileges or the settings."""
    UNKNOWN_USER = "unknown user"
    """A user of the batch is not in the users table."""
    REFUSED = "refused"
    """The database does not accept a value of the batch."""

    @property
    def is_transient(self) -> bool:
        """Whether the same statement may succeed a moment later."""
        return self in (Fault.TRANSIENT, Fault.TIMEOUT, Fault.LOCKED, Fault.CONNECTION_LOST, Fault.INTERNAL)


def describe(error: BaseException | None) -> str:
    """The type and first line of an error. Later lines, which hold parameters and so user ids, are left out."""
    if isinstance(error, UsageInstrumentError):
        return str(error)
    cause = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0][:_LENGTH_MAX]}" if lines else type(cause).__name__
