"""Django: requests through its own WSGI and ASGI handlers, its users, its settings and its command."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import types
import unittest
import uuid
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("django")

import httpx
import pymysql
import sqlalchemy as sa
import werkzeug.test
from django.apps import apps
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.db import connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import ConnectionHandler
from django.test import TestCase, TransactionTestCase
from django.test.utils import override_settings
from django.urls import path

import django_site as site
import usage_instrument as usage
from reading import all_of, counts, made
from usage_instrument import Settings, Tracker, _default, asgi, wsgi
from usage_instrument.capture.context import holder
from usage_instrument.capture.user_ids import user_id_of
from usage_instrument.errors import ConfigurationError, DeclarationError, UserIdError
from usage_instrument.experiments import assign
from usage_instrument.integrations.django import database_url
from usage_instrument.integrations.django.dashboard import Dashboard
from usage_instrument.schema import create_all, define_tables
from usage_instrument.testing import capture_usage

# What Django says of a sync iterator under ASGI, and of an async one under WSGI.
pytestmark = [
    pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume"),
    # Which it leaves open when a stream fails.
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <function SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning"
    ),
]
OURS = "usage_instrument.integrations.django.UsageMiddleware"


@pytest.fixture(scope="module", autouse=True)
def users():
    """Ada, who is the user 1, and a database for her."""
    call_command("migrate", verbosity=0)
    site.User.objects.create_user("ada", password="secret")
    yield
    connections.close_all()
    shutil.rmtree(site.DATABASE.parent)


@pytest.fixture
def captured():
    with capture_usage() as found:
        yield found
    assert holder.get() is None


@pytest.fixture(params=["WSGI", "ASGI"])
def client(request):
    return Client(request.param)


class Client:
    """Asks the site by one of Django's handlers, made anew with the settings of the moment, and keeps cookies."""

    def __init__(self, kind, wrap=lambda app: app):
        self.kind, self.wrap, self.cookies = kind, wrap, {}

    def __call__(self, path, method="GET"):
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        status, found, body = (self._wsgi if self.kind == "WSGI" else self._asgi)(method, path, headers)
        for name, value in found:
            if name.lower() == "set-cookie":
                name, _, value = value.partition(";")[0].partition("=")
                self.cookies[name] = value
        return status, found, body

    def _wsgi(self, method, path, headers):
        client = werkzeug.test.Client(self.wrap(get_wsgi_application()), use_cookies=False)
        answer = client.open(path, method=method, headers=headers)
        with answer:
            return answer.status_code, list(answer.headers), answer.data

    def _asgi(self, method, path, headers):
        async def ask():
            transport = httpx.ASGITransport(self.wrap(get_asgi_application()), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                answer = await client.request(method, path, headers=headers)
                return answer.status_code, answer.headers.multi_items(), answer.content

        return asyncio.run(ask())


@pytest.mark.parametrize("kind", ["WSGI", "ASGI"])
def test_a_site_that_is_mounted_counts_by_its_own_middleware(kind, captured):
    from a2wsgi import WSGIMiddleware
    from starlette.applications import Starlette
    from starlette.routing import Mount
    from starlette.testclient import TestClient

    site_app = get_asgi_application() if kind == "ASGI" else WSGIMiddleware(get_wsgi_application())
    app = asgi.UsageMiddleware(Starlette(routes=[Mount("/site", site_app)]))
    assert TestClient(app).get("/site/archive/2024").status_code == 200
    assert features(captured) == [("archive", None)]


def features(captured):
    return [(use.feature, use.user) for use in captured.uses]


@pytest.mark.parametrize(
    ("method", "path", "status", "feature"),
    [
        ("GET", "/shop/plain", 200, "store:plain"),
        ("GET", "/shop/async", 200, "store:async"),
        ("GET", "/shop/items/7?x=1", 200, "store:item"),
        ("GET", "/archive/2024", 200, "archive"),
        ("GET", "/unnamed", 200, "django_site.plain"),
        ("GET", "/shop/events", 200, "store:events GET"),
        ("GET", "/shop/aevents", 200, "store:aevents"),
        ("POST", "/shop/events", 200, "event_created"),
        ("POST", "/shop/redirects", 302, "store:redirects POST"),
        ("GET", "/shop/redirects", 302, None),
        ("GET", "/shop/private", 302, None),
        ("POST", "/shop/private", 302, None),
        ("GET", "/shop/notfound", 404, None),
        ("GET", "/shop/fails", 500, None),
        ("GET", "/nothing", 404, None),
        ("HEAD", "/shop/plain", 200, None),
        ("OPTIONS", "/shop/events", 200, None),
        ("PUT", "/shop/events", 405, None),
        ("GET", "/shop/discards", 200, None),
        ("GET", "/healthz", 200, None),
        ("GET", "/static/conftest.py", 200, None),
        ("GET", "/shop/decorated", 200, "decorated"),
        ("GET", "/shop/decorated?status=409", 409, None),
        ("GET", "/shop/file", 200, "store:file"),
    ],
)
def test_what_counts_and_under_which_name(client, captured, method, path, status, feature):
    assert client(path, method)[0] == status
    assert features(captured) == ([] if feature is None else [(feature, None)])
    assert captured.rejected == []


def test_the_user_is_whom_the_request_has_loaded_and_no_query_asks_for_more(client, captured):
    def ask(path):
        captured.clear()
        queries = []
        for connection in connections.all():
            connection.force_debug_cursor = True
        with count_queries(queries):
            assert client(path)[0] == 200
        user = captured.uses[0].user
        return None if user is None else int(user), len(queries)  # a session holds text

    assert ask("/shop/login?name=ada")[0] == 1
    assert ask("/shop/plain") == (1, 0), "the session is the cookie"
    assert ask("/shop/async") == (1, 0)
    assert ask("/shop/user") == (1, 1)
    assert ask("/shop/auser") == (1, 1)
    assert ask("/shop/private") == (1, 1)
    assert ask("/shop/identifies")[0] == 77
    assert features(captured) == [("identified_inside", 77), ("store:identifies", 77)]
    assert ask("/shop/logout")[0] == 1
    client.cookies.clear()
    assert ask("/shop/user") == (None, 0)


def states_unloaded(request):
    from django.http import HttpResponse

    usage.track("tracked", user=request.user)
    with usage.as_user(request.user, actor=request.user):
        usage.track("as_user")
    usage.identify(request.user)
    usage.track("identified")
    usage.tracks("argument", user_arg="who")(lambda who: None)(request.user)
    return HttpResponse("ok")


async def astates_unloaded(request):
    return states_unloaded(request)


@pytest.mark.parametrize("name", ["states", "astates"])
@pytest.mark.parametrize("option", [False, True])
def test_a_user_whom_nothing_has_loaded_is_taken_without_a_query(client, path_to_states, captured, name, option):
    """`usage.identify(request.user)` was rejected."""
    with path_to_states(lambda request: request.user if option else None):
        assert client(f"/{name}")[0] == 200
        assert {use.user for use in captured.uses} == {None}, captured.rejected
        client("/shop/login?name=ada")
        captured.clear()
        queries = []
        with count_queries(queries):
            client(f"/{name}")
    assert [(use.feature, int(use.user)) for use in captured.uses] == [
        ("tracked", 1), ("as_user", 1), ("identified", 1), ("argument", 1), (name, 1),
    ]  # fmt: skip
    assert (captured.rejected, captured.complaints, queries) == ([], [], [])


@pytest.mark.parametrize("name", ["states", "astates"])
def test_a_user_whom_only_a_query_could_tell_is_never_written_as_anonymous(client, path_to_states, captured, name):
    """With Django's default sessions, each statement of a signed-in user wrote the anonymous one."""
    with path_to_states(lambda request: None), override_settings(SESSION_ENGINE="django.contrib.sessions.backends.db"):
        client(f"/{name}")
        names = ["tracked", "as_user", "identified", "argument", name]
        assert features(captured) == [(each, None) for each in names], "no session is nobody's"
        client("/shop/login?name=ada")
        captured.clear()
        queries = []
        with count_queries(queries):
            assert client(f"/{name}")[0] == 200
        assert (captured.uses, queries) == ([], [])
        assert [rejected.feature for rejected in captured.rejected] == names
        assert all("`request.user.pk`" in str(rejected.error) for rejected in captured.rejected)
        captured.clear()
        client("/loads")
        assert [(use.feature, int(use.user)) for use in captured.uses] == [("loaded", 1), ("loads", 1)]
        client("/shop/logout")
        captured.clear()
        client(f"/{name}")
    assert features(captured) == [(each, None) for each in names]
    assert captured.rejected == []


def test_an_option_that_states_a_user_whom_only_a_query_could_tell(client, path_to_states, captured):
    engine = "django.contrib.sessions.backends.db"
    with path_to_states(lambda request: request.user), override_settings(SESSION_ENGINE=engine):
        client("/shop/plain")
        assert features(captured) == [("store:plain", None)]
        client("/shop/login?name=ada")
        captured.clear()
        client("/shop/plain")
        assert (captured.uses, [rejected.feature for rejected in captured.rejected]) == ([], ["store:plain"])
        client("/shop/user")
    assert [(use.feature, int(use.user)) for use in captured.uses] == [("store:user", 1)]


@pytest.mark.parametrize("engine", ["signed_cookies", "db"])
@pytest.mark.parametrize("is_async", [False, True])
def test_emptying_the_session_counts_for_the_user_who_was_in_it(captured, engine, is_async):
    """`session.flush()` of an app with a login of its own counted as anonymous."""
    from django.http import HttpResponse
    from django.test import Client

    def enter(request):
        request.session["user_id"] = 7
        return HttpResponse("in")

    def leave(request):
        known = request.session.get("user_id")
        request.session.flush()
        return HttpResponse(str(known))

    async def aleave(request):
        known = await request.session.aget("user_id")
        await request.session.aflush()
        return HttpResponse(str(known))

    patterns = [path("enter", enter, name="enter"), path("leave", aleave if is_async else leave, name="leave")]
    with override_settings(
        ROOT_URLCONF=type("Site", (), {"urlpatterns": patterns}),
        SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}",
        USAGE_INSTRUMENT={"session_user": "user_id"},
    ):
        client = Client()
        texts = [client.post(f"/{name}").content.decode() for name in ("enter", "leave", "leave")]
    assert texts == ["in", "7", "None"]
    assert ([use.user for use in captured.uses], captured.rejected) == ([7, 7, None], [])


