"""Windows and macOS, as far as Linux can stand in for them: all but the journal works. CI runs the script there too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("system", "name"), [("win32", "Windows"), ("darwin", "macOS")])
def test_all_but_the_journal_works(system: str, name: str) -> None:
    script = Path(__file__).with_name("elsewhere.py")
    done = subprocess.run(
        [sys.executable, str(script), system], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"the journal needs Linux, and this is {name}: leave the setting `journal` unset\n"
