"""Databases to measure on: a file, or servers of one's own, started as the tests start theirs, with all promises of
durability off, so that what is left is work; unless the promise is what is measured."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import servers
import usage_instrument as usage
from usage_instrument import _default, schema

SQLITE, POSTGRESQL, MARIADB = "SQLite", "PostgreSQL", "MariaDB"


@contextlib.contextmanager
def database(name: str, *, durable: bool = False) -> Iterator[str]:
    """The URL of an empty one, by the sync driver. Raises servers.Missing."""
    if name == SQLITE:
        with tempfile.TemporaryDirectory() as directory:
            url = f"sqlite:///{Path(directory) / 'usage.db'}"
            with _owned(url) as engine, engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            yield url
        return
    driver, start = {
        POSTGRESQL: ("postgresql+psycopg", servers.postgresql),
        MARIADB: ("mysql+pymysql", servers.mariadb),
    }[name]
    with start(durable=durable) as port:
        server = sa.URL.create(driver, servers.USER, servers.PASSWORD, "127.0.0.1", port)
        first = server.set(database="postgres" if name == POSTGRESQL else "mysql")
        with _owned(first) as engine, engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("CREATE DATABASE bench")
        yield server.set(database="bench").render_as_string(hide_password=False)


@contextlib.contextmanager
def _owned(url: sa.URL | str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url)
    yield engine
    engine.dispose()


class Processor:
    """The processor time of the sessions that a PostgreSQL database on this machine has by now, in seconds."""

    def __init__(self, url: str) -> None:
        with _owned(url) as engine, engine.connect() as connection:
            query = (
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
                "AND backend_type = 'client backend'"
            )
            self.sessions: list[int] = list(connection.exec_driver_sql(query).scalars())
        self._used: dict[int, float] = {}

    def used(self) -> float:
        """So far, by those that have ended too."""
        for session in self.sessions:
            with contextlib.suppress(FileNotFoundError):
                text = Path(f"/proc/{session}/schedstat").read_text(encoding="ascii")
                self._used[session] = int(text.split()[0]) / 1e9
        return sum(self._used.values())

    def of(self, work: Callable[[], object]) -> float:
        """For this work."""
        before = self.used()
        work()
        return self.used() - before


@contextlib.contextmanager
def configured(*, journal: bool = False) -> Iterator[None]:
    """A tracker on a SQLite file."""
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{Path(directory) / 'usage.db'}"
        engine = sa.create_engine(url)
        schema.create_all(engine, user_id_type="integer")
        engine.dispose()
        usage.configure(url, user_id_type="integer", journal=Path(directory) / "journal" if journal else None)
        yield
        _default.reset()  # shuts it down
