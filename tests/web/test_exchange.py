"""Requests that are no use, and users who become known late or leave early, in each interface."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import flask_login
import pytest
from flask import Flask
from flask import redirect as flask_redirect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from werkzeug.test import Client, EnvironBuilder, run_wsgi_app
from werkzeug.wrappers import Request as WerkzeugRequest

import usage_instrument as usage
from usage_instrument import asgi, wsgi
from usage_instrument.testing import CapturedUsage, capture_usage


@pytest.fixture
def captured() -> Iterator[CapturedUsage]:
    with capture_usage() as captured:
        yield captured


def starlette(**options: Any) -> Any:
    async def home(request: Request) -> Response:
        usage.track("tracked")
        return PlainTextResponse("home", int(request.query_params.get("status", 200)))

    return TestClient(asgi.UsageMiddleware(Starlette(routes=[Route("/", home)]), **options))


def flask_app() -> Flask:
    app = Flask("home")

    @app.get("/")
    def home() -> Any:
        from flask import request

        usage.track("tracked")
        return "home", int(request.args.get("status", 200))

    return app


def flask(**options: Any) -> Any:
    return Client(wsgi.UsageMiddleware(flask_app(), **options))


SITES = pytest.mark.parametrize("site", [starlette, flask])


@SITES
@pytest.mark.parametrize(
    ("name", "value", "counts"),
    [
        ("Sec-Purpose", "prefetch", False),
        ("Sec-Purpose", "prefetch;prerender", False),
        ("Purpose", "prefetch", False),
        ("X-Purpose", "preview", False),
        ("X-Moz", "prefetch", False),
        ("User-Agent", "kube-probe/1.29", False),
        ("User-Agent", "GoogleHC/1.0", False),
        ("User-Agent", "ELB-HealthChecker/2.0", False),
        ("User-Agent", "Mozilla/5.0", True),
        ("Purpose", "shopping", True),
    ],
)
def test_speculative_requests_and_probes_are_no_use(
    captured: CapturedUsage, site: Any, name: str, value: str, counts: bool
) -> None:
    assert site().get("/", headers={name: value}).status_code == 200
    assert captured.names == (["tracked", "home"] if counts else [])


@SITES
@pytest.mark.parametrize("not_modified", [True, False])
def test_not_modified_is_a_use_by_a_setting(captured: CapturedUsage, site: Any, not_modified: bool) -> None:
    assert site(not_modified=not_modified).get("/?status=304").status_code == 304
    assert captured.count("home") == not_modified


# ---- Flask: the route, the path


def test_a_later_request_object_does_not_hide_the_route(captured: CapturedUsage) -> None:
    app = flask_app()

    @app.after_request
    def look(response: Any) -> Any:
        from flask import request

        WerkzeugRequest(request.environ)
        return response

    Client(wsgi.UsageMiddleware(app)).get("/")
    assert "home" in captured.names


def test_a_copied_environ_between_server_and_app_is_followed(captured: CapturedUsage) -> None:
    app = flask_app()
    Client(wsgi.UsageMiddleware(lambda environ, start: app({**environ}, start))).get("/")
    assert "home" in captured.names


def test_a_path_that_is_not_utf_8_is_counted(captured: CapturedUsage) -> None:
    app = Flask("home")
    app.add_url_rule("/<name>", "seen", lambda name: flask_redirect("/done?next=/x", 303), methods=["POST"])
    environ = {**EnvironBuilder(method="POST").get_environ(), "PATH_INFO": "/caf\xe9"}
    run_wsgi_app(wsgi.UsageMiddleware(app), environ)
    run_wsgi_app(wsgi.UsageMiddleware(plain, features={"/{name}": "plain"}), environ)
    assert captured.names == ["seen", "plain"]
    assert captured.rejected == []


def plain(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"plain"]


# ---- the user at the moment of the use


class User(flask_login.UserMixin):  # type: ignore[misc]
    def __init__(self, id_: int) -> None:
        self.id = id_


def site_with_logins(*, counted: bool = True, **config: Any) -> tuple[Flask, list[str]]:
    app, loads = Flask("site"), []
    app.secret_key = "secret"
    app.config.update(config)
    manager = flask_login.LoginManager(app)

    @manager.user_loader  # type: ignore[untyped-decorator]
    def load(id_: str) -> User:
        loads.append(id_)
        return User(int(id_))

    @app.post("/login")
    def login() -> str:
        flask_login.login_user(User(7), remember=True)
        return "in"

    @app.post("/logout")
    def logout() -> str:
        flask_login.logout_user()
        return "out"

    @app.get("/search")
    def search() -> str:
        return "found"

    if counted:
        app.wsgi_app = wsgi.UsageMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    return app, loads


def test_logging_out_counts_for_the_user_who_logged_out(captured: CapturedUsage) -> None:
    app, _ = site_with_logins()
    client = app.test_client()
    client.post("/login")
    client.post("/logout")
    client.get("/search")
    assert [(use.feature, use.user) for use in captured.uses] == [("login", 7), ("logout", 7), ("search", None)]


@pytest.mark.parametrize("cookie", ["session", "remember_token"])
def test_the_session_of_flask_login_has_the_user_without_a_query(captured: CapturedUsage, cookie: str) -> None:
    app, loads = site_with_logins()
    client = app.test_client()
    client.post("/login")
    client.delete_cookie({"session": "remember_token", "remember_token": "session"}[cookie])
    client.get("/search")
    assert [(use.feature, use.user) for use in captured.uses] == [("login", 7), ("search", "7")]
    assert loads == []


def test_reading_the_session_changes_no_header(captured: CapturedUsage) -> None:
    headers = []
    for counted in (True, False):
        client = site_with_logins(counted=counted)[0].test_client()
        headers.append(client.get("/search").headers)
    assert headers[0] == headers[1]


def test_strong_session_protection_holds(captured: CapturedUsage) -> None:
    app, _ = site_with_logins(SESSION_PROTECTION="strong")
    client = app.test_client()
    client.post("/login", headers={"User-Agent": "one"})
    client.delete_cookie("remember_token")
    client.get("/search", headers={"User-Agent": "another"})
    client.get("/search", headers={"User-Agent": "one"})
    assert [use.user for use in captured.uses] == [7, None, "7"]


def test_an_unloaded_user_of_another_clients_session_is_nobody(captured: CapturedUsage) -> None:
    """It was rejected, although strong protection certainly makes it anonymous."""
    app, loads = site_with_logins(SESSION_PROTECTION="strong")

    @app.get("/states")
    def states() -> str:
        usage.track("stated", user=flask_login.current_user)
        return "stated"

    client = app.test_client()
    client.post("/login", headers={"User-Agent": "one"})
    for agent in ("another", "one"):
        client.get("/states", headers={"User-Agent": agent})
    assert [use.user for use in captured.uses if use.feature == "stated"] == [None, "7"]
    assert (captured.rejected, loads) == ([], [])


# ---- WebSockets


def sockets(**options: Any) -> TestClient:
    async def chat(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                name = await websocket.receive_text()
                if name != "hello":
                    usage.identify(name)
                await websocket.send_text(name)
        except WebSocketDisconnect:
            pass

    app = Starlette(routes=[WebSocketRoute("/chat", chat)])
    return TestClient(asgi.UsageMiddleware(app, **options))


@pytest.mark.parametrize("options", [{}, {"audit": {"chat": True}}])
def test_a_user_who_is_identified_after_the_accept_has_used_the_socket(captured: CapturedUsage, options: Any) -> None:
    with sockets(**options).websocket_connect("/chat") as socket:
        for name in ("hello", "ada", "bob"):
            socket.send_text(name)
            socket.receive_text()
    assert [(use.feature, use.user) for use in captured.uses] == [("chat", "ada")]


@pytest.mark.parametrize("options", [{}, {"audit": {"chat": True}}])
def test_a_socket_whose_user_stays_unknown_counts_at_its_end(captured: CapturedUsage, options: Any) -> None:
    with sockets(**options).websocket_connect("/chat"):
        pass
    assert [(use.feature, use.user) for use in captured.uses] == [("chat", None)]
