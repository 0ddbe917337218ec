"""The WSGI middleware, around real Flask and around plain apps."""
# ruff: noqa: A002, A006

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from typing import Any
from wsgiref.validate import validator

import flask_login
import pytest
from flask import Blueprint, Flask, Response, redirect, stream_with_context
from flask.views import MethodView, View
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client
from werkzeug.wsgi import FileWrapper

import usage_instrument as usage
from usage_instrument.capture.context import holder
from usage_instrument.capture.registry import Catalog
from usage_instrument.errors import DeclarationError, FeatureNameError, UserIdError
from usage_instrument.testing import CapturedUsage, CapturedUse, capture_usage
from usage_instrument.typing import Environ, StartResponse, WSGIApp
from usage_instrument.wsgi import UsageMiddleware


@pytest.fixture
def captured() -> Iterator[CapturedUsage]:
    with capture_usage() as captured:
        yield captured


def names_after(captured: CapturedUsage, app: WSGIApp, *requests: str) -> list[str]:
    client = Client(app)
    for request in requests:
        method, path = request.split(" ", 1)
        client.open(path, method=method, buffered=True)
    return [use.feature for use in captured.uses]


def flask_app() -> Flask:
    app = Flask(__name__)
    outer, inner = Blueprint("calendar", __name__, static_folder="."), Blueprint("admin", __name__)

    @app.get("/")
    def home() -> str:
        return "home"

    @outer.post("/events/<int:id>/follow")
    def follow(id: int) -> Any:
        return redirect("/", 303)

    @outer.get("/events/<int:id>")
    @usage.tracks("event_seen")
    def event(id: int) -> str:
        return str(id)

    @inner.get("/<path:rest>")
    def anything(rest: str) -> str:
        return rest

    class Item(MethodView):
        def get(self) -> str:
            return "item"

        @usage.tracks("item_made")
        def post(self) -> str:
            return "made"

    @usage.tracks("page_made")
    class Page(View):
        def __init__(self) -> None: ...

        def dispatch_request(self) -> str:
            return "page"

    @app.get("/stream")
    def stream() -> Response:
        def pieces() -> Iterator[str]:
            yield "1"
            usage.track("inside")
            yield "2"

        usage.identify(3)
        return Response(stream_with_context(pieces()))

    @app.get("/broken")
    def broken() -> str:
        raise LookupError("theirs")

    @app.get("/healthz")
    def healthz() -> str:
        return "ok"

    app.add_url_rule("/item", view_func=Item.as_view("item"))
    app.add_url_rule("/page", view_func=Page.as_view("page"))
    outer.register_blueprint(inner, url_prefix="/admin")
    app.register_blueprint(outer, url_prefix="/cal")
    return app


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        ("GET /", "home"),
        ("POST /cal/events/7/follow", "calendar.follow"),
        ("GET /cal/events/7", "event_seen"),
        ("GET /cal/admin/a/b", "calendar.admin.anything"),
        ("GET /item", "item GET"),
        ("POST /item", "item_made"),
        ("GET /page", "page_made"),
        ("GET /stream", "stream"),
        ("GET /broken", None),
        ("GET /healthz", None),
        ("GET /nothing", None),
        ("GET /cal/events/7/follow", None),
        ("HEAD /", None),
        ("HEAD /cal/events/7", None),
        ("OPTIONS /", None),
        ("GET /cal/static/test_wsgi.py", None),
    ],
)
def test_flask_routes(captured: CapturedUsage, request_: str, name: str | None) -> None:
    app = flask_app()
    app.wsgi_app = UsageMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    found = [one for one in names_after(captured, app, request_) if one != "inside"]
    assert found == ([] if name is None else [name])


@pytest.mark.parametrize(
    "key",
    [
        "POST /cal/events/<int:id>/follow",
        "/cal/events/<id>/follow",
        "POST /cal/events/{id}/follow",
        "/cal/events/{id:int}/follow",
        "calendar.follow",
        "POST calendar.follow",
    ],
)
def test_a_features_entry_names_a_route(captured: CapturedUsage, key: str) -> None:
    app = UsageMiddleware(flask_app(), features={key: "chosen", "home": None})
    assert names_after(captured, app, "POST /cal/events/7/follow", "GET /") == ["chosen"]


