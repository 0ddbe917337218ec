"""One line in real Starlette apps: what is counted, named and attributed, whatever stands around it."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, UnauthenticatedUser, requires
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, Router, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

import usage_instrument as usage
from conftest import Database
from reading import counts, made
from usage_instrument import _default, asgi
from usage_instrument.errors import ConfigurationError, DeclarationError
from usage_instrument.integrations.starlette import instrument
from usage_instrument.schema import create_all, define_tables
from usage_instrument.testing import CapturedUsage, capture_usage

ADA = uuid.UUID(int=2**64 + 1)


@pytest.fixture
def captured() -> Iterator[CapturedUsage]:
    with capture_usage() as captured:
        yield captured


async def ok(request: Request) -> Response:
    return PlainTextResponse("ok")


def in_a_thread(request: Request) -> Response:
    return PlainTextResponse("ok")


async def moved(request: Request) -> Response:
    return RedirectResponse("/", 303)


async def streamed(request: Request) -> Response:
    async def lines() -> AsyncIterator[str]:
        for number in range(3):
            yield f"{number}\n"
            usage.identify(3)  # too late for the request's own count

    return StreamingResponse(lines())


async def worked_on_later(request: Request) -> Response:
    usage.identify(5)
    return PlainTextResponse("ok", background=BackgroundTask(later))


def later() -> None:
    usage.track("later", metadata={"in": "background"})


async def chat(websocket: WebSocket) -> None:
    usage.identify(6)
    await websocket.accept()
    await websocket.send_text("hello")
    await websocket.close()


class Event(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("ok")

    @usage.tracks("calendar_follow_event", metadata=lambda self, request: {"id": request.path_params["id"]})
    async def post(self, request: Request) -> Response:
        usage.identify(4)
        return Response(status_code=204)


class Echo(WebSocketEndpoint):
    encoding = "text"

    async def on_receive(self, websocket: WebSocket, data: str) -> None:
        await websocket.send_text(data)


def calendar(**options: Any) -> Starlette:
    sub = Starlette(routes=[Route("/", ok, name="start"), Route("/x/{id}", ok, name="x")])
    return Starlette(
        routes=[
            Route("/", ok, name="home"),
            Route("/thread", in_a_thread),
            Route("/moved", moved, methods=["GET", "POST"]),
            Route("/streamed", streamed),
            Route("/worked", worked_on_later),
            Mount("/events", routes=[Route("/", ok, name="list"), Route("/{id:int}", Event)], name="events"),
            Mount("/v1", app=Router([Mount("/deep", app=Router([Route("/y", ok, name="y")]), name="deep")]), name="v1"),
            Mount("/sub/{tenant}", sub, name="sub"),
            WebSocketRoute("/chat", chat),
            WebSocketRoute("/echo", Echo),
        ],
        **options,
    )


REQUESTS = {
    "GET /": ("home", None),
    "GET /thread": ("in_a_thread", None),
    "GET /moved": None,
    "POST /moved": ("moved POST", None),
    "GET /streamed": ("streamed", None),
    "GET /worked": ("worked_on_later", 5),
    "GET /events/": ("events:list", None),
    "GET /events/7": ("events:Event GET", None),
    "POST /events/7": ("calendar_follow_event", 4),
    "PUT /events/7": None,
    "GET /v1/deep/y": ("v1:deep:y", None),
    "GET /sub/acme/": ("sub:start", None),
    "GET /sub/acme/x/7": ("sub:x", None),
    "GET /sub/acme/z": None,
    "GET /nothing": None,
    "HEAD /": None,
}


@pytest.mark.parametrize("around", ["nothing", "above", "below"])
def test_one_line_counts_what_succeeds_by_its_route(captured: CapturedUsage, around: str) -> None:
    async def dispatch(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["X-Seen"] = "yes"
        return response

    bare, app = calendar(), calendar()
    for one in (bare, app):
        if around == "below":
            one.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
        if one is app:
            instrument(app)
        if around == "above":
            one.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    with TestClient(bare, follow_redirects=False) as plain, TestClient(app, follow_redirects=False) as client:
        for said, use in REQUESTS.items():
            method, path = said.split()
            expected, answer = plain.request(method, path), None
            captured.clear()
            answer = client.request(method, path)
            assert (answer.status_code, answer.headers, answer.content) == (
                expected.status_code, expected.headers, expected.content,
            )  # fmt: skip
            found = [(use.feature, use.user) for use in captured.uses if use.feature != "later"]
            assert found == ([] if use is None else [use]), said


def test_a_background_task_is_still_its_request(captured: CapturedUsage) -> None:
    app = calendar()
    instrument(app)
    TestClient(app).get("/worked")
    assert [(use.feature, use.user) for use in captured.uses] == [("worked_on_later", 5), ("later", 5)]


def test_websockets_count_when_they_are_accepted(captured: CapturedUsage) -> None:
    app = calendar()
    instrument(app, features={"WEBSOCKET /chat": "chat_opened"})
    client = TestClient(app)
    with client.websocket_connect("/chat") as socket:
        assert socket.receive_text() == "hello"
    with client.websocket_connect("/echo") as socket:
        socket.send_text("back")
        assert socket.receive_text() == "back"
    assert [(use.feature, use.user) for use in captured.uses] == [("chat_opened", 6), ("Echo", None)]


class Member(BaseUser):
    def __init__(self, id_: str) -> None:
        self.id = id_

    @property
    def is_authenticated(self) -> bool:
        return True


class Claims(BaseUser):
    """Its id is a property."""

    is_authenticated = True

    def __init__(self, claims: dict[str, str]) -> None:
        self.claims = claims

    @property
    def id(self) -> str:
        return self.claims["sub"]


def test_the_id_of_the_user_may_be_a_property(captured: CapturedUsage) -> None:
    class Backend(AuthenticationBackend):
        async def authenticate(self, conn: Any) -> tuple[AuthCredentials, BaseUser]:
            return AuthCredentials(), Claims({"sub": "ada"})

    async def page(request: Request) -> Response:
        return PlainTextResponse("page")

    app = Starlette(routes=[Route("/page", page)])
    app.add_middleware(AuthenticationMiddleware, backend=Backend())
    instrument(app)
    TestClient(app).get("/page")
    assert [(use.feature, use.user) for use in captured.uses] == [("page", "ada")]


class Bearer(AuthenticationBackend):
    """As a backend that has verified a JSON web token, whose subject is a string."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        kind, _, subject = conn.headers.get("authorization", "").partition(" ")
        return (AuthCredentials(["authenticated"]), Member(subject)) if kind == "Bearer" else None


