"""Counts a use on this system, reads it, and sees the journal refused: `python tests/elsewhere.py [SYSTEM]`.

On Windows and macOS as it is. On Linux, SYSTEM (win32 or darwin) takes away what that system lacks.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import sqlalchemy.ext.asyncio

LACKING = {
    "win32": {
        "fork",
        "register_at_fork",
        "posix_fallocate",
        "geteuid",
        "getuid",
        "O_NOFOLLOW",
        "O_DIRECTORY",
        "O_CLOEXEC",
    },
    "darwin": {"posix_fallocate"},
}
MODULES = {"win32": {"fcntl", "grp", "pwd", "resource", "termios"}, "darwin": set()}


def pretend(system: str) -> None:
    """Look like another system to what is imported from now on."""
    loaded = (asyncio, mmap, sqlalchemy.ext.asyncio, subprocess)  # these choose their code when imported
    assert all(loaded)
    assert "usage_instrument" not in sys.modules
    sys.platform = system
    for name in LACKING[system]:
        delattr(os, name)
    for name in MODULES[system]:
        sys.modules[name] = None  # type: ignore[assignment]


def count(directory: Path) -> None:
    """A use of a decorated function and one of `track`, written to SQLite and read."""
    import usage_instrument as usage
    from usage_instrument import queries
    from usage_instrument.errors import ConfigurationError
    from usage_instrument.schema import create_all

    engine = sqlalchemy.create_engine(f"sqlite:///{directory / 'usage.db'}")
    create_all(engine, users=None, user_id_type="integer")
    try:
        usage.configure(engine, user_id_type="integer", journal=directory / "journal")
    except ConfigurationError as error:
        print(error)
    else:
        raise AssertionError("the journal was not refused")
    usage.configure(engine, user_id_type="integer")
    usage.tracks("export", user_arg="user")(lambda user: user)(42)
    usage.track("export", user=43, count=2)
    assert usage.flush(60) is True, usage.stats()
    with engine.connect() as connection:
        assert connection.execute(queries.top_features()).all() == [("export", 3)]
    assert usage.count(43, "export") == 2
    assert usage.shutdown(60) is True
    engine.dispose()


if __name__ == "__main__":
    if sys.argv[1:]:
        pretend(sys.argv[1])
    assert sqlite3.sqlite_version_info >= (3, 24)
    with tempfile.TemporaryDirectory() as place:
        count(Path(place))