def test_a_features_entry_beside_a_decorator(captured: CapturedUsage) -> None:
    app = UsageMiddleware(flask_app(), features={"POST item": "item_made", "calendar.event": "also"})
    assert names_after(captured, app, "POST /item", "GET /cal/events/7") == ["item_made", "event_seen", "also"]


def test_include_and_exclude(captured: CapturedUsage) -> None:
    app = UsageMiddleware(flask_app(), include=["calendar.*", "GET /"], exclude=["/cal/admin/*"])
    requests = ["GET /", "GET /item", "GET /cal/admin/x", "POST /cal/events/7/follow"]
    assert names_after(captured, app, *requests) == ["home", "calendar.follow"]


def test_dispatched_apps(captured: CapturedUsage) -> None:
    other = Flask("other")

    @other.get("/<int:id>")
    def show(id: int) -> str:
        return str(id)

    @other.get("/")
    def start() -> str:
        return "start"

    app = UsageMiddleware(
        DispatcherMiddleware(flask_app(), {"/other": other}),
        features={"GET /other/<int:id>": "other_shown", "GET /": "front"},
    )
    requests = ["GET /other/3", "GET /other/", "GET /", "GET /item", "GET /other/nothing"]
    assert names_after(captured, app, *requests) == ["other_shown", "start", "front", "item GET"]


def test_middleware_in_a_dispatched_app_shares_the_request(captured: CapturedUsage) -> None:
    other = Flask("other")

    @other.get("/<int:id>")
    def show(id: int) -> str:
        usage.identify(id)
        return str(id)

    inner = UsageMiddleware(other, features={"GET /{id}": "inner"})
    app = UsageMiddleware(UsageMiddleware(DispatcherMiddleware(flask_app(), {"/other": inner})))
    names_after(captured, app, "GET /other/3", "GET /")
    assert captured.uses == [CapturedUse("inner", 3), CapturedUse("home")]
    assert captured.complaints == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"features": {"home": ""}}, FeatureNameError),
        ({"exclude": "home"}, DeclarationError),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        UsageMiddleware(flask_app(), **options)


# ---- who


class Account(flask_login.UserMixin):  # type: ignore[misc]
    def __init__(self, id: int) -> None:
        self.id = id


@pytest.fixture
def with_login() -> Flask:
    app = Flask("with_login")
    app.secret_key = "secret"
    manager = flask_login.LoginManager(app)
    manager.login_view = "login"
    manager.user_loader(lambda id: Account(int(id)))
    loads: list[str] = []
    app.config["loads"] = loads

    @manager.request_loader  # type: ignore[untyped-decorator]
    def load(request: Any) -> Account | None:
        loads.append(request.path)
        return Account(int(request.headers["X-User"])) if "X-User" in request.headers else None

    @app.post("/save")
    @usage.tracks("save")
    @flask_login.login_required  # type: ignore[untyped-decorator]
    def save() -> Any:
        return redirect("/")

    @app.post("/touch")
    @flask_login.login_required  # type: ignore[untyped-decorator]
    def touch() -> Any:
        return redirect("/")

    @app.get("/seen")
    def seen() -> str:
        return str(flask_login.current_user.is_authenticated)

    @app.get("/open")
    def open_() -> str:
        return "open"

    @app.route("/login", methods=["GET", "POST"])
    def login() -> Any:
        return redirect("/open")

    app.wsgi_app = UsageMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    return app


def test_the_user_that_flask_login_has_loaded(captured: CapturedUsage, with_login: Flask) -> None:
    client = with_login.test_client()
    for path in ("/seen", "/open"):
        for headers in ({"X-User": "5"}, {}):
            client.get(path, headers=headers, buffered=True)
    assert captured.uses == [CapturedUse("seen", 5), CapturedUse("seen"), CapturedUse("open_"), CapturedUse("open_")]
    assert with_login.config["loads"] == ["/seen", "/seen"]


