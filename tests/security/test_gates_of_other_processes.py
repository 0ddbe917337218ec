"""Erasure against a process whose gate does not know of it yet: by the production waits, no row names the user."""

from __future__ import annotations

import threading
import uuid

from conftest import Database
from reading import all_of, made
from usage_instrument import Settings, Tracker
from usage_instrument.audit.admin_chain import ADMIN_CHAIN

ADA = uuid.UUID(int=2**64 + 1)


def test_forget_waits_for_them(postgresql: Database) -> None:
    tables = made(postgresql.engine())
    here, there = (  # erasure waits for twice the timeout, and a busy machine needs more for each access
        Tracker(postgresql.url, Settings(privacy_key="p" * 32, audit_timeout=timeout, flush_interval=3600))
        for timeout in (0.4, 30)
    )
    there.track("open_vault", user=ADA, audit="required")  # its gate has read that nobody is erased
    named = erased = False
    erasing = threading.Thread(target=here.privacy.forget, args=(ADA,))
    erasing.start()
    while erasing.is_alive() or not named:
        there.track("open_vault", user=ADA, audit="required")
        rows = all_of(postgresql.engine(), tables.access)
        erased = erased or any(row.chain_id == ADMIN_CHAIN for row in rows)
        # The first erasure is over, and a row that its gate committed since names her.
        named = named or (erased and any(row.user_id == ADA for row in rows))
        if erased and not erasing.is_alive():
            break
    erasing.join()
    assert named, "the gate of the other process had to know of no erasure for a moment"
    assert all(row.user_id is None for row in all_of(postgresql.engine(), tables.access))
    for tracker in (here, there):
        tracker.shutdown()
