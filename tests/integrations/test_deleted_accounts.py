"""A user who deletes the account in a request: the uses count for nobody, and none waits. A sign-up still waits."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import flask
import pytest
from fastapi import BackgroundTasks, FastAPI, Response
from flask_login import LoginManager, UserMixin
from starlette.testclient import TestClient

from conftest import UsersDatabase, with_users
from reading import balanced, counts, made
from usage_instrument import Settings, Tracker
from usage_instrument.asgi import UsageMiddleware
from usage_instrument.integrations.tasks import HEADER, TaskCounter
from usage_instrument.pipeline.store import Store
from usage_instrument.schema import Tables
from usage_instrument.wsgi import UsageMiddleware as WSGIMiddleware

GONE = {("open_page", None): 1, ("leave", None): 1}


class Site:
    """A users table, and a tracker that has never written for any of its users."""

    def __init__(self, users: UsersDatabase) -> None:
        self.engine, self.users, self.ids = users.engine, users.users, users.user_ids
        self.tables: Tables = made(users.engine)
        self.tracker = Tracker(users.database.engine(), Settings(flush_interval=3600))

    def delete(self, user: object) -> None:
        with self.engine.begin() as connection:
            connection.execute(self.users.delete().where(self.users.c.id == uuid.UUID(str(user))))

    def insert(self, user: uuid.UUID) -> None:
        with self.engine.begin() as connection:
            connection.execute(self.users.insert().values(id=user, name="new"))

    def counts(self) -> dict[Any, int]:
        return counts(self.engine, self.tables)


@pytest.fixture
def site(sqlite: Any) -> Iterator[Site]:
    made_ = Site(with_users(sqlite))
    yield made_
    made_.tracker.shutdown(0.5)


def flask_site(site: Site) -> Callable[[], object]:
    """The session holds the id, and nothing loads the user."""

    class User(UserMixin):  # type: ignore[misc]
        id = ""

    app = flask.Flask("shop")
    app.secret_key = "secret"
    LoginManager(app).user_loader(lambda key: None)

    @app.post("/login")
    def login() -> str:
        flask.session["_user_id"] = str(site.ids[0])
        return ""

    @app.post("/open")
    def open_page() -> str:
        return ""

    @app.post("/leave")
    def leave() -> str:
        site.delete(flask.session["_user_id"])
        return ""

    app.wsgi_app = WSGIMiddleware(  # type: ignore[method-assign]
        app.wsgi_app, tracker=site.tracker, exclude=["login"]
    )
    client = app.test_client()
    client.post("/login")

    def requests() -> None:
        client.post("/open")
        client.post("/leave")

    return requests


def fastapi_site(site: Site) -> Callable[[], object]:
    """The app states a bare id."""
    app = FastAPI()

    @app.post("/open")
    def open_page() -> None:
        site.tracker.identify(site.ids[0])

    @app.post("/leave")
    def leave() -> None:
        site.tracker.identify(site.ids[0])
        site.delete(site.ids[0])

    app.add_middleware(UsageMiddleware, tracker=site.tracker)

    def requests() -> None:
        client = TestClient(app)
        client.post("/open")
        client.post("/leave")

    return requests


def explicit_site(site: Site) -> Callable[[], object]:
    """Each use names its user."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        if scope["path"] == "/leave":
            await asyncio.to_thread(site.delete, site.ids[0])
        site.tracker.track(scope["path"][1:], user=site.ids[0])
        await Response(status_code=204)(scope, receive, send)

    counted = UsageMiddleware(app, tracker=site.tracker)

    def requests() -> None:
        client = TestClient(counted)
        client.post("/open_page")
        client.post("/leave")

    return requests


def task_site(site: Site) -> Callable[[], object]:
    """A task deletes the user whose request sent it."""
    counter = TaskCounter({"tracker": site.tracker})

    def requests() -> None:
        for name in ("open_page", "leave"):
            run = counter.begin(SimpleNamespace(), {HEADER: f"uuid:{site.ids[0]}"})
            if name == "leave":
                site.delete(site.ids[0])
            run.succeed(name, None)
            run.end()

    return requests


