"""The ASGI middleware, below and above real frameworks."""
# ruff: noqa: A002

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any
from uuid import UUID

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi import WebSocket as FastAPIWebSocket
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, requires
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

import usage_instrument as usage
from usage_instrument.asgi import UsageMiddleware
from usage_instrument.capture.registry import Catalog
from usage_instrument.errors import DeclarationError, FeatureNameError, UserIdError
from usage_instrument.testing import CapturedUsage, CapturedUse, capture_usage
from usage_instrument.typing import ASGIApp, Receive, Scope, Send

USER = UUID(int=7)


@pytest.fixture
def captured() -> Iterator[CapturedUsage]:
    with capture_usage() as captured:
        yield captured


@pytest.fixture(params=["with the route in the scope", "without"])
def forgetful(request: pytest.FixtureRequest) -> Callable[[ASGIApp], ASGIApp]:
    """A layer over an app, below the middleware, that makes a Starlette without `scope["route"]` of it."""
    if request.param != "without":
        return lambda app: app

    class WithoutRoute(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            if key != "route":
                super().__setitem__(key, value)

        def update(self, *others: Any, **more: Any) -> None:
            for name, value in dict(*others, **more).items():
                self[name] = value

    def layer(app: ASGIApp) -> ASGIApp:
        async def forgets(scope: Scope, receive: Receive, send: Send) -> None:
            inner = WithoutRoute(scope)

            async def forwarding(message: Any) -> None:
                scope.update(inner)
                await send(message)

            await app(inner, receive, forwarding)

        return forgets

    return layer


async def ok(request: Request) -> Response:
    return PlainTextResponse("ok")


async def create(request: Request) -> Response:
    return RedirectResponse("/created", 303)


class Events(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("ok")

    @usage.tracks("events_post")
    async def post(self, request: Request) -> Response:
        return PlainTextResponse("ok")


async def chat(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()


async def refuse(websocket: WebSocket) -> None:
    await websocket.close()


class Chat(WebSocketEndpoint):
    async def on_receive(self, websocket: WebSocket, data: Any) -> None: ...


def client(app: ASGIApp, **options: Any) -> TestClient:
    options.setdefault("follow_redirects", False)
    return TestClient(app, **options)


def names_after(captured: CapturedUsage, app: ASGIApp, *requests: str) -> list[str]:
    """The features counted by some requests, such as `"POST /x"`."""
    http = client(app)
    for request in requests:
        http.request(*request.split(" ", 1))
    return [use.feature for use in captured.uses]


def tree() -> Starlette:
    users = [
        Route("/", ok, name="list"),
        Route("/{id:int}", ok, name="show"),
        Mount("/{id}/friends", routes=[Route("/{friend}", ok, name="friend")], name="friends"),
    ]
    return Starlette(
        routes=[
            Route("/", ok, name="home"),
            Route("/events", Events),
            Route("/make", create, methods=["POST", "GET"]),
            Mount("/users", routes=users, name="users"),
            Mount("/plain", routes=[Route("/x", ok, name="x")]),
            Mount("/orgs/{org}", app=Router([Route("/x/{id}", ok, name="inner")]), name="org"),
            Mount("/sub", app=Starlette(routes=[Route("/y", ok, name="y")])),
            Mount("/opaque", app=PlainTextResponse("raw"), name="opaque"),
            Mount("/nameless", app=PlainTextResponse("raw")),
            Host("api.example.org", app=Router([Route("/h", ok, name="h")]), name="api"),
            WebSocketRoute("/chat", chat),
            WebSocketRoute("/refuse", refuse),
            WebSocketRoute("/chatroom", Chat),
        ]
    )


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        ("GET /", "home"),
        ("GET /events", "Events GET"),
        ("POST /events", "events_post"),  # by its decorator
        ("GET /make", None),
        ("POST /make", "create POST"),
        ("GET /users/", "users:list"),
        ("GET /users/3", "users:show"),
        ("GET /users/3/friends/4", "users:friends:friend"),
        ("GET /plain/x", "x"),
        ("GET /orgs/7/x/8", "org:inner"),
        ("GET /sub/y", "y"),
        ("GET /opaque/anything", "opaque"),
        ("GET /nameless/anything", None),
        ("GET http://api.example.org/h", "api:h"),
        ("GET /nothing", None),
        ("GET /users/nobody", None),
        ("POST /users", None),  # a redirect to /users/
        ("POST /plain/x/", None),  # a redirect to /plain/x
        ("DELETE /events", None),
        ("HEAD /", None),
        ("OPTIONS /", None),
    ],
)
@pytest.mark.parametrize("place", ["around", "inside"])
def test_starlette_routes(
    captured: CapturedUsage, forgetful: Callable[[ASGIApp], ASGIApp], place: str, request_: str, name: str | None
) -> None:
    app = tree()
    wrapped: ASGIApp = app
    if place == "around":
        wrapped = UsageMiddleware(forgetful(app))
    else:
        app.add_middleware(forgetful)
        app.add_middleware(UsageMiddleware)
    assert names_after(captured, wrapped, request_) == ([] if name is None else [name])


@pytest.mark.parametrize(
    ("request_", "key"),
    [
        ("GET /users/3", "GET /users/{id}"),
        ("GET /users/3", "/users/{id:int}"),
        ("GET /users/3", "GET /users/<int:id>"),
        ("GET /users/3", "users:show"),
        ("GET /users/3", "GET users:show"),
        ("GET /users/3/friends/4", "GET /users/{id}/friends/{friend}"),
        ("GET /orgs/7/x/8", "/orgs/{org}/x/{id}"),
        ("GET /sub/y", "GET /sub/y"),
        ("POST /make", "post /make"),
        ("GET /opaque/x", "/opaque"),
        ("GET /", "GET /"),
    ],
)
def test_a_features_entry_names_a_route(
    captured: CapturedUsage, forgetful: Callable[[ASGIApp], ASGIApp], request_: str, key: str
) -> None:
    app = UsageMiddleware(forgetful(tree()), features={key: "chosen"})
    assert names_after(captured, app, request_) == ["chosen"]


def test_an_endpoint_of_several_routes_is_told_apart(
    captured: CapturedUsage, forgetful: Callable[[ASGIApp], ASGIApp]
) -> None:
    twice = [Route("/items/{id}", ok, name="item"), Route("/items/{id}/{part}", ok, name="part")]
    app = Starlette(routes=[Mount("/v1", routes=twice, name="v1"), Mount("/v2", routes=twice, name="v2")])
    found = names_after(
        captured, UsageMiddleware(forgetful(app)), "GET /v1/items/1", "GET /v2/items/1/2", "GET /v2/items/1"
    )
    assert found == ["v1:item", "v2:part", "v2:item"]


def test_websockets_count_when_accepted(captured: CapturedUsage) -> None:
    http = client(UsageMiddleware(tree(), features={"WEBSOCKET /chatroom": "room"}))
    for path in ("/chat", "/chatroom"):
        with http.websocket_connect(path):
            pass
    with contextlib.suppress(Exception), http.websocket_connect("/refuse"):
        pass
    assert captured.uses == [CapturedUse("chat"), CapturedUse("room")]


def test_static_files_never_count(captured: CapturedUsage, tmp_path: Any) -> None:
    (tmp_path / "x.txt").write_text("x")

    class Wrapper:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await self.app(scope, receive, send)

    app = Starlette(
        routes=[
            Mount("/static", StaticFiles(directory=tmp_path), name="static"),
            Mount("/wrapped", Wrapper(StaticFiles(directory=tmp_path)), name="wrapped"),
        ]
    )
    http = client(UsageMiddleware(app, features={"static": "static"}))
    assert [http.get(f"/{place}/x.txt").text for place in ("static", "wrapped")] == ["x", "x"]
    assert captured.uses == []


@pytest.mark.parametrize(
    "path",
    ["/health", "/healthz", "/health/live", "/api/v1/health", "/livez", "/readyz", "/ping", "/metrics", "/favicon.ico"],
)
def test_probes_do_not_count_unless_asked_for(captured: CapturedUsage, path: str) -> None:
    app = Starlette(routes=[Route(path, ok, name="probe"), Route("/ok", ok)])
    assert names_after(captured, UsageMiddleware(app), f"GET {path}", "GET /ok") == ["ok"]
    captured.clear()
    assert names_after(captured, UsageMiddleware(app, include=[path]), f"GET {path}", "GET /ok") == ["probe"]
    captured.clear()
    assert names_after(captured, UsageMiddleware(app, features={path: "asked"}), f"GET {path}") == ["asked"]


def test_include_and_exclude(captured: CapturedUsage) -> None:
    app = UsageMiddleware(tree(), include=["/users*", "POST create", "home"], exclude=["GET users:fr*"])
    requests = ["GET /", "GET /users/", "GET /users/3/friends/4", "POST /make", "GET /sub/y"]
    assert names_after(captured, app, *requests) == ["home", "users:list", "create POST"]


def test_features_may_be_callables_and_none(captured: CapturedUsage) -> None:
    app = UsageMiddleware(
        tree(),
        features={"home": None, "/sub/y": lambda scope: f"y_{scope['method']}", "Events": lambda scope: None},
    )
    assert names_after(captured, app, "GET /", "GET /sub/y", "GET /events", "GET /plain/x") == ["y_GET", "x"]
    captured.clear()
    app = UsageMiddleware(tree(), features=lambda scope: scope["endpoint"].__name__, exclude=["/sub/*"])
    assert names_after(captured, app, "GET /", "GET /sub/y", "GET /nothing", "POST /make") == ["ok", "create"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"features": {"home": ""}}, FeatureNameError),
        ({"features": {"home": "x" * 101}}, ValueError),
        ({"features": {"home": 7}}, DeclarationError),
        ({"features": "home"}, DeclarationError),
        ({"include": "home"}, DeclarationError),
        ({"exclude": [7]}, DeclarationError),
        ({"user": 7}, DeclarationError),
        ({"user": chat}, DeclarationError),
        ({"success": "yes"}, TypeError),
        ({"metadata": [1]}, TypeError),
        ({"dimensions": ["format"]}, TypeError),
        ({"dimensions": chat}, DeclarationError),
        ({"value": "7"}, TypeError),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        UsageMiddleware(ok, **options)  # type: ignore[arg-type]


