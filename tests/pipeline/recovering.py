"""Processes that are killed with a journal, and the recovery of what they left."""

from __future__ import annotations

import textwrap
import uuid
from pathlib import Path
from typing import Any

import forked
from usage_instrument import Settings, Tracker
from usage_instrument.database.engines import named
from usage_instrument.events import canonical_user
from usage_instrument.pipeline.recovery import Recovery
from usage_instrument.stats import Recovered

ADA, BOB = uuid.UUID(int=1), uuid.UUID(int=2)


def die(url: str, root: Path, code: str, **settings: Any) -> None:
    """Run `code` in a process, and kill it. `tracker` is its tracker, `ADA` and `BOB` are users."""
    script = textwrap.dedent(
        f"""
        import os, signal, uuid
        from usage_instrument import Settings, Tracker
        ADA, BOB = uuid.UUID(int=1), uuid.UUID(int=2)
        tracker = Tracker({url!r}, Settings(journal={str(root)!r}, flush_interval=3600, **{settings!r}))
        """
    )
    script += textwrap.dedent(code) + "\nos.kill(os.getpid(), signal.SIGKILL)\n"
    done = forked.run(script)
    assert done.returncode == -9, done.stderr


def recover(url: str, root: Path, **settings: Any) -> Recovered:
    """As the next process does, or `usage-instrument journal recover`."""
    tracker = Tracker(url, Settings(**settings))
    store = tracker._backend.open_store()
    try:
        canonical = canonical_user(tracker.user_id_type)
        return Recovery(str(root), named(url, None), tracker.settings, canonical).run(store)
    finally:
        store.dispose()
