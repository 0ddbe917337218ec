"""Who asks for their data, not to be counted, or to be forgotten: in every table, process and journal, and for good."""

from __future__ import annotations

import asyncio
import json
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import forked
import usage_instrument as usage
from conftest import Database, UsersDatabase
from reading import all_of, balanced, counts, made
from usage_instrument import Settings, Tracker
from usage_instrument.audit.chain import erased
from usage_instrument.audit.verify import verify
from usage_instrument.database.dialects import Fault
from usage_instrument.database.suppressions import Key
from usage_instrument.errors import ConfigurationError, UnknownUserError, UsageInstrumentError, UserIdError
from usage_instrument.pipeline.journal import directories_naming
from usage_instrument.pipeline.journal.dictionary import Dictionary
from usage_instrument.pipeline.store import Store, WriteError
from usage_instrument.privacy import api, erasure
from usage_instrument.schema import Tables

ADA, BOB = uuid.UUID(int=2**64 + 1), uuid.UUID(int=2**64 + 2)
KEY = "a secret of thirty-two characters, or more"
AUDIT_TIMEOUT = 20.0
"""Seconds: long enough on a machine with much else to do."""
FORGOTTEN = "opted out or forgotten"

Make = Callable[..., Tracker]


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here waits for the gates of other processes: there are none."""
    for module in (erasure, api):
        monkeypatch.setattr(module, "PATIENCE", 5.0)
    monkeypatch.setattr(erasure, "_MARGIN", -2 * AUDIT_TIMEOUT)


@pytest.fixture
def make() -> Iterator[Make]:
    trackers: list[Tracker] = []

    def tracker(database: Any, tables: Tables | None = None, **settings: Any) -> Tracker:
        said: dict[str, Any] = {"flush_interval": 3600, "privacy_key": KEY, "audit_timeout": AUDIT_TIMEOUT, **settings}
        trackers.append(Tracker(database, Settings(**said), tables))
        return trackers[-1]

    yield tracker
    for tracker_ in trackers:
        tracker_.shutdown(0.5)


def lost(engine: sa.Engine, tables: Tables) -> dict[str, int]:
    return {row.reason: row.uses for row in all_of(engine, tables.losses)}


def names(engine: sa.Engine, tables: Tables, user: object) -> list[str]:
    """Which tables hold a user's id, in any form, by a search of all that they hold."""
    forms = {str(user), user.hex if isinstance(user, uuid.UUID) else str(user)}
    return [
        table.name
        for table in tables
        if any(form in str(value) for row in all_of(engine, table) for value in row for form in forms)
    ]


def holds(engine: sa.Engine, tables: Tables, key: str | None = None) -> bool:
    with engine.connect() as connection:
        return verify(connection, tables, key).findings == ()


# ---- forgotten


@pytest.mark.parametrize("kind", ["uuid", "integer", "string"])
def test_a_user_is_forgotten_and_nobody_else(database: Database, make: Make, kind: Any) -> None:
    ids: dict[str, tuple[Any, Any]] = {
        "uuid": (ADA, BOB),
        "integer": (7003, 7004),
        "string": ("ada@example.org", "bob@example.org"),
    }
    ada, bob = ids[kind]
    engine = database.engine()
    tables = made(engine, user_id_type=kind)
    tracker = make(database.url, user_id_type=kind)
    for _ in range(3):
        tracker.track("search", user=ada)
        tracker.track("search", user=bob)
        tracker.expose("page", "new", user=ada)
    tracker.track("export", user=ada, metadata={"format": "csv"})
    receipt = tracker.privacy.forget(ada)
    assert receipt.deleted == {
        tables.outbox.fullname: 0, tables.usage.fullname: 2, tables.history.fullname: 2, tables.exposures.fullname: 1,
        tables.dimensions.fullname: 0,
    }  # fmt: skip
    assert (receipt.pseudonymised, receipt.kept, receipt.journals) == (0, 0, ())
    assert str(ada) not in repr(receipt)
    assert names(engine, tables, ada) == []
    assert counts(engine, tables) == {("search", bob): 3}
    assert [row.user_hash for row in all_of(engine, tables.suppressions)] == [Key(KEY).hash_of(ada)]
    tracker.track("search", user=ada)
    tracker.track("search", user=bob)
    assert tracker.flush(30)
    assert counts(engine, tables) == {("search", bob): 4}
    assert (tracker.stats().rejected, lost(engine, tables)) == (1, {FORGOTTEN: 1})
    assert balanced(tracker.stats())


