"""Erasure against a process whose gate does not know of it yet: by the production waits, no row names the user."""

from __future__ import annotations

import threading
import time
import uuid

import pytest

from conftest import Database
from reading import all_of, made
from usage_instrument import Settings, Tracker
from usage_instrument.privacy import erasure

ADA = uuid.UUID(int=2**64 + 1)


def test_forget_waits_for_them(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = made(sqlite.engine())
    here, there = (  # erasure waits for twice the timeout, and a busy machine needs more for each access
        Tracker(sqlite.url, Settings(privacy_key="p" * 32, audit_timeout=timeout, flush_interval=3600))
        for timeout in (0.2, 30)
    )
    there.track("open_vault", user=ADA, audit="required")  # its gate reads that nobody is erased
    gate, real_wait = there._gates[-1], erasure.Erasure._await_gates
    erased = threading.Event()
    named: list[int] = []

    def go_on() -> None:
        while not erased.is_set() or time.monotonic() < gate._suppressions_due:
            there.track("open_vault", user=ADA, audit="required")
            named.append(sum(row.user_id == ADA for row in all_of(sqlite.engine(), tables.access)))

    others = threading.Thread(target=go_on)

    def wait(self: erasure.Erasure, announced: float) -> None:
        gate._suppressions_due = time.monotonic() + 0.2  # it has read them just before the announcement
        others.start()
        real_wait(self, announced)

    monkeypatch.setattr(erasure.Erasure, "_await_gates", wait)
    here.privacy.forget(ADA)
    erased.set()
    others.join()
    assert max(named) > 0, "the other process named her during the erasure"
    assert all(row.user_id is None for row in all_of(sqlite.engine(), tables.access))
    for tracker in (here, there):
        tracker.shutdown()
