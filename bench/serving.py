"""What a request costs under a real server, and whether each is a count in the table. Run it: python bench/serving.py

Uvicorn with Starlette and gunicorn with Flask, each once bare and once counted, asked in turn by one client each.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from middleware import flask_app, starlette_app
from rounds import Bar, Case, Result, compare, main, times

import usage_instrument as usage
from usage_instrument import asgi, schema, wsgi

BARE, COUNTED = "bare", "counted"
REQUESTS = 100
"""A case and round."""
DATABASE = "BENCH_DATABASE"


def make(app: Callable[[], Any], middleware: Callable[..., Any]) -> Any:
    """The app that a server is given: counted where there is a database."""
    url = os.environ.get(DATABASE)
    if not url:
        return app()
    usage.configure(url, user_id_type="integer")
    return middleware(app(), user=lambda carrier: 42)


def for_uvicorn() -> Any:
    return make(starlette_app, asgi.UsageMiddleware)


def for_gunicorn() -> Any:
    return make(flask_app, wsgi.UsageMiddleware)


COMMANDS = {
    "uvicorn and Starlette": ["uvicorn", "--factory", "serving:for_uvicorn", "--log-level=critical", "--port={port}"],
    "gunicorn and Flask": [
        "gunicorn", "serving:for_gunicorn()", "--bind=127.0.0.1:{port}", "--threads=2", "--keep-alive=30",
    ],
}  # fmt: skip


@contextlib.contextmanager
def serving(command: list[str], database: str) -> Iterator[http.client.HTTPConnection]:
    """A connection to a server, which ends orderly."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    place = Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, "-m", *(part.format(port=port) for part in command)],
        cwd=place,
        env={**os.environ, DATABASE: database},
        stderr=subprocess.DEVNULL,
    )
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                connection.connect()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield connection
    finally:
        connection.close()
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def asking(connection: http.client.HTTPConnection) -> Case:
    def work() -> float:
        start = time.perf_counter()
        for _ in range(REQUESTS):
            connection.request("GET", "/events/7")
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(answer.status)
        return (time.perf_counter() - start) / REQUESTS

    return work


def measure(scale: float) -> Iterator[Result]:
    rounds = times(60, scale)
    for name, command in COMMANDS.items():
        with tempfile.TemporaryDirectory() as directory:
            url = f"sqlite:///{Path(directory) / 'usage.db'}"
            engine = sa.create_engine(url)
            tables = schema.create_all(engine, user_id_type="integer").tables
            with serving(command, "") as bare, serving(command, url) as counted:
                cases = {BARE: asking(bare), COUNTED: asking(counted)}
                yield compare(f"A request to {name}, over one connection", cases, BARE, rounds=rounds)
            with engine.connect() as connection:
                written = connection.scalar(sa.select(sa.func.sum(tables.usage.c.usage_count))) or 0
            engine.dispose()
            sent = (rounds + 1) * REQUESTS
            yield Bar(f"{name}: uses in the table / requests that succeeded", written / sent, 1, is_least=True)


if __name__ == "__main__":
    main(measure, __doc__, "uvicorn", "gunicorn", "starlette", "flask")