def test_an_id_that_is_a_property_makes_no_query(captured):
    class Wrapper:
        @property
        def id(self):
            return site.User.objects.values_list("pk", flat=True).first()

    site.User.objects.exists()  # the connection is open
    queries = []
    with count_queries(queries):
        usage.track("wrapped", user=Wrapper())
    assert (captured.uses, queries) == ([], [])
    (rejected,) = captured.rejected
    assert "`id` of the user failed" in str(rejected.error)


def assigns(request):
    """Answers with the variant of a user that nothing has loaded."""
    from django.http import HttpResponse

    return HttpResponse(usage.variant("assigned", ["red", "blue", "green"], user=request.user))


def test_a_user_whom_nothing_has_loaded_gets_a_variant_of_their_own(client, path_to_states, captured):
    """Everybody got the first variant."""
    with path_to_states(lambda request: None):
        client("/shop/login?name=ada")
        captured.clear()
        _, _, body = client("/assigns")
    assert body.decode() == assign("assigned", "1", ["red", "blue", "green"]) != "red"
    assert [(each.variant, int(each.user)) for each in captured.exposures] == [(body.decode(), 1)]
    assert captured.rejected == []


def loads_later(request):
    """The statement comes first; its user is the one of the moment of the use."""
    from django.http import HttpResponse

    usage.identify(request.user)
    with usage.as_user(request.user):
        assert request.user.is_authenticated
        usage.track("loaded")
    return HttpResponse("ok")


@pytest.fixture
def path_to_states():
    """The site with the views, and a `user` option or none."""

    @contextlib.contextmanager
    def enter(user):
        patterns = [
            *site.urlpatterns,
            path("states", states_unloaded, name="states"),
            path("astates", astates_unloaded, name="astates"),
            path("leaves", leaves, name="leaves"),
            path("loads", loads_later, name="loads"),
            path("assigns", assigns, name="assigns"),
        ]
        options = {} if user(types.SimpleNamespace(user=1)) is None else {"user": user}
        with override_settings(ROOT_URLCONF=type("Site", (), {"urlpatterns": patterns}), USAGE_INSTRUMENT=options):
            yield

    return enter


def leaves(request):
    from django.contrib.auth import logout
    from django.http import HttpResponse

    usage.identify(request.user)
    usage.track("before")
    logout(request)
    usage.track("after")
    return HttpResponse("out")


def test_a_lazy_user_is_whom_the_request_loads_later(client, path_to_states, captured):
    with path_to_states(lambda request: None):
        client("/shop/login?name=ada")
        captured.clear()
        client("/leaves")
    assert [(use.feature, int(use.user)) for use in captured.uses] == [("before", 1), ("after", 1), ("leaves", 1)]


def test_another_lazy_object_is_not_the_user_of_the_request(client, captured):
    from django.http import HttpResponse
    from django.utils.functional import SimpleLazyObject

    def someone_else(request):
        usage.track("export", user=SimpleLazyObject(lambda: site.User.objects.get()))
        return HttpResponse("ok")

    patterns = [*site.urlpatterns, path("other", someone_else, name="other")]
    with override_settings(ROOT_URLCONF=type("Site", (), {"urlpatterns": patterns})):
        client("/shop/login?name=ada")
        captured.clear()
        client("/other")
    assert captured.names == ["other"]
    (rejected,) = captured.rejected
    assert "not the user of the request that runs here: pass the user's id" in str(rejected.error)


@contextlib.contextmanager
def count_queries(queries):
    """Django's own hook for it is a connection's, and so a thread's."""
    from django.db.backends.utils import CursorWrapper

    original = CursorWrapper._execute

    def counted(self, sql, *arguments):
        queries.append(sql)
        return original(self, sql, *arguments)

    CursorWrapper._execute = counted
    try:
        yield
    finally:
        CursorWrapper._execute = original


@pytest.mark.parametrize(
    "path", ["/shop/plain", "/shop/user", "/shop/file", "/shop/notfound", "/shop/streams?kind=plain"]
)
def test_answers_are_the_same_with_and_without(client, captured, path):
    client("/shop/login?name=ada")
    answer = client(path)
    with override_settings(MIDDLEWARE=settings.MIDDLEWARE[1:]):
        status, headers, body = client(path)
    assert answer == (status, headers, body)


@pytest.mark.parametrize("view", ["plain", "async"])
def test_a_streamed_answer_counts_once_and_its_pieces_are_the_users(client, captured, view):
    status, _, body = client(f"/shop/streams?kind={view}")
    assert (status, body) == (200, b"abc")
    assert sorted(features(captured)) == [("piece", 5)] * 3 + [("store:streams", 5)]


def test_a_stream_that_fails_before_its_first_piece_is_no_use(client, captured):
    with contextlib.suppress(ZeroDivisionError):
        client("/shop/streams?kind=failing")
    assert captured.uses == []
    gc.collect()


