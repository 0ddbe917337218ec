"""A pytest plugin that puts the middleware around every app that a framework's own tests build, and counts for real."""

from __future__ import annotations

import functools
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from usage_instrument import asgi, wsgi
from usage_instrument.schema import create_all
from usage_instrument.settings import Settings
from usage_instrument.tracker import Tracker
from usage_instrument.typing import Environ, StartResponse


def pytest_configure(config: pytest.Config) -> None:
    """Begin to count, before any test module builds its app."""
    directory = tempfile.TemporaryDirectory(prefix="usage-")
    config.add_cleanup(directory.cleanup)
    engine = sa.create_engine(f"sqlite:///{Path(directory.name) / 'usage.db'}")
    config.add_cleanup(engine.dispose)
    tables = create_all(engine, users=None, user_id_type="string").tables
    tracker = Tracker(engine, Settings(enabled=True), tables)
    config.pluginmanager.register(Summary(tracker))
    if importlib.util.find_spec("starlette"):
        wrap_starlette(tracker, by=config.getoption("usage_by"))
    if importlib.util.find_spec("flask"):
        wrap_flask(tracker, by=config.getoption("usage_by"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which of the two ways to count an app: the middleware around all of it, or the integration's one line."""
    parser.addoption("--usage-by", choices=["middleware", "instrument"], default="middleware", dest="usage_by")


class Summary:
    """Says at the end what was counted: nothing would mean that nothing was wrapped."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        assert self._tracker.shutdown(60)
        stats = self._tracker.stats()
        terminalreporter.write_line(
            f"uses: {stats.captured} captured, {stats.written} written, {stats.rejected} rejected, "
            f"{stats.dropped} dropped, last error {stats.last_error}"
        )


def wrap_starlette(tracker: Tracker, *, by: str) -> None:
    """Count what Starlette apps answer, by the middleware around all of an app or by `instrument`; also what any other
    ASGI app answers to a test client."""
    from starlette.applications import Starlette
    from starlette.testclient import TestClient, _is_asgi3, _WrapASGI2

    from usage_instrument.integrations.starlette import instrument

    if by == "instrument":
        _after(Starlette, "__init__", lambda app, _: instrument(app, tracker=tracker))
    else:
        _after(Starlette, "build_middleware_stack", lambda _, stack: asgi.UsageMiddleware(stack, tracker=tracker))

    make = TestClient.__init__

    @functools.wraps(make)
    def make_around(self: TestClient, app: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(app, Starlette):
            app = asgi.UsageMiddleware(app if _is_asgi3(app) else _WrapASGI2(app), tracker=tracker)
        make(self, app, *args, **kwargs)

    TestClient.__init__ = make_around  # type: ignore[method-assign]


def wrap_flask(tracker: Tracker, *, by: str) -> None:
    """Count what Flask apps answer, by the middleware around `wsgi_app` or by the extension."""
    from flask import Flask

    from usage_instrument.integrations.flask import UsageInstrument

    if by == "instrument":
        _after(Flask, "__init__", lambda app, _: UsageInstrument(tracker=tracker).init_app(app))
        return
    inner = Flask.wsgi_app

    @functools.wraps(inner)
    def wsgi_app(self: Flask, environ: Environ, start_response: StartResponse) -> Any:
        # One for each request: kept, it and the app would refer to each other, and a test asks that nothing does.
        return wsgi.UsageMiddleware(functools.partial(inner, self), tracker=tracker)(environ, start_response)

    Flask.wsgi_app = wsgi_app  # type: ignore[method-assign]


def _after(cls: type, name: str, then: Callable[[Any, Any], Any]) -> None:
    """Let a method of a class return what `then` makes of the object and what the method returned."""
    method = getattr(cls, name)

    @functools.wraps(method)
    def followed(self: Any, *args: Any, **kwargs: Any) -> Any:
        return then(self, method(self, *args, **kwargs))

    setattr(cls, name, followed)
