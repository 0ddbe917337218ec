"""Behind a transaction pooler, another client's temporary table may hide the trail: it must not swallow rows."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from conftest import Database
from reading import all_of, made
from usage_instrument import Settings, Tracker
from usage_instrument.cli.app import app


@pytest.mark.parametrize("audit", [True, "required"])
def test_a_temporary_table_swallows_no_row(postgresql: Database, audit: Any) -> None:
    tables = made(postgresql.engine())
    hiding = sa.create_engine(postgresql.url)

    @sa.event.listens_for(hiding, "connect")
    def hide(driver: Any, _: object) -> None:
        driver.execute("CREATE TEMPORARY TABLE feature_usage_access (LIKE public.feature_usage_access)")
        driver.commit()

    tracker = Tracker(hiding, Settings(audit_timeout=30))
    tracker.track("open_vault", user=uuid.UUID(int=7), audit=audit)
    assert tracker.shutdown(30)
    assert len(all_of(postgresql.engine(), tables.access)) == 1


def test_doctor_looks_for_one(postgresql: Database) -> None:
    made(postgresql.engine())
    done = CliRunner().invoke(app, ["doctor", "--url", postgresql.url])
    assert "temporary tables" not in done.output
    with postgresql.engine().connect() as hiding:
        hiding.exec_driver_sql("CREATE TEMPORARY TABLE feature_usage_suppressions (user_hash TEXT)")
        hiding.commit()
        done = CliRunner().invoke(app, ["doctor", "--url", postgresql.url, "--format", "json"])
    assert done.exit_code == 1
    assert "hide feature_usage_suppressions" in done.output
