"""RQ: real workers on a real Redis, whose jobs run in processes that leave by os._exit."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis
import rq

import servers
from conftest import Database, entered
from reading import all_of, counts, made

FAULTS = Path(__file__).parents[1] / "faults"


@pytest.mark.parametrize("kind", ["Worker", "SpawnWorker"])
def test_a_job_writes_its_uses_at_its_end(kind: str, sqlite: Database) -> None:
    engine = sqlite.engine()
    tables = made(engine, user_id_type="integer")
    with contextlib.ExitStack() as stack:
        port = entered(servers.redis, stack)
        queue = rq.Queue(connection=stack.enter_context(redis.Redis(port=port)))
        jobs = [queue.enqueue("rq_jobs.send", user, fails=user == 2) for user in (1, 2)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(FAULTS), os.environ.get("PYTHONPATH", "")]),
            "USAGE_INSTRUMENT_DATABASE_URL": sqlite.url,
            "USAGE_INSTRUMENT_USER_ID_TYPE": "integer",
            "USAGE_INSTRUMENT_ENABLED": "true",
        }
        worker = [str(Path(sys.executable).with_name("rq")), "worker", "--burst", "--url", f"redis://127.0.0.1:{port}"]
        subprocess.run(
            [*worker, "--worker-class", f"usage_instrument.integrations.rq.{kind}"],
            env=environment, check=True, timeout=60, capture_output=True,
        )  # fmt: skip
        assert [job.get_status() for job in jobs] == ["finished", "failed"]
    assert counts(engine, tables) == {("send_report", None): 1, ("begin_report", 1): 1, ("begin_report", 2): 1}
    assert all_of(engine, tables.writers) == []