def test_names_are_declared_from_the_start(captured: CapturedUsage) -> None:
    catalog = Catalog()
    tracker = CapturedUsage(catalog)
    catalog.attach(tracker)
    app = UsageMiddleware(tree(), tracker=tracker, features={"home": "front_page", "x": None})
    assert [(feature.name, feature.source) for feature in catalog] == [("front_page", "middleware")]
    assert names_after(tracker, app, "GET /", "GET /sub/y") == ["front_page", "y"]
    assert "y" in catalog
    assert captured.uses == []


# ---- FastAPI


def fastapi_app() -> FastAPI:
    app = FastAPI()
    inner = APIRouter(prefix="/inner")
    items = APIRouter(prefix="/items")

    @items.get("/{id}")
    def read_item(id: int) -> int:
        return id

    @items.post("/{id}/follow")
    @usage.tracks("followed")
    def follow(id: int) -> int:
        return id

    @inner.get("/{deep}")
    async def read_deep(deep: str) -> str:
        return deep

    @items.websocket("/live/{id}")
    async def live(websocket: FastAPIWebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    items.include_router(inner)
    app.include_router(items, prefix="/v1")
    app.include_router(items, prefix="/v2")
    sub = FastAPI()

    @sub.get("/thing/{id}")
    def read_thing(id: int) -> int:
        return id

    app.mount("/sub/{tenant}", sub)
    return app


def test_fastapi_routes(captured: CapturedUsage) -> None:
    app = fastapi_app()
    app.add_middleware(UsageMiddleware)
    requests = ["GET /v1/items/1", "POST /v1/items/1/follow", "GET /v2/items/inner/x", "GET /sub/t/thing/1"]
    requests += ["GET /docs", "GET /openapi.json", "GET /redoc", "GET /sub/t/docs", "GET /v1/items/x"]
    assert names_after(captured, app, *requests) == ["read_item", "followed", "read_deep", "read_thing"]


@pytest.mark.parametrize(
    ("request_", "key"),
    [
        ("GET /v1/items/1", "GET /v1/items/{id}"),
        ("GET /v2/items/1", "GET /v2/items/{id}"),
        ("GET /v2/items/inner/x", "/v2/items/inner/{deep}"),
        ("GET /sub/t/thing/1", "/sub/{tenant}/thing/{id}"),
    ],
)
def test_fastapi_templates_hold_every_prefix(captured: CapturedUsage, request_: str, key: str) -> None:
    other = "GET /v1/items/2" if "v2" in key else "GET /v2/items/2"
    app = UsageMiddleware(fastapi_app(), features={key: "chosen"})
    assert names_after(captured, app, request_, other) == ["chosen", "read_item"]


def test_fastapi_websocket_of_an_included_router(captured: CapturedUsage) -> None:
    with client(UsageMiddleware(fastapi_app(), features={"/v1/items/live/{id}": "live"})).websocket_connect(
        "/v1/items/live/3"
    ):
        pass
    assert captured.names == ["live"]


def test_docs_at_another_place_do_not_count(captured: CapturedUsage) -> None:
    app = FastAPI(docs_url="/deep/down/manual", openapi_url="/deep/down/schema")
    assert names_after(captured, UsageMiddleware(app), "GET /deep/down/manual", "GET /deep/down/schema") == []


class Session:
    def __init__(self) -> None:
        usage.identify(3)


def test_identify_in_dependencies(captured: CapturedUsage) -> None:
    def in_a_thread() -> None:
        usage.identify(1)

    async def in_the_loop() -> None:
        usage.identify(2)

    app = FastAPI()
    app.add_middleware(UsageMiddleware)

    @app.get("/thread", dependencies=[Depends(in_a_thread)])
    async def thread() -> None: ...

    @app.get("/loop", dependencies=[Depends(in_the_loop)])
    def loop() -> None: ...

    @app.get("/class")
    @usage.tracks("by_class")
    async def by_class(session: Annotated[Session, Depends()]) -> None: ...

    @app.get("/nobody")
    def nobody() -> None: ...

    names_after(captured, app, "GET /thread", "GET /loop", "GET /class", "GET /nobody")
    assert [(use.feature, use.user) for use in captured.uses] == [
        ("thread", 1), ("loop", 2), ("by_class", 3), ("nobody", None),
    ]  # fmt: skip


# ---- who


class User(BaseUser):
    def __init__(self, id: object, authenticated: bool = True) -> None:
        self.id = id
        self._authenticated = authenticated

    @property
    def is_authenticated(self) -> bool:
        return self._authenticated


class Backend(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        said = conn.headers.get("x-user")
        if said is None:
            return None
        return AuthCredentials(["authenticated"]), User(UUID(said), "x-guest" not in conn.headers)


@pytest.mark.parametrize("outside", [True, False])
def test_the_user_of_authentication_middleware(captured: CapturedUsage, outside: bool) -> None:
    ours, theirs = Middleware(UsageMiddleware), Middleware(AuthenticationMiddleware, backend=Backend())
    app = Starlette(routes=[Route("/ok", ok)], middleware=[ours, theirs] if outside else [theirs, ours])
    http = client(app)
    http.get("/ok")
    http.get("/ok", headers={"x-user": str(USER)})
    http.get("/ok", headers={"x-user": str(USER), "x-guest": "1"})
    assert [use.user for use in captured.uses] == [None, USER, None]


def test_the_order_of_who_says_who(captured: CapturedUsage) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["user"] = User(1)
        with contextlib.ExitStack() as stack:
            if "identified" in scope["path"]:
                usage.identify(2)
            if "overridden" in scope["path"]:
                stack.enter_context(usage.as_user(3))
            await PlainTextResponse("ok")(scope, receive, send)

    plain = UsageMiddleware(app, features=lambda scope: "seen")
    explicit = UsageMiddleware(app, features=lambda scope: "seen", user=lambda scope: 4)
    names_after(captured, plain, "GET /", "GET /identified", "GET /identified/overridden")
    names_after(captured, explicit, "GET /identified/overridden")
    assert [use.user for use in captured.uses] == [1, 2, 3, 4]


def test_what_surrounds_the_middleware_holds_inside(captured: CapturedUsage) -> None:
    @usage.tracks("inner")
    async def view(request: Request) -> Response:
        usage.identify(2)
        return PlainTextResponse("ok")

    inside = UsageMiddleware(Starlette(routes=[Route("/", view), Route("/ok", ok)]))

    async def outside(scope: Scope, receive: Receive, send: Send) -> None:
        with usage.paused() if "quiet" in scope["query_string"].decode() else usage.as_user(9):
            await inside(scope, receive, send)

    names_after(captured, outside, "GET /", "GET /ok", "GET /ok?quiet", "GET /?quiet")
    assert captured.uses == [CapturedUse("inner", 9), CapturedUse("ok", 9)]


def test_a_wrong_user_is_rejected_and_the_answer_stands(captured: CapturedUsage) -> None:
    def broken(scope: Scope) -> object:
        raise LookupError("no session")

    app = tree()
    for user in (lambda scope: 1.5, broken):
        assert client(UsageMiddleware(app, user=user)).get("/").text == "ok"
    assert captured.uses == []
    assert [rejected.feature for rejected in captured.rejected] == ["home", "home"]


def test_nobody_is_left_after_the_end(captured: CapturedUsage) -> None:
    @usage.tracks("later")
    async def later() -> None: ...

    @usage.tracks("in_background")
    async def in_background() -> None: ...

    tasks: list[asyncio.Task[None]] = []
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()
        await later()

    async def view(request: Request) -> Response:
        usage.identify(5)
        tasks.append(asyncio.create_task(wait()))
        return PlainTextResponse("ok", background=BackgroundTask(in_background))

    app = UsageMiddleware(Starlette(routes=[Route("/", view)]))

    async def run() -> None:
        await call(app, "/")
        gate.set()
        await tasks[0]
        await later()

    asyncio.run(run())
    assert captured.uses == [
        CapturedUse("view", 5), CapturedUse("in_background", 5), CapturedUse("later"), CapturedUse("later"),
    ]  # fmt: skip


async def call(app: ASGIApp, path: str, **more: Any) -> list[Any]:
    """One request, made in the context of the caller."""
    sent: list[Any] = []
    body = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Any:
        return next(body, None) or await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(dict(message))

    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b"", **more}
    await app(scope, receive, send)
    return sent


def test_concurrent_requests_share_nothing(captured: CapturedUsage) -> None:
    barrier = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        usage.identify(int(scope["path"][1:]))
        if scope["path"] == "/19":
            barrier.set()
        await barrier.wait()
        await PlainTextResponse("ok")(scope, receive, send)

    wrapped = UsageMiddleware(app, features=lambda scope: f"f{scope['path'][1:]}")

    async def run() -> None:
        await asyncio.gather(*(call(wrapped, f"/{number}") for number in range(20)))

    asyncio.run(run())
    assert sorted((use.feature, use.user) for use in captured.uses) == sorted((f"f{n}", n) for n in range(20))


# ---- once


def test_one_use_counts_once(captured: CapturedUsage) -> None:
    @usage.tracks("create")
    async def same_name(request: Request) -> Response:
        return PlainTextResponse("ok")

    @usage.tracks("listed")
    def helper() -> None: ...

    async def listed(request: Request) -> Response:
        helper()
        return PlainTextResponse("ok")

    @usage.tracks("failing", when="failure")
    async def failing(request: Request) -> Response:
        return PlainTextResponse("ok")

    app = Starlette(
        routes=[Route("/a", same_name), Route("/b", listed), Route("/c", failing), Route("/d", same_name, name="other")]
    )
    wrapped = UsageMiddleware(app, features={"/a": "create", "other": "more"})
    assert names_after(captured, wrapped, "GET /a", "GET /b", "GET /c") == ["create", "listed"]
    captured.clear()
    assert names_after(captured, wrapped, "GET /d") == ["create", "more"]


def test_middleware_in_a_mounted_app_shares_the_request(captured: CapturedUsage) -> None:
    async def view(request: Request) -> Response:
        usage.identify(6)
        return PlainTextResponse("ok")

    inner = Starlette(
        routes=[Route("/", view, name="start"), Route("/{id}/x", view), Route("/hidden", view)],
        middleware=[Middleware(UsageMiddleware, features={"GET /{id}/x": "x", "start": "begun"}, exclude=["/hidden"])],
    )
    app = Starlette(
        routes=[Route("/", view, name="home"), Mount("/in/{tenant}", inner, name="in")],
        middleware=[Middleware(UsageMiddleware), Middleware(UsageMiddleware)],
    )
    found = names_after(captured, app, "GET /in/t/", "GET /in/t/1/x", "GET /in/t/hidden", "GET /")
    assert found == ["begun", "x", "home"]
    assert {use.user for use in captured.uses} == {6}
    assert captured.complaints == []


def test_what_a_success_is_the_innermost_middleware_knows(captured: CapturedUsage) -> None:
    strict = [Middleware(UsageMiddleware, success=lambda status, scope: status == 201)]
    inner = Starlette(routes=[Route("/", ok, name="start")], middleware=strict)
    app = Starlette(routes=[Route("/", ok, name="home"), Mount("/in", inner)], middleware=[Middleware(UsageMiddleware)])
    assert names_after(captured, app, "GET /in/", "GET /") == ["home"]


@pytest.mark.parametrize("place", ["above", "below"])
def test_base_http_middleware(captured: CapturedUsage, place: str) -> None:
    async def dispatch(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        return response

    @usage.tracks("tracked")
    async def tracked(request: Request) -> Response:
        usage.identify(8)
        return PlainTextResponse("ok")

    async def plain(request: Request) -> Response:
        usage.identify(8)
        return StreamingResponse(iter([b"a", b"b"]))

    theirs = Middleware(BaseHTTPMiddleware, dispatch=dispatch)
    middleware = [theirs, Middleware(UsageMiddleware)]
    app = Starlette(
        routes=[Route("/plain", plain), Route("/tracked", tracked)],
        middleware=middleware if place == "above" else middleware[::-1],
    )
    names_after(captured, app, "GET /plain", "GET /tracked")
    assert captured.uses == [CapturedUse("plain", 8), CapturedUse("tracked", 8)]


# ---- what counts


def test_discard_and_pause(captured: CapturedUsage) -> None:
    @usage.tracks("before")
    def before() -> None: ...

    async def view(request: Request) -> Response:
        before()
        usage.discard()
        before()
        return PlainTextResponse("ok")

    app = UsageMiddleware(Starlette(routes=[Route("/", view)]))
    assert names_after(captured, app, "GET /") == ["before"]


def test_dimensions_and_value(captured: CapturedUsage) -> None:
    app = Starlette(routes=[Route("/ok", ok)])
    for options in (
        {"dimensions": {"kind": "web"}, "value": 2},
        {"dimensions": lambda scope: {"path": scope["path"], "none": None}},
        {"dimensions": {"kind": "web"}, "value": lambda scope: len(scope["path"])},
        {"dimensions": lambda scope: 1 / 0},
    ):
        names_after(captured, UsageMiddleware(app, **options), "GET /ok")
    assert [(use.dimensions, use.value) for use in captured.uses] == [
        ({"kind": "web"}, 2.0), ({"path": "/ok"}, None), ({"kind": "web"}, 3.0), (None, None)
    ]  # fmt: skip
    assert [type(lost.error) for lost in captured.metadata_lost] == [ZeroDivisionError]


def test_success_and_metadata(captured: CapturedUsage) -> None:
    async def teapot(request: Request) -> Response:
        return PlainTextResponse("short and stout", 418)

    app = Starlette(routes=[Route("/ok", ok), Route("/teapot", teapot)])
    tea = UsageMiddleware(
        app, success=lambda status, scope: status == 418, metadata=lambda scope: {"path": scope["path"]}
    )
    names_after(captured, tea, "GET /ok", "GET /teapot", "HEAD /teapot")
    names_after(captured, UsageMiddleware(app, metadata={"kind": "web"}), "GET /ok")
    names_after(captured, UsageMiddleware(app, metadata=lambda scope: {"bad": object()}), "GET /ok")
    names_after(captured, UsageMiddleware(app, metadata=lambda scope: None), "GET /ok")
    assert captured.uses == [
        CapturedUse("teapot", None, {"path": "/teapot"}), CapturedUse("ok", None, {"kind": "web"}),
        CapturedUse("ok"), CapturedUse("ok"),
    ]  # fmt: skip
    assert [lost.feature for lost in captured.metadata_lost] == ["ok"]


def test_an_app_that_raises_is_not_counted(captured: CapturedUsage) -> None:
    async def broken(request: Request) -> Response:
        raise LookupError("theirs")

    app = UsageMiddleware(Starlette(routes=[Route("/", broken)]))
    with pytest.raises(LookupError, match="theirs") as raised:
        client(app).get("/")
    assert raised.value.__cause__ is None
    assert captured.uses == []


def test_a_redirect_to_log_in_is_not_a_use(captured: CapturedUsage) -> None:
    @requires("authenticated", redirect="login")
    async def save(request: Request) -> Response:
        return RedirectResponse("/saved?next=/elsewhere", 303)

    app = Starlette(
        routes=[Route("/save it", save, methods=["POST"]), Route("/login", ok, name="login")],
        middleware=[Middleware(UsageMiddleware), Middleware(AuthenticationMiddleware, backend=Backend())],
    )
    http = client(app)
    assert http.post("/save%20it").status_code == 303
    assert captured.uses == []
    http.post("/save%20it", headers={"x-user": str(USER)})
    assert captured.uses == [CapturedUse("save", USER)]


def test_our_own_failure_breaks_no_answer(captured: CapturedUsage, caplog: pytest.LogCaptureFixture) -> None:
    class Odd:
        @property
        def routes(self) -> Any:
            raise RuntimeError("private state has moved")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope.update(endpoint=ok, router=Odd())
        await PlainTextResponse("ok")(scope, receive, send)

    http = client(UsageMiddleware(app))
    assert [http.get("/").text for _ in range(3)] == ["ok"] * 3
    assert captured.uses == []
    assert len(captured.rejected) == 3
    assert len([record for record in caplog.records if record.name == "usage_instrument"]) == 1


def test_strict_raises_where_the_mistake_is() -> None:
    with capture_usage(strict=True), pytest.raises(UserIdError):
        client(UsageMiddleware(tree(), user=lambda scope: 1.5)).get("/")


def test_apps_without_a_known_framework(captured: CapturedUsage) -> None:
    app = UsageMiddleware(PlainTextResponse("raw"), features={"POST /events/{id}/follow": "follow", "/x": "x"})
    requests = ["POST /events/7/follow", "GET /events/7/follow", "POST /events/7/8/follow", "GET /x", "GET /y"]
    assert names_after(captured, app, *requests) == ["follow", "x"]


def test_answers_are_the_same_bytes(captured: CapturedUsage) -> None:
    async def stream(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for number in range(3):
                yield b"%d" % number

        return StreamingResponse(pieces(), headers={"x-thing": "1"})

    app = Starlette(routes=[Route("/stream", stream), Route("/json", lambda request: JSONResponse([1]))])
    for path in ("/stream", "/json", "/nothing"):
        bare = asyncio.run(call(app, path))
        assert asyncio.run(call(UsageMiddleware(app), path)) == bare
        assert len(bare) > 1
    assert captured.names == ["stream", "<lambda>"]


def test_streams_are_passed_on_piece_by_piece(captured: CapturedUsage) -> None:
    async def run() -> None:
        seen = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"1", "more_body": True})
            await asyncio.wait_for(seen.wait(), 10)
            await send({"type": "http.response.body", "body": b"2"})

        async def send(message: Any) -> None:
            if message.get("body") == b"1":
                assert captured.names == ["stream"]
                seen.set()

        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        await UsageMiddleware(app, features=lambda scope: "stream")(scope, None, send)  # type: ignore[arg-type]
        assert seen.is_set()

    asyncio.run(run())


def test_the_context_is_as_before(captured: CapturedUsage) -> None:
    from usage_instrument.capture.context import holder

    async def run() -> None:
        await call(UsageMiddleware(tree()), "/")
        assert holder.get() is None
        stepped = call(UsageMiddleware(tree()), "/")
        with contextlib.suppress(StopIteration):
            while True:  # each step in a context of its own
                contextvars.copy_context().run(stepped.send, None)

    asyncio.run(run())


# ---- lifespan


class Counting(CapturedUsage):
    shutdowns = 0

    async def ashutdown(self, timeout: float | None = None) -> bool:
        self.shutdowns += 1
        return True


@pytest.fixture
def tracker() -> Counting:
    catalog = Catalog()
    catalog.attach(recorder := Counting(catalog))
    return recorder


def test_the_end_of_the_lifespan_writes(tracker: Counting) -> None:
    order = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        order.append("up")
        yield
        order.append(f"down after {tracker.shutdowns}")

    app = Starlette(lifespan=lifespan, middleware=[Middleware(UsageMiddleware, tracker=tracker)])
    for _ in range(2):
        with TestClient(app):
            pass
    assert order == ["up", "down after 0", "up", "down after 1"]
    assert tracker.shutdowns == 2


async def rejects(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        raise ValueError("only http")
    await PlainTextResponse("ok")(scope, receive, send)


async def ignores(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await PlainTextResponse("ok")(scope, receive, send)


@pytest.mark.parametrize("app", [rejects, ignores])
def test_an_app_without_a_lifespan_is_given_one(tracker: Counting, app: ASGIApp) -> None:
    with TestClient(UsageMiddleware(app, tracker=tracker)) as http:
        assert http.get("/").text == "ok"
        assert tracker.shutdowns == 0
    assert tracker.shutdowns == 1


def test_a_failed_start_stays_failed(tracker: Counting) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        raise RuntimeError("no database")
        yield

    with (
        pytest.raises(RuntimeError, match="no database"),
        TestClient(UsageMiddleware(Starlette(lifespan=lifespan), tracker=tracker)),
    ):
        pass


class FailsBeforeItListens:
    def __init__(self, app: ASGIApp) -> None:
        pass

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("not configured")


@pytest.mark.parametrize("is_outermost", [True, False])
def test_a_framework_whose_lifespan_is_not_reached_is_not_given_one(tracker: Counting, is_outermost: bool) -> None:
    counting, failing = Middleware(UsageMiddleware, tracker=tracker), Middleware(FailsBeforeItListens)
    app: ASGIApp = Starlette(middleware=[failing] if is_outermost else [counting, failing])
    if is_outermost:
        app = UsageMiddleware(app, tracker=tracker)
    with pytest.raises(RuntimeError, match="not configured"), TestClient(app):
        pass


def test_a_failed_end_stays_failed_and_writes(tracker: Counting) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        raise RuntimeError("no end")

    with (
        pytest.raises(RuntimeError, match="no end"),
        TestClient(UsageMiddleware(Starlette(lifespan=lifespan), tracker=tracker)),
    ):
        pass
    assert tracker.shutdowns == 1


def test_other_scopes_pass() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    asyncio.run(UsageMiddleware(app)({"type": "telemetry"}, None, None))  # type: ignore[arg-type]
    assert seen == ["telemetry"]
