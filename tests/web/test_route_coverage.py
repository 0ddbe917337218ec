"""What is planned for an app is what its requests then count as."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from flask import Blueprint, Flask
from flask.views import MethodView
from starlette.applications import Starlette
from starlette.authentication import AuthenticationBackend
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient

import usage_instrument as usage
from usage_instrument import asgi, wsgi
from usage_instrument.errors import ConfigurationError
from usage_instrument.testing import CapturedUsage, capture_usage
from usage_instrument.web.route_coverage import CoveredRoute, route_coverage, user_source


@pytest.fixture
def captured() -> Iterator[CapturedUsage]:
    with capture_usage() as captured:
        yield captured


OPTIONS: dict[str, Any] = {
    "features": {
        "GET /named": "by_its_template",
        "never": None,
        "both": "both_named",
        "dynamic": lambda carrier: "told",
    },
    "exclude": ["/admin/*"],
}
PROBES = "probes, metrics and API documentation are not, unless in include="


def as_told(plans: list[CoveredRoute]) -> dict[str, tuple[str | None, str]]:
    by_route = [planned for planned in plans if planned.route]  # the other tests' features are tracked elsewhere
    return {f"{planned.method} {planned.route}".strip(): planned[2:] for planned in by_route}


def flask_app() -> Flask:
    app, admin = Flask("app"), Blueprint("admin", "admin")

    @usage.tracks("view_made")
    def tracked() -> str:
        return "tracked"

    class Item(MethodView):
        def get(self, number: int) -> str:
            return "item"

        @usage.tracks("item_made")
        def post(self, number: int) -> str:
            return "item"

    for name in ("plain", "named", "never", "dynamic", "healthz"):
        app.add_url_rule(f"/{name}", name, lambda: "ok")
    app.add_url_rule("/tracked", view_func=tracked)
    app.add_url_rule("/both", "both", tracked)
    app.add_url_rule("/items/<int:number>", view_func=Item.as_view("item"))
    admin.add_url_rule("/users", "users", lambda: "ok")
    app.register_blueprint(admin, url_prefix="/admin")
    app.wsgi_app = wsgi.UsageMiddleware(app.wsgi_app, **OPTIONS)  # type: ignore[method-assign]
    return app


def test_flask(captured: CapturedUsage) -> None:
    app = flask_app()
    found = as_told(route_coverage(app))
    assert found == {
        "GET /static/{filename}": (None, "static files are no use"),
        "GET /plain": ("plain", "the name of the route"),
        "GET /named": ("by_its_template", "features="),
        "GET /never": (None, "features="),
        "GET /dynamic": (None, "features= names it by the request"),
        "GET /healthz": (None, PROBES),
        "GET /tracked": ("view_made", "@tracks"),
        "GET /both": ("both_named and view_made", "features= and @tracks"),
        "GET /items/{number}": ("item GET", "the name of the route, by its method"),
        "POST /items/{number}": ("item_made", "@tracks"),
        "GET /admin/users": (None, "exclude="),
    }
    client = app.test_client()
    for planned in route_coverage(app):
        if planned.route not in ("", "/dynamic", "/static/{filename}"):
            captured.clear()
            client.open(planned.route.replace("{number}", "7"), method=planned.method)
            names = sorted(captured.names)
            assert names == ([] if planned.feature is None else planned.feature.split(" and ")), planned
    assert captured.complaints == []


async def ok(request: Request) -> Response:
    return PlainTextResponse("ok")


class Event(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("ok")

    @usage.tracks("event_made")
    async def post(self, request: Request) -> Response:
        return PlainTextResponse("ok")


class Chat(WebSocketEndpoint): ...


def starlette_app() -> Starlette:
    return Starlette(
        routes=[
            Route("/plain", ok, name="plain"),
            Route("/named", ok, name="other"),
            Route("/never", ok, name="never"),
            Route("/events/{number:int}", Event),
            WebSocketRoute("/chat", Chat),
            Mount("/admin", routes=[Route("/users", ok)], name="admin"),
            Mount("/users", Starlette(routes=[Route("/{name}", ok, name="show")]), name="users"),
            Mount("/raw", PlainTextResponse("raw"), name="raw"),
            Mount("/nameless", PlainTextResponse("raw")),
            Mount("/static", StaticFiles(directory="."), name="static"),
        ],
        middleware=[Middleware(CORSMiddleware), Middleware(asgi.UsageMiddleware, **OPTIONS)],
    )


@pytest.mark.parametrize("has_started", [False, True])
def test_starlette(captured: CapturedUsage, has_started: bool) -> None:
    app = starlette_app()
    client = TestClient(app)
    if has_started:
        client.get("/plain")
    found = as_told(route_coverage(CORSMiddleware(app)))
    assert found == {
        "GET /plain": ("plain", "the name of the route"),
        "GET /named": ("by_its_template", "features="),
        "GET /never": (None, "features="),
        "GET /events/{number}": ("Event GET", "the name of the route, by its method"),
        "POST /events/{number}": ("event_made", "@tracks"),
        "WEBSOCKET /chat": ("Chat", "the name of the route"),
        "GET /admin/users": (None, "exclude="),
        "GET /users/{name}": ("users:show", "the name of the route"),
        "/raw": ("raw", "the name of the route, methods other than GET are added to it"),
        "/nameless": (None, "it has no name"),
        "/static": (None, "static files are no use"),
    }
    for said, (feature, _) in found.items():
        method, _, path = said.rpartition(" ")
        if method != "WEBSOCKET":
            captured.clear()
            client.request(method or "GET", path.replace("{number}", "7") + ("" if method else "/x"))
            assert captured.names == ([] if feature is None else [feature]), said
    app.add_route("/later", ok)


def test_fastapi() -> None:
    app, router = FastAPI(), APIRouter(prefix="/items")

    @router.get("/{number}")
    async def show(number: int) -> None: ...

    @app.websocket("/live")
    async def live(websocket: Any) -> None: ...

    app.include_router(router, prefix="/v1")
    found = as_told(route_coverage(asgi.UsageMiddleware(app)))
    assert found["GET /v1/items/{number}"] == ("show", "the name of the route")
    assert found["WEBSOCKET /live"] == ("live", "the name of the route")
    assert found["GET /docs"] == found["GET /openapi.json"] == (None, PROBES)


def test_without_the_middleware_only_decorators_count() -> None:
    app = Flask("app")
    app.add_url_rule("/", "home", lambda: "home")
    app.add_url_rule("/tracked", "tracked", usage.tracks("test_plan.tracked")(lambda: "ok"))
    found = as_told(route_coverage(app))
    assert found["GET /"] == (None, "the app has no UsageMiddleware")
    assert found["GET /tracked"] == ("test_plan.tracked", "@tracks")


def test_what_is_tracked_above_its_route_or_elsewhere_or_named_in_vain_is_told() -> None:
    tracker = usage.Tracker("sqlite:///nowhere.db", usage.Settings(enabled=False))
    app = FastAPI()

    @tracker.tracks("above")
    @app.get("/above")
    def above() -> None: ...

    @app.get("/below")
    @tracker.tracks("below")
    def below() -> None: ...

    @tracker.tracks("job")
    def job() -> None: ...

    options: dict[str, Any] = {"features": {"POST /below": "wrong", "below": "named"}}
    planned = route_coverage(asgi.UsageMiddleware(app, tracker=tracker, **options))
    above_it = "the name of the route; @tracks('above') above the route's decorator is never called: put it below"
    assert [one for one in planned if "openapi" not in one.route and "doc" not in one.route] == [
        ("GET", "/above", "above", above_it),
        ("GET", "/below", "named and below", "features= and @tracks"),
        ("POST", "/below", None, "features= names it, and the app has no such route"),
        ("", "", "job", f"@tracks on {__name__}:{job.__qualname__}, from any caller"),
    ]


def test_an_app_that_shows_no_routes_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="function shows no routes"):
        route_coverage(lambda environ, start_response: [])


def test_routes_that_only_redirect_are_no_features(captured: CapturedUsage) -> None:
    why = (None, "a redirect is no use, unless in include=")
    flask = Flask("app", static_folder=None)
    flask.add_url_rule("/old", "old", redirect_to="/new", methods=["POST"])
    flask.wsgi_app = wsgi.UsageMiddleware(flask.wsgi_app)  # type: ignore[method-assign]
    assert as_told(route_coverage(flask)) == {"POST /old": why}
    starlette = Starlette(routes=[Route("/old", RedirectResponse("/new"), name="old")])
    assert as_told(route_coverage(asgi.UsageMiddleware(starlette))) == {"/old": why}
    named = asgi.UsageMiddleware(starlette, features={"/old": "seen"})
    assert as_told(route_coverage(named)) == {"/old": ("seen", "features=")}
    client = TestClient(asgi.UsageMiddleware(starlette), follow_redirects=False)
    assert (client.post("/old").status_code, captured.names) == (307, [])


def plain_wsgi(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"ok"]


async def plain_asgi(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("ok")(scope, receive, send)


class Copying:
    """A middleware that keeps its app under a name of its own."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.routes = {"/": "not a list of Starlette's"}

    def __call__(self, environ: Any, start_response: Any) -> Any:
        return self.inner(dict(environ), start_response)


