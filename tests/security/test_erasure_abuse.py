"""Erasing an account must not erase what its owner did to others, nor hide what they do later."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from conftest import Database
from reading import all_of, counts, made
from usage_instrument import Settings, Tracker
from usage_instrument.audit.admin_chain import ADMIN_CHAIN
from usage_instrument.audit.chain import Chain
from usage_instrument.audit.query import person
from usage_instrument.audit.self_access import SELF_ACCESS
from usage_instrument.audit.verify import verify
from usage_instrument.cli.app import app
from usage_instrument.database.suppressions import Key
from usage_instrument.events import Access, Use
from usage_instrument.privacy import erasure
from usage_instrument.schema import Tables, define_tables

ADA, BOB, EVE = (uuid.UUID(int=2**64 + number) for number in (1, 2, 3))
AUDIT_TIMEOUT = 5
PRIVACY_KEY = "a secret of thirty-two characters, or more"


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here waits for the gates of other processes: there are none."""
    monkeypatch.setattr(erasure, "_MARGIN", -2 * AUDIT_TIMEOUT)


def tracker_of(database: Database, tables: Tables | None = None, **more: Any) -> Tracker:
    settings: dict[str, Any] = {
        "flush_interval": 3600,
        "privacy_key": PRIVACY_KEY,
        "audit_timeout": AUDIT_TIMEOUT,
        **more,
    }
    return Tracker(database.url, Settings(**settings), tables)


def accesses(database: Database, tables: Tables) -> list[Any]:
    return [row for row in all_of(database.engine(), tables.access) if row.chain_id != ADMIN_CHAIN]


def holds(database: Database, tables: Tables) -> bool:
    with database.engine().connect() as connection:
        return verify(connection, tables).findings == ()


def written(database: Database, tables: Tables, *uses: Use) -> None:
    with database.engine().begin() as connection:
        connection.execute(sa.insert(tables.access), Chain(None).rows(uses, "web"))


def access(outcome: Any, actor: uuid.UUID | None = None, id_: uuid.UUID | None = None) -> Access:
    return Access(id_ or uuid.uuid4(), outcome, 1_700_000_000_000_000, actor, "s11")


def test_an_actor_who_is_erased_leaves_the_rest_of_the_row(database: Database) -> None:
    tables = made(database.engine())
    written(database, tables, Use("open_vault", BOB, '{"drawer":1}', 0, access("success", ADA)))
    tracker = tracker_of(database)
    assert tracker.privacy.forget(ADA).pseudonymised == 1
    tracker.shutdown()
    (row,) = accesses(database, tables)
    assert (row.user_id, row.actor_id, row.request_id, row.metadata) == (BOB, None, "s11", '{"drawer":1}')
    assert person(row._mapping, "actor") == f"forgotten:{Key(PRIVACY_KEY).pseudonym_of(ADA)}"
    assert holds(database, tables)


def test_a_search_for_oneself_as_another_user_is_erased(database: Database) -> None:
    tables = made(database.engine())
    written(database, tables, Use(SELF_ACCESS, BOB, f'{{"user":"{ADA}","rows":1}}', 0, access("success", ADA)))
    tracker = tracker_of(database, audit_timeout=0.1)
    assert tracker.privacy.forget(ADA).pseudonymised == 1
    tracker.shutdown()
    (row,) = accesses(database, tables)
    assert (row.user_id, row.actor_id, row.metadata) == (BOB, None, None)
    assert holds(database, tables)


def test_the_attempt_of_an_erased_access_loses_its_request_id(database: Database) -> None:
    tables = made(database.engine())
    hers, his = uuid.uuid4(), uuid.uuid4()
    written(
        database,
        tables,
        Use("open_vault", None, None, 0, access("attempted", None, hers)),
        Use("open_vault", None, None, 0, access("attempted", None, his)),
        Use("open_vault", ADA, None, 0, access("success", None, hers)),
        Use("open_vault", BOB, None, 0, access("success", None, his)),
    )
    tracker = tracker_of(database)
    tracker.privacy.forget(ADA)
    tracker.shutdown()
    assert {row.access_id for row in accesses(database, tables) if row.request_id == "s11"} == {his}
    assert holds(database, tables)


