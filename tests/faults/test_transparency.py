"""What a server sees of an app is the same with the middleware and without: messages, bytes, errors, their order."""

from __future__ import annotations

import asyncio
import copy
import io
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import asgi_apps
import wsgi_apps
from asgi_apps import Case
from usage_instrument import asgi, wsgi
from usage_instrument.testing import CapturedUsage, capture_usage
from usage_instrument.typing import ASGIApp, Environ, Message, Scope, WSGIApp

Log = list[object]


def fails(*_: object) -> Any:
    raise LookupError("of the host's")


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {
        "features": lambda carrier: "something",
        "user": lambda carrier: 7,
        "metadata": {"a": 1},
        "success": lambda status, carrier: True,
    },
    "failing": {"features": fails, "user": fails, "metadata": fails},
    "failing success": {"success": fails},
}


@pytest.fixture(autouse=True)
def captured(caplog: pytest.LogCaptureFixture) -> Iterator[CapturedUsage]:
    # A record of a failure that pytest keeps would keep the app and its body too, which are to be let go in time.
    with caplog.at_level(logging.CRITICAL, "usage_instrument"), capture_usage() as captured:
        yield captured


def told(error: BaseException) -> object:
    """An error by what it is and says, with those in it."""
    inside = [told(one) for one in error.exceptions] if isinstance(error, BaseExceptionGroup) else []
    return ("raised", type(error).__name__, str(error), inside)


# ---- WSGI


class Reading(NamedTuple):
    """How a server reads a body: so many pieces (None: all), and whether it asks once more at the end."""

    pieces: int | None = None
    again: bool = False


READINGS = (Reading(), Reading(0), Reading(1), Reading(again=True))


def environ_for(method: str, path: str) -> Environ:
    return {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "example.org",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "example.org",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(b"first\nsecond\n"),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": wsgi_apps.FileWrapper,
    }


