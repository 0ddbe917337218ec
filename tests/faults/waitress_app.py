"""The Flask example for Waitress, which handles no SIGTERM, with the lines of docs/guides/deployment.md."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PAGE = (ROOT / "docs" / "guides" / "deployment.md").read_text(encoding="utf-8")
_SECTION = _PAGE.partition("## Waitress and plain Python")[2]
(_LINES,) = re.findall(r"```python\n(.*?)```", _SECTION, re.DOTALL)
exec(_LINES)

sys.path.insert(0, str(ROOT / "examples"))
app = importlib.import_module("flask_app").app
