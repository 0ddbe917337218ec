"""MariaDB Galera: three real nodes, of which one lags, is killed, or is cut off; each use is counted once."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import servers
from conftest import entered
from pipeline.recovering import recover
from programs import Programs, before
from proxy import Cut, Proxy
from reading import all_of, made, total
from usage_instrument import Settings, Tracker
from usage_instrument.database import dialects
from usage_instrument.schema import Tables

SECRET = f"{servers.USER}:{servers.PASSWORD}"
FAILOVERS = int(os.environ.get("USAGE_TEST_FAILOVERS", "1"))
_DATABASE = "app"
_FLUSHES = 30
_WAITING = "SELECT count(*) FROM information_schema.processlist WHERE info LIKE 'SET STATEMENT wsrep_sync%'"


@pytest.fixture(scope="module")
def _cluster() -> Iterator[servers.Galera]:
    with contextlib.ExitStack() as stack:
        yield entered(servers.galera, stack)


class Cluster:
    """The nodes, with the tables, and an address that leads to one of them."""

    def __init__(self, nodes: servers.Galera, address: Proxy) -> None:
        self.nodes, self.address = nodes, address
        self.engines = [sa.create_engine(self.url(port), poolclass=sa.NullPool) for port in nodes.ports]
        self.tables: Tables = made(self.engines[0])

    def url(self, port: int, driver: str = "pymysql") -> str:
        return f"mariadb+{driver}://{SECRET}@127.0.0.1:{port}/{_DATABASE}"

    def lead_to(self, number: int) -> None:
        """As a proxy that takes another node from now on."""
        self.address.target = self.nodes.ports[number]
        self.address.cut_now()

    def wait_for_cuts(self, number: int) -> None:
        """Wait until the address has cut so many connections."""
        deadline = time.monotonic() + 60
        while sum(self.address.made.values()) < number:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def use(self, tracker: Tracker, uses: int) -> None:
        tracker.track("calendar_export", count=uses)
        assert tracker.flush(60), tracker.stats()

    def assert_exact(self, uses: int) -> None:
        """All nodes have so many uses, and no losses."""
        for number, engine in enumerate(self.engines):
            self.nodes.catch_up(number)
            assert total(engine, self.tables) == uses
            assert all_of(engine, self.tables.losses) == []

    def tracker(self, **settings: Any) -> Tracker:
        return Tracker(self.url(self.address.port), Settings(flush_interval=3600, **settings))

    @contextlib.contextmanager
    def lagging(self, number: int) -> Iterator[None]:
        """A node that certifies and answers, and applies nothing until somebody waits for what it lacks."""
        with self.nodes.session(number) as blocking, self.nodes.session(number) as looking:
            blocking.execute("BACKUP STAGE START")
            blocking.execute("BACKUP STAGE BLOCK_COMMIT")
            done = threading.Event()

            def release() -> None:
                while not done.wait(0.01):
                    looking.execute(_WAITING)
                    if looking.fetchone() != (0,):
                        break
                blocking.execute("BACKUP STAGE END")

            releasing = threading.Thread(target=release)
            releasing.start()
            try:
                yield
            finally:
                done.set()
                releasing.join()


@pytest.fixture
def cluster(_cluster: servers.Galera) -> Iterator[Cluster]:
    with _cluster.session(0) as session:
        session.execute(f"CREATE DATABASE {_DATABASE} CHARACTER SET utf8mb4")
    try:
        with before(_cluster.ports[0]) as address:
            yield Cluster(_cluster, address)
    finally:
        with _cluster.session(2) as session:
            session.execute(f"DROP DATABASE {_DATABASE}")


def test_a_row_that_a_lagging_node_does_not_have_yet_is_not_gone(cluster: Cluster) -> None:
    """The batch is committed on one node, without an answer, and sent again to another one that lacks the writer's
    row."""
    tracker = cluster.tracker()
    with cluster.lagging(1):
        cluster.address.cut([Cut("after commit", 3)])  # the look at the tables, the row, the batch
        tracker.track("calendar_export", count=5)
        assert not tracker.flush(0)
        cluster.wait_for_cuts(1)
        cluster.lead_to(1)
        assert tracker.flush(60), tracker.stats()
    stats = tracker.stats()
    assert (stats.written, stats.dropped) == (5, 0), stats
    assert tracker.shutdown(60)
    cluster.assert_exact(5)


def test_a_number_that_a_lagging_node_does_not_have_yet_is_not_lost(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch that one node has acknowledged is neither sent again nor given up, as another node lacks it."""
    tracker = cluster.tracker(resend_max_bytes=1)
    cluster.use(tracker, 5)
    cluster.nodes.catch_up(1)
    with cluster.lagging(1):
        cluster.use(tracker, 10)
        cluster.lead_to(1)
        cluster.use(tracker, 100)
    assert tracker.shutdown(60)
    assert (tracker.stats().written, tracker.stats().dropped) == (115, 0)
    cluster.assert_exact(115)
    assert not [record for record in caplog.records if "acknowledged" in record.getMessage()]


