"""What a counted request costs, beside an empty middleware and others that count. Run it: python bench/middleware.py

In one process, without a socket: the app is called as a server calls it. `bench/serving.py` has real servers.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

from flask import Flask
from rounds import Bar, Case, Result, Table, compare, main, now, times
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import usage_instrument as usage
from capture import configured
from usage_instrument import asgi, wsgi

NONE, EMPTY, OURS = "no middleware", "an empty middleware", "usage-instrument"
INSTRUMENTATOR, OTEL = "prometheus-fastapi-instrumentator", "OpenTelemetry"
REQUESTS = 300
"""A case and round."""
USER = SimpleNamespace(id=42, is_authenticated=True)
"""As an authentication that ran further out has loaded it."""


# ---- apps


async def show(request: Request) -> Response:
    return PlainTextResponse("ok")


def starlette_app() -> Any:
    return Starlette(routes=[Route("/events/{number:int}", show, name="show")])


def fastapi_app() -> Any:
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/events/{number}", response_class=PlainTextResponse)
    async def show(number: int) -> str:
        return "ok"

    return app


def flask_app() -> Any:
    app = Flask("bench")
    app.add_url_rule("/events/<int:number>", "show", lambda number: "ok")
    return app.wsgi_app


# ---- middlewares


class Empty:
    """The least that a pure ASGI middleware does."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def watched(message: Any) -> None:
            await send(message)

        await self.app(scope, receive, watched)


class EmptyWSGI:
    """The least that a WSGI middleware does."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        def start(status: str, headers: Any, exc_info: Any = None) -> Any:
            return start_response(status, headers, exc_info)

        return self.app(environ, start)  # type: ignore[no-any-return]


def asgi_cases(make: Callable[[], Any]) -> dict[str, Any]:
    found = {NONE: make(), EMPTY: Empty(make()), OURS: asgi.UsageMiddleware(make())}
    with contextlib.suppress(ImportError):
        from prometheus_client import CollectorRegistry
        from prometheus_fastapi_instrumentator import Instrumentator

        app = make()
        Instrumentator(registry=CollectorRegistry()).instrument(app)
        found[INSTRUMENTATOR] = app
    with contextlib.suppress(ImportError):
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
        from opentelemetry.sdk.trace import TracerProvider

        found[OTEL] = OpenTelemetryMiddleware(make(), tracer_provider=TracerProvider())
    return found


def wsgi_cases() -> dict[str, Any]:
    found = {NONE: flask_app(), EMPTY: EmptyWSGI(flask_app())}
    found[OURS] = wsgi.UsageMiddleware(flask_app(), user=lambda environ: 42)
    with contextlib.suppress(ImportError):
        from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
        from opentelemetry.sdk.trace import TracerProvider

        found[OTEL] = OpenTelemetryMiddleware(flask_app(), tracer_provider=TracerProvider())
    return found


# ---- requests

SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/events/7",
    "raw_path": b"/events/7",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"host", b"localhost"), (b"user-agent", b"bench")],
    "client": ("127.0.0.1", 50000),
    "server": ("127.0.0.1", 80),
    "user": USER,
}
ENVIRON = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/events/7",
    "QUERY_STRING": "",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_HOST": "localhost",
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    "wsgi.input": io.BytesIO(),
    "wsgi.errors": io.StringIO(),
    "wsgi.multithread": False,
    "wsgi.multiprocess": False,
    "wsgi.run_once": False,
}


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None:
    if message["type"] == "http.response.start" and message["status"] != 200:
        raise RuntimeError(message)


def start_response(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], object]:
    if status != "200 OK":
        raise RuntimeError(status)
    return lambda data: None


def asgi_case(app: Any, runner: Any) -> Case:
    async def work() -> float:
        start = now()
        for _ in range(REQUESTS):
            await app({**SCOPE, "state": {}}, receive, send)
        return (now() - start) / REQUESTS

    return lambda: float(runner.run(work()))


def wsgi_case(app: Any) -> Case:
    def work() -> float:
        start = now()
        for _ in range(REQUESTS):
            body = app(dict(ENVIRON), start_response)
            for _ in body:
                pass
            close = getattr(body, "close", None)
            if close is not None:
                close()
        return (now() - start) / REQUESTS

    return work


def measure(scale: float) -> Iterator[Result]:
    import asyncio

    rounds = times(60, scale)
    with configured(), asyncio.Runner() as runner:
        for title, make in (("Starlette", starlette_app), ("FastAPI", fastapi_app)):
            cases = {name: asgi_case(app, runner) for name, app in asgi_cases(make).items()}
            found = compare(f"A request of {title}", cases, EMPTY, rounds=rounds, between=usage.flush)
            yield found
            yield from _bars(f"ASGI middleware on {title}", found, 5)
        cases = {name: wsgi_case(app) for name, app in wsgi_cases().items()}
        found = compare("A request of Flask", cases, EMPTY, rounds=rounds, between=usage.flush)
        yield found
        yield from _bars("WSGI middleware on Flask", found, 8)


def _bars(what: str, found: Table, most: float) -> Iterator[Bar]:
    over = found[OURS].over
    yield Bar(f"{what}, over an empty one", over * 1e6, most, unit="µs")
    if any(row.name == INSTRUMENTATOR for row in found.rows):
        yield Bar(f"{what}, what it adds / what {INSTRUMENTATOR} adds", over / found[INSTRUMENTATOR].over, 0.25)


if __name__ == "__main__":
    main(measure, __doc__, "starlette", "fastapi", "flask", "prometheus-fastapi-instrumentator", "opentelemetry-sdk")
