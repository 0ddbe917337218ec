"""Journals of processes that were killed: written once by the next process, or set aside with a reason."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Database, UsersDatabase
from pipeline.recovering import ADA, BOB, die, recover
from reading import all_of, balanced, counts, made, total
from usage_instrument import Settings, Tracker
from usage_instrument.pipeline.journal import status
from usage_instrument.stats import Recovered


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the journals are."""
    root = tmp_path / "journals"
    root.mkdir()
    return root


def test_what_a_killed_process_captured_is_written(database: Database, root: Path) -> None:
    engine = database.engine()
    tables = made(engine)
    die(
        database.url,
        root,
        """
        plain = tracker.tracks("plain")(lambda: None)
        for user in (ADA, ADA, BOB, None):
            with tracker.as_user(user):
                plain()
        tracker.track("rich", user=ADA, metadata={"format": "csv"}, count=5)
        """,
    )
    recovered = recover(database.url, root)
    assert (recovered.journals, recovered.written, recovered.uses) == (1, 9, 9)
    assert counts(engine, tables) == {("plain", ADA): 2, ("plain", BOB): 1, ("plain", None): 1, ("rich", ADA): 5}
    (rich,) = [row for row in all_of(engine, tables.usage) if row.feature_name == "rich"]
    assert rich.metadata == {"format": "csv"}
    assert abs(rich.last_used - dt.datetime.now(dt.UTC).replace(tzinfo=None)) < dt.timedelta(minutes=5)
    assert sum(row.usage_count for row in all_of(engine, tables.history)) == 9
    assert all_of(engine, tables.writers) == []
    assert list(root.iterdir()) == []
    assert recover(database.url, root) == Recovered()


def test_what_it_had_written_is_not_written_again(database: Database, root: Path) -> None:
    engine = database.engine()
    tables = made(engine)
    die(
        database.url,
        root,
        """
        for _ in range(3):
            tracker.track("f", user=ADA)
            assert tracker.flush(60)
        tracker.track("f", user=ADA)
        """,
    )
    assert total(engine, tables) == 3
    assert recover(database.url, root).written == 1
    assert total(engine, tables) == 4


def test_the_next_process_takes_over_by_itself(database: Database, root: Path) -> None:
    engine = database.engine()
    tables = made(engine)
    die(database.url, root, "tracker.track('f', user=ADA, count=3)")
    tracker = Tracker(database.url, Settings(journal=str(root), flush_interval=3600))
    tracker.track("f", user=ADA)
    assert tracker.flush(60)
    stats = tracker.stats()
    assert (stats.captured, stats.recovered, stats.written) == (1, 3, 4)
    assert balanced(stats)
    assert counts(engine, tables) == {("f", ADA): 4}
    assert tracker.shutdown(60)
    assert list(root.iterdir()) == []


def test_a_batch_that_was_not_sent_goes_out_under_its_number(database: Database, root: Path) -> None:
    """Killed with the frame on disk, before and after the commit that it was for."""
    engine = database.engine()
    tables = made(engine)
    for where in ("before", "after"):
        die(
            database.url,
            root,
            f"""
            from usage_instrument.database import dialects
            dialect = dialects.get({database.name!r})
            commit = dialect.commit
            def killing(connection):
                if {where == "after"}:
                    commit(connection)
                os.kill(os.getpid(), signal.SIGKILL)
            tracker.track("f", user=ADA)
            assert tracker.flush(60)
            dialect.commit = killing
            tracker.track("f", user=ADA, count=2)
            tracker.flush(60)
            """,
        )
        assert recover(database.url, root).journals == 1
    assert counts(engine, tables) == {("f", ADA): 6}


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_users_who_are_unknown_are_rejected_and_told(users_database: UsersDatabase, root: Path) -> None:
    """SQLite enforces foreign keys only where the host turns them on."""
    engine = users_database.engine
    tables = made(engine)
    die(users_database.database.url, root, "tracker.track('f', user=uuid.uuid4()); tracker.track('f')")
    recovered = recover(users_database.database.url, root)
    assert (recovered.written, recovered.rejected) == (1, 1)
    assert [(row.reason, row.uses) for row in all_of(engine, tables.losses)] == [("unknown user", 1)]
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(("kind", "user"), [("integer", 7), ("string", "ada")])
def test_ids_of_every_type(sqlite: Database, root: Path, kind: str, user: object) -> None:
    tables = made(sqlite.engine(), user_id_type=kind)
    die(sqlite.url, root, f"tracker.track('f', user={user!r}); tracker.track('f', user=ADA)", user_id_type=kind)
    recovered = recover(sqlite.url, root, user_id_type=kind)
    assert counts(sqlite.engine(), tables)["f", user] == 1
    assert recovered.uses == 2
    assert recovered.rejected == (kind == "integer")