def test_a_streamed_answer_goes_out_piece_by_piece(captured):
    environ = werkzeug.test.create_environ("/shop/streams?kind=plain")
    body = get_wsgi_application()(environ, lambda status, headers: None)
    assert captured.uses == []
    pieces = iter(body)
    assert next(pieces) == b"a"
    assert features(captured) == [("piece", 5), ("store:streams", 5)]
    body.close()
    assert features(captured) == [("piece", 5), ("store:streams", 5)]
    assert [key for key in environ if key.startswith("usage_instrument")] == []


def test_a_file_stays_the_servers_to_send(captured):
    environ = werkzeug.test.create_environ("/shop/file")
    environ["wsgi.file_wrapper"] = wrapper = type("Wrapper", (), {"__init__": lambda self, *given: None})
    body = get_wsgi_application()(environ, lambda status, headers: None)
    assert type(body) is wrapper


def test_a_plain_middleware_around_the_site_shares_the_request(client, captured):
    middleware = {"WSGI": wsgi, "ASGI": asgi}[client.kind].UsageMiddleware
    around = Client(client.kind, lambda app: middleware(app, features={"/shop/identifies": "outer"}))
    assert around("/shop/identifies")[0] == 200
    assert features(captured) == [("identified_inside", 77), ("store:identifies", 77)]
    around("/shop/login?name=ada")
    captured.clear()
    assert around("/shop/user")[0] == 200
    assert around("/shop/streams?kind=plain")[2] == b"abc"
    assert sorted(features(captured)) == [("piece", 5)] * 3 + [("store:streams", 5), ("store:user", 1)]


def test_a_sync_middleware_inside_and_one_that_answers_itself(client, captured):
    with override_settings(MIDDLEWARE=[OURS, "django_site.blocks", *settings.MIDDLEWARE[1:]]):
        assert client("/shop/identifies")[0] == 200
        assert client("/shop/plain?blocked")[2] == b"blocked"
    assert features(captured) == [("identified_inside", 77), ("store:identifies", 77)]


@pytest.mark.parametrize(
    ("path", "outcomes"),
    [
        ("/shop/user", ["attempted", "success"]),
        ("/shop/private", ["attempted", "denied"]),
        ("/shop/notfound", ["failed"]),
        ("/shop/fails", ["failed"]),
        ("/shop/streams?kind=plain", ["success"]),
        ("/shop/streams?kind=async", ["success"]),
        ("/shop/streams?kind=failing", ["failed"]),
        ("/shop/plain", []),
        ("/shop/decorated?status=403", ["denied"]),
    ],
)
def test_what_is_audited_is_told_by_the_route(client, captured, path, outcomes):
    """Names do as well as paths: Django calls between its routing and the view."""
    required = dict.fromkeys(["store:user", "store:private"], "required")
    names = ["store:notfound", "store:fails", "read_stream", "decorated"]
    options = {"features": {"store:streams": "read_stream"}, "audit": {**dict.fromkeys(names, True), **required}}
    with override_settings(USAGE_INSTRUMENT=options):
        try:
            client(path)
        except ZeroDivisionError:
            assert outcomes == ["failed"]
    assert [access.outcome for access in captured.accesses] == outcomes


def teapots_count(status, request):
    return status in (200, 404) and request.path != "/shop/events"


def test_the_options_stand_in_the_settings(client, captured):
    with override_settings(
        USAGE_INSTRUMENT={
            "features": {
                "GET /shop/items/{pk}": lambda request: f"item_{request.GET['kind']}",
                "store:plain": "plain",
                "archive": None,
            },
            "exclude": ["store:a*"],
            "user": lambda request: int(request.GET.get("user", 9)),
            "metadata": lambda request: {"path": request.path},
            "success": f"{__name__}.teapots_count",
        }
    ):
        for path in ("items/7?kind=book", "plain?user=3", "async", "events", "notfound", "redirects"):
            client(f"/shop/{path}")
        client("/archive/2024")
    assert [use[:3] for use in captured.uses] == [
        ("item_book", 9, {"path": "/shop/items/7"}),
        ("plain", 3, {"path": "/shop/plain"}),
        ("store:notfound", 9, {"path": "/shop/notfound"}),
    ]
    for wrong, error in (
        ({"include": "store:*"}, DeclarationError),
        ({"success": "nowhere.at_all"}, ConfigurationError),
        ([], None),
        (["features"], ConfigurationError),
    ):
        with override_settings(USAGE_INSTRUMENT=wrong), pytest.raises(error) if error else contextlib.nullcontext():
            get_wsgi_application()


def test_the_id_of_a_model_is_its_primary_key_whatever_its_name():
    class Account(models.Model):
        code = models.CharField(primary_key=True, max_length=10)

        class Meta:
            app_label = "django_site"

    class Member(Account):
        class Meta:
            app_label = "django_site"

    assert user_id_of(Account(code="ada")) == "ada"
    assert user_id_of(Member(code="bob", account_ptr_id="bob")) == "bob"
    with pytest.raises(UserIdError):
        user_id_of(Account(code=None))


# ---- settings


@pytest.mark.parametrize(
    ("database", "url"),
    [
        ({"ENGINE": "django.db.backends.sqlite3", "NAME": Path("/srv/site.db")}, "sqlite:////srv/site.db"),
        (
            {"ENGINE": "django.db.backends.postgresql", "NAME": "site", "USER": "ada", "PASSWORD": "p@ss/w:rd",
             "HOST": "db", "PORT": "6432", "OPTIONS": {"sslmode": "require", "pool": True, "isolation_level": 2}},
            "postgresql+psycopg://ada:p%40ss%2Fw%3Ard@db:6432/site?sslmode=require",
        ),
        ({"ENGINE": "django.contrib.gis.db.backends.postgis", "NAME": "site"}, "postgresql+psycopg:///site"),
        (
            {"ENGINE": "django.db.backends.postgresql", "NAME": "site", "HOST": "/run/postgresql", "PORT": ""},
            "postgresql+psycopg:///site?host=%2Frun%2Fpostgresql",
        ),
        (
            {"ENGINE": "django.db.backends.mysql", "NAME": "site", "HOST": "/run/mysql.sock", "USER": "ada",
             "OPTIONS": {"charset": "utf8mb4", "init_command": "SET x=1", "ssl": {"ca": "/ca.pem"}}},
            "mysql+pymysql://ada@/site?charset=utf8mb4&ssl_ca=%2Fca.pem&unix_socket=%2Frun%2Fmysql.sock",
        ),
    ],
)  # fmt: skip
def test_databases_as_sqlalchemy_writes_them(monkeypatch, database, url):
    monkeypatch.setattr(settings, "DATABASES", {"default": {}, "usage": database})
    found = database_url("usage")
    assert found.render_as_string(hide_password=False) == url
    assert "p@ss" not in str(found)


@pytest.mark.parametrize(
    ("databases", "said"),
    [
        (
            {"default": {"ENGINE": "django.db.backends.oracle", "NAME": "x"}},
            r"DATABASES\['default'\] has the engine 'django.db.backends.oracle'",
        ),
        ({"default": {}}, r"DATABASES\['default'\] has the engine ''"),
        ({}, r"DATABASES has no 'default'"),
    ],
)
def test_a_database_that_is_none_of_ours_is_told(monkeypatch, databases, said):
    monkeypatch.setattr(settings, "DATABASES", databases)
    with pytest.raises(ConfigurationError, match=said):
        database_url()


def test_a_third_partys_engine_is_of_its_vendor(monkeypatch):
    for name, kind in (("tenants", "postgresql"), ("pooled", "sqlite3")):
        backend = types.ModuleType(f"{name}.base")
        backend.DatabaseWrapper = import_module(f"django.db.backends.{kind}.base").DatabaseWrapper
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setitem(sys.modules, f"{name}.base", backend)
        monkeypatch.setattr(settings, "DATABASES", {"default": {"ENGINE": name, "NAME": "site"}})
        assert database_url().get_backend_name() == kind.removesuffix("3")


