"""Inside a request: whether the result was a success, whose use it is, and that it counts once."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import types
from http import HTTPStatus
from unittest import mock

import flask
import pytest
import sqlalchemy.orm
import starlette.responses
import werkzeug.local

from usage_instrument.capture.context import Request, as_user, holder, paused
from usage_instrument.capture.decorator import tracks
from usage_instrument.errors import UserIdError
from usage_instrument.testing import CapturedUse, capture_usage


@pytest.fixture
def usage():
    with capture_usage() as captured:
        yield captured


@contextlib.contextmanager
def request_of(method="GET", kind="http", user=None):
    request = Request(kind, method)
    request.allows_tuples = True
    if user is not None:
        request.identify(user)
    token = holder.set(request)
    try:
        yield request
    finally:
        holder.reset(token)


class Answer:
    def __init__(self, status_code):
        self.status_code = status_code


class Broken:
    @property
    def status_code(self):
        raise RuntimeError("not now")


class Lazy:
    def __getattr__(self, name):
        raise RuntimeError(f"the host's {name}")


class Slots:
    __slots__ = ("status_code",)

    def __init__(self, status_code):
        self.status_code = status_code


def never():
    raise AssertionError("this would be a query")


class Row(sqlalchemy.orm.DeclarativeBase):
    pass


class Crawl(Row):
    __tablename__ = "crawls"
    id: sqlalchemy.orm.Mapped[int] = sqlalchemy.orm.mapped_column(primary_key=True)
    status_code: sqlalchemy.orm.Mapped[int]


RESULTS = [
    # what it returns, in GET, in POST: True is a success, False a failure, None neither
    (None, True, True),
    ("page", True, True),
    ({"a": 1}, True, True),
    (object(), True, True),
    (Answer(200), True, True),
    (Answer(302), None, True),
    (Answer(HTTPStatus.NOT_FOUND), False, False),
    (Answer(404), False, False),
    (Answer(500), False, False),
    (Answer(True), True, True),
    (Answer("404"), True, True),
    (Answer(None), True, True),
    (mock.Mock(), True, True),
    (mock.MagicMock(), True, True),
    (mock.Mock(status_code=mock.Mock(spec=int)), True, True),
    (Broken(), True, True),
    (Lazy(), True, True),
    (Slots(404), False, False),
    (mock.Mock(status_code=404), False, False),
    (type("Fixed", (), {"status_code": 410})(), False, False),
    (Crawl(status_code=404), True, True),  # a row is no response
    (flask.Response("no", status=403), False, False),
    (starlette.responses.JSONResponse({}, status_code=422), False, False),
    (starlette.responses.RedirectResponse("/"), None, True),
    (("page", 201), True, True),
    (("page", 404), False, False),
    (("page", HTTPStatus.GONE), False, False),
    (("page", 404, {"X-A": "b"}), False, False),
    (("page", 303), None, True),
    (("page", "404 NOT FOUND"), False, False),
    (("page", {"X-A": "b"}), True, True),
    ((Answer(404), {"X-A": "b"}), False, False),
    ((Answer(404), 200), True, True),
    (("calendar", 12), True, True),  # no response at all
    ((3, 1000), True, True),
    (("a", True), True, True),
    ((("a", 404), ("b", 500)), True, True),
    ((1, 404, 3, 4), True, True),
    ((), True, True),
]


def _named(value: object) -> str:
    """Without the address in it, which is another one in every process that runs the tests."""
    return re.sub(r" (at 0x\w+|id='\d+')", "", repr(value))[:40]


@pytest.mark.parametrize(("result", "get", "post"), RESULTS, ids=_named)
@pytest.mark.parametrize("options", [{}, {"metadata": {"a": 1}}], ids=["plain", "metadata"])
@pytest.mark.parametrize("identified", [True, False])
def test_the_result_of_a_view_is_judged(usage, result, get, post, options, identified):
    @tracks("good", **options)
    def view():
        return result

    @tracks("bad", when="failure", **options)
    async def async_view():
        return result

    for method, verdict in (("GET", get), ("POST", post)):
        usage.clear()
        with request_of(method, user=3 if identified else None) as request:
            assert view() is result
            assert asyncio.run(async_view()) is result
        assert usage.names == {True: ["good"], False: ["bad"], None: []}[verdict]
        assert request.counted == set(usage.names)


def test_a_tuple_is_a_response_in_wsgi_only(usage):
    view = tracks("f")(lambda: ("rows", 404))
    with request_of() as request:
        view()
        request.allows_tuples = False
        view()
    usage.assert_tracked("f", times=1)


def test_a_lazy_result_stays_lazy(usage):
    view = tracks("f")(lambda: werkzeug.local.LocalProxy(never))
    with request_of(user=3):
        view()
    usage.assert_tracked("f", user=3, times=1)


class Unhashable(type):
    def __eq__(cls, other):
        raise RuntimeError("the host's comparison")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("options", [{}, {"metadata": ["number"]}], ids=["hot path", "any"])
def test_a_result_whose_class_has_no_hash_is_a_success(usage, options):
    class Result(metaclass=Unhashable): ...

    @tracks("show", **options)
    def show(number=0):
        return Result()

    @tracks("show", **options)
    async def show_later(number=0):
        return Result()

    show()
    asyncio.run(show_later())
    with request_of():
        show()
        asyncio.run(show_later())
    assert usage.count("show") == 4


@pytest.mark.parametrize("kind", ["websocket", "task"])
def test_outside_of_http_a_status_says_nothing(usage, kind):
    view = tracks("f")(lambda: Answer(404))
    view()
    with request_of(kind=kind, user=3):
        view()
    with as_user(4):
        view()
    assert [use.user for use in usage.uses] == [None, 3, 4]


def test_calls_and_exceptions_are_not_judged(usage):
    @tracks("called", when="call")
    def view():
        return Answer(404)

    @tracks("failed", when="failure")
    def fails():
        raise LookupError

    with request_of():
        view()
        with pytest.raises(LookupError):
            fails()
    assert usage.names == ["called", "failed"]


def test_the_user_is_the_requests(usage):
    @tracks("f")
    def view(user=None):
        if user is not None:
            holder.get().identify(user)

    with request_of(user=1):
        view()
        with as_user(2):
            view()
        view()
    with request_of():
        view()
        view(user=5)
        view()
    assert [use.user for use in usage.uses] == [1, 2, 1, None, 5, 5]


def test_the_user_that_a_request_looks_up(usage):
    view = tracks("f")(lambda: None)
    for lookup in (lambda info: 7, lambda info: None):
        token = holder.set(Request("http", "GET", lookup))
        view()
        holder.reset(token)
    assert usage.uses == [CapturedUse("f", 7), CapturedUse("f", None)]


def test_a_lookup_that_raises_is_rejected_and_never_reaches_the_host(usage):
    def lookup(info):
        raise LookupError("session store is away")

    view = tracks("f")(lambda: "page")
    token = holder.set(Request("http", "GET", lookup))
    assert view() == "page"
    holder.reset(token)
    assert [str(rejected.error) for rejected in usage.rejected] == ["session store is away"]


def test_a_refused_user_rejects_what_would_have_counted(usage):
    view = tracks("f")(lambda status: Answer(status))
    with request_of() as request:
        with pytest.raises(UserIdError):
            request.identify(3.5)
        view(404)
        assert usage.rejected == []
        view(200)
        view(200)
    with as_user(object()):
        view(200)
    assert usage.uses == []
    assert [type(rejected.error) for rejected in usage.rejected] == [UserIdError] * 3


@pytest.mark.parametrize("options", [{}, {"user": 4}, {"user": lambda: 3.5}, {"metadata": {"a": 1}}, {"when": "call"}])
def test_nothing_counts_where_nothing_is_captured(usage, options):
    view = tracks("f", **options)(lambda: None)
    with paused():
        view()
        with as_user(1):
            view()
    for method in ("HEAD", "OPTIONS"):
        with request_of(method, user=1):
            view()
    with request_of(user=1) as request:
        request.discard()
        view()
        with as_user(2):
            view()
    assert (usage.uses, usage.rejected, request.counted) == ([], [], set())


def test_the_request_knows_what_has_counted(usage):
    plain = tracks("plain")(lambda: None)
    rich = tracks("rich", metadata={"a": 1})(lambda: None)
    with request_of() as request:
        plain()
        with as_user(1):
            rich()
        assert request.counted == {"plain", "rich"}


def test_after_its_response_a_request_is_nobodys(usage):
    view = tracks("f")(lambda: Answer(404))
    with request_of(user=1) as request:
        request.close()
        view()
    assert usage.uses == [CapturedUse("f", None)]


# ---- where no middleware is


def flask_views(usage):
    flask = pytest.importorskip("flask")
    app = flask.Flask("views")
    answers = {
        "ok": lambda: "ok",
        "tuple": lambda: ("no", 404),
        "forbidden": lambda: flask.Response(status=403),
        "made": lambda: ("made", 201),
        "moved": lambda: flask.redirect("/ok"),
        "login": lambda: flask.redirect(f"/enter?next={flask.request.path}"),
    }
    for name, answer in answers.items():
        app.add_url_rule(f"/{name}", name, tracks(name)(answer), methods=["GET", "POST"])
    return app.test_client()


def test_flask_judges_a_view_without_a_middleware(usage):
    client = flask_views(usage)
    for name in ("ok", "tuple", "forbidden", "made", "moved", "login"):
        client.get(f"/{name}")
    assert usage.names == ["ok", "made"]
    usage.clear()
    assert client.post("/moved").status_code == 302
    assert client.post("/login").status_code == 302
    assert client.post("/tuple").status_code == 404
    assert usage.names == ["moved", "login"], "no page that is known; the client may have written the location"


def test_a_response_of_starlette_or_django_is_judged_without_a_middleware(usage):
    from starlette.responses import PlainTextResponse

    view = tracks("view")(lambda status: PlainTextResponse("page", status))
    assert [view(status).status_code for status in (200, 403, 500)] == [200, 403, 500]
    assert usage.count("view") == 1


def test_a_tuple_and_what_a_client_got_are_plain_values_outside_of_a_request(usage):
    httpx = pytest.importorskip("httpx")
    tracks("rows")(lambda: ([], 404))()
    tracks("fetched")(lambda: httpx.Response(404))()
    assert usage.names == ["rows", "fetched"]


def test_a_redirect_of_a_decorator_below_to_the_login_page_is_no_success(usage):
    login = pytest.importorskip("flask_login")
    from flask import Flask

    from usage_instrument.wsgi import UsageMiddleware

    for wrap in (lambda app: app, UsageMiddleware):
        app = Flask("views")
        app.secret_key = "secret"
        manager = login.LoginManager(app)
        manager.login_view = "enter"
        manager.user_loader(lambda user: None)
        app.config["USE_SESSION_FOR_NEXT"] = True  # no parameter at all
        app.add_url_rule("/enter", "enter", lambda: "enter")
        app.add_url_rule("/pay", "pay", tracks("paid")(login.login_required(lambda: "paid")), methods=["GET", "POST"])
        app.wsgi_app = wrap(app.wsgi_app)
        client = app.test_client()
        assert [client.get("/pay").status_code, client.post("/pay").status_code] == [302, 302]
    assert usage.names == []


@pytest.mark.parametrize("flask_", [None, types.ModuleType("flask")], ids=["blocked", "being imported"])
def test_flask_that_is_not_there_yet_disturbs_no_tuple(usage, monkeypatch, flask_):
    monkeypatch.setitem(sys.modules, "flask", flask_)
    assert tracks("pair")(lambda: (1, 2))() == (1, 2)
    usage.assert_tracked("pair", times=1)
