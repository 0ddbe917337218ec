"""An asynchronous standby is promoted without the latest commits, and the writer is killed around that instant.

The promotions are a fifth of $USAGE_TEST_KILLS: two by default, and 200 in `scripts/faults`.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

import servers
from conftest import entered
from pipeline.recovering import recover
from programs import before
from proxy import Proxy
from reading import all_of, made, total
from usage_instrument.schema import Tables
from victims import IN_FLIGHT, Victims, exposed, left, wait_until_dead

PROMOTIONS = int(os.environ.get("USAGE_TEST_KILLS", "10")) // 5


@pytest.fixture
def pair() -> Iterator[servers.PostgreSQLPair]:
    with contextlib.ExitStack() as stack:
        yield entered(servers.postgresql_pair, stack)


class Written:
    """What the current primary has."""

    def __init__(self, port: int) -> None:
        self.engine = sa.create_engine(
            f"postgresql+psycopg://{servers.USER}:{servers.PASSWORD}@127.0.0.1:{port}/postgres", poolclass=sa.NullPool
        )
        self.tables: Tables = made(self.engine)

    @property
    def uses(self) -> int:
        return total(self.engine, self.tables) + exposed(self.engine, self.tables)

    @property
    def writers(self) -> set[uuid.UUID]:
        return {row.writer_id for row in all_of(self.engine, self.tables.writers)}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 150  # a recovery that fails is repeated after a minute
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def promote(pair: servers.PostgreSQLPair, address: Proxy, victims: Victims, dice: random.Random, first: bool) -> None:
    """One promotion, and a writer that is killed before it (`first`), or at any instant after it.

    Its row is on the standby, as otherwise the standby cannot know the writer. The journal of the one before is
    recovered: what is recovered on the primary alone would be lost with it.
    """
    written = Written(pair.primary)
    so_far, former = written.uses, written.writers
    pid = victims.start()
    try:
        until(lambda: len(writers := written.writers) == 1 and writers.isdisjoint(former))
        until(lambda: written.uses > so_far)
        pair.hold_back()
        acknowledged = victims.acknowledged
        until(lambda: victims.acknowledged > acknowledged)
        time.sleep(0.3 * dice.random())
        if first:
            os.kill(pid, signal.SIGKILL)
        pair.fail_over()
        address.target = pair.primary
        if not first:
            time.sleep(dice.choice((0.02, 0.1, 1.0)) * dice.random())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until_dead(pid)
    pair.replace_standby()


def test_a_standby_is_promoted_and_the_writer_is_killed(pair: servers.PostgreSQLPair, tmp_path: Path) -> None:
    """The recovery of the journal, or the writer itself while it lives, sends again what the standby lacks."""
    dice = random.Random()
    Written(pair.primary)  # makes the tables
    with before(pair.primary) as address:
        url = f"postgresql+psycopg://{servers.USER}:{servers.PASSWORD}@127.0.0.1:{address.port}/postgres"
        # The batches of three seconds are kept: longer than a standby is behind here.
        victims = Victims(url, tmp_path, interval=0.05, pause=0.002)
        try:
            for number in range(PROMOTIONS):
                promote(pair, address, victims, dice, first=number % 2 == 0)
        finally:
            victims.close()
        recover(url, victims.journal)
    written = Written(pair.primary)
    assert left(victims.journal) == []
    assert all_of(written.engine, written.tables.losses) == []
    assert 0 <= written.uses - victims.acknowledged <= IN_FLIGHT * PROMOTIONS
    history = sa.select(sa.func.sum(written.tables.history.c.usage_count))
    with written.engine.connect() as connection:
        assert connection.scalar(history) == total(written.engine, written.tables)