def test_the_user_stays_known_when_flask_has_left_the_request(captured: CapturedUsage, with_login: Flask) -> None:
    @usage.tracks("row")
    def row() -> str:
        return "x"

    @with_login.get("/rows")
    def rows() -> Any:
        return Response((row() for _ in range(2)), headers={"X-User": flask_login.current_user.get_id()})

    client = with_login.test_client()
    client.get("/rows", headers={"X-User": "5"}, buffered=True)
    assert captured.count("rows", 5) == 1
    assert captured.count("row", 5) == 2
    client.get("/open", buffered=True)
    assert captured.uses[-1] == CapturedUse("open_")


@pytest.mark.parametrize("in_session", [False, True])
def test_a_redirect_to_log_in_is_not_a_use(captured: CapturedUsage, with_login: Flask, in_session: bool) -> None:
    with_login.config["USE_SESSION_FOR_NEXT"] = in_session
    client = with_login.test_client()
    for path in ("/save", "/touch"):
        assert client.post(path, buffered=True).status_code == 302
    assert captured.uses == []
    for path in ("/save", "/touch", "/login"):
        client.post(path, headers={"X-User": "5"}, buffered=True)
    assert captured.uses == [CapturedUse("save", 5), CapturedUse("touch", 5), CapturedUse("login POST")]


def test_the_order_of_who_says_who(captured: CapturedUsage) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        with contextlib.ExitStack() as stack:
            if "identified" in environ["PATH_INFO"]:
                usage.identify(2)
            if "overridden" in environ["PATH_INFO"]:
                stack.enter_context(usage.as_user(3))
            start_response("200 OK", [])
            return [b"ok"]

    plain = UsageMiddleware(app, features=lambda environ: "seen")
    names_after(captured, plain, "GET /", "GET /identified", "GET /identified/overridden", "GET /")
    explicit = UsageMiddleware(app, features=lambda environ: "seen", user=lambda environ: "4")
    names_after(captured, explicit, "GET /identified/overridden")
    with usage.as_user(9):
        names_after(captured, plain, "GET /identified")
    assert [use.user for use in captured.uses] == [None, 2, 3, None, "4", 9]


def test_strict_raises_where_the_mistake_is() -> None:
    with capture_usage(strict=True), pytest.raises(UserIdError):
        names_after(
            CapturedUsage.__new__(CapturedUsage), UsageMiddleware(flask_app(), user=lambda environ: 1.5), "GET /"
        )


def test_a_callable_that_fails_breaks_no_answer(captured: CapturedUsage, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*args: object) -> Any:
        raise LookupError("theirs")

    for option in ("user", "metadata", "success", "features"):
        client = Client(UsageMiddleware(flask_app(), **{option: broken}))  # type: ignore[arg-type]
        assert [client.get("/", buffered=True).text for _ in range(2)] == ["home", "home"]
    assert captured.uses == [CapturedUse("home")] * 2
    assert len(captured.metadata_lost) == 2
    assert len(captured.rejected) == 6
    assert len(caplog.records) == 1


# ---- the body


def exchange(app: WSGIApp, *, read: int | None = None, method: str = "GET", **more: Any) -> tuple[Any, list[bytes]]:
    """What a server does: call, read (up to `read` pieces), close. Returns the status and headers, and the pieces."""
    started: list[Any] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        started.append((status, headers, exc_info is not None))
        return lambda data: None

    environ = {"REQUEST_METHOD": method, "PATH_INFO": "/", "SCRIPT_NAME": "", **more}
    body = app(environ, start_response)
    pieces: list[bytes] = []
    try:
        iterator = iter(body)
        while read is None or len(pieces) < read:
            try:
                pieces.append(next(iterator))
            except StopIteration:
                break
    finally:
        if hasattr(body, "close"):
            body.close()
    return started, pieces


class Body:
    """A body that knows whether it was closed, and who the user is at each step."""

    def __init__(self) -> None:
        self.users: list[object] = []
        self.closed = 0
        self._left = 2

    def __iter__(self) -> Body:
        self.users.append(self._user())
        return self

    def __next__(self) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise StopIteration
        self.users.append(self._user())
        return b"piece"

    def close(self) -> None:
        self.closed += 1
        self.users.append(self._user())

    @staticmethod
    def _user() -> object:
        held = holder.get()
        return "nobody" if held is None else held.capture_user()


