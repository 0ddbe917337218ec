"""Which journals name a user: their files are read, whoever owns them, and left as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from usage_instrument.typing import UserId

from .dictionary import Dictionary
from .directory import directories
from .snapshot import FRAME, CorruptJournalError, load


def directories_naming(place: str, is_meant: Callable[[UserId], bool]) -> Iterator[Path]:
    """The directories below `place` whose files name a user who is meant, by a use that is written or not; also those
    that cannot be read, as nobody can tell. Raises OSError."""
    try:
        found = list(directories(place))
    except FileNotFoundError:  # nothing was ever kept there
        return
    for path in found:
        try:
            if any(map(is_meant, _users(path))):
                yield path
        except FileNotFoundError:  # its owner has just deleted it, or a part of it, and nobody has looked at the rest
            if path.exists():
                yield path
        except (CorruptJournalError, ValueError, TypeError, KeyError, IndexError):
            yield path


def _users(path: Path) -> Iterator[UserId]:
    frame = load(path / FRAME)
    if frame is not None:
        yield from frame.users
    for log in sorted(path.glob("*.log")):
        yield from Dictionary(log, None).users
