"""Processes to kill, and what they leave."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import sqlalchemy as sa

import victim
from usage_instrument.schema import Tables

IN_FLIGHT = 2 + (victim.THREADS - 1)
"""Uses that a killed process may have captured and not acknowledged: one call a thread, of which one counts two."""


class Victims:
    """Processes to kill, all with journals in one place."""

    def __init__(
        self, url: str, place: Path, writer: str = "process", interval: float = 0.02, pause: float = 0.0
    ) -> None:
        options = (writer, str(interval), str(pause))
        self.journal, self.acks = place / "journal", place / "acks"
        self.acks.mkdir()
        self._nursery = subprocess.Popen(
            [sys.executable, victim.__file__, url, str(self.journal), str(self.acks), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, kind: str = "") -> int:
        """The pid of another one."""
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write(f"{kind}\n")
        self._nursery.stdin.flush()
        return int(self._nursery.stdout.readline())

    @property
    def acknowledged(self) -> int:
        """How many uses all processes have acknowledged."""
        return victim.acknowledged(self.acks)

    def close(self) -> None:
        self._nursery.communicate()
        assert self._nursery.returncode == 0


def recover(url: str, journal: Path) -> subprocess.Popen[str]:
    program = str(Path(sys.executable).with_name("usage-instrument"))
    command = [program, "journal", "recover", "--journal", str(journal), "--url", url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def left(journal: Path) -> list[Path]:
    """The journals that no process recovered. A directory whose process was killed while it made it stays hidden."""
    return [path for path in journal.iterdir() if not path.name.startswith(".")]


def exposed(engine: sa.Engine, tables: Tables) -> int:
    """The exposures in the table."""
    with engine.connect() as connection:
        return int(connection.scalar(sa.select(sa.func.sum(tables.exposures.c.exposures))) or 0)


def wait_until_dead(pid: int) -> None:
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.001)  # not our child: there is nothing to wait on