UNSEEN = [
    (wsgi.UsageMiddleware, plain_wsgi),
    (wsgi.UsageMiddleware, Copying(Flask("copied"))),
    (asgi.UsageMiddleware, plain_asgi),
]


@pytest.mark.parametrize(("middleware", "app"), UNSEEN)
def test_a_middleware_around_an_app_without_visible_routes_shows_its_keys(middleware: Any, app: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"UsageMiddleware\(app, features=\{'GET /path': 'name'\}\)"):
        route_coverage(middleware(app))
    keys = {"/x/<id>": "x_seen", "GET /y": None, "/z": lambda carrier: "z", "a_name": "never"}
    planned = [one for one in route_coverage(middleware(app, features=keys)) if one.route]
    assert planned == [
        ("", "/x/<id>", "x_seen", "features="),
        ("GET", "/y", None, "features="),
        ("", "/z", None, "features= names it by the request"),
    ]


def test_where_the_user_comes_from() -> None:
    async def view(request: Request) -> Response:
        return PlainTextResponse("ok")

    def starlette(*outer: Middleware, **options: Any) -> Starlette:
        middleware = [*outer, Middleware(asgi.UsageMiddleware, **options)]
        return Starlette(routes=[Route("/", view)], middleware=middleware)

    class Backend(AuthenticationBackend): ...

    authentication = Middleware(AuthenticationMiddleware, backend=Backend())
    assert user_source(starlette()).startswith("unknown: every use is anonymous, unless the app calls usage.identify")
    assert user_source(starlette(authentication)) == 'scope["user"] of AuthenticationMiddleware'
    assert user_source(starlette(session_user="user_id")) == "session['user_id']"
    assert user_source(starlette(user=lambda scope: 5)) == "user="
    app = flask_app()
    assert user_source(app).startswith("unknown")
    login = pytest.importorskip("flask_login")
    login.LoginManager(app)
    assert user_source(app).startswith("Flask-Login's user, once it is loaded")