@pytest.mark.parametrize("first", ["instrument", "authentication"])
def test_the_subject_of_a_token_is_the_user(sqlite: Database, first: str) -> None:
    @requires("authenticated", redirect="login")
    async def members(request: Request) -> Response:
        return PlainTextResponse("members")

    @requires("authenticated")
    async def strangers(request: Request) -> Response:
        return PlainTextResponse("members")

    routes = [Route("/", ok, name="home"), Route("/m", members, methods=["GET", "POST"]), Route("/s", strangers)]
    app = Starlette(routes=[*routes, Route("/login", ok, name="login")])
    if first == "authentication":
        app.add_middleware(AuthenticationMiddleware, backend=Bearer())
    instrument(app, database=sqlite.url, user_id_type="string")
    if first == "instrument":
        app.add_middleware(AuthenticationMiddleware, backend=Bearer())
    made(sqlite.engine(), users=None, user_id_type="string")
    with TestClient(app, follow_redirects=False) as client:
        token = {"Authorization": "Bearer auth0|5f7c8ec7c33c6c004bbafe82"}
        client.get("/", headers=token)
        client.get("/m", headers=token)
        client.get("/s", headers=token)
        assert client.post("/m").status_code == 303
        assert client.get("/s").status_code == 403
        client.get("/")
    tables = define_tables(sa.MetaData(), users=None, user_id_type="string")
    subject = "auth0|5f7c8ec7c33c6c004bbafe82"
    assert counts(sqlite.engine(), tables) == {
        ("home", subject): 1, ("members GET", subject): 1, ("strangers", subject): 1, ("home", None): 1,
    }  # fmt: skip


# ---- its database


@pytest.mark.parametrize("way", ["url", "async url", "engine", "async engine", "before", "after", "tables"])
def test_the_end_of_the_lifespan_has_written_every_request(sqlite: Database, way: str) -> None:
    made(sqlite.engine(), users=None)
    asynchronous = create_async_engine(sqlite.async_url)
    events = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        events.append("started")
        yield
        events.append("ended")
        await asynchronous.dispose()

    app = Starlette(routes=[Route("/", ok, name="home")], lifespan=lifespan)
    by_way: dict[str, dict[str, Any]] = {
        "url": {"database": sqlite.url},
        "async url": {"database": sqlite.async_url},
        "engine": {"database": sqlite.engine()},
        "async engine": {"database": asynchronous},
        "tables": {"database": sqlite.engine(), "tables": define_tables(sa.MetaData(), users=None)},
    }
    if way == "before":
        usage.configure(sqlite.url)
    instrument(app, user=lambda scope: ADA, **by_way.get(way, {}))
    if way == "after":
        usage.configure(sqlite.url)
    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/").text == "ok"
    assert events == ["started", "ended"] * 2
    assert counts(sqlite.engine(), define_tables(sa.MetaData(), users=None)) == {("home", ADA): 2}


