"""What a collector and the processes of its host leave to each other, besides segments: features, a sign of life."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from usage_instrument.errors import UsageInstrumentError

from .directory import Directory, lock_file
from .records import MALFORMED, exactly

_FEATURES = "features"
_COLLECTOR = "collector"


class DeclaredFeature(NamedTuple):
    """A feature that the code of an app declares."""

    name: str
    description: str | None
    source: str | None
    display: str | None


def save_features(directory: Directory, service: str, features: Iterable[DeclaredFeature]) -> None:
    """Leave the features of a service in a directory that is handed over next. Raises OSError."""
    directory.write(_FEATURES, json.dumps([service, *features]))


def load_features(directory: Directory) -> tuple[str, list[DeclaredFeature]]:
    """The service, and the features that its process left; none if they cannot be read."""
    try:
        service, *features = json.loads(directory.read(_FEATURES))
        found = [DeclaredFeature(exactly(str, name), *map(_text, texts)) for name, *texts in features]
        return exactly(str, service), found
    except (OSError, UsageInstrumentError, *MALFORMED):
        return "", []


def _text(value: object) -> str | None:
    return None if value is None else exactly(str, value)


class CollectorLock:
    """Held by the only collector below a root, which shows that it lives."""

    def __init__(self, root: str) -> None:
        self._path = Path(root, _COLLECTOR)
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Whether no other collector works below the root. Raises OSError."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            lock_file(descriptor)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return False
            raise
        self._descriptor = descriptor
        return True

    def beat(self) -> None:
        """Show that the collector lives. Raises OSError."""
        if self._descriptor is not None:
            os.utime(self._descriptor)

    def release(self) -> None:
        """Leave the root to another collector."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def collector_seen(root: str) -> float | None:
    """When the collector below a root was last alive, in seconds since 1970; None if there was none."""
    try:
        return Path(root, _COLLECTOR).stat().st_mtime
    except OSError:
        return None


def collector_silence(root: str) -> float:
    """Seconds since the collector below a root was last alive."""
    seen = collector_seen(root)
    return float("inf") if seen is None else max(time.time() - seen, 0.0)