class WSGIServer:
    """Serves one request, and logs what it meets, among what the app notes."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._started = self._sent = False

    def serve(self, app: WSGIApp, environ: Environ, reading: Reading) -> None:
        try:
            body: Any = app(environ, self._start)
        except BaseException as error:
            self._log.append(told(error))
            return
        wrapper = environ["wsgi.file_wrapper"]
        self._log.append(
            (
                "body",
                len(body) if hasattr(body, "__len__") else None,
                hasattr(body, "fileno"),
                isinstance(body, wrapper),
            )
        )
        try:
            self._read(body, reading)
        except BaseException as error:
            self._log.append(told(error))
        finally:
            self._close(body)

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        self._log.append(("start", status, type(headers), list(headers), exc_info and told(exc_info[1])))
        if exc_info is not None and self._sent:
            raise exc_info[1]
        if exc_info is None and self._started:
            raise AssertionError("started twice")
        self._started = True
        return self._write

    def _write(self, data: bytes) -> None:
        self._sent = True
        self._log.append(("written", data))

    def _read(self, body: Any, reading: Reading) -> None:
        if reading.pieces == 0:
            return
        pieces = iter(body)
        for number, piece in enumerate(pieces, 1):
            self._sent = True
            self._log.append(("piece", piece))
            if number == reading.pieces:
                return
        if reading.again:
            self._log.append(("once more", next(pieces, None)))

    def _close(self, body: Any) -> None:
        close = getattr(body, "close", None)
        if close is not None:
            try:
                close()
            except BaseException as error:
                self._log.append(told(error))


def wrapped_wsgi(options: dict[str, Any]) -> Callable[[WSGIApp], WSGIApp]:
    return lambda app: wsgi.UsageMiddleware(app, **options)


WSGI: dict[str, Callable[[WSGIApp], WSGIApp]] = {
    **{name: wrapped_wsgi(options) for name, options in OPTIONS.items()},
    "twice": lambda app: wsgi.UsageMiddleware(wsgi.UsageMiddleware(app)),
}


def served(make: wsgi_apps.Make, around: Callable[[WSGIApp], WSGIApp], reading: Reading, ask: str) -> Log:
    log: Log = []
    WSGIServer(log).serve(around(make(log.append)), environ_for(*ask.split(" ")), reading)
    return log


def assert_same_wsgi(make: wsgi_apps.Make, reading: Reading, ask: str = "GET /") -> None:
    bare = served(make, lambda app: app, reading, ask)
    assert {name: served(make, around, reading, ask) for name, around in WSGI.items()} == dict.fromkeys(WSGI, bare)


@pytest.mark.parametrize("name", wsgi_apps.APPS)
def test_wsgi(name: str) -> None:
    for reading in READINGS:
        assert_same_wsgi(wsgi_apps.APPS[name], reading)


@pytest.mark.parametrize("ask", wsgi_apps.FLASK)
def test_flask(ask: str) -> None:
    for reading in READINGS[:3]:
        assert_same_wsgi(wsgi_apps.flask_app, reading, ask)


PIECES = st.sampled_from([b"", b"1", b"22"])
WSGI_STEPS = st.one_of(
    st.tuples(st.just("start"), st.sampled_from(["200 OK", "302 Found", "404 Not Found", "odd"])),
    st.tuples(st.just("restart"), st.sampled_from(["200 OK", "500 Oops"])),
    st.tuples(st.just("write"), PIECES),
    st.tuples(st.just("give"), PIECES),
    st.tuples(st.just("fail"), st.sampled_from(sorted(wsgi_apps.ERRORS))),
)
KINDS: dict[str, Callable[[Iterator[bytes]], Any]] = {
    "generator": lambda pieces: pieces,
    "list": list,
    "tuple": tuple,
    "iterator": iter,
    "map": lambda pieces: map(bytes, pieces),
}


def acting(at_once: list[tuple[str, Any]], later: list[tuple[str, Any]], kind: str) -> wsgi_apps.Make:
    """An app of steps, some when it is called and the others when its body is made."""

    def make(note: wsgi_apps.Note) -> WSGIApp:
        def answer(environ: Environ, start_response: Any) -> Any:
            written: list[Any] = []

            def act(steps: list[tuple[str, Any]]) -> Iterator[bytes]:
                try:
                    for step, value in steps:
                        if step == "give":
                            yield value
                        elif step == "write" and written:
                            written[-1](value)
                        elif step == "start":
                            written.append(start_response(value, [("X-Number", str(len(written)))]))
                        elif step == "restart":
                            failure = LookupError("theirs")
                            written.append(start_response(value, [], (LookupError, failure, None)))
                        elif step == "fail":
                            wsgi_apps.fail(value)
                finally:
                    note("let go")

            first = list(act(at_once))
            return KINDS[kind](itertools.chain(first, act(later)) if first else act(later))

        return answer

    return make


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(WSGI_STEPS, max_size=4),
    st.lists(WSGI_STEPS, max_size=5),
    st.sampled_from(sorted(KINDS)),
    st.builds(Reading, st.sampled_from([None, None, 0, 1, 2]), st.booleans()),
)
def test_any_wsgi_app(
    at_once: list[tuple[str, Any]], later: list[tuple[str, Any]], kind: str, reading: Reading
) -> None:
    assert_same_wsgi(acting(at_once, later, kind), reading)


def test_the_wsgi_apps_are_counted(captured: CapturedUsage) -> None:
    for make in wsgi_apps.APPS.values():
        served(make, WSGI["all"], Reading(), "GET /")
    assert captured.count("something", 7) > len(wsgi_apps.APPS) / 2
    assert len(captured.rejected) == 1  # who has no status


# ---- ASGI


class ASGIServer:
    """Serves one app, and logs what it meets, among what the app notes.

    At its `breaks`-th call of receive or send, send raises OSError; at the `cancels`-th, the request is cancelled.
    """

    def __init__(
        self, log: Log, incoming: tuple[Message, ...], breaks: int | None = None, cancels: int | None = None
    ) -> None:
        self._log, self._incoming = log, list(incoming)
        self._breaks, self._cancels = breaks, cancels
        self.calls = 0

    async def serve(self, app: ASGIApp, scope: Scope) -> None:
        self._task = asyncio.ensure_future(self._run(app, scope))
        await asyncio.wait([self._task], timeout=60)

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
        except BaseException as error:
            self._log.append(told(error))

    async def _receive(self) -> Message:
        self._log.append("receive")
        await self._turn()
        if not self._incoming:
            await asyncio.get_running_loop().create_future()  # as long as nothing comes
        return self._incoming.pop(0)

    async def _send(self, message: Message) -> None:
        self._log.append(("send", type(message), copy.copy(message)))
        await self._turn()
        if self._breaks is not None and self.calls > self._breaks:
            raise OSError("gone")

    async def _turn(self) -> None:
        self.calls += 1
        if self.calls - 1 == self._cancels:
            self._task.cancel()
        await asyncio.sleep(0)


def lived(case: Case, around: Callable[[ASGIApp], ASGIApp], **ends: int) -> tuple[Log, int]:
    """The log, and how many calls there were to break at. The loop ends with what the app has left behind."""
    log: Log = []
    server = ASGIServer(log, case.incoming, **ends)
    asyncio.run(server.serve(around(case.make(log.append)), copy.deepcopy(case.scope)))
    return log, server.calls


def wrapped_asgi(options: dict[str, Any]) -> Callable[[ASGIApp], ASGIApp]:
    return lambda app: asgi.UsageMiddleware(app, **options)


ASGI: dict[str, Callable[[ASGIApp], ASGIApp]] = {
    **{name: wrapped_asgi(options) for name, options in OPTIONS.items()},
    "twice": lambda app: asgi.UsageMiddleware(asgi.UsageMiddleware(app)),
}
MOST = 6
"""Calls at which a request is broken off; those after them are like them."""


def assert_same_asgi(case: Case) -> None:
    """Whole, and broken off and cancelled at every await."""
    bare, calls = lived(case, lambda app: app)
    assert {name: lived(case, around)[0] for name, around in ASGI.items()} == dict.fromkeys(ASGI, bare)
    for at in range(min(calls, MOST)):
        for end in ("breaks", "cancels"):
            broken = lived(case, lambda app: app, **{end: at})
            assert lived(case, ASGI["all"], **{end: at}) == broken


@pytest.mark.parametrize("name", asgi_apps.CASES)
def test_asgi(name: str) -> None:
    assert_same_asgi(asgi_apps.CASES[name])


ASGI_STEPS = st.one_of(
    st.tuples(st.just("receive"), st.none()),
    st.tuples(st.just("send"), st.sampled_from([*asgi_apps.ANSWERS["pieces"], *asgi_apps.ANSWERS["started twice"]])),
    st.tuples(st.just("send"), st.sampled_from([message for some in asgi_apps.SOCKETS.values() for message in some])),
    st.tuples(st.just("send from a task"), st.sampled_from(asgi_apps.ANSWERS["pieces"])),
    st.tuples(st.just("pause"), st.none()),
    st.tuples(st.just("fail"), st.sampled_from(sorted(asgi_apps.ERRORS))),
)


def stepping(steps: list[tuple[str, Any]]) -> asgi_apps.Make:
    def make(note: asgi_apps.Note) -> ASGIApp:
        async def answer(scope: Scope, receive: Any, send: Any) -> None:
            try:
                for step, value in steps:
                    if step == "receive":
                        note(await receive())
                    elif step == "send":
                        await send(dict(value))
                    elif step == "send from a task":
                        await asyncio.create_task(send(dict(value)))
                    elif step == "pause":
                        await asyncio.sleep(0)
                    else:
                        asgi_apps.fail(value)
            finally:
                note("let go")

        return answer

    return make


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(ASGI_STEPS, max_size=6),
    st.sampled_from([asgi_apps.http(), asgi_apps.http("POST"), asgi_apps.socket()]),
    st.sampled_from([{}, {"breaks": 0}, {"breaks": 2}, {"cancels": 0}, {"cancels": 2}]),
)
def test_any_asgi_app(steps: list[tuple[str, Any]], scope: Scope, ends: dict[str, int]) -> None:
    case = Case(stepping(steps), scope, (asgi_apps.REQUEST,) * 7)
    bare = lived(case, lambda app: app, **ends)
    assert {name: lived(case, around, **ends) for name, around in ASGI.items()} == dict.fromkeys(ASGI, bare)


def test_the_asgi_apps_are_counted(captured: CapturedUsage) -> None:
    for case in asgi_apps.CASES.values():
        lived(case, ASGI["all"])
    assert captured.count("something", 7) > len(asgi_apps.CASES) / 2
    assert len(captured.rejected) == 3  # no status, one in words, and headers of None
