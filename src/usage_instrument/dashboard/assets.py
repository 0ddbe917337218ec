"""The files that pages refer to: named by their content, so that browsers may keep them for good."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .http import Response

_FILES = Path(__file__).parent / "static"
_TYPES = {".css": "text/css; charset=utf-8"}


def _by_name() -> dict[str, Response]:
    found = {}
    for file in sorted(_FILES.iterdir()):
        content = file.read_bytes()
        name = f"{file.stem}-{hashlib.sha256(content).hexdigest()[:12]}{file.suffix}"
        found[name] = Response(200, content, _TYPES[file.suffix], cache="public, max-age=31536000, immutable")
    return found


_RESPONSES = _by_name()
STYLESHEET = next(name for name in _RESPONSES if name.startswith("usage-"))
"""The name of the style sheet."""


def asset(path: str) -> Response | None:
    """The file of that path below the mount, if it is one. It holds nothing of the host's, so anybody may have it."""
    return _RESPONSES.get(path.removeprefix("/"))
