"""The Flask extension over real apps: what is counted, named and attributed by one line, and what joins the app."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Blueprint, Flask, Response, abort, redirect, request, stream_with_context
from flask.views import MethodView
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user, logout_user
from flask_sqlalchemy import SQLAlchemy
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

import usage_instrument as usage
from conftest import Database
from reading import counts, made
from usage_instrument import _default
from usage_instrument.capture.request_info import flask_session
from usage_instrument.errors import ConfigurationError, DeclarationError
from usage_instrument.integrations.flask import UsageInstrument, command
from usage_instrument.schema import FeatureUsageMixin, Tables, define_tables
from usage_instrument.testing import CapturedUsage, capture_usage

ADA, BOB = uuid.UUID(int=2**64 + 1), uuid.UUID(int=2**64 + 2)


@pytest.fixture
def captured() -> Iterator[CapturedUsage]:
    with capture_usage() as captured:
        yield captured


def small(name: str = "small", **config: Any) -> Flask:
    app = Flask(name)
    app.config.update(config)

    @app.get("/")
    def home() -> str:
        return "home"

    return app


def calendar() -> Flask:
    app = Flask("calendar")
    events, admin, deep = Blueprint("events", "events"), Blueprint("admin", "admin"), Blueprint("deep", "deep")

    @app.get("/")
    async def home() -> str:
        return "home"

    @events.get("/<int:key>")
    async def show(key: int) -> str:
        if key == 404:
            abort(404)
        if key == 500:
            raise LookupError
        return str(key)

    @events.post("/<int:key>/follow")
    @usage.tracks("calendar_follow_event", metadata=["key"])
    async def follow(key: int) -> Response:
        return Response(status=204)

    @events.errorhandler(LookupError)
    def mended(error: LookupError) -> tuple[str, int]:
        return "sorry", 500

    @app.errorhandler(404)
    def missing(error: Exception) -> tuple[str, int]:
        return "missing", 404

    @app.errorhandler(418)
    def forgiven(error: Exception) -> str:
        return "tea"

    @app.get("/teapot")
    def teapot() -> str:
        abort(418)

    @admin.route("/")
    def index() -> str:
        return "admin"

    @deep.post("/save")
    def save() -> Any:
        return redirect("/", 303)

    class Item(MethodView):
        def get(self, key: int) -> str:
            return "item"

        async def put(self, key: int) -> str:
            return "put"

    @app.get("/stream")
    def stream() -> Response:
        def lines() -> Iterator[str]:
            yield "1\n"
            yield request.path

        return Response(stream_with_context(lines()))

    app.add_url_rule("/items/<int:key>", view_func=Item.as_view("item"))
    admin.register_blueprint(deep, url_prefix="/deep")
    events.register_blueprint(admin, url_prefix="/admin")
    app.register_blueprint(events, url_prefix="/events")
    app.register_blueprint(events, url_prefix="/meetings", name="meetings")
    return app


REQUESTS = {
    "GET /": "home",
    "GET /events/7": "events.show",
    "GET /meetings/7": "meetings.show",
    "POST /events/7/follow": "calendar_follow_event",
    "GET /events/404": None,
    "GET /events/500": None,
    "GET /events/admin/": "events.admin.index",
    "GET /meetings/admin/": "meetings.admin.index",
    "POST /events/admin/deep/save": "events.admin.deep.save",
    "GET /items/1": "item GET",
    "PUT /items/1": "item PUT",
    "DELETE /items/1": None,
    "GET /stream": "stream",
    "GET /teapot": "teapot",
    "GET /nothing": None,
    "HEAD /": None,
    "OPTIONS /": None,
}


@pytest.mark.parametrize("late", [True, False], ids=["init_app", "at once"])
def test_one_line_counts_what_succeeds_by_its_endpoint(captured: CapturedUsage, late: bool) -> None:
    bare, app = calendar(), calendar()
    if late:
        UsageInstrument().init_app(app)
    else:
        UsageInstrument(app)
    for said, name in REQUESTS.items():
        method, path = said.split()
        expected = bare.test_client().open(path, method=method)
        answer = app.test_client().open(path, method=method)
        assert (answer.status, list(answer.headers), answer.data) == (
            expected.status, list(expected.headers), expected.data,
        )  # fmt: skip
        assert captured.names == ([] if name is None else [name]), said
        captured.clear()


def test_apps_behind_a_dispatcher_count_each_by_its_own_options(captured: CapturedUsage) -> None:
    front, back = small("front"), small("back")
    UsageInstrument(front, features={"home": "front_home"}, user=lambda environ: 1)
    UsageInstrument(back, features={"GET /": "back_home"})

    @back.before_request
    def who() -> None:
        usage.identify(2)

    client = Client(DispatcherMiddleware(front, {"/back": back}))
    for path in ("/", "/back/", "/back/nothing"):
        client.get(path)
    assert [(use.feature, use.user) for use in captured.uses] == [("front_home", 1), ("back_home", 2)]


def test_one_extension_serves_two_apps(captured: CapturedUsage) -> None:
    extension = UsageInstrument(exclude=(name for name in ["admin"]))
    for number in range(2):
        app = small(f"app {number}")
        app.add_url_rule("/admin", "admin", lambda: "admin")
        extension.init_app(app)
        assert app.extensions["usage_instrument"] is extension
        app.test_client().get("/")
        app.test_client().get("/admin")
    assert captured.names == ["home"]
    assert captured.count("home") == 2


# ---- Flask-Login


def with_login(**options: Any) -> tuple[Flask, list[str]]:
    app, loads = small("members", SECRET_KEY="test"), []
    manager = LoginManager(app)
    manager.login_view = "home"

    class Member(UserMixin):  # type: ignore[misc]
        def __init__(self, key: str) -> None:
            self.id = key

    @manager.user_loader  # type: ignore[untyped-decorator]
    def load(key: str) -> Member:
        loads.append(key)
        return Member(key)

    @app.post("/login")
    def login() -> str:
        login_user(Member(str(ADA)))
        return "welcome"

    @app.get("/members")
    @login_required  # type: ignore[untyped-decorator]
    def members() -> str:
        return "members"

    @app.get("/members/tracked")
    @login_required  # type: ignore[untyped-decorator]
    @usage.tracks("members_tracked")
    def tracked() -> str:
        return "members"

    @app.get("/public")
    def public() -> str:
        return "public"

    UsageInstrument(app, **options)
    return app, loads


def test_the_user_of_flask_login_and_its_redirect(captured: CapturedUsage) -> None:
    app, loads = with_login()
    client = app.test_client()
    assert client.get("/members").status_code == 302
    assert client.get("/members/tracked").status_code == 302
    assert captured.names == []
    client.post("/login")
    client.get("/members")
    client.get("/members/tracked")
    assert loads == [str(ADA)] * 2
    client.get("/public")
    assert loads == [str(ADA)] * 2, "to count loads nobody"
    assert [(use.feature, use.user) for use in captured.uses] == [
        ("login", str(ADA)), ("members", str(ADA)), ("members_tracked", str(ADA)), ("public", str(ADA)),
    ]  # fmt: skip


def test_a_user_class_whose_id_is_a_property(captured: CapturedUsage) -> None:
    """Each use was anonymous, and so was each loaded current_user."""
    app = small("members", SECRET_KEY="test")

    class Entry(UserMixin):  # type: ignore[misc]
        def __init__(self, uid: str) -> None:
            self.entry = {"uid": uid}

        @property
        def id(self) -> str:
            return self.entry["uid"]

    LoginManager(app).user_loader(Entry)
    app.add_url_rule("/login", "login", lambda: str(login_user(Entry("ada"))))
    app.add_url_rule("/loads", "loads", lambda: str(current_user.is_authenticated))
    app.add_url_rule("/plain", "plain", lambda: "plain")
    app.add_url_rule("/logout", "logout", lambda: str(logout_user()))
    UsageInstrument(app)
    client = app.test_client()
    for name in ("login", "loads", "plain", "logout"):
        client.get(f"/{name}")
    assert [(use.feature, use.user) for use in captured.uses] == [
        (name, "ada") for name in ("login", "loads", "plain", "logout")
    ]


def test_an_unauthorised_post_is_no_use_either(captured: CapturedUsage) -> None:
    app, _ = with_login()
    app.add_url_rule("/save", "save", login_required(lambda: "saved"), methods=["POST"])
    client = app.test_client()
    assert client.post("/save").status_code == 302
    client.post("/login")
    client.post("/save")
    assert [use.feature for use in captured.uses] == ["login", "save"]


@pytest.mark.parametrize("has_middleware", [True, False])
def test_registering_and_logging_out_count_although_they_end_at_the_login_page(
    captured: CapturedUsage, has_middleware: bool
) -> None:
    """A tracked one never counted without a middleware, and a redirect by hand counted with one."""
    app = small("members", SECRET_KEY="test")
    manager = LoginManager(app)
    manager.login_view = "enter"
    manager.user_loader(lambda key: type("Member", (UserMixin,), {"id": key})())

    def enter() -> str:
        return "form"

    def register() -> Any:
        return redirect("/enter")

    def leave() -> Any:
        logout_user()
        return redirect("/enter")

    def by_hand() -> Any:
        return redirect(f"/enter?back={request.path}")

    app.add_url_rule("/enter", "enter", enter)
    views = {"register": register, "leave": leave, "guarded": login_required(leave), "by_hand": by_hand}
    for name, view in views.items():
        app.add_url_rule(f"/{name}", name, usage.tracks(name)(view), methods=["POST"])
        if has_middleware:
            app.add_url_rule(f"/{name}/plain", f"{name} plain", lambda view=view: view(), methods=["POST"])
    if has_middleware:
        UsageInstrument(app)
    client = app.test_client()
    for suffix in ["", *(["/plain"] if has_middleware else [])]:
        for name in views:
            assert client.post(f"/{name}{suffix}").status_code == 302
        with client.session_transaction() as session:
            session["_user_id"], session["_fresh"] = "eve", True
        assert client.post(f"/guarded{suffix}").status_code == 302
    plain = ["register plain", "leave plain", "guarded plain"] if has_middleware else []
    assert captured.names == ["register", "leave", "guarded", *plain]


@pytest.mark.parametrize("in_session", [False, True])
def test_to_judge_a_redirect_accesses_no_session(captured: CapturedUsage, in_session: bool) -> None:
    """It marked the session as accessed, for which Flask adds `Vary: Cookie` to the answer."""
    app = small("members", SECRET_KEY="test", USE_SESSION_FOR_NEXT=in_session)
    manager = LoginManager(app)
    manager.login_view = "enter"
    manager.user_loader(lambda key: None)
    app.add_url_rule("/enter", "enter", lambda: "form")
    marks = []

    @app.post("/register")
    def register() -> Any:
        answer = usage.tracks("register")(lambda: redirect("/enter"))()
        marks.append(flask_session().accessed)  # type: ignore[attr-defined]
        return answer

    app.add_url_rule("/guarded", "guarded", usage.tracks("guarded")(login_required(lambda: "in")), methods=["POST"])
    client = app.test_client()
    assert client.post("/guarded").status_code == 302
    assert client.post("/register").status_code == 302
    assert (captured.names, marks) == (["register"], [False])


@pytest.mark.parametrize("option", [False, True])
def test_a_current_user_whom_nothing_has_loaded_is_taken_without_a_query(captured: CapturedUsage, option: bool) -> None:
    """`usage.identify(current_user)` rejected the uses of the request."""
    options: dict[str, Any] = {"user": lambda environ: current_user} if option else {}
    app, loads = with_login(**options)

    @app.get("/states")
    def states() -> str:
        usage.track("tracked", user=current_user)
        with usage.as_user(current_user, actor=current_user):
            usage.track("as_user")
        usage.identify(current_user)
        usage.track("identified")
        return "ok"

    @app.post("/leaves")
    def leaves() -> str:
        usage.identify(current_user)
        usage.track("before")
        logout_user()
        usage.track("after")
        return "out"

    @app.post("/enters")
    def enters() -> str:
        usage.identify(current_user)
        login_user(app.login_manager._user_callback("eve"))  # type: ignore[attr-defined]
        return "in"

    client = app.test_client()
    names = ["tracked", "as_user", "identified", "states"]
    client.get("/states")
    assert [(use.feature, use.user) for use in captured.uses] == [(name, None) for name in names]
    client.post("/login")
    captured.clear()
    client.get("/states")
    assert loads == []
    assert [(use.feature, use.user) for use in captured.uses] == [(name, str(ADA)) for name in names]
    captured.clear()
    client.post("/leaves")
    client.post("/enters")
    assert [(use.feature, use.user) for use in captured.uses] == [
        ("before", str(ADA)), ("after", str(ADA)), ("leaves", str(ADA)), ("enters", "eve"),
    ]  # fmt: skip
    assert (captured.rejected, captured.complaints) == ([], [])


def test_a_current_user_with_a_get_id_of_its_own_is_never_written_as_anonymous(
    captured: CapturedUsage, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = small("states", SECRET_KEY="test")

    class Tokened(UserMixin):  # type: ignore[misc]
        id = "ada"

    # Undone after the test, since each user class of the process decides whether the id in a session is a key.
    monkeypatch.setattr(Tokened, "get_id", lambda self: "token of ada")
    LoginManager(app).user_loader(lambda token: Tokened())
    app.add_url_rule("/login", "login", lambda: str(login_user(Tokened())))

    @app.get("/states")
    def states() -> str:
        usage.track("tracked", user=current_user)
        with usage.as_user(current_user):
            usage.track("as_user")
        usage.identify(current_user)
        usage.track("identified")
        if "load" in request.args:
            assert current_user.is_authenticated
            usage.track("loaded")
        return "ok"

    UsageInstrument(app)
    client = app.test_client()
    client.get("/states")
    assert [use.user for use in captured.uses] == [None] * 4
    client.get("/states", headers={"Cookie": "remember_token=forged|0"})
    assert [use.user for use in captured.uses] == [None] * 8
    client.get("/login")
    captured.clear()
    client.get("/states")
    assert captured.uses == []
    assert [rejected.feature for rejected in captured.rejected] == ["tracked", "as_user", "identified", "states"]
    assert all("`current_user.id` with Flask-Login" in str(rejected.error) for rejected in captured.rejected)
    client.get("/states?load=1")
    assert [(use.feature, use.user) for use in captured.uses] == [("loaded", "ada"), ("states", "ada")]


# ---- its database


def rows(sqlite: Database, **options: Any) -> dict[tuple[str, Any], int]:
    assert usage.flush(60)
    return counts(sqlite.engine(), define_tables(sa.MetaData(), users=None, **options))


@pytest.mark.parametrize("way", ["argument", "engine", "config", "configured before", "configured after"])
def test_requests_become_rows(sqlite: Database, way: str) -> None:
    made(sqlite.engine(), users=None)
    app = small()
    if way == "argument":
        UsageInstrument(app, database=sqlite.url, service="web", user=lambda environ: ADA)
    elif way == "engine":
        UsageInstrument(app, database=sqlite.engine(), service="web", user=lambda environ: ADA)
    elif way == "config":
        app.config["USAGE_INSTRUMENT_DATABASE_URL"] = sqlite.url
        app.config["USAGE_INSTRUMENT_SERVICE"] = "web"
        UsageInstrument(app, user=lambda environ: ADA)
    else:
        if way == "configured before":
            usage.configure(sqlite.url, service="web")
        UsageInstrument(app, user=lambda environ: ADA)
        if way == "configured after":
            usage.configure(sqlite.url, service="web")
    app.test_client().get("/")
    assert rows(sqlite) == {("home", ADA): 1}
    tracker = _default.tracker()
    assert tracker is not None
    assert tracker.settings.service == "web"


def test_an_argument_wins_over_the_config_and_that_over_the_environment(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAGE_INSTRUMENT_SERVICE", "environment")
    monkeypatch.setenv("USAGE_INSTRUMENT_HISTORY", "hour")
    monkeypatch.setenv("USAGE_INSTRUMENT_FLUSH_INTERVAL", "1m")
    app = small(
        USAGE_INSTRUMENT_DATABASE_URL="sqlite:////nowhere/at/all.db",
        USAGE_INSTRUMENT_SERVICE="config",
        USAGE_INSTRUMENT_HISTORY=None,
        USAGE_INSTRUMENT_USER_RETRY="2h",
    )
    UsageInstrument(app, database=sqlite.url, service="argument")
    tracker = _default.tracker()
    assert tracker is not None
    assert str(tracker) == f"Tracker({sqlite.url})"
    settings = tracker.settings
    assert (settings.service, settings.history) == ("argument", None)
    assert (settings.flush_interval, settings.user_retry) == (60.0, 7200.0)


def test_nothing_said_leaves_it_to_configure(captured: CapturedUsage) -> None:
    app = small()
    UsageInstrument(app)
    assert _default.tracker() is None
    app.test_client().get("/")
    assert captured.names == ["home"]


def test_the_environment_alone_configures_it(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USAGE_INSTRUMENT_DATABASE_URL", sqlite.url)
    monkeypatch.setenv("USAGE_INSTRUMENT_ENABLED", "1")
    made(sqlite.engine(), users=None)
    app = small()
    UsageInstrument(app)
    app.test_client().get("/")
    assert rows(sqlite) == {("home", None): 1}


def test_a_tracker_of_ones_own(sqlite: Database) -> None:
    made(sqlite.engine(), users=None)
    own = usage.Tracker(sqlite.url)
    app = small(USAGE_INSTRUMENT_DATABASE_URL="sqlite:////nowhere/at/all.db", USAGE_INSTRUMENT_SERVICE="web")
    UsageInstrument(app, tracker=own)
    app.test_client().get("/")
    assert _default.tracker() is None
    assert own.shutdown(60)
    assert rows(sqlite) == {("home", None): 1}
    with pytest.raises(ConfigurationError, match="tracker= has a database and settings of its own"):
        UsageInstrument(small(), tracker=own, service="web")
    with pytest.raises(ConfigurationError, match="either that or db=, not both"):
        UsageInstrument(small(), tracker=own, db=SQLAlchemy())


# ---- what is told


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"servise": "web"}, TypeError, "'servise' is no option; did you mean 'service'"),
        ({"excluded": []}, TypeError, "did you mean 'exclude'"),
        ({"qqq": 1}, TypeError, "'qqq' is no option; the options are audit"),
        ({"flush_rows": 0, "database": "sqlite:///x.db"}, ConfigurationError, "flush_rows"),
        ({"service": "web", "enabled": True}, ConfigurationError, "no database"),
        ({"exclude": "admin"}, DeclarationError, "a list of patterns"),
        ({"database": "sqlite:///x.db", "user": 3}, DeclarationError, "user= cannot be a int"),
        ({"db": object()}, ConfigurationError, "db= is a SQLAlchemy"),
        ({"enabled": True, "database": "sqlite://"}, ConfigurationError, "in-memory"),
    ],
)
def test_what_cannot_work_is_refused_and_changes_nothing(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    app = small()
    untouched = app.wsgi_app
    with pytest.raises(error, match=said):
        UsageInstrument(app, **options)
    assert app.wsgi_app == untouched
    assert _default.tracker() is None
    UsageInstrument(app)


def test_twice_on_one_app_is_refused() -> None:
    app = small("twice")
    extension = UsageInstrument(app)
    for again in (lambda: extension.init_app(app), lambda: UsageInstrument(app)):
        with pytest.raises(ConfigurationError, match=r"counts the app 'twice' already: call either .* once"):
            again()


def test_an_app_of_another_framework_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="this is function"):
        UsageInstrument(lambda environ, start_response: [])  # type: ignore[arg-type]


def test_a_misspelt_setting_and_a_wrong_one_in_the_config(caplog: pytest.LogCaptureFixture) -> None:
    UsageInstrument(small(USAGE_INSTRUMENT_SERVISE="web"))
    assert "app.config: USAGE_INSTRUMENT_SERVISE is no setting; did you mean" in caplog.text
    with pytest.raises(ConfigurationError, match=r"app\.config: USAGE_INSTRUMENT_FLUSH_ROWS: flush_rows is a whole"):
        UsageInstrument(small(USAGE_INSTRUMENT_FLUSH_ROWS="many"))


# ---- Flask-SQLAlchemy, Flask-Migrate


def shop(uri: str, **options: Any) -> tuple[Flask, Any, Any]:
    app, db = small("shop", SQLALCHEMY_DATABASE_URI=uri), SQLAlchemy()

    class User(db.Model):  # type: ignore[name-defined,misc]
        id = sa.Column(sa.Integer, primary_key=True)
        name = sa.Column(sa.String(20))

    db.init_app(app)
    UsageInstrument(app, db=db, **({"users": User} | options))
    return app, db, User


def test_flask_sqlalchemy_brings_tables_users_and_engine(database: Database) -> None:
    app, db, model = shop(database.url, user=lambda environ: environ["HTTP_X_USER"])
    with app.app_context():
        db.create_all()
        db.session.add_all([model(id=7), model(id=8)])
        db.session.commit()
        assert db.metadata.tables["feature_usage"].c.user_id.references(model.__table__.c.id)
        for number in ("7", "8", "7"):
            app.test_client().get("/", headers={"X-User": number})
        assert usage.flush(60)
        tables = Tables.of(db.metadata.tables["feature_usage"])
        assert counts(db.engine, tables) == {("home", 7): 2, ("home", 8): 1}
        db.session.execute(sa.delete(model).where(model.id == 7))
        db.session.commit()
        found = counts(db.engine, tables)
        # SQLite looks at foreign keys only when a connection asks it to.
        assert (("home", 7) in found) is (database.name == "sqlite")
        usage.shutdown(60)
        db.session.remove()
        db.engine.dispose()


def test_the_type_of_user_ids_can_be_said_and_users_left_out(sqlite: Database) -> None:
    _, db, _ = shop(sqlite.url, users=None, user_id_type="string")
    tables = Tables.of(db.metadata.tables["feature_usage"])
    assert (tables.users, tables.user_id_type) == (None, "string")


def test_users_may_be_named(sqlite: Database) -> None:
    _, db, _ = shop(sqlite.url, users="user.id")
    tables = Tables.of(db.metadata.tables["feature_usage"])
    assert (tables.users, tables.user_id_type) == ("user.id", "integer")


def test_users_may_be_named_by_the_environment(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USAGE_INSTRUMENT_USERS", "members.id")
    app, db = small(SQLALCHEMY_DATABASE_URI=sqlite.url), SQLAlchemy()
    db.Table("members", sa.Column("id", sa.Integer, primary_key=True))
    db.init_app(app)
    UsageInstrument(app, db=db)
    tables = Tables.of(db.metadata.tables["feature_usage"])
    assert (tables.users, tables.user_id_type) == ("members.id", "integer")


def test_a_model_says_the_type_of_ids_without_db_too(sqlite: Database) -> None:
    table = sa.Table("people", sa.MetaData(), sa.Column("id", sa.String(9), primary_key=True))
    for users in (table, table.c.id):
        UsageInstrument(small(), database=sqlite.url, users=users)
        tracker = _default.tracker()
        assert tracker is not None
        assert tracker.user_id_type == "string"
        _default.reset()


def test_users_are_found_by_their_name(sqlite: Database) -> None:
    app, db = small(SQLALCHEMY_DATABASE_URI=sqlite.url), SQLAlchemy()
    db.Table("users", sa.Column("id", sa.String(20), primary_key=True))
    db.init_app(app)
    UsageInstrument(app, db=db)
    tables = Tables.of(db.metadata.tables["feature_usage"])
    assert (tables.users, tables.user_id_type) == ("users.id", "string")


def test_a_model_of_the_table_is_left_as_it_is(sqlite: Database) -> None:
    app, db = small(SQLALCHEMY_DATABASE_URI=sqlite.url), SQLAlchemy()

    class FeatureUsage(FeatureUsageMixin, db.Model):  # type: ignore[name-defined,misc]
        __usage_users__ = None
        __usage_user_id_type__ = "string"

    db.init_app(app)
    UsageInstrument(app, db=db, user=lambda environ: "ada")
    with app.app_context():
        db.create_all()
        app.test_client().get("/")
        assert usage.shutdown(60)
        (row,) = db.session.query(FeatureUsage)
        assert (row.feature_name, row.user_id, row.usage_count) == ("home", "ada", 1)
        db.session.remove()
        db.engine.dispose()


def test_db_before_its_init_app_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"call db.init_app\(app\) before UsageInstrument"):
        UsageInstrument(small(), db=SQLAlchemy())


def test_a_test_suite_on_sqlite_in_memory_needs_no_configuration(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "usage_instrument")
    monkeypatch.delenv("USAGE_INSTRUMENT_ENABLED")
    app, db, model = shop("sqlite://")
    assert "under pytest, nothing is written to the database" in caplog.text
    with app.app_context():
        db.create_all()
        app.test_client().get("/")
        assert usage.stats() == usage.Stats()
        with capture_usage() as captured:
            app.test_client().get("/")
        assert captured.names == ["home"]
        db.session.add(model(id=1))
        db.session.commit()
        assert db.session.scalar(sa.select(sa.func.count(model.id))) == 1
        db.session.remove()
        db.engine.dispose()


SHOP = """
import sys

