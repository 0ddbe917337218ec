"""The apps that a WSGI app leads to, through its middlewares and werkzeug's dispatcher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_WRAPPERS, _MOUNTS = 50, 5
"""Apps around an app, and dispatchers below each other, after which the walk ends: some lead to themselves."""


class Mounted(NamedTuple):
    """An app, and the path at which it is mounted."""

    prefix: str
    app: Any


def mounted_apps(app: Any, is_wanted: Callable[[Any], bool], prefix: str = "", depth: int = 0) -> Iterator[Mounted]:
    """The outermost apps of a kind that a WSGI app is or leads to."""
    for _ in range(_WRAPPERS):
        app = getattr(app, "__self__", app)  # a bound `app.wsgi_app`
        if is_wanted(app):
            yield Mounted(prefix, app)
            return
        own = vars(app) if hasattr(app, "__dict__") else {}
        mounts = own.get("mounts")  # of the dispatcher
        if isinstance(mounts, dict) and depth < _MOUNTS:
            for path, mounted in mounts.items():
                yield from mounted_apps(mounted, is_wanted, prefix + path, depth + 1)
        app = next((own[name] for name in ("app", "wsgi_app", "application") if name in own), None)
        if app is None:
            return