@pytest.mark.parametrize("read", [None, 0, 1])
def test_a_body_is_made_and_closed_as_its_user(captured: CapturedUsage, read: int | None) -> None:
    body = Body()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        usage.identify(4)
        start_response("200 OK", [("X", "y")])
        return body

    started, pieces = exchange(UsageMiddleware(app, features={"/": "read"}), read=read)
    assert started == [("200 OK", [("X", "y")], False)]
    assert pieces == [b"piece"] * (2 if read is None else read)
    assert body.closed == 1
    assert set(body.users) == {4}
    assert captured.uses == [CapturedUse("read", 4)]
    assert holder.get() is None


class Sized:
    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"x"])


@pytest.mark.parametrize("body", [[b"x"], (b"x",), Sized(), io.BytesIO(b"x"), FileWrapper(io.BytesIO(b"x"))])
def test_bodies_that_servers_look_at_are_returned_untouched(captured: CapturedUsage, body: Any) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return body  # type: ignore[no-any-return]

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.file_wrapper": FileWrapper}
    assert UsageMiddleware(app, features={"/": "read"})(environ, lambda *args: lambda data: None) is body
    assert captured.uses == [CapturedUse("read")]


def test_an_app_that_is_a_generator(captured: CapturedUsage) -> None:
    @usage.tracks("inside")
    def inside() -> None: ...

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        usage.identify(1)
        start_response("200 OK", [])
        yield b"1"
        with usage.as_user(2):
            yield b"2"
            inside()
            yield b"3"
        inside()

    wrapped = UsageMiddleware(app, features={"/": "read"})
    assert exchange(wrapped)[1] == [b"1", b"2", b"3"]
    assert captured.uses == [CapturedUse("read", 1), CapturedUse("inside", 2), CapturedUse("inside", 1)]
    assert holder.get() is None


def test_two_bodies_in_one_thread_stay_apart(captured: CapturedUsage) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        usage.identify(int(environ["QUERY_STRING"]))
        start_response("200 OK", [])
        for _ in range(2):
            yield b""
            usage.track("step")

    wrapped = UsageMiddleware(app, features={"/": "read"})
    bodies: list[Any] = [
        iter(wrapped({"REQUEST_METHOD": "GET", "PATH_INFO": "/", "QUERY_STRING": number}, lambda *args: print))
        for number in "12"
    ]
    for body in bodies * 2:
        next(body)
    bodies[0].close()
    assert list(bodies[1]) == []
    bodies[1].close()
    assert captured.count("step", 1) == 1
    assert captured.count("step", 2) == 2
    assert captured.count("read", 1) == captured.count("read", 2) == 1


