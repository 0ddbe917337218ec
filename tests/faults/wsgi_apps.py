"""A corpus of WSGI apps, from the plainest to those that PEP 3333 just about allows, and some that it does not.

Each is made anew for a request, around a note on which it writes what happens to it.
"""

from __future__ import annotations

import collections
import datetime as dt
import io
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import flask

from usage_instrument.typing import Environ, StartResponse, WSGIApp

Note: TypeAlias = Callable[[object], None]
Make: TypeAlias = Callable[[Note], WSGIApp]

TEXT = [("Content-Type", "text/plain")]
APPS: dict[str, Make] = {}


def app(make: Make) -> Make:
    APPS[make.__name__.replace("_", " ")] = make
    return make


# ---- statuses, headers, bodies


def answering(status: str, headers: list[tuple[str, str]], body: Callable[[Note], Any]) -> Make:
    def make(note: Note) -> WSGIApp:
        def answer(environ: Environ, start_response: StartResponse) -> Any:
            start_response(status, headers)
            return body(note)

        return answer

    return make


class Body:
    """An iterable that tells when it is iterated over and closed."""

    def __init__(self, note: Note, pieces: Iterable[Any] = (b"1", b"2"), failure: Exception | None = None) -> None:
        self._note, self._pieces, self._failure = note, pieces, failure

    def __iter__(self) -> Iterator[Any]:
        try:
            self._note("iterated over")
            for piece in self._pieces:
                self._note(("about to give", piece))
                yield piece
            self._note("exhausted")
        finally:
            self._note("let go")

    def close(self) -> None:
        self._note("closed")
        if self._failure is not None:
            raise self._failure


class Sized(Body):
    def __len__(self) -> int:
        return 2


class Bare:
    """An iterator without `close`."""

    def __init__(self) -> None:
        self._left = [b"1", b"2"]

    def __iter__(self) -> Bare:
        return self

    def __next__(self) -> bytes:
        if not self._left:
            raise StopIteration
        return self._left.pop(0)


class FileWrapper:
    """A server's `wsgi.file_wrapper`, which it knows again."""

    def __init__(self, file: Any, size: int = 8192) -> None:
        self.file, self._size = file, size

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.file.read(self._size):
            yield piece

    def close(self) -> None:
        self.file.close()


def own_file() -> Any:
    """This one, for the server to close."""
    return Path(__file__).open("rb")


def generator(note: Note) -> Iterator[bytes]:
    try:
        note("begun")
        yield b"1"
        yield b""
        yield b"2"
        note("exhausted")
    finally:
        note("let go")


STATUSES = (
    "200 OK", "201 Created", "202 Accepted", "204 No Content", "206 Partial Content", "301 Moved Permanently",
    "302 Found", "303 See Other", "304 Not Modified", "307 Temporary Redirect", "400 Bad Request", "401 Unauthorized",
    "404 Not Found", "405 Method Not Allowed", "418 I'm a teapot", "500 Internal Server Error", "503 ", "599 Odd",
    "999 Odder", "no status",
)  # fmt: skip
for status in STATUSES:
    APPS[status] = answering(status, [*TEXT, ("Location", "/elsewhere")], lambda note: [b"x"])

HEADERS: dict[str, list[tuple[str, str]]] = {
    "none": [],
    "twice": [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("set-cookie", "a=1")],
    "latin": [("X-Name", "J\xf6rg")],
    "length": [("Content-Length", "1")],
    "login": [("Location", "/login?next=/")],
    "many": [(f"X-{number}", "x" * number) for number in range(200)],
}
for name, headers in HEADERS.items():
    APPS[f"headers: {name}"] = answering("200 OK", headers, lambda note: [b"x"])

BODIES: dict[str, Callable[[Note], Any]] = {
    "empty list": lambda note: [],
    "empty piece": lambda note: [b""],
    "tuple": lambda note: (b"1", b"2"),
    "bytes": lambda note: b"12",
    "text": lambda note: ["12"],
    "numbers": lambda note: iter([1, 2]),
    "nothing": lambda note: None,
    "deque": lambda note: collections.deque([b"1", b"2"]),
    "dict": lambda note: {b"1": 1, b"2": 2},
    "iterator": lambda note: iter([b"1", b"2"]),
    "map": lambda note: map(bytes.upper, [b"a", b"b"]),
    "chain": lambda note: itertools.chain([b"1"], generator(note)),
    "bare iterator": lambda note: Bare(),
    "generator": generator,
    "no pieces": lambda note: iter(()),
    "iterable": Body,
    "sized iterable": Sized,
    "long": lambda note: Body(note, [b"x" * 70_000] * 3),
    "close fails": lambda note: Body(note, failure=ValueError("close")),
    "sized, close fails": lambda note: Sized(note, failure=ValueError("close")),
    "file": lambda note: own_file(),
    "file in memory": lambda note: io.BytesIO(b"1\n2\n"),
    "wrapped file": lambda note: FileWrapper(own_file()),
    "wrapped file in memory": lambda note: FileWrapper(io.BytesIO(b"12"), 1),
}
for name, body in BODIES.items():
    APPS[f"body: {name}"] = answering("200 OK", TEXT, body)


# ---- the order of things


@app
def write_and_no_body(note: Note) -> WSGIApp:
    def answer(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", TEXT)
        write(b"1")
        write(b"")
        write(b"2")
        return []

    return answer


@app
def write_and_a_body(note: Note) -> WSGIApp:
    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)(b"0")
        return Body(note)

    return answer