@pytest.mark.parametrize("host", [flask_site, fastapi_site, explicit_site, task_site])
def test_deleting_the_account_by_a_statement_counts_at_once(
    host: Callable[[Site], Callable[[], object]], site: Site
) -> None:
    host(site)()
    assert site.tracker.flush(30), "nothing waits for a user who is gone"
    assert site.counts() == GONE
    assert balanced(site.tracker.stats())


def test_a_sign_up_waits_until_its_request_has_ended_and_counts_for_the_new_user(site: Site) -> None:
    app, new, flushed = FastAPI(), uuid.uuid4(), []

    @app.post("/sign-up")
    def sign_up(later: BackgroundTasks) -> None:
        site.tracker.identify(new)
        site.tracker.track("welcome")
        flushed.append(site.tracker.flush(30))
        later.add_task(site.insert, new)

    app.add_middleware(UsageMiddleware, tracker=site.tracker)
    TestClient(app).post("/sign-up")
    assert flushed == [False]
    assert site.tracker.flush(30)
    assert site.counts() == {("welcome", new): 1, ("sign_up", new): 1}


def test_a_sign_up_whose_commit_follows_its_request_counts_for_the_new_user(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A middleware further out commits, and a flush comes in between."""
    app, new = FastAPI(), uuid.uuid4()

    @app.post("/sign-up")
    def sign_up() -> None:
        site.tracker.identify(new)

    app.add_middleware(UsageMiddleware, tracker=site.tracker)
    TestClient(app).post("/sign-up")
    ask = Store.unknown_users

    def ask_first(store: Store, users: Any) -> Any:
        monkeypatch.setattr(Store, "unknown_users", ask)
        found = ask(store, users)
        assert found == {new}
        site.insert(new)
        return found

    monkeypatch.setattr(Store, "unknown_users", ask_first)
    assert site.tracker.flush(30)
    assert site.counts() == {("sign_up", new): 1}


@pytest.mark.parametrize("way", ["status", "exception"])
def test_a_sign_up_that_fails_confirms_no_user(way: str, site: Site, caplog: pytest.LogCaptureFixture) -> None:
    app, new = FastAPI(), uuid.uuid4()

    @app.post("/sign-up")
    def sign_up(response: Response) -> None:
        site.tracker.identify(new)
        site.tracker.track("welcome")
        if way == "exception":
            raise OSError("the database is away")
        response.status_code = 409

    app.add_middleware(UsageMiddleware, tracker=site.tracker)
    with caplog.at_level(logging.CRITICAL):
        TestClient(app, raise_server_exceptions=False).post("/sign-up")
    assert not site.tracker.flush(30), "as before: the row may be committed by another process"
    site.insert(new)
    assert site.tracker.flush(30)
    assert site.counts() == {("welcome", new): 1}


def test_a_use_that_a_flush_met_before_its_request_ended_counts_with_the_next(site: Site) -> None:
    app, flushed = FastAPI(), []

    @app.post("/leave")
    def leave() -> None:
        site.tracker.identify(site.ids[0])
        site.delete(site.ids[0])
        site.tracker.track("asked")
        flushed.append(site.tracker.flush(30))

    app.add_middleware(UsageMiddleware, tracker=site.tracker)
    TestClient(app).post("/leave")
    assert flushed == [False]
    assert site.tracker.flush(30)
    assert site.counts() == {("asked", None): 1, ("leave", None): 1}


def test_a_use_in_the_transaction_that_deletes_its_user_counts_for_nobody(site: Site) -> None:
    app = FastAPI()

    @app.post("/leave")
    def leave() -> None:
        with site.engine.begin() as connection:
            site.tracker.track("left", user=site.ids[0], commit=connection)
            connection.execute(site.users.delete().where(site.users.c.id == site.ids[0]))
        assert site.tracker.flush(30)  # which leaves the row in the outbox
        assert site.counts() == {}

    app.add_middleware(UsageMiddleware, tracker=site.tracker)
    TestClient(app).post("/leave")
    assert site.tracker.flush(30)
    assert site.counts() == {("left", None): 1, ("leave", None): 1}
    assert (site.tracker.stats().outbox_pending, site.tracker.stats().rejected) == (0, 0)