@pytest.mark.parametrize("when", ["at once", "in the body", "after a piece"])
def test_an_app_that_raises(captured: CapturedUsage, when: str) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        if when == "after a piece":
            yield b"1"
        raise LookupError("theirs")

    def eager(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        raise LookupError("theirs")

    wrapped = UsageMiddleware(eager if when == "at once" else app, features={"/": "read"})
    with pytest.raises(LookupError, match="theirs"):
        exchange(wrapped)
    assert len(captured.uses) == (1 if when == "after a piece" else 0)
    assert holder.get() is None


def test_a_response_started_twice_counts_as_the_second(captured: CapturedUsage) -> None:
    import sys

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        try:
            raise LookupError
        except LookupError:
            start_response("500 Oh", [], sys.exc_info())
        return iter([b"error"])

    started, _ = exchange(UsageMiddleware(app, features={"/": "read"}))
    assert [(status, again) for status, _, again in started] == [("200 OK", False), ("500 Oh", True)]
    assert captured.uses == []


def test_nobody_is_left_after_the_end(captured: CapturedUsage) -> None:
    client = Client(UsageMiddleware(flask_app()))
    client.get("/stream", buffered=True)
    client.get("/", buffered=True)
    usage.track("after")
    assert captured.uses == [
        CapturedUse("stream", 3), CapturedUse("inside", 3), CapturedUse("home"), CapturedUse("after"),
    ]  # fmt: skip


def test_answers_are_the_same(captured: CapturedUsage) -> None:
    app = flask_app()
    for path in ("/", "/stream", "/nothing", "/broken", "/cal/static/test_wsgi.py"):
        bare, wrapped = (Client(one).get(path, buffered=True) for one in (app, UsageMiddleware(app)))
        assert (bare.status, bare.get_data()) == (wrapped.status, wrapped.get_data())
        dates = ("Date", "Expires")
        assert [pair for pair in bare.headers if pair[0] not in dates] == [
            pair for pair in wrapped.headers if pair[0] not in dates
        ]


def test_wsgi_is_kept_to(captured: CapturedUsage) -> None:
    app = validator(UsageMiddleware(validator(flask_app())))
    client = Client(app)
    for path in ("/", "/stream", "/nothing"):
        client.get(path, buffered=True)
    assert captured.names == ["home", "stream", "inside"]


def test_discard(captured: CapturedUsage) -> None:
    app = Flask("discarding")

    @app.get("/")
    def view() -> str:
        usage.track("before")
        usage.discard()
        return "ok"

    assert names_after(captured, UsageMiddleware(app), "GET /") == ["before"]


def test_success_and_metadata(captured: CapturedUsage) -> None:
    app = UsageMiddleware(
        flask_app(),
        success=lambda status, environ: status == 404 or environ["PATH_INFO"] == "/item",
        metadata=lambda environ: {"path": environ["PATH_INFO"]},
    )
    assert names_after(captured, app, "GET /", "GET /item", "GET /nothing") == ["item GET"]
    assert captured.uses[0].metadata == {"path": "/item"}


def test_who_the_user_is_a_middleware_further_in_knows_better(captured: CapturedUsage) -> None:
    inner = Flask("inner")

    @inner.get("/")
    @usage.tracks("seen")
    def seen() -> str:
        return "seen"

    outer = UsageMiddleware(DispatcherMiddleware(flask_app(), {"/sub": UsageMiddleware(inner, user=lambda environ: 7)}))
    Client(outer).get("/sub/")
    assert captured.uses == [CapturedUse("seen", 7)]


def test_a_tracker_of_ones_own_counts_what_another_has_counted(captured: CapturedUsage) -> None:
    with capture_usage(catalog=Catalog()) as own:
        app = flask_app()
        Client(UsageMiddleware(UsageMiddleware(app), tracker=own)).get("/cal/events/7")
        Client(UsageMiddleware(UsageMiddleware(app), tracker=own)).get("/")
    assert [use.feature for use in captured.uses] == ["event_seen", "home"]
    assert [use.feature for use in own.uses] == ["calendar.event", "home"]


def test_a_decorator_above_the_route_is_told(captured: CapturedUsage, caplog: pytest.LogCaptureFixture) -> None:
    app = Flask("above")

    @usage.tracks("test_wsgi.above")
    @app.get("/")
    def above() -> str:
        return "home"

    client = Client(UsageMiddleware(app))
    client.get("/")
    client.get("/")
    name = f"{__name__}:{above.__qualname__}"
    line = f"{__file__}:{above.__wrapped__.__code__.co_firstlineno}"  # type: ignore[attr-defined]
    said = (
        f"@tracks('test_wsgi.above') of {name} ({line}) is never called: put it below the framework's route decorator"
    )
    assert [record.getMessage() for record in caplog.records] == [said]


def test_a_tracked_endpoint_that_is_named_otherwise_is_no_mistake(
    captured: CapturedUsage, caplog: pytest.LogCaptureFixture
) -> None:
    app = Flask("both")

    @app.get("/")
    @usage.tracks("test_wsgi.below")
    def below() -> str:
        return "home"

    Client(UsageMiddleware(app, features={"below": "test_wsgi.named"})).get("/")
    assert sorted(captured.names) == ["test_wsgi.below", "test_wsgi.named"]
    assert caplog.records == []