def test_an_assumed_role_is_assumed(postgresql, monkeypatch):
    url = sa.make_url(postgresql.url)
    with postgresql.engine().begin() as connection:
        connection.exec_driver_sql('CREATE ROLE "the app\\s"')
    given = {"assume_role": "the app\\s", "options": "-c statement_timeout=5s"}
    database = {
        "ENGINE": "django.db.backends.postgresql", "NAME": url.database, "USER": url.username,
        "PASSWORD": url.password, "HOST": url.host, "PORT": url.port, "OPTIONS": given,
    }  # fmt: skip
    monkeypatch.setattr(settings, "DATABASES", {"default": database})
    engine = sa.create_engine(database_url())
    with engine.connect() as connection:
        asked = "SELECT current_user, current_setting('statement_timeout')"
        assert tuple(connection.exec_driver_sql(asked).one()) == ("the app\\s", "5s")
    engine.dispose()
    with postgresql.engine().begin() as connection:
        connection.exec_driver_sql('DROP ROLE "the app\\s"')


def configured(**options):
    _default.reset()
    with override_settings(USAGE_INSTRUMENT=options):
        apps.get_app_config("usage_instrument").ready()
    return _default.tracker()


def test_the_app_configures_the_tracker_from_the_settings(sqlite, monkeypatch):
    tracker = configured(service="shop")
    assert tracker.database == database_url().update_query_dict({"foreign_keys": "on"})
    assert (tracker.settings.service, tracker.settings.user_id_type, tracker.settings.users) == (
        "shop", "integer", "auth_user.id",
    )  # fmt: skip
    monkeypatch.delenv("USAGE_INSTRUMENT_ENABLED")
    assert not configured().settings.enabled, "the tests' own requests are not to be counted in the real database"
    tracker = configured(enabled=True, database=sqlite.url, user_id_type="string")
    assert str(tracker.database) == sqlite.url
    assert (tracker.settings.enabled, tracker.settings.user_id_type, tracker.settings.users) == (True, "string", None)
    with override_settings(USAGE_INSTRUMENT={"service": "another"}):
        apps.get_app_config("usage_instrument").ready()
    assert _default.tracker() is tracker, "the app's own word stands"
    with pytest.raises(TypeError, match="did you mean 'service'"):
        configured(servce="shop")


@pytest.mark.parametrize("databases", [{"default": {"ENGINE": "django.db.backends.dummy"}}, {}, {"default": {}}])
def test_a_build_without_a_database_goes_on(databases, monkeypatch, caplog):
    monkeypatch.setattr(settings, "DATABASES", databases)
    assert configured() is None
    assert "DATABASES names no database" in caplog.text


# ---- foreign keys


@pytest.mark.parametrize("deletes", ["one by one", "all at once"])
def test_no_use_is_written_for_a_user_who_is_deleted_first(deletes, database, monkeypatch):
    """Such a row would make a later migration fail on SQLite, where Django checks all keys after it."""
    alias, engine = _django_database(database, monkeypatch), database.engine()
    monkeypatch.setitem(settings.DATABASES, alias, connections.settings[alias])
    try:
        _make_tables(alias)
        tables = create_all(engine, users="auth_user.id", user_id_type="integer").tables
        url = {} if database.name == "sqlite" else {"database": database.url}  # the driver of the tests' own
        tracker = configured(
            **({"database": alias} | url), enabled=True, flush_interval=3600, users="auth_user.id", user_retry=0
        )
        users = site.User.objects.db_manager(alias)
        ada, bob = users.create_user("ada"), users.create_user("bob")
        for user in (ada.pk, bob.pk):
            tracker.track("search", user=user)
        if deletes == "one by one":
            ada.delete(using=alias)
        else:
            users.filter(username="ada").delete()
        tracker.flush(30)
        assert counts(engine, tables) == {("search", bob.pk): 1}
        connections[alias].check_constraints()
        users.filter(username="bob").delete()
        assert all_of(engine, tables.usage) == []
    finally:
        _default.reset()
        connections[alias].close()
        del connections[alias]


# ---- manage.py flush


def _django_database(database, monkeypatch):
    """An alias of Django's for a database of the tests."""
    url = sa.make_url(database.url)
    values = {"ENGINE": f"django.db.backends.{_ENGINES[database.name]}", "NAME": url.database}
    if database.name != "sqlite":
        values |= {"USER": url.username, "PASSWORD": url.password, "HOST": url.host, "PORT": str(url.port)}
    if database.name == "mariadb":
        monkeypatch.setitem(sys.modules, "MySQLdb", pymysql)
        pymysql.install_as_MySQLdb()
    settled = ConnectionHandler({"default": settings.DATABASES["default"], "flushed": values}).settings["flushed"]
    monkeypatch.setitem(connections.settings, "flushed", settled)
    return "flushed"


def _make_tables(alias):
    """Django's own tables, from its models: its thirty migrations of them take three times the time."""
    with override_settings(MIGRATION_MODULES=dict.fromkeys(apps.app_configs)):
        call_command("migrate", database=alias, run_syncdb=True, verbosity=0)


_ENGINES = {"sqlite": "sqlite3", "postgresql": "postgresql", "mariadb": "mysql"}


@pytest.mark.parametrize(
    ("kind", "schema"), [("sqlite", None), ("postgresql", None), ("postgresql", "analytics"), ("mariadb", None)]
)
def test_flush_empties_the_counts_with_the_users(kind, schema, request, monkeypatch):
    database = request.getfixturevalue(kind)
    alias, engine = _django_database(database, monkeypatch), database.engine()
    try:
        _make_tables(alias)
        if schema is not None:
            with engine.begin() as connection:
                connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
        tables = create_all(engine, schema=schema, users="auth_user.id", user_id_type="integer").tables
        assert tables.users == "auth_user.id"
        tracker = usage.configure(database.url, schema=schema, user_id_type="integer", flush_interval=3600)
        user = site.User.objects.db_manager(alias).create_user("ada")
        tracker.track("search", user=user.pk, audit=True)
        tracker.expose("page", "new", user=user.pk)
        assert tracker.flush(30), tracker.stats()
        call_command("flush", database=alias, interactive=False, verbosity=0)
        assert not site.User.objects.using(alias).exists()
        assert [table.name for table in tables if all_of(engine, table)] == [
            "feature_usage_writers",
            "feature_usage_access",
            "feature_usage_trail",
        ]
        again = site.User.objects.db_manager(alias).create_user("bob")
        tracker.track("search", user=again.pk, count=2)
        assert tracker.flush(30), tracker.stats()
        assert counts(engine, tables) == {("search", again.pk): 2}
    finally:
        connections[alias].close()
        del connections[alias]


def test_a_transaction_test_case_ends_with_our_tables_in_place(postgresql, monkeypatch):
    """Django empties its tables by its command after each of them."""
    alias, engine = _django_database(postgresql, monkeypatch), postgresql.engine()
    try:
        _make_tables(alias)
        tables = create_all(engine, users="auth_user.id", user_id_type="integer").tables

        class Case(TransactionTestCase):
            databases = frozenset({alias})

            def test_a_use(self):
                user = site.User.objects.db_manager(alias).create_user("ada")
                with engine.begin() as connection:
                    connection.execute(tables.usage.insert().values(user_id=user.pk, feature_name="search"))

        result = unittest.TestResult()
        for _ in range(2):  # of which the second one finds nothing of the first
            Case("test_a_use")(result)
        assert (result.testsRun, result.errors, result.failures) == (2, [], [])
        assert all_of(engine, tables.usage) == []
    finally:
        connections[alias].close()
        del connections[alias]