@app
def written_late(note: Note) -> WSGIApp:
    def answer(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        write = start_response("200 OK", TEXT)
        yield b"1"
        write(b"2")
        yield b"3"

    return answer


@app
def an_app_that_is_a_generator(note: Note) -> WSGIApp:
    def answer(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        note("called")
        start_response("201 Created", TEXT)
        yield from generator(note)

    return answer


@app
def started_after_an_empty_piece(note: Note) -> WSGIApp:
    def answer(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        yield b""
        start_response("200 OK", TEXT)
        yield b"1"

    return answer


@app
def never_started(note: Note) -> WSGIApp:
    return lambda environ, start_response: Body(note)


@app
def started_twice(note: Note) -> WSGIApp:
    def answer(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", TEXT)
        start_response("404 Not Found", [])
        return [b"x"]

    return answer


@app
def started_anew_for_an_error(note: Note) -> WSGIApp:
    def answer(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", TEXT)
        try:
            raise LookupError("theirs")
        except LookupError:
            start_response("500 Oops", [("X-Error", "1")], sys.exc_info())
        return [b"sorry"]

    return answer


@app
def started_anew_too_late(note: Note) -> WSGIApp:
    def answer(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"1"
        try:
            raise LookupError("theirs")
        except LookupError:
            start_response("500 Oops", [], sys.exc_info())
        yield b"sorry"

    return answer


@app
def reads_its_input(note: Note) -> WSGIApp:
    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        first = environ["wsgi.input"].read(3)
        start_response("200 OK", TEXT)
        return itertools.chain([first], environ["wsgi.input"])

    return answer


@app
def tells_of_its_environ(note: Note) -> WSGIApp:
    def answer(environ: Environ, start_response: StartResponse) -> list[bytes]:
        own = {key: repr(value) for key, value in environ.items() if not key.startswith("usage_instrument")}
        note((type(environ), {key: value for key, value in own.items() if " at 0x" not in value}))
        environ["PATH_INFO"] = "/changed"
        start_response("200 OK", TEXT)
        return [b"x"]

    return answer


# ---- failures


class Theirs(Exception): ...


ERRORS: dict[str, Callable[[], BaseException]] = {
    "an exception": lambda: Theirs("x"),
    "StopIteration": lambda: StopIteration("x"),
    "GeneratorExit": lambda: GeneratorExit("x"),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
}


def fail(name: str) -> Any:
    raise ERRORS[name]()  # noqa: RSE102 - no class but a function


def failing(name: str, starts: bool, pieces: list[bytes] | None) -> Make:
    """An app that fails: before or after it starts its response, at once, or (with `pieces`) after those of its
    body."""

    def make(note: Note) -> WSGIApp:
        def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            if starts:
                start_response("200 OK", TEXT)
            if pieces is None:
                fail(name)
            return Body(note, itertools.chain(pieces or (), map(fail, [name])))

        return answer

    return make


for name in ERRORS:
    APPS[f"{name} before the start"] = failing(name, False, None)
    APPS[f"{name} after the start"] = failing(name, True, None)
    APPS[f"{name} before a piece"] = failing(name, True, [])
    APPS[f"{name} after a piece"] = failing(name, True, [b"1"])


# ---- Flask


def flask_app(note: Note) -> flask.Flask:
    served = flask.Flask(__name__)
    served.before_request(lambda: note("before"))
    served.teardown_request(lambda error: note(("teardown", repr(error))))

    @served.after_request
    def after(response: flask.Response) -> flask.Response:
        note(("after", response.status))
        response.call_on_close(lambda: note("closed"))
        return response

    @served.errorhandler(410)
    def gone(error: object) -> Any:
        return "gone", 410

    @served.get("/text")
    def text() -> Any:
        return "text"

    @served.get("/tuple")
    def tuple_() -> Any:
        return "made", 201, {"X-Made": "1"}

    @served.get("/json")
    def json() -> Any:
        return {"a": [1, None]}

    @served.get("/empty")
    def empty() -> Any:
        return "", 204

    @served.get("/cookies")
    def cookies() -> Any:
        response = flask.make_response("x")
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    @served.get("/etag")
    def etag() -> Any:
        response = flask.make_response("x")
        response.set_etag("x")
        response.date = dt.datetime(2024, 5, 1)
        return response.make_conditional({"HTTP_IF_NONE_MATCH": '"x"', "REQUEST_METHOD": "GET"})

    @served.get("/redirect")
    def redirect() -> Any:
        return flask.redirect("/text")

    @served.get("/abort/<int:code>")
    def abort(code: int) -> Any:
        flask.abort(code)

    @served.get("/stream")
    def stream() -> Any:
        return flask.Response(flask.stream_with_context(generator(note)), mimetype="text/event-stream")

    @served.get("/stream/fails")
    def stream_fails() -> Any:
        return flask.Response(Body(note, itertools.chain([b"1"], (1 / 0 for _ in range(1)))))

    @served.get("/file")
    def file() -> Any:
        return flask.send_file(Path(__file__), conditional=False)

    @served.get("/fails")
    def fails() -> Any:
        raise Theirs("x")

    return served


FLASK = (
    "GET /text", "HEAD /text", "OPTIONS /text", "POST /text", "GET /nowhere", "GET /tuple", "GET /json", "GET /empty",
    "GET /cookies", "GET /etag", "GET /redirect", "GET /abort/401", "GET /abort/410", "GET /stream", "HEAD /stream",
    "GET /stream/fails", "GET /file", "HEAD /file", "GET /fails",
)  # fmt: skip