@pytest.mark.parametrize("audit", [True, "required"])
def test_keep_audit_goes_on_naming_the_user(database: Database, audit: Any, tmp_path: Any) -> None:
    tables = made(database.engine())
    tracker = tracker_of(database, journal=str(tmp_path / "journal"))
    tracker.track("open_vault", user=ADA, audit=audit)
    assert tracker.flush(30)
    receipt = tracker.privacy.forget(ADA, keep_audit=True)
    assert (receipt.kept, receipt.journals) == (1, ())
    tracker.privacy.opt_out(ADA)  # which does not undo it
    tracker.track("open_vault", user=ADA, audit=audit)
    tracker.track("search", user=ADA)
    assert tracker.flush(30)
    assert [row.user_id for row in accesses(database, tables)] == [ADA, ADA]
    assert counts(database.engine(), tables) == {}
    assert tracker.privacy.export(ADA)["counted"] is False
    tracker.privacy.forget(ADA)
    tracker.track("open_vault", user=ADA, audit=audit)
    tracker.privacy.forget(ADA, keep_audit=True)  # nor does this
    assert tracker.shutdown(30)
    assert [row.user_id for row in accesses(database, tables)] == [None] * 3
    assert holds(database, tables)


def test_the_record_names_who_ordered_the_erasure(database: Database) -> None:
    tables = made(database.engine())
    tracker = tracker_of(database)
    for user in (ADA, BOB):
        written(database, tables, Use("open_vault", user, None, 0, access("success")))
    tracker.privacy.forget(ADA, actor=EVE)
    tracker.privacy.forget(BOB, actor=str(BOB))
    tracker.shutdown()
    by_eve, by_himself = [row for row in all_of(database.engine(), tables.access) if row.chain_id == ADMIN_CHAIN]
    assert by_eve.actor_id == EVE
    assert (by_himself.actor_id, json.loads(by_himself.metadata)["ordered_by"]) == (None, "themselves")
    assert holds(database, tables)


def test_an_erasure_that_keeps_the_trail_is_recorded_too(database: Database) -> None:
    tables = made(database.engine())
    written(database, tables, Use("open_vault", ADA, None, 0, access("success")))
    tracker = tracker_of(database, audit_timeout=0.1)
    tracker.privacy.forget(ADA, actor=EVE, keep_audit=True)
    (record,) = [row for row in all_of(database.engine(), tables.access) if row.chain_id == ADMIN_CHAIN]
    assert (record.feature_name, record.user_id, record.actor_id) == ("usage_instrument.erasure", None, EVE)
    told = json.loads(record.metadata)
    assert (told["name"], told["kept"]) == (Key(PRIVACY_KEY).pseudonym_of(ADA), True)
    assert holds(database, tables)
    tracker.privacy.forget(EVE, actor=BOB)
    tracker.shutdown()
    ordered = [row.actor_id for row in all_of(database.engine(), tables.access) if row.chain_id == ADMIN_CHAIN]
    assert ordered == [None, BOB], "who ordered it can be erased as well"
    assert holds(database, tables)


def test_the_command_records_who_ordered_it(sqlite: Database) -> None:
    tables = made(sqlite.engine())
    written(sqlite, tables, Use("open_vault", ADA, None, 0, access("success")))
    variables = {"USAGE_INSTRUMENT_PRIVACY_KEY": PRIVACY_KEY, "USAGE_INSTRUMENT_AUDIT_TIMEOUT": "0.1"}
    done = CliRunner().invoke(app, ["forget", str(ADA), "--as", str(EVE), "--url", sqlite.url], env=variables)
    assert done.exit_code == 0, done.output
    (record,) = [row for row in all_of(sqlite.engine(), tables.access) if row.chain_id == ADMIN_CHAIN]
    assert record.actor_id == EVE


def test_erasure_ends_where_the_database_takes_other_ids_for_equal(sqlite: Database) -> None:
    tables = define_tables(sa.MetaData(), users=None, user_id_type="string")
    for column in ("user_id", "actor_id"):
        tables.access.c[column].type = sa.String(255, collation="NOCASE")
    for table in tables:
        table.create(sqlite.engine(), checkfirst=True)
    written(sqlite, tables, Use("open_vault", "BOB", None, 0, access("success", None)))
    written(sqlite, tables, Use("open_vault", "bob", None, 0, access("success", None)))
    tracker = tracker_of(sqlite, tables, user_id_type="string")
    assert tracker.privacy.forget("bob").pseudonymised == 2
    tracker.shutdown()