# ---- the dashboard


def is_ada(request):
    return request.user.get_username() == "ada"


def _names(ids):
    held.append(connections["default"])
    return {user: f"Mr {site.User.objects.count()} of {user}" for user in ids}


held: list[BaseDatabaseWrapper] = []
"""The connections that the names were read by."""


@pytest.fixture
def dashboard(sqlite):
    """In the site, at /admin/usage/, for Ada."""
    with capture_usage():
        engine = sqlite.engine()
        tables = made(engine, user_id_type="integer")
        with engine.begin() as connection:
            connection.execute(tables.usage.insert().values(user_id=7, feature_name="export", usage_count=3))
        tracker = Tracker(sqlite.url, Settings(user_id_type="integer"))
        options = {"authorize_audit": is_ada, "tracker": tracker, "login_url": "/login?next={next}"}
        options["user_label"] = _names
        shown = Dashboard(sqlite.url, authorize=is_ada, **options)
        urls = (path("admin/usage/", shown.urls), *site.urlpatterns)
        with override_settings(ROOT_URLCONF=urls):
            yield engine, tables
        assert tracker.shutdown()


def test_the_dashboard_in_the_site(client, dashboard):
    status, _, body = client("/admin/usage/top-features?period=7d")
    assert status == 403
    assert b'href="/login?next=%2Fadmin%2Fusage%2Ftop-features%3Fperiod%3D7d"' in body
    client("/shop/login?name=ada")
    status, headers, body = client("/admin/usage/")
    assert status == 200
    assert b"There is no history here" in body
    assert {name.lower(): value for name, value in headers}["content-security-policy"].startswith("default-src 'none'")
    (sheet,) = re.findall(rb'href="(usage-\w+\.css)"', body)
    assert client(f"/admin/usage/{sheet.decode()}")[0] == 200
    assert b"export" in client("/admin/usage/feature?feature=export")[2]
    assert client("/admin/usage/nothing")[0] == 404
    assert client("/admin/usage/", "POST")[0] == 405
    status, headers, body = client("/admin/usage/", "HEAD")
    assert (status, body) == (200, b"")


def test_the_names_of_users_are_read_by_a_connection_that_is_closed(client, dashboard):
    client("/shop/login?name=ada")
    held.clear()
    assert b"Mr 1 of 7" in client("/admin/usage/user?user=7")[2]
    assert [connection.connection for connection in held] == [None]


def test_a_look_at_the_trail_is_the_users_of_the_site(client, dashboard):
    engine, tables = dashboard
    assert client("/admin/usage/audit")[0] == 403
    client("/shop/login?name=ada")
    assert client("/admin/usage/audit")[0] == 200
    assert [(row.user_id, row.outcome) for row in all_of(engine, tables.access)] == [(1, "success")]


def test_the_dashboards_database_is_the_trackers_or_the_sites(sqlite):
    _default.reset()
    assert str(database_url()) in str(Dashboard(authorize=is_ada)._reader)
    configured(database=sqlite.url)
    assert sqlite.url in str(Dashboard(authorize=is_ada)._reader)


# ---- a site of its own

PROJECT = {
    "manage.py": """
        import os, sys
        from django.core.management import execute_from_command_line
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project")
        execute_from_command_line(sys.argv)
    """,
    "project.py": """
        from django.http import HttpResponse
        from django.urls import path

        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.db"}}
        INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "usage_instrument.integrations.django"]
        MIDDLEWARE = ["usage_instrument.integrations.django.UsageMiddleware"]
        ROOT_URLCONF, SECRET_KEY, ALLOWED_HOSTS, USE_TZ = "project", "secret", ["*"], True
        USAGE_INSTRUMENT = {"flush_interval": 60}

        def events(request):
            from django.contrib.auth.models import User

            request.user = User.objects.get(username="ada")
            return HttpResponse("ok")

        urlpatterns = [path("events", events, name="events")]
    """,
    "asgi.py": """
        import os
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project")
        from django.core.asgi import get_asgi_application
        from usage_instrument.asgi import UsageMiddleware
        application = UsageMiddleware(get_asgi_application())
    """,
    "tests.py": """
        import unittest
        import usage_instrument
        from django.test import Client

        class Tests(unittest.TestCase):
            def test_nothing_is_written(self):
                Client().get("/nothing")
                self.assertFalse(usage_instrument._default.tracker().settings.enabled)
    """,
}


def test_a_site_without_users_starts(tmp_path):
    """And counts, anonymously."""
    script = """
        import os, sys
        from django.conf import settings

        settings.configure(
            ALLOWED_HOSTS=["*"], ROOT_URLCONF="__main__", SECRET_KEY="secret",
            DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.db"}},
            INSTALLED_APPS=["usage_instrument.integrations.django"],
            MIDDLEWARE=["usage_instrument.integrations.django.UsageMiddleware"],
        )
        import django

        django.setup()
        from django.core.management import call_command
        from django.http import HttpResponse
        from django.test import Client
        from django.urls import path

        import usage_instrument

        urlpatterns = [path("events", lambda request: HttpResponse("ok"), name="events")]
        call_command("usage", "db", "create")
        assert Client().get("/events").status_code == 200
        assert usage_instrument.flush()
        print(usage_instrument.user_features(None)[0].feature_name)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "events"


def test_a_site_from_its_first_migration_to_the_answer(tmp_path):
    for name, text in PROJECT.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "USAGE", "DJANGO"))}
    environment = {**kept, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}

    def manage(*arguments):
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    manage("migrate", "--verbosity", "0")
    manage("shell", "-c", "from django.contrib.auth.models import User; User.objects.create_user('ada')")
    assert "auth_user" in manage("usage", "db", "create")
    manage("test", "tests")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "asgi:application", "--fd", str(listening.fileno())],
            cwd=tmp_path, env=environment, pass_fds=[listening.fileno()],
        )  # fmt: skip
        try:
            for _ in range(3):
                address = f"http://127.0.0.1:{listening.getsockname()[1]}/events"
                assert httpx.get(address, timeout=30, trust_env=False).status_code == 200
            server.send_signal(signal.SIGTERM)
            server.wait(30)
        finally:
            server.kill()
            server.wait()
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'site.db'}")
    found = counts(engine, define_tables(sa.MetaData(), user_id_type="integer", users=None))
    engine.dispose()
    assert found == {("events", 1): 3}
    manage("shell", "-c", "from django.core.management import call_command; call_command('usage', 'db', 'check')")


@pytest.mark.parametrize("has_middleware", [True, False])
def test_a_decorated_view_that_redirects_to_the_login_page_is_no_use(has_middleware):
    from django.contrib.auth.decorators import login_required
    from django.http import HttpResponse
    from django.test import Client

    middleware = [each for each in settings.MIDDLEWARE if has_middleware or "usage_instrument" not in each]
    view = usage.tracks("paid")(login_required(site.plain, redirect_field_name=None))
    forbidden = usage.tracks("opened")(lambda request: HttpResponse(status=403))
    patterns = [path("pay", view), path("open", forbidden)]
    with capture_usage() as captured:
        with override_settings(MIDDLEWARE=middleware, ROOT_URLCONF=type("Site", (), {"urlpatterns": patterns})):
            client = Client()
            assert [client.get("/pay").status_code, client.post("/pay").status_code] == [302, 302]
            assert client.get("/open").status_code == 403
        assert captured.names == []


def test_a_refusal_is_no_use_that_waits_for_a_commit(captured):
    """Without the middleware, the redirect to a login page of the decorator's own counted."""
    from django.contrib.auth.decorators import login_required
    from django.test import Client

    decorated = usage.tracks("paid_if_committed", commit="default")
    patterns = [
        path("pay", decorated(login_required(site.plain, login_url="/other"))),
        path("plain", decorated(site.plain)),
    ]
    middleware = [each for each in settings.MIDDLEWARE if "usage_instrument" not in each]
    with override_settings(MIDDLEWARE=middleware, ROOT_URLCONF=type("Site", (), {"urlpatterns": patterns})):
        with transaction.atomic():
            assert Client().post("/pay").status_code == 302
        assert captured.names == []
        with transaction.atomic():
            Client().post("/plain")
    assert (captured.names, captured.rejected, captured.complaints) == (["paid_if_committed"], [], [])


