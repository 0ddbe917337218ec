"""Inside an app's admin: Starlette, FastAPI, Flask, and beside the middleware that counts."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import urljoin

import flask_login
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import usage_instrument as usage
from conftest import Database, with_users
from reading import counts
from usage_instrument.asgi import UsageMiddleware
from usage_instrument.dashboard.asgi import Dashboard
from usage_instrument.dashboard.wsgi import Dashboard as WSGIDashboard
from usage_instrument.wsgi import UsageMiddleware as WSGIUsageMiddleware

from .conftest import Past, filled


class Backend(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> Any:
        name = conn.headers.get("x-user")
        return (AuthCredentials(["admin"] if name == "root" else []), SimpleUser(name)) if name else None


def is_admin(scope: Any) -> bool:
    return "admin" in scope["auth"].scopes


async def home(request: Any) -> PlainTextResponse:
    return PlainTextResponse("home")


def test_in_starlette(small_past: Past) -> None:
    app = Starlette(
        routes=[Route("/", home), Mount("/admin/usage", Dashboard(small_past.url, authorize=is_admin))],
        middleware=[Middleware(AuthenticationMiddleware, backend=Backend())],
    )
    with TestClient(app) as client:
        assert client.get("/admin/usage").status_code == 403
        assert client.get("/admin/usage/", headers={"x-user": "ada"}).status_code == 403
        client.headers["x-user"] = "root"
        page = client.get("/admin/usage")
        assert page.status_code == 200
        assert str(page.url).endswith("/admin/usage/")
        assert "Top features" in page.text
        assert client.get("/admin/usage/feature?feature=export").status_code == 200
        assert client.get("/").text == "home"


def test_in_fastapi(small_past: Past) -> None:
    app = FastAPI()
    app.mount(
        "/admin/usage", Dashboard(small_past.engine, authorize=lambda scope: (b"x-user", b"root") in scope["headers"])
    )
    with TestClient(app) as client:
        assert client.get("/admin/usage/").status_code == 403
        assert "Top features" in client.get("/admin/usage/", headers={"x-user": "root"}).text


def flask_app(past: Past) -> Flask:
    """An app whose admin has the dashboard."""
    app = Flask(__name__)
    app.secret_key = "of a test"
    login = flask_login.LoginManager(app)

    class User(flask_login.UserMixin):  # type: ignore[misc]
        def __init__(self, id_: str) -> None:
            self.id = id_

    @login.request_loader  # type: ignore[untyped-decorator]
    def load(request: Any) -> User | None:
        name = request.headers.get("x-user")
        return User(name) if name else None

    @app.get("/")
    def home() -> str:
        return "home"

    def is_admin(environ: Any) -> bool:
        with app.request_context(environ):
            return bool(flask_login.current_user.is_authenticated and flask_login.current_user.get_id() == "root")

    dashboard = WSGIDashboard(past.url, authorize=is_admin)
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/admin/usage": dashboard})  # type: ignore[method-assign]
    return app


def test_in_flask(small_past: Past) -> None:
    client = flask_app(small_past).test_client()
    assert client.get("/admin/usage/").status_code == 403
    assert client.get("/admin/usage/", headers={"x-user": "ada"}).status_code == 403
    bare = client.get("/admin/usage", headers={"x-user": "root"})
    assert urljoin("http://localhost/admin/usage", bare.headers["Location"]) == "http://localhost/admin/usage/"
    assert "Top features" in client.get("/admin/usage/", headers={"x-user": "root"}).text
    assert client.get("/").text == "home"


def test_who_looks_adds_nothing_to_the_numbers(sqlite: Database, caplog: pytest.LogCaptureFixture) -> None:
    past = filled(with_users(sqlite))
    before = counts(past.engine, past.tables)
    usage.configure(past.url)
    routes = [Route("/", home, name="home"), Mount("/admin/usage", Dashboard(past.url, authorize=lambda _: True))]
    with TestClient(UsageMiddleware(Starlette(routes=routes))) as client, caplog.at_level(logging.WARNING):
        assert client.get("/admin/usage/").status_code == 200
        assert client.get("/").status_code == 200
        text = client.get("/admin/usage/").text
        assert "1 use of this process is pending." in " ".join(text.split())
    app = flask_app(past)
    app.wsgi_app = WSGIUsageMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    assert app.test_client().get("/admin/usage/", headers={"x-user": "root"}).status_code == 200
    assert usage.shutdown()
    assert usage.stats().written == 1
    after = counts(past.engine, past.tables)
    assert {key: uses for key, uses in after.items() if before.get(key) != uses} == {("home", None): 1}
    assert caplog.records == []


def test_the_host_keeps_its_pool(small_past: Past) -> None:
    engine = sa.create_engine(small_past.url, pool_size=1, max_overflow=0, pool_timeout=1)
    app = FastAPI()
    app.mount("/admin/usage", Dashboard(engine, authorize=lambda _: True))
    with engine.connect() as connection, TestClient(app) as client:
        assert client.get("/admin/usage/").status_code == 200
        connection.execute(small_past.tables.losses.delete())  # by a connection that was never made read-only
        connection.rollback()
    engine.dispose()
