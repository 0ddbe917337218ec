"""Programs that write while the database behind their address becomes another one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

import sqlalchemy as sa

from captures import INTERVAL, Captures
from proxy import Proxy
from reading import all_of, balanced, total
from usage_instrument import Settings, Tracker
from usage_instrument.database.ledger import QUEUE_ID
from usage_instrument.errors import AuditUnavailable
from usage_instrument.schema import Tables


@contextlib.contextmanager
def before(port: int) -> Iterator[Proxy]:
    """An address that leads to the primary."""
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()


class Programs:
    """Several programs that capture and write, each on connections of its own kind."""

    def __init__(self, databases: Mapping[str, object]) -> None:
        settings = {"flush_interval": INTERVAL, "audit_timeout": 5.0}
        self.trackers = [
            Tracker(database, Settings(service=service, **settings))  # type: ignore[arg-type]
            for service, database in databases.items()
        ]
        self._captures = [Captures(tracker) for tracker in self.trackers]
        self.admitted = 0

    def __enter__(self) -> Programs:
        for captures in self._captures:
            captures.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for captures in self._captures:
            captures.__exit__(*error)

    def go_on(self) -> None:
        """Write more, and audit before an access, in every program."""
        deadline = time.monotonic() + 60
        written = [tracker.stats().written for tracker in self.trackers]
        for tracker, so_far in zip(self.trackers, written, strict=True):
            while tracker.stats().written <= so_far:
                assert time.monotonic() < deadline, tracker.stats()
                tracker.flush(INTERVAL)
            admitted = False
            while not admitted:
                assert time.monotonic() < deadline
                with contextlib.suppress(AuditUnavailable):
                    tracker.track("open_vault", audit="required")
                    admitted = True
            self.admitted += 1

    def assert_exact(self, engine: sa.Engine, tables: Tables) -> None:
        captured = 0
        for tracker in self.trackers:
            assert tracker.shutdown(60), tracker.stats()
            stats = tracker.stats()
            assert (stats.written, stats.dropped, stats.rejected) == (stats.captured, 0, 0), stats
            assert balanced(stats)
            captured += stats.captured
        assert total(engine, tables) == captured
        with engine.connect() as connection:
            assert connection.scalar(sa.select(sa.func.sum(tables.history.c.usage_count))) == captured
            access = connection.scalar(sa.select(sa.func.count()).select_from(tables.access))
        assert (access or 0) >= self.admitted
        assert all_of(engine, tables.losses) == []
        # On Galera, the row that writers queue for stays.
        assert [row for row in all_of(engine, tables.writers) if row.writer_id != QUEUE_ID] == []