def test_each_view_of_a_feature_has_the_login_page_of_its_own_decorator(captured):
    """The page of the first view stood for all."""
    from django.contrib.auth.decorators import login_required
    from django.test import Client

    pay, show = usage.tracks("pay"), usage.tracks("show", audit=True)
    patterns = [
        path(f"{name}/{page}", decorated(login_required(site.plain, login_url=f"/{page}")))
        for page in ("one", "two")
        for name, decorated in (("pay", pay), ("show", show))
    ]
    middleware = [each for each in settings.MIDDLEWARE if "usage_instrument" not in each]
    with override_settings(MIDDLEWARE=middleware, ROOT_URLCONF=type("Site", (), {"urlpatterns": patterns})):
        for each in patterns:
            assert Client().post(f"/{each.pattern}").status_code == 302
    assert (captured.names, [access.outcome for access in captured.accesses]) == ([], ["denied"] * 2)


@pytest.mark.parametrize("has_middleware", [True, False])
def test_registering_and_logging_out_count_although_they_end_at_the_login_page(captured, has_middleware):
    """Each redirect to LOGIN_URL was a refusal."""
    from django.contrib.auth import logout
    from django.contrib.auth.decorators import login_required, permission_required, user_passes_test
    from django.contrib.auth.mixins import LoginRequiredMixin
    from django.shortcuts import redirect
    from django.test import Client
    from django.views import View

    def register(request):
        return redirect("signin")

    def leave(request):
        logout(request)
        return redirect("signin")

    def by_hand(request):
        return redirect(f"/signin?return_to={request.path}")

    class Mixed(LoginRequiredMixin, View):
        def post(self, request):
            raise AssertionError

    class Bare(Mixed):
        login_url, redirect_field_name = "/other", None

    nobody = user_passes_test(lambda user: False, login_url="/other", redirect_field_name="came")
    nobody_bare = user_passes_test(lambda user: not user.is_anonymous, login_url="/other", redirect_field_name=None)
    views = {
        "register": register,
        "leave": leave,
        "leave_guarded": login_required(leave),
        "done": user_passes_test(lambda user: True, redirect_field_name=None)(lambda request: redirect("/done")),
        "guarded": login_required(register),
        "permitted": permission_required("no.one")(register),
        "nobody": nobody(register),
        "nobody_bare": nobody_bare(register),
        "mixed": Mixed.as_view(),
        "bare": Bare.as_view(),
        "by_hand": by_hand,
    }
    patterns = [path("signin", site.plain, name="signin")]
    patterns += [path(name, view, name=name) for name, view in views.items() if has_middleware]
    patterns += [path(f"{name}/tracked", usage.tracks(f"{name} tracked")(view)) for name, view in views.items()]
    middleware = [each for each in settings.MIDDLEWARE if has_middleware or "usage_instrument" not in each]
    urlconf, client = type("Site", (), {"urlpatterns": patterns}), Client()

    def post(name, suffix):
        assert client.post(f"/{name}{suffix}").status_code == 302

    with override_settings(MIDDLEWARE=middleware, ROOT_URLCONF=urlconf, LOGIN_URL="signin"):
        for suffix in ["/tracked", *([""] if has_middleware else [])]:
            for name in views:
                post(name, suffix)
            for name in ("leave", "leave_guarded"):
                client.force_login(site.User.objects.get(username="ada"))
                post(name, suffix)
    expected = ["register tracked", "leave tracked", "done tracked", "leave tracked", "leave_guarded tracked"]
    if has_middleware:
        expected += ["register POST", "leave POST", "done POST", "leave POST", "leave_guarded POST"]
        assert [int(use.user or 0) for use in captured.uses] == [0, 0, 0, 1, 1] * 2
    assert [use.feature for use in captured.uses] == expected


def test_a_forged_or_damaged_session_is_nobody_and_its_response_stays_as_it_is(client, captured):
    client("/shop/login?name=ada")
    (name, cookie), *_ = client.cookies.items()
    for damaged in (cookie[:-2], "nothing", ""):
        client.cookies.clear()
        client.cookies[name] = damaged
        captured.clear()
        answer = client("/shop/plain")
        assert (answer[0], captured.uses[0].user) == (200, None)
        with override_settings(MIDDLEWARE=settings.MIDDLEWARE[1:]):
            client.cookies[name] = damaged
            assert client("/shop/plain") == answer


def test_deleting_the_account_counts_anonymously(captured):
    from django.contrib.auth import logout
    from django.http import HttpResponse
    from django.test import Client

    def leave(request):
        request.user.delete()
        logout(request)
        return HttpResponse("gone")

    def leave_identified(request):
        request.user.get_username()  # loads it
        usage.identify(request.user)
        request.user.delete()
        return HttpResponse("gone")

    patterns = [path("leave", leave, name="leave"), path("identified", leave_identified, name="identified")]
    for name in ("leave", "identified"):
        user = site.User.objects.create_user(f"eve {name}", password="secret")
        with override_settings(ROOT_URLCONF=type("Site", (), {"urlpatterns": patterns})):
            client = Client()
            client.force_login(user)
            assert client.get(f"/{name}").content == b"gone"
    assert features(captured) == [("leave", None), ("identified", None)]


def test_operations_of_graphql_are_read_from_the_bodies(captured):
    pytest.importorskip("graphql")
    from django.http import JsonResponse
    from django.test import RequestFactory

    from usage_instrument.integrations.django.middleware import UsageMiddleware

    def serve(request):
        sent = json.loads(request.body)
        return JsonResponse({"errors": [{"message": "no"}]} if "fail" in sent["query"] else {"data": {}})

    with override_settings(USAGE_INSTRUMENT={"graphql": "/graphql"}):
        site = UsageMiddleware(serve)
        for query in ("query Look { book }", "query Look { fail }", "mutation { addBook }"):
            site(RequestFactory().post("/graphql", json.dumps({"query": query}), content_type="application/json"))
    assert captured.names == ["graphql:Look", "graphql:mutation addBook"]


# ---- commit=


@pytest.fixture
def ledger(request, monkeypatch):
    """An alias of Django's with a table of rows, on the database of the parameter."""
    database = request.getfixturevalue(request.param)
    alias = _django_database(database, monkeypatch)
    with connections[alias].cursor() as cursor:
        cursor.execute("CREATE TABLE purchases (id INT PRIMARY KEY)")
    yield alias
    connections[alias].close()
    del connections[alias]


def _buy(alias, number):
    with connections[alias].cursor() as cursor:
        cursor.execute("INSERT INTO purchases VALUES (%s)", [number])
    usage.track("purchase", commit=alias, user=number)


def _rows(alias):
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT id FROM purchases ORDER BY id")
        return [number for (number,) in cursor.fetchall()]