def test_an_async_engine_on_postgresql(postgresql: Database) -> None:
    engine = create_async_engine(postgresql.async_url)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(create_all)
        yield
        await engine.dispose()

    app = Starlette(routes=[Route("/", ok, name="home")], lifespan=lifespan)
    instrument(app, database=engine, service="web")
    with TestClient(app) as client:
        for _ in range(3):
            client.get("/")
    tables = define_tables(sa.MetaData(), users=None)
    assert counts(postgresql.engine(), tables) == {("home", None): 3}


def test_an_engine_in_memory_counts_nothing_under_pytest(
    captured: CapturedUsage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("USAGE_INSTRUMENT_ENABLED")
    engine = create_async_engine("sqlite+aiosqlite://")
    app = Starlette(routes=[Route("/", ok, name="home")])
    instrument(app, database=engine)
    TestClient(app).get("/")
    assert captured.names == ["home"]
    assert usage.stats() == usage.Stats()
    asyncio.run(engine.dispose())


# ---- what is told


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"fetures": {}}, TypeError, "'fetures' is no option; did you mean 'features'"),
        ({"db": 1}, TypeError, "'db' is no option"),
        ({"exclude": "admin"}, DeclarationError, "a list of patterns"),
        ({"success": 200}, DeclarationError, "success= cannot be a int"),
        ({"database": "sqlite:///x.db", "flush_rows": 0}, ConfigurationError, "flush_rows"),
        ({"database": 7}, ConfigurationError, "the database is a URL, an Engine or an AsyncEngine, not int"),
        ({"database": "nonsense"}, ConfigurationError, "cannot be parsed"),
    ],
)
def test_what_cannot_work_is_refused_and_changes_nothing(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    app = Starlette()
    with pytest.raises(error, match=said):
        instrument(app, **options)
    assert app.user_middleware == []
    assert _default.tracker() is None


def test_twice_is_refused() -> None:
    app = Starlette()
    instrument(app)
    with pytest.raises(ConfigurationError, match="has a UsageMiddleware already"):
        instrument(app)
    by_hand = Starlette(middleware=[Middleware(asgi.UsageMiddleware)])
    with pytest.raises(ConfigurationError, match="has a UsageMiddleware already"):
        instrument(by_hand)


def test_a_sub_app_may_be_counted_for_itself(captured: CapturedUsage) -> None:
    inner = Starlette(routes=[Route("/", ok, name="start")])
    instrument(inner, features={"start": "inner_started"})
    app = Starlette(routes=[Mount("/inner", inner), Route("/", ok, name="home")])
    instrument(app)
    client = TestClient(app)
    client.get("/inner/")
    client.get("/")
    assert [use.feature for use in captured.uses] == ["inner_started", "home"]


def test_an_app_that_has_started_is_told() -> None:
    app = Starlette(routes=[Route("/", ok)])
    TestClient(app).get("/")
    with pytest.raises(ConfigurationError, match=r"this app has started"):
        instrument(app)


def test_an_app_of_another_framework_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="and this is Flask"):
        instrument(Flask("other"))  # type: ignore[arg-type]


def test_patterns_may_be_given_as_an_iterator(captured: CapturedUsage) -> None:
    app = calendar()
    instrument(app, include=iter(["home"]))
    client = TestClient(app)
    client.get("/")
    client.get("/thread")
    assert captured.names == ["home"]


@pytest.mark.parametrize("kind", ["starlette", "flask"])
def test_the_id_in_a_session_is_the_user(kind: str) -> None:
    asgi_options: dict[str, Any] = {"session_user": "user_id"}
    with capture_usage() as captured:
        if kind == "starlette":
            pytest.importorskip("itsdangerous")
            from starlette.middleware.sessions import SessionMiddleware

            async def enter(request: Request) -> Response:
                request.session["user_id"] = 7
                return PlainTextResponse("in")

            async def page(request: Request) -> Response:
                return PlainTextResponse("page")

            app = Starlette(routes=[Route("/enter", enter), Route("/page", page)])
            app.add_middleware(SessionMiddleware, secret_key="secret")
            instrument(app, **asgi_options)
            get: Any = TestClient(app).get
        else:
            from flask import Flask, session

            from usage_instrument.wsgi import UsageMiddleware

            flask = Flask("app")
            flask.secret_key = "secret"
            flask.add_url_rule("/enter", "enter", lambda: session.update(user_id=7) or "in")
            flask.add_url_rule("/page", "page", lambda: "page")
            flask.wsgi_app = UsageMiddleware(flask.wsgi_app, session_user="user_id")  # type: ignore[method-assign]
            get = flask.test_client().get
        vary = get("/page").headers.get("vary")
        get("/enter")
        assert get("/page").headers.get("vary") == vary
    assert [(use.feature, use.user) for use in captured.uses] == [("page", None), ("enter", 7), ("page", 7)]