def test_what_another_process_holds_does_not_bring_them_back(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    one, other, late = make(database.url), make(database.url), make(database.url)
    for tracker in (one, other):
        tracker.track("search", user=ADA)
        assert tracker.flush(30)
    for _ in range(2):
        other.track("search", user=ADA, metadata={"page": 2})
        other.track("search", user=BOB)
    one.privacy.forget(ADA)
    late.track("search", user=ADA)
    late.track("search", user=BOB)
    assert other.flush(30)
    assert late.flush(60)
    assert names(engine, tables, ADA) == []
    assert counts(engine, tables) == {("search", BOB): 3}
    assert (other.stats().rejected, late.stats().rejected) == (2, 1)
    assert lost(engine, tables) == {FORGOTTEN: 3}
    assert balanced(other.stats())
    assert balanced(late.stats())


@pytest.mark.parametrize("committed", [False, True])
def test_a_batch_that_is_in_doubt_is_settled_first(
    database: Database, make: Make, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    engine = database.engine()
    tables = made(engine)
    one, other = make(database.url), make(database.url)
    other.track("search", user=BOB)
    assert other.flush(30)
    write = Store.write

    def cut(self: Store, ledger: Any, batch: Any) -> Any:
        if committed:
            write(self, ledger, batch)
        raise WriteError(Fault.TRANSIENT, "cut", in_doubt=True)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", cut)
        for _ in range(2):
            other.track("search", user=ADA)
            other.track("search", user=BOB)
        assert not other.flush(0.2)
        one.privacy.forget(ADA, force=True)
    assert other.flush(30)
    assert names(engine, tables, ADA) == []
    assert counts(engine, tables) == {("search", BOB): 3}
    assert other.stats().rejected == (0 if committed else 2)
    assert balanced(other.stats())


def test_a_batch_on_its_way_is_screened_also_beside_somebody_else_who_is_left_out(
    database: Database, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = database.engine()
    tables = made(engine)
    one, other = make(database.url), make(database.url)
    eve = uuid.UUID(int=2**64 + 3)
    one.privacy.opt_out(eve)
    other.track("search", user=BOB)
    assert other.flush(30)

    def cut(self: Store, ledger: Any, batch: Any) -> Any:
        raise WriteError(Fault.TRANSIENT, "cut", in_doubt=True)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", cut)
        for user in (ADA, BOB):
            other.track("search", user=user)
        assert not other.flush(0.2)
        one.privacy.forget(ADA, force=True)
        other.track("search", user=eve)
    assert other.flush(30)
    assert names(engine, tables, ADA) == []
    assert counts(engine, tables) == {("search", BOB): 2}
    assert lost(engine, tables) == {FORGOTTEN: 2}
    assert balanced(other.stats())


def test_writers_at_work_bring_nobody_back_and_lose_nobody_else(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    one, *others = [make(database.url, flush_interval=0.01) for _ in range(4)]
    stop = threading.Event()
    used = [0, 0, 0]

    def work(index: int) -> None:
        while not stop.is_set():
            for _ in range(20):
                others[index].track("search", user=ADA)
                others[index].track("search", user=BOB)
                used[index] += 1
            stop.wait(0.001)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    while not counts(engine, tables).get(("search", ADA)):
        assert not stop.wait(0.01)
    one.privacy.forget(ADA)
    gone = names(engine, tables, ADA) == []
    stop.set()
    for thread in threads:
        thread.join()
    assert all(tracker.shutdown() for tracker in others)
    assert gone
    assert names(engine, tables, ADA) == []
    assert counts(engine, tables) == {("search", BOB): sum(used)}
    assert all(balanced(tracker.stats()) for tracker in others)


def test_uses_that_wait_for_their_user_go_as_well(users_database: UsersDatabase, make: Make) -> None:
    engine = users_database.engine
    tables = made(engine)
    tracker = make(users_database.database.engine())
    stranger = uuid.uuid4()
    tracker.track("search", user=stranger)
    assert not tracker.flush()
    tracker.privacy.forget(stranger, force=True)
    assert tracker.flush(30)
    assert (tracker.stats().pending, tracker.stats().rejected) == (0, 1)
    assert lost(engine, tables) == {FORGOTTEN: 1}


def test_who_is_only_a_row_of_the_users_table_is_known(users_database: UsersDatabase, make: Make) -> None:
    made(users_database.engine)
    tracker = make(users_database.database.engine())
    assert tracker.privacy.forget(users_database.user_ids[0]).deleted == {
        "feature_usage_outbox": 0,
        "feature_usage": 0,
        "feature_usage_history": 0,
        "feature_usage_exposures": 0,
        "feature_usage_dimensions": 0,
    }
    with pytest.raises(UnknownUserError):
        tracker.privacy.forget(uuid.uuid4())


def test_an_unknown_user_is_told_and_force_forgets_them(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database.url)
    with pytest.raises(UnknownUserError, match="force=True"):
        tracker.privacy.forget(ADA)
    assert all_of(engine, tables.suppressions) == []
    tracker.privacy.forget(ADA, force=True)
    tracker.privacy.forget(ADA)  # the hash tells of them
    tracker.track("search", user=ADA)
    assert tracker.flush(30)
    assert counts(engine, tables) == {}


# ---- the audit trail


def audited(tracker: Tracker) -> None:
    for _ in range(2):
        tracker.track("open_vault", user=ADA, audit=True, metadata={"name": "Ada"})
    with tracker.as_user(BOB, actor=ADA):
        tracker.track("open_vault", audit="required")
    with tracker.as_user(ADA, actor=BOB):
        tracker.track("open_vault", audit=True)
    tracker.track("open_vault", user=BOB, audit=True, metadata={"name": "Bob"})
    assert tracker.flush(30)


@pytest.mark.parametrize("audit_key", [None, "k" * 32])
def test_the_trail_has_a_pseudonym_and_still_holds(database: Database, make: Make, audit_key: str | None) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database.url, audit_key=audit_key)
    audited(tracker)
    receipt = tracker.privacy.forget(ADA)
    assert (receipt.pseudonymised, receipt.kept) == (4, 0)
    assert names(engine, tables, ADA) == []
    assert '"Ada"' not in str(all_of(engine, tables.access))
    assert holds(engine, tables, audit_key)
    trail = [row for row in all_of(engine, tables.access) if row.feature_name == "open_vault"]
    assert sorted((row.user_id == BOB, row.actor_id == BOB) for row in trail) == [
        *[(False, False)] * 2,
        (False, True),
        *[(True, False)] * 2,
    ]
    pseudonym = Key(KEY).pseudonym_of(ADA)
    assert sum(pseudonym in row.seal for row in trail) == 4
    assert tracker.privacy.forget(BOB).pseudonymised == 3
    assert names(engine, tables, BOB) == []
    assert holds(engine, tables, audit_key)


def test_later_accesses_are_recorded_under_the_pseudonym(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database.url)
    audited(tracker)
    tracker.privacy.forget(ADA)
    for audit in (True, "required"):
        tracker.track("open_vault", user=ADA, audit=audit, metadata={"name": "Ada"})
    assert tracker.flush(30)
    pseudonym = Key(KEY).pseudonym_of(ADA)
    later = [row.metadata for row in all_of(engine, tables.access) if "forgotten" in (row.metadata or "")]
    assert [json.loads(text) for text in later] == [{"usage_instrument": [f"user: forgotten, {pseudonym}"]}] * 2
    assert names(engine, tables, ADA) == []
    assert holds(engine, tables)


def test_accesses_that_another_process_holds_name_them_no_more(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    one, other = make(database.url), make(database.url)
    audited(one)
    for user in (ADA, BOB):
        other.track("open_vault", user=user, audit=True)
        other.track("close_vault", user=user, audit="required")
    one.privacy.forget(ADA)
    assert other.flush(30)
    assert names(engine, tables, ADA) == []
    assert holds(engine, tables)
    assert sum(row.user_id == BOB for row in all_of(engine, tables.access)) == 4


def test_what_the_trail_must_keep_it_keeps(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database.url)
    audited(tracker)
    receipt = tracker.privacy.forget(ADA, keep_audit=True)
    assert (receipt.pseudonymised, receipt.kept) == (0, 4)
    assert names(engine, tables, ADA) == [tables.access.name]
    assert holds(engine, tables)


def test_a_trail_of_thousands(sqlite: Database, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    tracker = make(sqlite.url)
    for number in range(2500):
        tracker.track("open_vault", user=(ADA, BOB)[number % 2], audit=True)
    assert tracker.flush(30)
    assert tracker.privacy.forget(ADA).pseudonymised == 1250
    assert names(engine, tables, ADA) == []
    assert holds(engine, tables)


def test_whom_the_trail_was_made_to_tell_of_no_more_without_a_record(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database.url)
    audited(tracker)
    tracker.privacy.forget(ADA)
    is_record = tables.access.c.feature_name == "usage_instrument.erasure"
    with engine.begin() as connection:
        connection.execute(sa.delete(tables.access).where(is_record))
    with engine.connect() as connection:
        kinds = {finding.kind for finding in verify(connection, tables, None).findings}
    assert kinds == {"changed"}


@pytest.mark.parametrize("parts", [["user"], ["details"], ["actor", "details"]])
def test_who_erases_by_hand_is_found(database: Database, make: Make, parts: list[str]) -> None:
    """With digests as `forget` leaves them: so the link holds, and only the record is missing."""
    engine = database.engine()
    tables = made(engine)
    audited(make(database.url))
    access = tables.access
    with engine.begin() as connection:
        row = connection.execute(sa.select(access).order_by(access.c.number.desc())).mappings().first()
        assert row is not None
        where = sa.and_(access.c.chain_id == row["chain_id"], access.c.number == row["number"])
        connection.execute(sa.update(access).where(where).values(erased(dict(row), parts, "somebody")))
    assert not holds(engine, tables)


def test_two_who_share_a_row_are_forgotten_one_after_the_other(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database.url)
    audited(tracker)
    for user in (BOB, ADA):
        tracker.privacy.forget(user)
        assert names(engine, tables, user) == []
        assert holds(engine, tables)


def test_what_was_erased_is_not_to_be_filled_anew(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database.url)
    audited(tracker)
    tracker.privacy.forget(ADA)
    access = tables.access
    with engine.connect() as connection:
        row = connection.execute(
            sa.select(access).where(access.c.seal.contains("digests"), access.c.user_id.is_(None))
        ).first()
    assert row is not None
    changes: list[dict[str, Any]] = [
        *({name: BOB} for name in ("user_id", "actor_id")),
        {"metadata": '{"name":"Eve"}'},
        {"request_id": "r"},
        {"feature_name": "x"},
        {"seal": row.seal.replace('"digests":{"user":"', '"digests":{"user":"0')},
        {"seal": row.seal.replace(Key(KEY).pseudonym_of(ADA), Key(KEY).pseudonym_of(BOB))},
        {"seal": row.seal.replace('{"salts"', '{"note":"x","salts"')},
    ]
    same_row = sa.update(access).where(access.c.chain_id == row.chain_id, access.c.number == row.number)
    assert holds(engine, tables)
    unnoticed = []
    for change in changes:
        with engine.begin() as connection:
            connection.execute(same_row.values(change))
        unnoticed += [change] if holds(engine, tables) else []
        with engine.begin() as connection:
            connection.execute(same_row.values({name: row._mapping[name] for name in change}))
    assert unnoticed == []
    assert holds(engine, tables), "each change was taken back"


# ---- the journal


def test_a_living_process_that_has_nothing_to_write_forgets_them_too(
    database: Database, make: Make, tmp_path: Path
) -> None:
    engine = database.engine()
    tables = made(engine)
    place = tmp_path / "journals"
    one = make(database.url, journal=place)
    other = make(database.url, journal=place, flush_interval=0.05)
    for user in (ADA, BOB):
        one.track("search", user=user)
        other.track("search", user=user, metadata={"page": 2})
        other.track("open_vault", user=user, audit=True)
    assert one.flush(30)
    assert other.flush(30)
    assert list(directories_naming(str(place), lambda users: ADA in users))
    receipt = one.privacy.forget(ADA)
    assert receipt.journals == ()
    assert list(directories_naming(str(place), lambda users: ADA in users)) == []
    files = b"".join(file.read_bytes() for file in place.rglob("*") if file.is_file())
    assert ADA.hex.encode() not in files
    assert names(engine, tables, ADA) == []
    for tracker in (one, other):
        tracker.track("search", user=BOB)
        assert tracker.flush(30)
    assert counts(engine, tables) == {("search", BOB): 4, ("open_vault", BOB): 1}


def test_a_journal_of_which_a_part_was_deleted_during_the_look_is_looked_at_again(
    sqlite: Database, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(sqlite.engine())
    place = tmp_path / "journals"
    make(sqlite.url, journal=place).track("search", user=BOB)
    (journal,) = place.iterdir()

    def look() -> list[Path]:
        return list(directories_naming(str(place), lambda users: ADA in users))

    assert look() == []

    def is_gone(log: Dictionary) -> None:
        raise FileNotFoundError  # it was retired after it had been listed

    monkeypatch.setattr(Dictionary, "users", property(is_gone))
    assert look() == [journal]


def killed(database: Database, place: Path, code: str) -> None:
    """A process that uses what `code` says, and is killed."""
    script = textwrap.dedent(
        f"""
        import os, signal, uuid
        from usage_instrument import Settings, Tracker
        ADA, BOB = uuid.UUID(int={ADA.int}), uuid.UUID(int={BOB.int})
        settings = Settings(journal={str(place)!r}, flush_interval=3600, privacy_key={KEY!r})
        tracker = Tracker({database.url!r}, settings)
        {code}
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    done = forked.run(script)
    assert done.returncode == -9, done.stderr


def test_the_journal_of_a_dead_process_brings_nobody_back(database: Database, make: Make, tmp_path: Path) -> None:
    engine = database.engine()
    tables = made(engine)
    place = tmp_path / "journals"
    killed(database, place, "for user in (ADA, ADA, BOB): tracker.track('search', user=user)")
    tracker = make(database.url, journal=place)
    assert tracker.privacy.forget(ADA).journals == ()  # known by the journal alone
    assert list(place.iterdir()) == []
    assert counts(engine, tables) == {("search", BOB): 1}
    assert lost(engine, tables) == {FORGOTTEN: 2}


def test_the_journal_of_another_machine_brings_nobody_back(database: Database, make: Make, tmp_path: Path) -> None:
    engine = database.engine()
    tables = made(engine)
    place = tmp_path / "journals"
    killed(database, place, "for user in (ADA, ADA, BOB): tracker.track('search', user=user, audit=True)")
    make(database.url).privacy.forget(ADA, force=True)
    there = make(database.url, journal=place)
    there.track("search", user=BOB)
    assert there.flush(60)
    assert there.shutdown()
    assert names(engine, tables, ADA) == []
    assert counts(engine, tables) == {("search", BOB): 2}
    assert list(place.iterdir()) == []
    assert holds(engine, tables)


@pytest.mark.parametrize("where", ["before", "after"])
def test_the_batches_of_dead_processes_bring_nobody_back(
    database: Database, make: Make, tmp_path: Path, where: str
) -> None:
    """Two were killed at the commit of a batch, and are taken over by one that knows by then who was forgotten."""
    engine = database.engine()
    tables = made(engine)
    place = tmp_path / "journals"
    for _ in range(2):
        killed(
            database,
            place,
            f"""
        from usage_instrument.database import dialects
        dialect = dialects.get({database.name!r})
        commit = dialect.commit
        def killing(connection):
            if {where == "after"}:
                commit(connection)
            os.kill(os.getpid(), signal.SIGKILL)
        tracker.track("search", user=BOB)
        assert tracker.flush(60)
        dialect.commit = killing
        for user in (ADA, BOB):
            tracker.track("search", user=user)
        tracker.flush(60)
        """,
        )
    make(database.url).privacy.forget(ADA, force=True)
    there = make(database.url, journal=place)
    there.track("search", user=BOB)
    assert there.flush(60)
    assert there.shutdown()
    assert names(engine, tables, ADA) == []
    assert counts(engine, tables) == {("search", BOB): 5}
    assert list(place.iterdir()) == []


def test_a_journal_that_was_set_aside_is_told(sqlite: Database, make: Make, tmp_path: Path) -> None:
    made(sqlite.engine())
    place = tmp_path / "journals"
    killed(sqlite, place, "tracker.track('search', user=ADA)")
    (home,) = place.iterdir()
    (home / "parked").write_text("a reason\n")
    tracker = make(sqlite.url, journal=place)
    assert tracker.privacy.forget(ADA).journals == (str(home),)
    assert tracker.privacy.forget(BOB, force=True).journals == ()


# ---- opted out


def test_who_opts_out_is_not_counted_and_what_was_stays(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    one, other = make(database.url), make(database.url)
    for tracker in (one, other):
        tracker.track("search", user=ADA)
        assert tracker.flush(30)
    other.track("search", user=ADA)
    one.privacy.opt_out(ADA)
    for tracker in (one, other):
        tracker.track("search", user=ADA)
        tracker.track("search", user=BOB)
        assert tracker.flush(30)
    assert counts(engine, tables) == {("search", ADA): 2, ("search", BOB): 2}
    assert lost(engine, tables) == {FORGOTTEN: 3}
    assert other.privacy.export(ADA)["counted"] is False
    other.privacy.opt_in(ADA)
    for tracker in (one, other):
        tracker.track("search", user=ADA)
        assert tracker.flush(30)
    assert counts(engine, tables) == {("search", ADA): 4, ("search", BOB): 2}
    assert other.privacy.export(ADA)["counted"] is True
    assert balanced(one.stats())
    assert balanced(other.stats())


def test_accesses_of_who_opted_out_are_recorded_all_the_same(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database.url)
    tracker.privacy.opt_out(ADA)
    tracker.track("open_vault", user=ADA, audit=True)
    tracker.track("open_vault", user=ADA, audit="required")
    assert tracker.flush(30)
    assert [row.user_id for row in all_of(engine, tables.access)] == [ADA, ADA]
    assert counts(engine, tables) == {}


def test_within_one_flush_interval(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    other = make(database.url, flush_interval=0.05)
    other.track("search", user=ADA)
    assert other.flush(30)
    make(database.url).privacy.opt_out(ADA)
    other.track("search", user=ADA)
    looks = threading.Event()
    while other.stats().pending:
        assert not looks.wait(0.01)
    assert counts(engine, tables) == {("search", ADA): 1}


def test_who_was_forgotten_stays_so_until_they_opt_in(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database.url)
    tracker.privacy.forget(ADA, force=True)
    tracker.privacy.opt_out(ADA)
    assert [row.state for row in all_of(engine, tables.suppressions)] == ["forgotten"]
    tracker.privacy.opt_in(ADA)
    tracker.track("search", user=ADA)
    assert tracker.flush(30)
    assert counts(engine, tables) == {("search", ADA): 1}


def test_the_anonymous_user_is_counted_after_any_opt_out(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database.url)
    tracker.privacy.opt_out(ADA)
    tracker.track("search", user=None)
    assert tracker.flush(30)
    assert counts(engine, tables) == {("search", None): 1}


# ---- one's own data


def test_what_the_tables_tell_of_a_user(database: Database, make: Make) -> None:
    engine = database.engine()
    made(engine)
    tracker = make(database.url, service="web")
    audited(tracker)
    tracker.track("search", user=ADA, metadata={"page": 2})
    tracker.track("search", user=BOB)
    data = json.loads(json.dumps(tracker.privacy.export(ADA)))
    assert data["user_id"] == str(ADA)
    assert data["counted"] is True
    assert [(use["feature_name"], use["usage_count"], use["metadata"]) for use in data["usage"]] == [
        ("open_vault", 3, {"name": "Ada"}),
        ("search", 1, {"page": 2}),
    ]
    assert [(use["feature_name"], use["usage_count"]) for use in data["history"]] == [("open_vault", 3), ("search", 1)]
    assert sorted((access["acted_as"], access["acted_by"]) for access in data["accesses"]) == [
        ("another user", "themselves"),
        ("themselves", "another user"),
        ("themselves", "themselves"),
        ("themselves", "themselves"),
    ]
    assert str(BOB) not in json.dumps(data)
    nobody = tracker.privacy.export(uuid.uuid4())
    assert (nobody["usage"], nobody["history"], nobody["accesses"]) == ([], [], [])


def test_data_can_be_had_without_a_key(sqlite: Database, make: Make) -> None:
    made(sqlite.engine())
    tracker = make(sqlite.url, privacy_key=None)
    tracker.track("search", user=ADA)
    data = tracker.privacy.export(ADA)
    assert (data["counted"], len(data["usage"])) == (None, 1)


# ---- mistakes


@pytest.mark.parametrize("method", ["forget", "opt_out", "opt_in"])
def test_without_a_key_nobody_can_be_remembered(sqlite: Database, make: Make, method: str) -> None:
    made(sqlite.engine())
    tracker = make(sqlite.url, privacy_key=None)
    with pytest.raises(ConfigurationError, match=r"privacy_key \(\$USAGE_INSTRUMENT_PRIVACY_KEY\) is not set"):
        getattr(tracker.privacy, method)(ADA)


@pytest.mark.parametrize("method", ["forget", "opt_out", "opt_in", "export"])
@pytest.mark.parametrize("user", [None, "no uuid", 3.5])
def test_nobody_in_particular_cannot_ask(sqlite: Database, make: Make, method: str, user: object) -> None:
    made(sqlite.engine())
    with pytest.raises(UserIdError):
        getattr(make(sqlite.url).privacy, method)(user)


@pytest.mark.parametrize("key", [None, "another secret of thirty-two characters"])
def test_who_cannot_tell_whom_to_leave_out_writes_nothing_and_loses_nothing(
    database: Database, make: Make, key: str | None
) -> None:
    engine = database.engine()
    tables = made(engine)
    make(database.url).privacy.opt_out(ADA)
    tracker = make(database.url, privacy_key=key)
    tracker.track("search", user=BOB)
    assert not tracker.flush()
    assert "privacy_key" in str(tracker.stats().last_error)
    assert KEY not in str(tracker.stats().last_error)
    assert tracker.stats().pending == 1
    assert counts(engine, tables) == {}
    with pytest.raises(usage.AuditUnavailable, match="privacy_key"):
        tracker.track("open_vault", user=BOB, audit="required")


def test_a_table_that_is_missing_is_told(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    tables.suppressions.drop(engine)
    tracker = make(database.url)
    with pytest.raises(UsageInstrumentError, match="feature_usage_suppressions does not exist: run `usage-instrument"):
        tracker.privacy.forget(ADA)
    with pytest.raises(usage.AuditUnavailable, match="feature_usage_suppressions does not exist"):
        tracker.track("open_vault", user=ADA, audit="required")


def test_a_database_without_a_trail_has_nothing_to_erase_there(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    tables.access.drop(engine)
    tracker = make(database.url)
    tracker.track("search", user=ADA)
    assert tracker.privacy.export(ADA)["accesses"] == []
    assert tracker.privacy.forget(ADA).deleted["feature_usage"] == 1


def test_the_database_is_away(sqlite: Database, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made(sqlite.engine())
    monkeypatch.setattr(api, "PATIENCE", 0.0)
    tracker = make(sqlite.url)
    monkeypatch.setattr(Store, "open", _away)
    with pytest.raises(UsageInstrumentError, match="away"):
        tracker.privacy.opt_out(ADA)


def _away(self: Store) -> None:
    raise WriteError(Fault.TRANSIENT, "away")


def test_the_moment_when_a_lock_is_held_is_waited_for(
    database: Database, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = database.engine()
    tables = made(engine)
    attempts = iter([True, True])
    transact = Store.transact

    def sometimes(self: Store, work: Any) -> Any:
        if next(attempts, False):
            raise WriteError(Fault.TRANSIENT, "locked")
        return transact(self, work)

    tracker = make(database.url)
    tracker.track("search", user=ADA)
    assert tracker.flush(30)
    monkeypatch.setattr(Store, "transact", sometimes)
    assert tracker.privacy.forget(ADA).deleted["feature_usage"] == 1
    assert counts(engine, tables) == {}


# ---- everywhere


def test_from_an_event_loop_by_an_async_driver(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database.async_url)

    async def main() -> None:
        tracker.track("search", user=ADA)
        await tracker.aflush()
        assert len((await tracker.privacy.aexport(ADA))["usage"]) == 1
        await tracker.privacy.aopt_out(ADA)
        await tracker.privacy.aopt_in(ADA)
        with pytest.raises(UsageInstrumentError, match="with an a in front"):
            tracker.privacy.opt_out(ADA)
        assert (await tracker.privacy.aforget(ADA)).deleted["feature_usage"] == 1
        await tracker.ashutdown()

    asyncio.run(main())
    assert names(engine, tables, ADA) == []


def test_the_functions_of_the_package(sqlite: Database) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    with pytest.raises(ConfigurationError, match="nothing is configured"):
        usage.forget(ADA)
    usage.configure(sqlite.url, privacy_key=KEY)
    usage.track("search", user=ADA)
    assert usage.export(ADA)["usage"]
    usage.opt_out(ADA)
    usage.opt_in(ADA)
    assert isinstance(usage.forget(ADA), usage.Receipt)

    async def main() -> None:
        assert (await usage.aexport(ADA))["usage"] == []
        await usage.aopt_in(ADA)
        await usage.aopt_out(ADA)
        await usage.aforget(ADA)

    asyncio.run(main())
    assert names(engine, tables, ADA) == []


def test_any_object_with_an_id_is_a_user(sqlite: Database, make: Make) -> None:
    made(sqlite.engine())

    class Person:
        def __init__(self) -> None:
            self.id = ADA

    tracker = make(sqlite.url)
    tracker.track("search", user=Person())
    assert tracker.privacy.forget(Person()).deleted["feature_usage"] == 1


def test_in_a_forked_child(server: Database, make: Make) -> None:
    """The child's own tracker asks for itself, on a connection of its own."""
    engine = server.engine()
    tables = made(engine)
    script = textwrap.dedent(
        f"""
        import os, uuid
        from usage_instrument import Settings, Tracker
        ADA, BOB = uuid.UUID(int={ADA.int}), uuid.UUID(int={BOB.int})
        tracker = Tracker({server.url!r}, Settings(flush_interval=3600, privacy_key={KEY!r}))
        tracker.track("search", user=ADA)
        tracker.track("search", user=BOB)
        assert tracker.flush(30)
        tracker.track("search", user=ADA)
        tracker.track("search", user=BOB)
        if os.fork() == 0:
            tracker.privacy.forget(ADA)
            tracker.shutdown()
            os._exit(0)
        assert os.wait()[1] == 0
        assert tracker.shutdown()
        """
    )
    done = forked.run(script)
    assert done.returncode == 0, done.stderr
    assert counts(engine, tables) == {("search", BOB): 2}