@pytest.mark.parametrize("ledger", ["sqlite", "postgresql", "mariadb"], indirect=True)
def test_a_use_counts_if_its_transaction_commits(ledger, captured):
    with transaction.atomic(using=ledger):
        _buy(ledger, 1)
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=ledger):
            _buy(ledger, 2)
            with transaction.atomic(using=ledger):
                _buy(ledger, 3)  # released, and rolled back with the outer one
            _ = 1 / 0
        with transaction.atomic(using=ledger):
            _buy(ledger, 4)
        assert captured.uses == []
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=ledger):
        _buy(ledger, 5)
        _ = 1 / 0
    with transaction.atomic(using=ledger):
        _buy(ledger, 6)
        transaction.set_rollback(True, using=ledger)
    assert _rows(ledger) == [use.user for use in captured.uses] == [1, 4]
    assert captured.complaints == []
    _buy(ledger, 7)  # autocommit
    assert _rows(ledger) == [use.user for use in captured.uses] == [1, 4, 7]
    assert len(captured.complaints) == 1


@pytest.mark.parametrize("ledger", ["sqlite"], indirect=True)
def test_a_declaration_names_a_database_or_an_argument(ledger, captured):
    @usage.tracks("purchase", commit=ledger)
    def purchase(number, *, fail=False):
        with connections[ledger].cursor() as cursor:
            cursor.execute("INSERT INTO purchases VALUES (%s)", [number])
        if fail:
            transaction.set_rollback(True, using=ledger)

    @usage.tracks("named", commit="default")
    def named(default):
        pass

    with transaction.atomic(using=ledger):
        purchase(1, fail=True)
    with transaction.atomic(using=ledger):
        purchase(2)
        assert captured.uses == []
    assert captured.names == ["purchase"]
    assert _rows(ledger) == [2]
    named("nowhere")
    assert "commit='nowhere' is no database of Django; the aliases are 'default', 'flushed'" in str(
        captured.rejected[0].error
    )
    with pytest.raises(DeclarationError, match="there is no argument 'flushd'"):
        usage.tracks("purchase", commit="flushd")(purchase)
    with pytest.raises(ValueError, match="the aliases are 'default', 'flushed'"):
        usage.track("purchase", commit="flushd")


@pytest.fixture
def outbox(ledger, request):
    """The tables in the database of the ledger, whose tracker writes when it is flushed."""
    database = request.getfixturevalue(request.node.callspec.params["ledger"])
    engine = database.engine()
    tables = made(engine, user_id_type="integer")
    usage.configure(database.url, user_id_type="integer", flush_interval=3600)
    return types.SimpleNamespace(
        engine=engine, tables=tables, rows=lambda: sorted(row.user_id for row in all_of(engine, tables.outbox))
    )


_DATABASES = pytest.mark.parametrize("ledger", ["sqlite", "postgresql", "mariadb"], indirect=True)


@_DATABASES
def test_a_use_is_a_row_of_the_transaction(ledger, outbox):
    with transaction.atomic(using=ledger):
        _buy(ledger, 1)
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=ledger):
            _buy(ledger, 2)
            with transaction.atomic(using=ledger):
                _buy(ledger, 3)
            _ = 1 / 0
        with transaction.atomic(using=ledger):
            _buy(ledger, 4)
    assert outbox.rows() == [1, 4]
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=ledger):
        _buy(ledger, 5)
        _ = 1 / 0
    with transaction.atomic(using=ledger):
        _buy(ledger, 6)
        transaction.set_rollback(True, using=ledger)
        usage.track("purchase", commit=ledger, user=6)  # a statement would raise
    with transaction.atomic(using=ledger):
        usage.track("100% {of} them", commit=ledger, user=7, count=3, metadata={"basket": ["é%s", 1]})
    assert outbox.rows() == [1, 4, 7]
    assert usage.stats().captured == 0
    _buy(ledger, 8)  # autocommit
    assert outbox.rows() == [1, 4, 7]
    assert usage.flush(60)
    assert outbox.rows() == []
    expected = {("purchase", user): 1 for user in (1, 4, 8)}
    assert counts(outbox.engine, outbox.tables) == {**expected, ("100% {of} them", 7): 3}
    [use] = usage.user_features(7)
    assert use.metadata == {"basket": ["é%s", 1]}
    assert abs((use.last_used - dt.datetime.now(dt.UTC).replace(tzinfo=None)).total_seconds()) < 600
    assert usage.stats().rejected == 0


@_DATABASES
@pytest.mark.parametrize("kind", ["uuid", "string"])
def test_users_of_other_types_are_rows(ledger, kind, request):
    database = request.getfixturevalue(request.node.callspec.params["ledger"])
    tables = made(database.engine(), user_id_type=kind)
    usage.configure(database.url, user_id_type=kind, flush_interval=3600)
    user = uuid.UUID(int=2**127 + 7) if kind == "uuid" else "é%s"
    with transaction.atomic(using=ledger):
        usage.track("purchase", commit=ledger, user=user)
        usage.track("purchase", commit=ledger, user=None)
    assert {row.user_id for row in all_of(database.engine(), tables.outbox)} == {user, None}
    assert usage.flush(60)
    assert counts(database.engine(), tables) == {("purchase", user): 1, ("purchase", None): 1}


@_DATABASES
def test_a_table_that_is_not_there_leaves_the_block_alone(ledger, outbox, caplog):
    outbox.tables.outbox.drop(outbox.engine)
    with transaction.atomic(using=ledger):
        _buy(ledger, 1)
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=ledger):
            _buy(ledger, 2)
            _ = 1 / 0
    assert _rows(ledger) == [1]
    assert usage.flush(60)
    assert counts(outbox.engine, outbox.tables) == {("purchase", 1): 1}
    assert caplog.text.count("uses with commit= are recorded after the commit") == 1


@pytest.mark.parametrize("ledger", ["postgresql"], indirect=True)
@pytest.mark.parametrize("options", [{}, {"server_side_binding": True}])
def test_a_row_that_the_database_took_before_and_refuses_now_leaves_the_block_alone(
    ledger, outbox, options, monkeypatch
):
    monkeypatch.setitem(connections.settings[ledger], "OPTIONS", options)
    connections[ledger].close()
    with transaction.atomic(using=ledger):
        _buy(ledger, 1)
    outbox.tables.outbox.drop(outbox.engine)
    for number, track in ((2, _buy), (3, usage.tracks("decorated", commit=ledger, user=3)(_buy))):
        with transaction.atomic(using=ledger):
            track(ledger, number)
    assert _rows(ledger) == [1, 2, 3]
    assert usage.flush(60)
    assert counts(outbox.engine, outbox.tables) == {("purchase", 2): 1, ("purchase", 3): 1, ("decorated", 3): 1}


@pytest.mark.parametrize("ledger", ["sqlite"], indirect=True)
def test_a_use_that_cannot_be_recorded_behind_the_commit_is_logged(ledger, monkeypatch, tmp_path, caplog):
    tracker = usage.configure(f"sqlite:///{tmp_path / 'other.db'}", user_id_type="integer", flush_interval=3600)

    def fail(uses):
        raise ZeroDivisionError

    monkeypatch.setattr(tracker, "_take", fail)
    with transaction.atomic(using=ledger):
        _buy(ledger, 1)
    assert _rows(ledger) == [1]
    assert "a use could not be recorded when its transaction committed" in caplog.text


