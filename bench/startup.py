"""What importing the package and the first capture cost. Run it: python bench/startup.py"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from rounds import Bar, Case, Result, compare, main, times

SQLALCHEMY, OURS, WRAPT = "import sqlalchemy", "import sqlalchemy, usage_instrument", "import sqlalchemy, wrapt"
ORM = "import sqlalchemy.orm"
_TIMED = "import time; start = time.process_time(); {}; print(time.process_time() - start)"
_FIRST = """
import time
import usage_instrument as usage
usage.configure("sqlite:////nowhere/usage.db", users=None{journal})
times = []
for _ in range(2):
    start = time.thread_time()
    usage.track("f", user=None)
    times.append(time.thread_time() - start)
print(times[{which}])
"""
_FOREIGN = """
import sys, usage_instrument
heavy = {"flask", "starlette", "fastapi", "django", "celery", "typer", "rich", "sqlalchemy.orm", "psycopg"}
print(len(heavy & set(sys.modules)))
"""


def answer(program: str, compiled: str) -> float:
    """What a new process prints, that finds its modules compiled there, or leaves them so."""
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": compiled}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environ)
    return float(done.stdout)


def measure(scale: float) -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as compiled:
        yield from _measure(times(15, scale), compiled)


def _measure(rounds: int, compiled: str) -> Iterator[Result]:
    def case(program: str) -> Case:
        return lambda: answer(program, compiled)

    cases = {name: case(_TIMED.format(name)) for name in (SQLALCHEMY, WRAPT, OURS, ORM)}
    found = compare("Imports, seconds of work", cases, SQLALCHEMY, rounds=rounds)
    yield found
    yield Bar("import usage_instrument, beyond import sqlalchemy", found[OURS].ratio - 1, 0.1)
    yield Bar("frameworks, ORM, command line and drivers that it imports", answer(_FOREIGN, compiled), 0, unit="")
    firsts = {
        "the second": case(_FIRST.format(journal="", which=1)),
        "the first": case(_FIRST.format(journal="", which=0)),
    }
    yield compare("A capture on the caller's thread", firsts, "the second", rounds=rounds)


if __name__ == "__main__":
    main(measure, __doc__)