import sqlalchemy as sa
from flask import Flask
from flask.cli import FlaskGroup
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

from usage_instrument.integrations.flask import UsageInstrument

app, db = Flask("shop"), SQLAlchemy()
app.config["SQLALCHEMY_DATABASE_URI"] = sys.argv[1]


class User(db.Model):
    id = sa.Column(sa.Integer, primary_key=True)


db.init_app(app)
Migrate(app, db)
UsageInstrument(app, db=db, users=User)
for step in ("db init", "db migrate -m first", "db upgrade", "db migrate", "usage db check"):
    flask = FlaskGroup(create_app=lambda: app)  # as the command `flask` is
    done = app.test_cli_runner().invoke(flask, step.split(), catch_exceptions=False)
    print(done.output)
    if done.exit_code:
        sys.exit(f"{step} ended with {done.exit_code}")
"""


def test_a_factory_of_apps_is_no_misuse(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    apps = [shop(uri)[:2] for uri in (sqlite.url, sqlite.url)]
    monkeypatch.delenv("USAGE_INSTRUMENT_ENABLED")
    apps += [shop(uri)[:2] for uri in ("sqlite://", "sqlite://")]
    assert caplog.records == []
    for app, db in apps:
        with app.app_context():
            db.engine.dispose()


def test_flask_migrate_finds_the_tables_and_flask_usage_the_database(sqlite: Database, tmp_path: Path) -> None:
    script = tmp_path / "shop.py"
    script.write_text(SHOP)
    done = subprocess.run(
        [sys.executable, script, sqlite.url], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert len(list(tmp_path.glob("migrations/versions/*.py"))) == 1, "the second time there is nothing to migrate"
    tables = define_tables(sa.MetaData(), users=None)
    found = sa.inspect(sqlite.engine())
    assert {table.name for table in tables} < set(found.get_table_names())
    (foreign,) = found.get_foreign_keys("feature_usage")
    assert (foreign["referred_table"], foreign["options"]) == ("user", {"ondelete": "CASCADE", "onupdate": "CASCADE"})


# ---- flask usage


def test_flask_usage_passes_everything_on_and_leaves_no_trace(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, db, _ = shop(sqlite.url)
    app.cli.add_command(command)
    with app.app_context(), sqlite.engine().begin() as connection:
        connection.execute(sa.text("CREATE TABLE unrelated (id INT)"))
        db.engine.dispose()
    monkeypatch.setenv("USAGE_INSTRUMENT_USERS", "none")
    before = dict(os.environ)
    done = app.test_cli_runner().invoke(args=["usage", "db", "check"])
    assert (done.exit_code, dict(os.environ)) == (2, before)
    assert "users='user.id': this database has no such column" in done.output
    done = app.test_cli_runner().invoke(args=["usage", "--help"])
    assert done.exit_code == 0
    assert "flask usage [OPTIONS] COMMAND" in done.output


def test_flask_usage_without_the_extension_reads_the_environment(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAGE_INSTRUMENT_DATABASE_URL", sqlite.url)
    made(sqlite.engine(), users=None)
    app = small()
    app.cli.add_command(command)
    assert app.test_cli_runner().invoke(args=["usage", "db", "check"]).exit_code == 0


@pytest.mark.parametrize("way", ["before", "after", "identified", "touched"])
def test_deleting_the_account_counts_anonymously_and_leaves_nothing_pending(tmp_path: Path, way: str) -> None:
    db = SQLAlchemy()

    class User(UserMixin, db.Model):  # type: ignore[misc, name-defined]
        __tablename__ = "users"
        id = db.Column(db.Integer, primary_key=True)

    app = small(SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path / 'app.db'}", SECRET_KEY="secret")
    db.init_app(app)
    UsageInstrument(app, db=db, users=User)
    LoginManager(app).user_loader(lambda key: db.session.get(User, int(key)))

    @app.post("/login")
    def login() -> str:
        return str(login_user(db.session.get(User, 1)))

    @app.post("/leave")
    def leave() -> str:
        user = current_user._get_current_object()
        if way == "identified":
            usage.identify(user)
        if way == "touched":
            usage.track("asked")
        if way == "after":
            logout_user()
        db.session.delete(user)
        db.session.commit()
        if way == "before":
            logout_user()
        return "gone"

    with app.app_context():
        db.create_all()
        db.session.add(User(id=1))
        db.session.commit()
    client = app.test_client()
    assert client.post("/login").text == "True"
    assert usage.flush(60)
    assert client.post("/leave").text == "gone"
    assert usage.flush(60), "nothing waits for a user who is gone"
    with app.app_context():
        assert ("leave", None) in counts(db.engine, Tables.of(db.metadata.tables["feature_usage"]))
    usage.shutdown(60)
    with app.app_context():
        db.engine.dispose()