@pytest.mark.parametrize("ledger", ["mariadb", "postgresql"], indirect=True)
def test_trust_in_one_alias_is_not_trust_in_another(ledger, outbox, monkeypatch):
    """A second role without the right to insert, on the same database."""
    role = f"app_{uuid.uuid4().hex[:12]}"
    is_postgresql = outbox.engine.dialect.name == "postgresql"
    login = "ROLE {} LOGIN PASSWORD 'secret'" if is_postgresql else "USER {} IDENTIFIED BY 'secret'"
    with outbox.engine.begin() as connection:
        connection.exec_driver_sql("CREATE " + login.format(role))
        connection.exec_driver_sql(f"GRANT SELECT, INSERT ON purchases TO {role}")
    settings = {**connections.settings[ledger], "USER": role, "PASSWORD": "secret"}
    monkeypatch.setitem(connections.settings, "poor", settings)
    try:
        for number, alias in enumerate((ledger, "poor", ledger)):
            with transaction.atomic(using=alias):
                _buy(alias, number)
    finally:
        connections["poor"].close()
        del connections["poor"]
        with outbox.engine.begin() as connection:
            if is_postgresql:
                connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP {'ROLE' if is_postgresql else 'USER'} {role}")
    assert (_rows(ledger), outbox.rows()) == ([0, 1, 2], [0, 2])
    assert usage.flush(60)
    assert counts(outbox.engine, outbox.tables) == {("purchase", number): 1 for number in range(3)}


@pytest.mark.parametrize("ledger", ["sqlite"], indirect=True)
def test_in_a_test_case_of_django_uses_wait_for_its_commits(ledger, outbox):
    """Its transaction is rolled back, and no other connection sees its rows."""

    class Case(TestCase):
        databases = frozenset({ledger})

        def test(self):
            with self.captureOnCommitCallbacks(using=ledger, execute=True), transaction.atomic(using=ledger):
                usage.track("purchase", commit=ledger, user=1)

    result = unittest.TestResult()
    unittest.TestSuite([Case("test")]).run(result)
    assert (result.testsRun, result.errors, result.failures) == (1, [], [])
    assert usage.flush(60)
    assert counts(outbox.engine, outbox.tables) == {("purchase", 1): 1}


@pytest.mark.parametrize("ledger", ["sqlite"], indirect=True)
def test_another_database_and_the_request_take_the_hook(ledger, outbox, monkeypatch):
    with transaction.atomic(using="default"):
        usage.track("elsewhere", commit="default", user=1)
    assert outbox.rows() == []
    monkeypatch.setitem(connections.settings[ledger], "ATOMIC_REQUESTS", True)
    with transaction.atomic(using=ledger):
        usage.track("request", commit="request", user=1)
    assert outbox.rows() == []
    assert usage.flush(60)
    assert counts(outbox.engine, outbox.tables) == {("elsewhere", 1): 1, ("request", 1): 1}


@pytest.mark.parametrize("ledger", ["sqlite"], indirect=True)
def test_a_second_alias_of_the_database_writes_rows_too(ledger, outbox, monkeypatch):
    monkeypatch.setitem(connections.settings, "again", connections.settings[ledger])
    try:
        with transaction.atomic(using="again"):
            usage.track("purchase", commit="again", user=1)
        assert outbox.rows() == [1]
    finally:
        connections["again"].close()
        del connections["again"]


@pytest.mark.parametrize("ledger", ["sqlite"], indirect=True)
def test_within_an_event_loop_a_use_takes_the_hook(ledger, outbox, monkeypatch):
    """Django refuses statements there, if nobody insists, but not on_commit()."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")

    async def buy():
        with transaction.atomic(using=ledger):
            usage.track("purchase", commit=ledger, user=1)
        connections[ledger].close()

    asyncio.run(buy())
    assert outbox.rows() == []
    assert usage.flush(60)
    assert counts(outbox.engine, outbox.tables) == {("purchase", 1): 1}


@pytest.mark.parametrize("ledger", ["sqlite"], indirect=True)
def test_the_writer_looks_after_the_commit_of_a_transaction(ledger, outbox):
    with transaction.atomic(using=ledger):
        for number in range(20):
            usage.track("purchase", commit=ledger, user=number)
        assert len(connections[ledger].run_on_commit) == 1
    assert usage._default.tracker()._pipeline.writer.outbox.is_asked


@pytest.fixture
def atomic_requests(sqlite, monkeypatch):
    """Views in the transaction of ATOMIC_REQUESTS, whose writes go to a table of the tests."""
    alias = _django_database(sqlite, monkeypatch)
    with connections[alias].cursor() as cursor:
        cursor.execute("CREATE TABLE purchases (id INTEGER PRIMARY KEY AUTOINCREMENT, request INT)")
    connections[alias].close()
    monkeypatch.setitem(connections.settings[alias], "ATOMIC_REQUESTS", True)
    numbers = itertools.count(1)

    def write():
        with connections[alias].cursor() as cursor:
            cursor.execute("INSERT INTO purchases (request) VALUES (%s)", [next(numbers)])

    def commits(request):
        write()
        return site.HttpResponse()

    def rolls_back(request):
        write()
        transaction.set_rollback(True, using=alias)
        return site.HttpResponse("please correct the form")

    def savepoints(request):
        with contextlib.suppress(ZeroDivisionError), transaction.atomic(using=alias):
            write()
            _ = 1 / 0
        with transaction.atomic(using=alias):
            write()
        return site.HttpResponse()

    def reads(request):
        return site.HttpResponse()

    def raises(request):
        write()
        raise site.Http404

    @transaction.non_atomic_requests(using=alias)
    def non_atomic(request):
        write()
        return site.HttpResponse()

    views = (commits, rolls_back, savepoints, reads, raises, non_atomic)
    urls = types.ModuleType("urls")
    urls.urlpatterns = [path(view.__name__, view, name=view.__name__) for view in views] + [
        path(f"decorated/{view.__name__}", usage.tracks(f"decorated.{view.__name__}", commit="request")(view))
        for view in views
    ]
    with override_settings(ROOT_URLCONF=urls, USAGE_INSTRUMENT={"commit": "request"}):
        yield alias
    connections[alias].close()
    del connections[alias]


@pytest.mark.parametrize("prefix", ["", "decorated/"])
@pytest.mark.parametrize("kind", ["WSGI", "ASGI"])
def test_a_request_counts_if_its_transaction_commits(atomic_requests, captured, kind, prefix):
    ask = Client(kind)
    for view in ("commits", "rolls_back", "savepoints", "reads", "raises", "non_atomic", "commits"):
        ask(f"/{prefix}{view}")
    names = [name.removeprefix("decorated.") for name in (use.feature for use in captured.uses)]
    assert names == ["commits", "savepoints", "reads", "non_atomic", "commits"]
    assert len(_rows_of(atomic_requests)) == 4
    assert connections[atomic_requests].execute_wrappers == []


def _rows_of(alias):
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT id FROM purchases")
        return cursor.fetchall()


def test_a_test_case_of_django_commits_by_its_own_means(atomic_requests, captured):
    class Case(TestCase):
        databases = frozenset({atomic_requests})

        def test(self):
            with self.captureOnCommitCallbacks(using=atomic_requests, execute=True):
                self.client.get("/commits")
                self.client.get("/rolls_back")
                self.client.get("/decorated/commits")
            assert sorted(captured.names) == ["commits", "decorated.commits"]

    result = unittest.TestResult()
    unittest.TestSuite([Case("test")]).run(result)
    assert (result.testsRun, result.errors, result.failures) == (1, [], [])


def test_a_site_without_atomic_requests_cannot_commit_by_request():
    with (
        override_settings(USAGE_INSTRUMENT={"commit": "request"}),
        pytest.raises(ConfigurationError, match="no database has ATOMIC_REQUESTS: set it in DATABASES"),
    ):
        get_wsgi_application()


@pytest.mark.parametrize("ledger", ["sqlite"], indirect=True)
def test_a_transaction_that_django_reports_no_commit_of_is_rejected(ledger, captured):
    transaction.set_autocommit(False, using=ledger)
    try:
        usage.track("purchase", commit=ledger)
        transaction.rollback(using=ledger)
    finally:
        transaction.set_autocommit(True, using=ledger)
    assert captured.uses == []
    assert "use atomic()" in str(captured.rejected[0].error)
