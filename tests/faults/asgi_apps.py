"""A corpus of ASGI apps, and what each is asked: HTTP, WebSockets, lifespans, in order and out of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from usage_instrument.typing import ASGIApp, Message, Receive, Scope, Send

Note: TypeAlias = Callable[[object], None]
Make: TypeAlias = Callable[[Note], ASGIApp]

REQUEST: Message = {"type": "http.request", "body": b"", "more_body": False}
GONE: Message = {"type": "http.disconnect"}
START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"x-thing", b"1")]}


def http(method: str = "GET", path: str = "/", **more: Any) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"example.org"), (b"accept-encoding", b"gzip")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "extensions": {"http.response.trailers": {}, "http.response.debug": {}},
        **more,
    }


def socket(path: str = "/", **more: Any) -> Scope:
    extensions: dict[str, Any] = {"websocket.http.response": {}}
    return {**http("GET", path, extensions=extensions), "type": "websocket", "subprotocols": ["a", "b"], **more}


class Case(NamedTuple):
    """An app, made around a note on which it writes what happens to it, and what it is asked."""

    make: Make
    scope: Scope
    incoming: tuple[Message, ...] = (REQUEST,)


CASES: dict[str, Case] = {}


def case(scope: Scope | None = None, *incoming: Message) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        CASES[make.__name__.replace("_", " ")] = Case(make, scope or http(), incoming or (REQUEST,))
        return make

    return add


def body(data: bytes = b"x", *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


# ---- messages that are just sent


def sending(*messages: Message) -> Make:
    def make(note: Note) -> ASGIApp:
        async def send_all(scope: Scope, receive: Receive, send: Send) -> None:
            for message in messages:
                note(("sent", await send(dict(message))))  # type: ignore[func-returns-value]

        return send_all

    return make


for status in (100, 200, 201, 204, 206, 301, 302, 303, 304, 400, 401, 404, 418, 500, 503, 999):
    headers = [(b"location", b"/elsewhere")] if status // 100 == 3 else []
    CASES[f"status {status}"] = Case(sending({**START, "status": status, "headers": headers}, body()), http())

ANSWERS: dict[str, tuple[Message, ...]] = {
    "no headers": ({"type": "http.response.start", "status": 200}, body()),
    "headers twice": ({**START, "headers": [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]}, body()),
    "headers as lists": ({**START, "headers": [[b"X-Upper", b"\xff"]]}, body()),
    "headers as tuples": ({**START, "headers": ((b"a", b"1"),)}, body()),
    "a login page": ({**START, "status": 302, "headers": [(b"Location", b"/login?next=/")]}, body()),
    "no body": (START, {"type": "http.response.body"}),
    "an empty body": (START, body(b"")),
    "pieces": (START, body(b"1", more=True), body(b"", more=True), body(b"2")),
    "long": (START, body(b"x" * 200_000, more=True), body(b"x" * 200_000)),
    "trailers": ({**START, "trailers": True}, body(), {"type": "http.response.trailers", "headers": [(b"a", b"1")]}),
    "a push": ({"type": "http.response.push", "path": "/x", "headers": []}, START, body()),
    "debug": ({"type": "http.response.debug", "info": {"template": "x"}}, START, body()),
    "a path": (START, {"type": "http.response.pathsend", "path": "/x"}),
    "zero copy": (START, {"type": "http.response.zerocopysend", "file": 3, "count": 4}),
    "started and left": (START,),
    "nothing": (),
    "the body first": (body(), START),
    "started twice": (START, {**START, "status": 404}, body()),
    "after the end": (START, body(), body(b"more")),
    "an unknown message": ({"type": "http.response.nonsense"}, START, body()),
    "no status": ({"type": "http.response.start", "headers": []}, body()),
    "a status in words": ({**START, "status": "200 OK"}, body()),
    "a redirect with headers of None": ({**START, "status": 302, "headers": None}, body()),
}
for name, messages in ANSWERS.items():
    CASES[f"answer: {name}"] = Case(sending(*messages), http())
for method in ("HEAD", "OPTIONS", "POST", "DELETE", "ODD"):
    CASES[f"method {method}"] = Case(sending(START, body()), http(method))


# ---- streams, requests, ends


@case(http("POST"), *({"type": "http.request", "body": b"%d" % n, "more_body": n < 2} for n in range(3)))
def reads_its_body(note: Note) -> ASGIApp:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send(body(message["body"], more=more))

    return echo


@case(None, REQUEST, GONE)
def server_sent_events(note: Note) -> ASGIApp:
    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({**START, "headers": [(b"content-type", b"text/event-stream")]})

        async def events() -> None:
            try:
                while True:
                    await send(body(b"data: x\n\n", more=True))
            finally:
                note("no more events")

        streaming = asyncio.ensure_future(events())
        while (await receive())["type"] != "http.disconnect":
            pass
        streaming.cancel()
        await asyncio.wait([streaming])
        note("disconnected")

    return stream


@case(None, GONE)
def disconnected_before_the_start(note: Note) -> ASGIApp:
    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        if (await receive())["type"] == "http.disconnect":
            note("nobody is there")
            return
        await send(START)

    return look


@case()
def sends_from_tasks(note: Note) -> ASGIApp:
    async def split(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.create_task(send(START))  # type: ignore[arg-type]
        await asyncio.gather(*(send(body(b"%d" % number, more=True)) for number in range(3)))
        await send(body(b""))

    return split


@case()
def works_on_after_the_answer(note: Note) -> ASGIApp:
    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(body())
        await asyncio.sleep(0)
        note("worked")

    return work


@case()
def swallows_what_the_server_raises(note: Note) -> ASGIApp:
    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        for message in (START, body(more=True), body()):
            try:
                await send(message)
            except OSError as error:
                note(repr(error))

    return stubborn


@case()
def cleans_up(note: Note) -> ASGIApp:
    @contextlib.asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        note("open")
        try:
            yield
        finally:
            await asyncio.sleep(0)
            note("closed")

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        async with resource():
            await send(START)
            await send(body())

    return work


@case()
def tells_of_its_scope(note: Note) -> ASGIApp:
    async def tell(scope: Scope, receive: Receive, send: Send) -> None:
        note({key: value for key, value in scope.items() if not key.startswith("usage_instrument")})
        scope["path"] = "/changed"
        await send(START)
        await send(body())

    return tell


@case({"type": "other"}, {"type": "other.message"})
def another_protocol(note: Note) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        note(await receive())
        await send({"type": "other.answer"})

    return answer


# ---- failures


class Theirs(Exception): ...


ERRORS: dict[str, Callable[[], BaseException]] = {
    "an exception": lambda: Theirs("x"),
    "a group": lambda: ExceptionGroup("x", [Theirs("y"), ValueError("z")]),
    "CancelledError": asyncio.CancelledError,
    "GeneratorExit": lambda: GeneratorExit("x"),
}


def fail(name: str) -> None:
    raise ERRORS[name]()  # noqa: RSE102 - no class but a function


def failing(name: str, *messages: Message) -> Make:
    def make(note: Note) -> ASGIApp:
        async def send_and_fail(scope: Scope, receive: Receive, send: Send) -> None:
            for message in messages:
                await send(dict(message))
            fail(name)

        return send_and_fail

    return make


for name in ERRORS:
    CASES[f"{name} before the start"] = Case(failing(name), http())
    CASES[f"{name} after the start"] = Case(failing(name, START), http())
    CASES[f"{name} in the body"] = Case(failing(name, START, body(more=True)), http())
    CASES[f"{name} after the end"] = Case(failing(name, START, body()), http())
    CASES[f"{name} in a socket"] = Case(failing(name), socket(), ({"type": "websocket.connect"},))
    CASES[f"{name} in an open socket"] = Case(
        failing(name, {"type": "websocket.accept"}), socket(), ({"type": "websocket.connect"},)
    )


# ---- WebSockets

CONNECT: Message = {"type": "websocket.connect"}
SOCKETS: dict[str, tuple[Message, ...]] = {
    "accepted and closed": ({"type": "websocket.accept"}, {"type": "websocket.close", "code": 1000}),
    "accepted with words": (
        {"type": "websocket.accept", "subprotocol": "b", "headers": [(b"a", b"1"), (b"a", b"2")]},
        {"type": "websocket.send", "text": "x"},
        {"type": "websocket.send", "bytes": b"x", "text": None},
        {"type": "websocket.close", "code": 4000, "reason": "enough"},
    ),
    "rejected": ({"type": "websocket.close"},),
    "rejected with an answer": (
        {"type": "websocket.http.response.start", "status": 403, "headers": [(b"a", b"1")]},
        {"type": "websocket.http.response.body", "body": b"no"},
    ),
    "rejected without a status": ({"type": "websocket.http.response.start"},),
    "rejected with headers of None": ({"type": "websocket.http.response.start", "status": 302, "headers": None},),
    "neither": (),
    "sent before accepted": ({"type": "websocket.send", "text": "x"}, {"type": "websocket.accept"}),
    "accepted twice": ({"type": "websocket.accept"}, {"type": "websocket.accept"}),
}
for name, messages in SOCKETS.items():
    CASES[f"socket: {name}"] = Case(sending(*messages), socket(), (CONNECT,))


@case(
    socket(),
    CONNECT,
    {"type": "websocket.receive", "text": "x"},
    {"type": "websocket.receive", "bytes": b"y"},
    {"type": "websocket.disconnect", "code": 1001},
)
def an_echo(note: Note) -> ASGIApp:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        note(await receive())
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})
        note(message)

    return echo


# ---- lifespans


def living(*messages: Message, error: Exception | None = None) -> Make:
    """An app that answers each event of its life by the next of these, and then may fail."""

    def make(note: Note) -> ASGIApp:
        async def live(scope: Scope, receive: Receive, send: Send) -> None:
            scope["state"]["ready"] = True
            for message in messages:
                note(await receive())
                await send(dict(message))
            if error is not None:
                await receive()
                raise error

        return live

    return make


LIVES: dict[str, Make] = {
    "whole": living({"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}),
    "start fails": living({"type": "lifespan.startup.failed", "message": "x"}),
    "end fails": living({"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.failed", "message": "x"}),
    "raises at the start": living(error=Theirs("x")),
    "raises at the end": living({"type": "lifespan.startup.complete"}, error=Theirs("x")),
}
for name, make in LIVES.items():
    CASES[f"life: {name}"] = Case(
        make, {"type": "lifespan", "state": {}}, ({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    )


# ---- Starlette


def starlette_app(note: Note) -> ASGIApp:
    async def chunks() -> AsyncIterator[bytes]:
        try:
            for number in range(3):
                yield b"%d" % number
        finally:
            note("let go")

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"data: x\n\n"
        finally:
            note("let go")

    async def broken() -> AsyncIterator[bytes]:
        yield b"1"
        raise Theirs("x")

    async def work() -> None:
        note("worked")

    async def work_and_fail() -> None:
        raise Theirs("background")

    def cookies() -> Response:
        response = HTMLResponse("<p>")
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    async def raises(request: Request) -> Response:
        raise Theirs("x")

    async def refuse(request: Request) -> Response:
        raise HTTPException(402, "pay", headers={"x-price": "1"})

    async def echo(request: Request) -> Response:
        return Response(await request.body())

    async def chat(websocket: WebSocket) -> None:
        await websocket.accept("a")
        async for text in websocket.iter_text():
            await websocket.send_json({"said": text})
        note("they left")

    async def deny(websocket: WebSocket) -> None:
        await websocket.send_denial_response(JSONResponse({"no": 1}, 403))

    answers: dict[str, Callable[[], Response]] = {
        "/text": lambda: PlainTextResponse("x" * 2000),
        "/json": lambda: JSONResponse({"a": [1, None]}, 201),
        "/cookies": cookies,
        "/redirect": lambda: RedirectResponse("/text"),
        "/empty": lambda: Response(status_code=204),
        "/stream": lambda: StreamingResponse(chunks()),
        "/events": lambda: StreamingResponse(endless(), media_type="text/event-stream"),
        "/broken": lambda: StreamingResponse(broken()),
        "/file": lambda: FileResponse(Path(__file__), filename="x.py"),
        "/background": lambda: PlainTextResponse("x", background=BackgroundTask(work)),
        "/background/fails": lambda: PlainTextResponse("x", background=BackgroundTask(work_and_fail)),
    }

    def answering(answer: Callable[[], Response]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            return answer()

        return endpoint

    routes = [
        *(Route(path, answering(answer)) for path, answer in answers.items()),
        Route("/fail", raises),
        Route("/refuse", refuse),
        Route("/echo", echo, methods=["POST"]),
        WebSocketRoute("/chat", chat),
        WebSocketRoute("/deny", deny),
    ]
    return Starlette(routes=[*routes, Mount("/inner", routes=routes)])


async def _pass(request: Request, call_next: Any) -> Response:
    response: Response = await call_next(request)
    response.headers["x-passed"] = "1"
    return response


LAYERS: dict[str, Make] = {
    "starlette": starlette_app,
    "gzip": lambda note: GZipMiddleware(starlette_app(note), minimum_size=10),
    "dispatch": lambda note: BaseHTTPMiddleware(starlette_app(note), dispatch=_pass),
}
PATHS = (
    "/text", "/json", "/cookies", "/redirect", "/empty", "/stream", "/broken", "/file", "/background",
    "/background/fails", "/fail", "/refuse", "/echo", "/nowhere", "/inner/stream",
)  # fmt: skip
ASKED: tuple[tuple[Scope, tuple[Message, ...]], ...] = (
    *((http("GET", path), (REQUEST,)) for path in PATHS),
    (http("HEAD", "/text"), (REQUEST,)),
    (http("POST", "/echo"), ({**REQUEST, "body": b"1", "more_body": True}, {**REQUEST, "body": b"2"})),
    (http("GET", "/events"), (REQUEST, GONE)),
    (socket("/chat"), (CONNECT, {"type": "websocket.receive", "text": "x"}, {"type": "websocket.disconnect"})),
    (socket("/deny"), (CONNECT,)),
    (socket("/nowhere"), (CONNECT,)),
)
for layer, make in LAYERS.items():
    for scope, incoming in ASKED if layer == "starlette" else ASKED[5:13]:
        CASES[f"{layer}: {scope['type']} {scope['method']} {scope['path']}"] = Case(make, scope, incoming)
