"""The exported form of a checkpoint. What a checkpoint reveals: test_verify.py."""

from __future__ import annotations

import datetime as dt
import uuid

import pytest

from conftest import Database
from reading import made
from usage_instrument.audit.chain import Chain
from usage_instrument.audit.checkpoint import Checkpoint, Head, make_checkpoint
from usage_instrument.errors import AuditError

from .trails import accesses, append


def test_it_holds_the_last_row_of_every_chain(database: Database) -> None:
    engine = database.engine()
    tables = made(engine)
    chains = [Chain(None), Chain(None)]
    with engine.begin() as connection:
        for chain in chains:
            append(connection, tables, chain, accesses(3))
        made_ = make_checkpoint(connection, tables)
    assert made_.heads == {chain.chain_id: Head(3, chain.link) for chain in chains}


def test_it_survives_its_export() -> None:
    checkpoint = Checkpoint(dt.datetime(2026, 1, 31, 12), {uuid.UUID(int=7): Head(3, "0" * 64)})
    assert Checkpoint.from_json(checkpoint.to_json()) == checkpoint


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"version": 9}', '{"version": 1, "made_at": "x", "heads": {"y": 1}}']
)
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(AuditError):
        Checkpoint.from_json(text)
