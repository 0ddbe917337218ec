"""Commands of the command line, run one after the other in one process: most of what a process takes is its imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_SCRIPT = """
import contextlib, io, json, sys
from usage_instrument.cli import main

for arguments in json.load(sys.stdin):
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
    print(json.dumps([code or 0, out.getvalue(), errors.getvalue()]))
"""


def in_one_process(commands: Sequence[Sequence[str]], cwd: Path) -> list[subprocess.CompletedProcess[str]]:
    """The exit code and the output of each command, in a directory from which Python imports; without settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("USAGE_INSTRUMENT_")}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        cwd=cwd,
        env=inherited,
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [
        subprocess.CompletedProcess(list(command), *json.loads(line))
        for command, line in zip(commands, done.stdout.splitlines(), strict=True)
    ]
