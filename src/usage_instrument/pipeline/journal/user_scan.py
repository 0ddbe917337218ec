"""Finds the journals that name a user. It reads the files of every process, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from usage_instrument.typing import UserId

from . import archive, snapshot
from .dictionary import Dictionary
from .directory import Directory, directories
from .records import CorruptJournalError


def directories_naming(root: str, is_among: Callable[[set[UserId]], bool]) -> Iterator[Path]:
    """The directories below `root` whose files name the user, in a use that is written or not. Those that cannot be
    read are among them, since they may. Raises OSError."""
    try:
        found = list(directories(root))
    except FileNotFoundError:  # no process has kept a journal there
        return
    for path in found:
        try:
            if is_among(set(_users(path))):
                yield path
        except FileNotFoundError:  # its owner has just deleted it, or a part of it, and the rest was not searched
            if path.exists():
                yield path
        except (CorruptJournalError, OSError):
            yield path


def _users(path: Path) -> Iterator[UserId]:
    directory = Directory.open(path)
    saved = snapshot.load(directory)
    if saved is not None:
        yield from saved.held.users
    for _, earlier in archive.load(directory):
        yield from earlier.held.users
    for name in directory.names:
        if name.endswith(".log"):
            yield from Dictionary(directory, name).users