@pytest.mark.parametrize("kind", ["starlette within", "starlette around", "starlette app", "flask"])
def test_emptying_the_session_logs_out_its_user(kind: str) -> None:
    """A logout by `session.clear()` or `pop` was anonymous."""

    def clear_and_track(session: Any) -> None:
        session.clear()
        usage.track("after")

    names = ["cleared", "popped", "switched", "tracked"]
    change: dict[str, Any] = {
        "cleared": lambda session: session.clear(),
        "popped": lambda session: session.pop("user_id"),
        "switched": lambda session: session.update(user_id=8),
        "tracked": clear_and_track,
    }
    with capture_usage() as captured:
        if kind == "flask":
            from flask import Flask, session

            from usage_instrument.wsgi import UsageMiddleware

            flask = Flask("app")
            flask.secret_key = "secret"
            flask.add_url_rule("/enter", "enter", lambda: session.update(user_id=7) or "in")
            for name in names:
                flask.add_url_rule(f"/{name}", name, lambda name=name: str(change[name](session)))
            flask.wsgi_app = UsageMiddleware(flask.wsgi_app, session_user="user_id")  # type: ignore[method-assign]
            get: Any = flask.test_client().get
        else:
            pytest.importorskip("itsdangerous")
            from starlette.middleware.sessions import SessionMiddleware

            async def enter(request: Request) -> Response:
                request.session["user_id"] = 7
                return PlainTextResponse("in")

            def page(name: str) -> Any:
                async def changed(request: Request) -> Response:
                    change[name](request.session)
                    return PlainTextResponse("changed")

                return changed

            routes = [Route("/enter", enter), *(Route(f"/{name}", page(name), name=name) for name in names)]
            app: Any = Starlette(routes=routes)
            if kind == "starlette around":
                app.add_middleware(asgi.UsageMiddleware, session_user="user_id")
            app.add_middleware(SessionMiddleware, secret_key="secret")
            if kind == "starlette within":
                instrument(app, session_user="user_id")
            if kind == "starlette app":
                app = asgi.UsageMiddleware(app, session_user="user_id")
            get = TestClient(app).get
        for name in names:
            get("/enter")
            get(f"/{name}")
    found = [(use.feature, use.user) for use in captured.uses if use.feature != "enter"]
    assert found == [("cleared", 7), ("popped", 7), ("switched", 8), ("after", 7), ("tracked", 7)]


def test_a_session_key_is_text() -> None:
    with pytest.raises(DeclarationError, match="session_user= is the key of the session"):
        instrument(Starlette(), session_user=5)  # type: ignore[arg-type]


def test_the_thread_pools_of_the_framework_carry_the_user() -> None:
    from starlette.background import BackgroundTask
    from starlette.concurrency import run_in_threadpool

    @usage.tracks("exported")
    def export() -> None: ...

    def view(request: Request) -> Response:  # in the framework's own pool
        export()
        return PlainTextResponse("ok")

    async def asynchronous(request: Request) -> Response:
        usage.identify(8)
        await run_in_threadpool(export)
        return PlainTextResponse("ok", background=BackgroundTask(export))

    class Identify:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                usage.identify(7)
            await self.app(scope, receive, send)

    app = Starlette(routes=[Route("/sync", view), Route("/async", asynchronous)], middleware=[Middleware(Identify)])
    instrument(app)
    with capture_usage() as captured:
        client = TestClient(app)
        client.get("/sync")
        client.get("/async")
    exported = [use.user for use in captured.uses if use.feature == "exported"]
    assert exported[:2] == [7, 8]
    assert len(exported) == 3


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_user_who_is_replaced_in_the_scope_has_logged_out(place: str) -> None:
    class User(BaseUser):
        is_authenticated = True

        def __init__(self, number: int) -> None:
            self.id = number

    class Backend(AuthenticationBackend):
        async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
            return (AuthCredentials(), User(7)) if "X-User" in conn.headers else None

    async def leave(request: Request) -> Response:
        request.scope["user"] = UnauthenticatedUser()
        return PlainTextResponse("out")

    async def become(request: Request) -> Response:
        request.scope["user"] = User(8)
        return PlainTextResponse("other")

    async def enter(request: Request) -> Response:
        return PlainTextResponse("in")

    app = Starlette(routes=[Route("/leave", leave), Route("/become", become), Route("/enter", enter)])
    if place == "before":
        app.add_middleware(AuthenticationMiddleware, backend=Backend())
    instrument(app)
    if place == "after":
        app.add_middleware(AuthenticationMiddleware, backend=Backend())
    with capture_usage() as captured:
        client = TestClient(app)
        for path in ("/enter", "/leave", "/become"):
            client.get(path, headers={"X-User": "7"})
        client.get("/leave")
    assert [(use.feature, use.user) for use in captured.uses] == [
        ("enter", 7), ("leave", 7), ("become", 8), ("leave", None),
    ]  # fmt: skip