def test_more_keys_than_memory_holds(sqlite: Database, root: Path) -> None:
    tables = made(sqlite.engine())
    die(sqlite.url, root, "for number in range(1000): tracker.track(f'f{number % 500}', user=ADA)")
    recovered = recover(sqlite.url, root, max_pending=37, flush_rows=10)
    assert (recovered.written, recovered.dropped) == (1000, 0)
    assert total(sqlite.engine(), tables) == 1000


def test_a_living_process_is_left_alone(sqlite: Database, root: Path) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    tracker = Tracker(sqlite.url, Settings(journal=str(root), flush_interval=3600))
    tracker.track("f")
    assert recover(sqlite.url, root) == Recovered()
    (found,) = status(str(root))
    assert (found.state, found.pending + found.in_batches) == ("alive", 1)
    assert tracker.shutdown(60)
    assert total(engine, tables) == 1


# ---- what cannot be recovered


def _dead(sqlite: Database, root: Path) -> Path:
    die(sqlite.url, root, "tracker.track('f', user=ADA)")
    (directory,) = root.iterdir()
    return directory


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        ("00000000.slots", _truncate, "is truncated"),
        ("00000000.slots", lambda path: path.write_bytes(b"no journal" * 100), "is no segment of a journal"),
        ("frame", lambda path: path.write_bytes(b"\0" * 40), "is damaged"),
    ],
)
def test_damage_is_told_and_nothing_is_guessed(
    sqlite: Database, root: Path, file: str, damage: Callable[[Path], object], says: str
) -> None:
    tables = made(sqlite.engine())
    directory = _dead(sqlite, root)
    damage(directory / file)
    recovered = recover(sqlite.url, root)
    assert recovered.parked == (directory,)
    (found,) = status(str(root))
    assert (found.state, says in found.note) == ("parked", True)
    assert recover(sqlite.url, root).parked == (), "it waits for a person"
    assert total(sqlite.engine(), tables) == 0


def test_a_log_that_does_not_tell_what_the_slots_mean_costs_them_and_is_told(sqlite: Database, root: Path) -> None:
    tables = made(sqlite.engine())
    directory = _dead(sqlite, root)
    (directory / "00000000.log").write_bytes(b"")
    assert recover(sqlite.url, root).dropped == 1
    assert [(row.reason, row.uses) for row in all_of(sqlite.engine(), tables.losses)] == [("journal damaged", 1)]
    assert list(root.iterdir()) == []


def test_a_journal_whose_row_is_gone_is_set_aside(sqlite: Database, root: Path) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    die(sqlite.url, root, "tracker.track('f'); assert tracker.flush(60); tracker.track('f')")
    with engine.begin() as connection:
        connection.execute(tables.writers.delete())
    (path,) = recover(sqlite.url, root).parked
    assert "is gone (pruned, or the database was restored)" in (path / "parked").read_text()
    assert total(engine, tables) == 1


def test_the_database_is_away(sqlite: Database, root: Path) -> None:
    directory = _dead(sqlite, root)  # there are no tables yet
    recovered = recover(sqlite.url, root)
    assert recovered.unfinished == (directory,)
    assert "usage-instrument db create" in str(recovered.last_error)
    tables = made(sqlite.engine())
    assert recover(sqlite.url, root).written == 1
    assert total(sqlite.engine(), tables) == 1


def test_uses_for_another_database_are_left_alone(sqlite: Database, root: Path, tmp_path: Path) -> None:
    made(sqlite.engine())
    directory = _dead(sqlite, root)
    other = Database("sqlite", f"sqlite:///{tmp_path}/other.db")
    tables = made(other.engine())
    recovered = recover(other.url, root)
    assert recovered.unfinished == (directory,)
    assert "its uses are for sqlite:///" in str(recovered.last_error)
    assert total(other.engine(), tables) == 0
    other.close()
    assert recover(sqlite.url, root).written == 1