def test_a_journal_is_not_parked_as_a_node_lags(cluster: Cluster, tmp_path: Path) -> None:
    tracker = cluster.tracker(journal=str(tmp_path / "alive"))
    with cluster.lagging(1):
        cluster.use(tracker, 5)
        cluster.use(tracker, 10)
        shutil.copytree(tmp_path / "alive", tmp_path / "killed")  # what kill -9 leaves
        recovered = recover(cluster.url(cluster.nodes.ports[1]), tmp_path / "killed")
    assert (recovered.parked, recovered.journals, recovered.dropped) == ((), 1, 0)
    cluster.assert_exact(15)
    tracker.shutdown(60)


def test_commits_of_one_node_leave_alone_what_queues_on_another(cluster: Cluster) -> None:
    tracker = cluster.tracker()
    cluster.use(tracker, 5)
    cluster.nodes.catch_up(1)
    with cluster.engines[1].connect() as waiting:
        flush = dialects.get("mariadb").flush(waiting, cluster.tables, Settings())
        waiting.rollback()
        flush.queue(waiting)
        cluster.use(tracker, 10)
        cluster.nodes.catch_up(1)
        waiting.execute(sa.select(cluster.tables.losses))  # an aborted transaction is refused here
        waiting.commit()
    assert tracker.shutdown(60)
    cluster.assert_exact(15)


def test_writers_of_two_nodes_count_the_same_keys_exactly(cluster: Cluster) -> None:
    """One of them is refused at COMMIT, and sends its batch again."""
    trackers = [Tracker(cluster.url(port), Settings(flush_interval=3600)) for port in cluster.nodes.ports[:2]]
    for number in (0, 1):
        cluster.nodes.catch_up(number)

    def write(tracker: Tracker) -> None:
        for _ in range(_FLUSHES):
            cluster.use(tracker, 1)

    writing = [threading.Thread(target=write, args=(tracker,)) for tracker in trackers]
    for thread in writing:
        thread.start()
    for thread in writing:
        thread.join()
    for tracker in trackers:
        assert tracker.shutdown(60)
        assert (tracker.stats().written, tracker.stats().dropped) == (_FLUSHES, 0)
    assert sum(tracker.stats().retries for tracker in trackers) > 0
    cluster.assert_exact(2 * _FLUSHES)


def test_a_node_is_killed_and_another_cut_off(cluster: Cluster) -> None:
    """The address leads to another node each time, while the programs write."""
    nodes, now, other = cluster.nodes, 0, 1
    databases = {driver: cluster.url(cluster.address.port, driver) for driver in ("pymysql", "aiomysql")}
    with Programs(databases) as programs:
        programs.go_on()
        for _ in range(FAILOVERS):
            for fail, mend in ((nodes.kill, nodes.rejoin), (nodes.isolate, nodes.reconnect)):
                fail(now)
                cluster.address.target = nodes.ports[other]  # for new connections: the programs have to give up theirs
                programs.go_on()
                mend(now)
                now, other = other, now
    for number in range(3):
        nodes.catch_up(number)
    programs.assert_exact(cluster.engines[now], cluster.tables)
