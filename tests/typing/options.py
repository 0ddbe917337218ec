"""Checked by mypy and pyright, never run: settings and options are known by name and type."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

import usage_instrument as usage
from usage_instrument import asgi, wsgi
from usage_instrument.typing import ASGIApp, Environ, Scope, WSGIApp

usage.configure("sqlite:///usage.db", flush_interval=dt.timedelta(seconds=3), journal=Path("journal"), history=None)
usage.configure(flush_interval="10m", user_retry=5, before_track="app:scrub", audit_key="x" * 32)
usage.configure(flush_intervall=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
usage.configure(user_id_type="text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
usage.configure(strict="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

settings = usage.Settings(flush_interval=dt.timedelta(seconds=3), journal=Path("journal"))
assert_type(settings.flush_interval, float)
usage.Settings(flush_intervall=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
usage.Settings(max_pending="all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
usage.Settings.from_environment(flush_rows=10)
usage.Settings.from_environment(flush_row=10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

tracker = usage.Tracker("sqlite:///usage.db", settings)
usage.Tracker("sqlite:///usage.db", strict=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
usage.Tracker("sqlite:///usage.db", {"strict": True})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@tracker.tracks("feature", user=lambda event: event, metadata=["event"], when="call", audit="required")
def follow(event: int) -> str:
    return str(event)


assert_type(follow(1), str)
tracker.tracks("feature", wehn="call")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
tracker.tracks("feature", when=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
tracker.tracks("feature", audit="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
usage.tracks("feature", wehn="call")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
usage.tracks("feature", when=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
usage.track("feature", usr=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
usage.track("feature", count="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

with usage.as_user(5), usage.paused(), tracker.as_user("anna", actor=7), tracker.paused():
    pass


@usage.as_user(5)
def export(path: str, *, rows: int = 1) -> int:
    return rows


@usage.paused()
async def warm_up(path: str) -> bytes:
    return path.encode()


@tracker.as_user(None)
def pages() -> Iterator[int]:
    yield 1


async def run() -> None:
    assert_type(await warm_up("a"), bytes)


assert_type(export("a", rows=2), int)
assert_type(pages(), Iterator[int])
export("a", rows="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
export("a", row=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
assert_type(usage.carry(export)("a"), int)


def asgi_options(app: ASGIApp, by_scope: Scope) -> None:
    asgi.UsageMiddleware(app, tracker=tracker, user=lambda scope: scope["user"], success=lambda status, scope: True)
    asgi.UsageMiddleware(app, feature={"a": "b"})  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    asgi.UsageMiddleware(app, success=200)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def wsgi_options(app: WSGIApp, by_environ: Environ) -> None:
    wsgi.UsageMiddleware(app, tracker=tracker, user=lambda environ: environ["user"], audit={"admin.*": "required"})
    wsgi.UsageMiddleware(app, tracker=tracker, users=None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    wsgi.UsageMiddleware(app, include=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
