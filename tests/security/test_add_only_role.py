"""The grants of docs/guides/deployment.md suffice for an app, and let it only add rows to the audit trail."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from conftest import Database
from reading import all_of, counts, made
from usage_instrument import Settings, Tracker
from usage_instrument.audit.verify import verify
from usage_instrument.errors import UsageInstrumentError

ADA, BOB = uuid.UUID(int=2**64 + 1), uuid.UUID(int=2**64 + 2)
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "deployment.md"


@pytest.fixture
def role(server: Database) -> Iterator[sa.URL]:
    """The URL of a role that has what the guide grants, without the users table, which is not there."""
    name = f"app_{uuid.uuid4().hex[:12]}"
    engine, postgresql = server.engine(isolation_level="AUTOCOMMIT"), server.name == "postgresql"
    made(engine)
    grants = re.findall(r"^GRANT .* TO app;$", GUIDE.read_text(), re.MULTILINE)
    assert len(grants) == 13
    with engine.connect() as connection:
        login = "LOGIN PASSWORD 'secret'" if postgresql else "IDENTIFIED BY 'secret'"
        connection.exec_driver_sql(f"CREATE {'ROLE' if postgresql else 'USER'} {name} {login}")
        for grant in grants:
            if "ON users" not in grant and (postgresql or "SEQUENCE" not in grant):
                connection.execute(sa.text(grant.replace("TO app;", f"TO {name}")))
    yield sa.make_url(server.url).set(username=name, password="secret")
    with engine.connect() as connection:
        if postgresql:
            connection.exec_driver_sql(f"DROP OWNED BY {name}")
        connection.exec_driver_sql(f"DROP {'ROLE' if postgresql else 'USER'} {name}")


def test_counts_go_on_without_rights_to_the_newest_tables(server: Database, role: sa.URL) -> None:
    """As after `db upgrade`, before the role has what the guide grants now."""
    engine = server.engine()
    tables = made(engine)
    with engine.begin() as connection:
        for table in (tables.exposures, tables.dimensions, tables.outbox):
            connection.exec_driver_sql(f"REVOKE ALL PRIVILEGES ON {table.name} FROM {role.username}")
    tracker = Tracker(role, Settings(flush_interval=3600))
    tracker.track("search", user=BOB)
    tracker.expose("page", "new", user=BOB)
    tracker.track("export", user=BOB, dimensions={"format": "csv"})
    assert tracker.flush(30), tracker.stats()
    host = sa.create_engine(role, poolclass=sa.NullPool)
    with host.begin() as connection:
        tracker.track("purchase", user=BOB, commit=connection)
    for _ in range(2):
        tracker.track("search", user=BOB)
        tracker.track("export", user=BOB, dimensions={"format": "csv"})
        assert tracker.flush(30), tracker.stats()
    assert tracker.count(BOB, "search") == 3
    assert counts(engine, tables) == {("search", BOB): 3, ("export", BOB): 3, ("purchase", BOB): 1}
    assert all_of(engine, tables.exposures) == all_of(engine, tables.dimensions) == []
    assert (tracker.stats().rejected, tracker.stats().last_error) == (1, None)
    assert tracker.shutdown(30)
    host.dispose()


def test_the_documented_grants_suffice_and_allow_no_more(server: Database, role: sa.URL) -> None:
    engine = server.engine()
    tables = made(engine)
    tracker = Tracker(role, Settings(flush_interval=3600, privacy_key="p" * 32, audit_timeout=10, service="web"))
    tracker.tracks("search")(lambda: None)
    for user in (ADA, BOB, BOB):
        tracker.track("search", user=user)
    for _ in range(2):
        tracker.expose("page", "new", user=BOB)
        tracker.track("search", user=BOB, dimensions={"kind": "fast"}, value=1)
        assert tracker.flush(30), tracker.stats()
    tracker.track("open_vault", user=ADA, audit=True)
    tracker.track("open_vault", user=ADA, audit="required")
    host = sa.create_engine(role, poolclass=sa.NullPool)
    with host.begin() as connection:
        tracker.track("purchase", user=BOB, commit=connection)
    assert len(all_of(engine, tables.outbox)) == 1
    assert tracker.flush(30), tracker.stats()
    with pytest.raises(UsageInstrumentError, match="nothing was done, as this role may not read the audit trail"):
        tracker.privacy.forget(ADA)
    assert tracker.privacy.forget(ADA, keep_audit=True, actor=BOB).kept is None
    tracker.privacy.opt_out(BOB)
    tracker.privacy.opt_in(BOB)
    assert tracker.shutdown(30), tracker.stats()
    assert counts(engine, tables) == {("search", BOB): 4, ("purchase", BOB): 1}
    assert [row.value_sum for row in all_of(engine, tables.dimensions)] == [2.0, 2.0]
    assert [(row.unit, row.exposures) for row in all_of(engine, tables.exposures)] == [(str(BOB), 2)]
    *_, record = rows = sorted(all_of(engine, tables.access), key=lambda row: row.occurred_at)
    assert (len(rows), record.feature_name, record.actor_id) == (3, "usage_instrument.erasure", BOB)
    with engine.connect() as connection:
        assert verify(connection, tables).findings == ()
    theirs = sa.create_engine(role, poolclass=sa.NullPool)
    access = tables.access
    for statement in (sa.select(access), sa.delete(access), sa.update(access).values(outcome="failed")):
        with theirs.connect() as connection, pytest.raises(sa.exc.DBAPIError, match="denied"):
            connection.execute(statement)
