"""What a user has used by now: each use once, wherever it is on its way to the table."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

import usage_instrument as usage
from conftest import Database, UsersDatabase
from reading import made, total
from usage_instrument import Settings, Tracker
from usage_instrument.database.dialects import Fault
from usage_instrument.database.ledger import Ledger
from usage_instrument.errors import FeatureNameError, UsageInstrumentError, UserIdError
from usage_instrument.events import MAX_COUNT, Batch
from usage_instrument.pipeline.store import Outcome, Store, WriteError

USER, OTHER = uuid.UUID(int=2**100), uuid.UUID(int=2**100 + 1)


@pytest.fixture
def tracker(database: Database) -> Iterator[Tracker]:
    """One that writes when it is asked to."""
    made(database.engine())
    tracker = Tracker(database.url, Settings(flush_interval=3600))
    yield tracker
    tracker.shutdown()


def test_what_is_written_and_what_is_not_add_up(tracker: Tracker) -> None:
    assert tracker.count(USER, "export") == 0
    tracker.track("export", user=USER, metadata={"format": "csv", "page": 1}, count=2)
    assert tracker.count(USER, "export") == 2
    assert tracker.flush(30)
    assert tracker.count(USER, "export") == 2
    tracker.track("export", user=USER, metadata={"format": "pdf"})
    tracker.track("search", user=USER)
    tracker.track("export", user=OTHER)
    tracker.track("export", user=None, count=5)
    assert tracker.count(USER, "export") == 3
    assert tracker.count(None, "export") == 5
    before = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    export, search = sorted(tracker.user_features(USER), key=lambda use: str(use.feature_name))
    assert (export.feature_name, export.usage_count, export.metadata) == ("export", 3, {"format": "pdf", "page": 1})
    assert (search.feature_name, search.usage_count, search.metadata) == ("search", 1, None)
    assert abs(search.last_used - before) < dt.timedelta(seconds=10)
    assert tracker.flush(30)
    assert [use[:2] for use in tracker.user_features(USER)] == [("export", 3), ("search", 1)]


class Gate:
    """Holds a store's attempts, before they are sent or after they are committed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        write = Store.write

        def gated(store: Store, ledger: Ledger, batch: Batch) -> Outcome:
            outcome = write(store, ledger, batch) if place == "after" else None
            self.reached.set()
            assert self.opened.wait(30)
            if outcome is not None:
                raise WriteError(Fault.TRANSIENT, "the answer was lost", in_doubt=True)
            return write(store, ledger, batch)

        monkeypatch.setattr(Store, "write", gated)
        self._patch, self._write = monkeypatch, write

    def open(self) -> None:
        """Let the attempt end, and hold no other."""
        self._patch.setattr(Store, "write", self._write)
        self.opened.set()


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_batch_on_its_way_is_counted_once(tracker: Tracker, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    tracker.track("export", user=USER, count=3)
    gate = Gate(monkeypatch, place)
    tracker.flush(0)
    assert gate.reached.wait(30)
    tracker.track("export", user=USER, count=4)
    assert tracker.count(USER, "export") == 7
    gate.open()
    assert tracker.flush(30)
    assert tracker.count(USER, "export") == 7


def test_a_flush_between_the_looks_is_noticed(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    from usage_instrument.pipeline.read_your_writes import UsageReader

    read = UsageReader._query
    looks: list[int] = []

    def interrupted(live: UsageReader, *arguments: Any) -> Any:
        if not looks:
            assert tracker.flush(30)
        looks.append(1)
        return read(live, *arguments)

    monkeypatch.setattr(UsageReader, "_query", interrupted)
    tracker.track("export", user=USER, count=3)
    assert tracker.count(USER, "export") == 3
    assert len(looks) == 2


@pytest.mark.parametrize("journal", [False, True])
def test_while_the_writer_works_every_look_is_right(database: Database, tmp_path: Any, journal: bool) -> None:
    made(database.engine())
    place = str(tmp_path / "journal") if journal else None
    tracker = Tracker(database.url, Settings(flush_interval=0, flush_rows=3, journal=place))
    done = threading.Event()
    uses = 0

    @tracker.tracks("export")
    def export() -> None: ...

    def work() -> None:
        nonlocal uses
        with tracker.as_user(USER):
            while not done.wait(0.0005):
                export()
                uses += 1
                tracker.track(f"other_{uses % 7}", user=OTHER)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(25):
            before = uses
            found = tracker.count(USER, "export")
            assert before <= found <= uses + 1
    finally:
        done.set()
        thread.join()
    assert tracker.shutdown()
    assert tracker.count(USER, "export") == uses


def test_uses_that_wait_for_their_user_are_seen(users_database: UsersDatabase) -> None:
    tables = made(users_database.engine)
    tracker = Tracker(users_database.engine)
    tracker.track("signup", user=USER, count=2)
    tracker.flush()
    assert tracker.count(USER, "signup") == 2
    with users_database.engine.begin() as connection:
        connection.execute(users_database.users.insert().values(id=USER, name="new"))
    assert tracker.flush(30)
    assert tracker.count(USER, "signup") == total(users_database.engine, tables, "signup") == 2
    assert tracker.shutdown(60)


def test_the_count_saturates_as_the_column_does(tracker: Tracker) -> None:
    tracker.track("export", user=USER, count=MAX_COUNT)
    assert tracker.flush(30)
    tracker.track("export", user=USER, count=2)
    assert tracker.count(USER, "export") == MAX_COUNT


def test_rows_of_others_are_read_as_they_are(tracker: Tracker, database: Database) -> None:
    tables, engine = made(database.engine()), database.engine()
    with engine.begin() as connection:
        connection.execute(
            tables.usage.insert(),
            [
                {"user_id": USER, "feature_name": "export", "usage_count": None, "metadata": [1]},
                {"user_id": USER, "feature_name": None, "usage_count": 3, "metadata": None},
            ],
        )
    tracker.track("export", user=USER, metadata={"a": 1})
    found = {use.feature_name: (use.usage_count, use.metadata) for use in tracker.user_features(USER)}
    assert found == {"export": (1, {"a": 1}), None: (3, None)}


def test_ids_are_taken_as_captures_take_them(tracker: Tracker) -> None:
    tracker.track("export", user=str(USER))
    assert tracker.count(str(USER).upper(), "export") == 1
    for user in (7, "nobody", object(), uuid.UUID(int=0)):
        with pytest.raises(UserIdError):
            tracker.count(user, "export")
    with pytest.raises(FeatureNameError):
        tracker.count(USER, "")


def test_a_forked_child_sees_what_is_written(tracker: Tracker) -> None:
    tracker.track("export", user=USER)
    assert tracker.flush(30)
    assert tracker.count(USER, "export") == 1
    tracker.track("export", user=USER)
    child = os.fork()
    if not child:
        found = -1
        try:
            tracker.track("export", user=USER, count=10)
            found = tracker.count(USER, "export")
        finally:
            os._exit(found)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11
    assert tracker.count(USER, "export") == 2


def test_an_event_loop_awaits_it(database: Database) -> None:
    made(database.engine())
    tracker = Tracker(database.async_url)
    tracker.track("export", user=USER, count=3)

    async def main() -> None:
        assert await tracker.acount(USER, "export") == 3
        assert [use[:2] for use in await tracker.auser_features(USER)] == [("export", 3)]
        with pytest.raises(UsageInstrumentError, match="await"):
            tracker.count(USER, "export")
        assert await tracker.ashutdown()
        assert await asyncio.gather(*(tracker.acount(USER, "export") for _ in range(9))) == [3] * 9

    asyncio.run(main())
    assert tracker.count(USER, "export") == 3
    assert tracker.shutdown()


def test_an_event_loop_awaits_what_a_subclass_counts(sqlite: Database) -> None:
    class Doubled(Tracker):
        def count(self, user: object, feature: str) -> int:
            return 2 * super().count(user, feature)

    made(sqlite.engine())
    tracker = Doubled(sqlite.url)
    tracker.track("export", user=USER)
    assert asyncio.run(tracker.acount(USER, "export")) == tracker.count(USER, "export") == 2
    tracker.shutdown()


def test_trio_awaits_it_too(sqlite: Database) -> None:
    import trio

    made(sqlite.engine())
    tracker = Tracker(sqlite.url)
    tracker.track("export", user=USER)
    assert trio.run(tracker.acount, USER, "export") == 1
    tracker.shutdown()


def test_the_configured_tracker_answers(sqlite: Database) -> None:
    assert usage.count(USER, "export") == 0
    assert usage.user_features(USER) == []
    assert asyncio.run(usage.acount(USER, "export")) == 0
    assert asyncio.run(usage.auser_features(USER)) == []
    made(sqlite.engine())
    usage.configure(sqlite.url)
    usage.track("export", user=USER)
    assert usage.count(USER, "export") == asyncio.run(usage.acount(USER, "export")) == 1
    assert usage.user_features(USER) == asyncio.run(usage.auser_features(USER))
    assert usage.user_features(USER)[0].feature_name == "export"


def test_a_disabled_tracker_reads(sqlite: Database) -> None:
    tables, engine = made(sqlite.engine()), sqlite.engine()
    with engine.begin() as connection:
        connection.execute(tables.usage.insert().values(user_id=USER, feature_name="export", usage_count=4))
    assert Tracker(sqlite.url, Settings(enabled=False)).count(USER, "export") == 4
    assert Tracker(None, Settings(enabled=False)).count(USER, "export") == 0


def test_without_tables_the_database_says_so(sqlite: Database) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="feature_usage"):
        Tracker(sqlite.url).count(USER, "export")
