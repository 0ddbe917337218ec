"""The middlewares' `audit=`: which requests are accesses, what is recorded of each, and what may not happen untold."""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from flask import Flask, abort
from flask import redirect as flask_redirect
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from werkzeug.test import Client, EnvironBuilder, run_wsgi_app

import usage_instrument as usage
from conftest import Database
from reading import all_of, made
from usage_instrument import AuditUnavailable, Settings, Tracker, asgi, wsgi
from usage_instrument.audit.verify import verify
from usage_instrument.capture.registry import declared
from usage_instrument.errors import ConfigurationError, DeclarationError, FeatureNameError
from usage_instrument.testing import CapturedUsage, capture_usage
from usage_instrument.web.route_coverage import route_coverage

ADA, BOB = uuid.UUID(int=2**64 + 1), uuid.UUID(int=2**64 + 2)
FEATURES = {"/vault/{drawer}": "open_vault"}

Ask = Callable[..., int]
"""From a path, and maybe a method and headers, to the status of the answer."""


@pytest.fixture
def captured() -> Iterator[CapturedUsage]:
    with capture_usage() as captured:
        yield captured


def told(captured: CapturedUsage) -> list[tuple[str, str]]:
    return [(access.feature, access.outcome) for access in captured.accesses]


# ---- one small site, in Starlette and in Flask


class Lost(Exception):
    pass


def starlette(**options: Any) -> Ask:
    async def vault(request: Request) -> Response:
        drawer = request.path_params["drawer"]
        match drawer:
            case "forbidden":
                raise HTTPException(403)
            case "none":
                return PlainTextResponse("none", 404)
            case "lost":
                raise Lost
            case "login":
                return RedirectResponse(f"/login?next={request.url.path}", 303)
            case "moved":
                return RedirectResponse("/vault/1", 303)
            case "ada":
                usage.identify(ADA)
        return PlainTextResponse(drawer)

    app = Starlette(
        routes=[Route("/vault/{drawer}", vault, name="vault", methods=["GET", "POST"]), Route("/other", other)]
    )
    app.add_middleware(asgi.UsageMiddleware, **options)
    client = TestClient(app, raise_server_exceptions=False, follow_redirects=False)
    return lambda path, method="GET", **more: client.request(method, path, **more).status_code


async def other(_: Request) -> Response:
    return PlainTextResponse("other")


def flask(**options: Any) -> Ask:
    app = Flask("vault")

    @app.route("/vault/<drawer>", methods=["GET", "POST"])
    def vault(drawer: str) -> Any:
        match drawer:
            case "forbidden":
                abort(403)
            case "none":
                return "none", 404
            case "lost":
                raise Lost
            case "login":
                return flask_redirect("/login?next=/vault/login", 303)
            case "moved":
                return flask_redirect("/vault/1", 303)
            case "ada":
                usage.identify(ADA)
        return drawer

    app.add_url_rule("/other", "other", lambda: "other")
    app.wsgi_app = wsgi.UsageMiddleware(app.wsgi_app, **options)  # type: ignore[method-assign]
    client = app.test_client()
    return lambda path, method="GET", **more: client.open(path, method=method, **more).status_code


SITES = pytest.mark.parametrize("site", [starlette, flask])
Site = Callable[..., Ask]


@SITES
@pytest.mark.parametrize("audit", [True, "required"])
@pytest.mark.parametrize(
    ("drawer", "status", "outcome"),
    [
        ("1", 200, "success"),
        ("moved", 303, "success"),
        ("forbidden", 403, "denied"),
        ("login", 303, "denied"),
        ("none", 404, "failed"),
        ("lost", 500, "failed"),
    ],
)
def test_a_request_is_an_access_whatever_the_answer(
    captured: CapturedUsage, site: Site, audit: Any, drawer: str, status: int, outcome: str
) -> None:
    ask = site(features=FEATURES, audit={"open_vault": audit})
    assert ask(f"/vault/{drawer}") == status
    attempts = [("open_vault", "attempted")] if audit == "required" else []
    assert told(captured) == [*attempts, ("open_vault", outcome)]
    assert len(captured.uses) == (status == 200)  # it counts as it ever would


@SITES
def test_what_is_not_audited_leaves_no_trace(captured: CapturedUsage, site: Site) -> None:
    ask = site(features=FEATURES, audit={"open_vault": "required"})
    assert ask("/other") == 200
    assert ask("/nowhere") == 404
    assert told(captured) == []
    assert [each.feature for each in captured.uses] == ["other"]


@SITES
def test_a_feature_may_be_the_name_of_its_route(captured: CapturedUsage, site: Site) -> None:
    ask = site(audit={"vault": True})
    assert ask("/vault/1") == 200
    assert told(captured) == [("vault", "success")]


@SITES
def test_a_callable_may_name_it(captured: CapturedUsage, site: Site) -> None:
    ask = site(features=lambda _: "open_vault", audit={"open_vault": True})
    ask("/vault/forbidden")
    assert told(captured) == [("open_vault", "denied")]


@SITES
@pytest.mark.parametrize("audit", [True, "required"])
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "GET"])
def test_what_is_never_a_use_is_an_access_all_the_same(
    captured: CapturedUsage, site: Site, audit: Any, method: str
) -> None:
    ask = site(features=FEATURES, audit={"open_vault": audit})
    ask("/vault/1", method)
    assert told(captured)[-1][0] == "open_vault"
    assert len(captured.uses) == (method == "GET")


@SITES
@pytest.mark.parametrize("audit", [True, "required"])
def test_a_key_with_a_method_is_of_that_method_and_head_asks_for_a_get(
    captured: CapturedUsage, site: Site, audit: Any
) -> None:
    features = {"GET /vault/{drawer}": "look_into_vault", "POST /vault/{drawer}": "open_vault"}
    ask = site(features=features, audit={"look_into_vault": audit})
    ask("/vault/1", "POST")
    assert told(captured) == []
    ask("/vault/1", "HEAD")
    assert told(captured)[-1] == ("look_into_vault", "success")


@SITES
def test_a_pattern_of_paths_may_be_required_and_one_of_names_may_not(captured: CapturedUsage, site: Site) -> None:
    ask = site(features={"/vault/*": "open_vault"}, audit={"open_vault": "required"})
    assert (ask("/vault/1"), ask("/other")) == (200, 200)
    assert told(captured) == [("open_vault", "attempted"), ("open_vault", "success")]
    with pytest.raises(ConfigurationError, match=r"names it by 'vault\*'"):
        asgi.UsageMiddleware(Starlette(), features={"vault*": "open_vault"}, audit={"open_vault": "required"})


@SITES
def test_who_is_told_as_soon_as_it_is_known(captured: CapturedUsage, site: Site) -> None:
    ask = site(features=FEATURES, audit={"open_vault": "required"})
    ask("/vault/ada", headers={"X-Request-ID": "r1"})
    assert [access.user for access in captured.accesses] == [None, ADA]
    stated = site(features=FEATURES, audit={"open_vault": "required"}, user=lambda _: BOB, metadata={"door": "left"})
    stated("/vault/1")
    assert [(access.user, access.metadata) for access in captured.accesses[2:]] == [(BOB, {"door": "left"})] * 2


@SITES
def test_a_user_that_cannot_be_told_forbids_what_is_required_and_is_noted_else(
    captured: CapturedUsage, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    ask = site(features=FEATURES, audit={"open_vault": "required"}, user=lambda _: 1 / 0)
    assert ask("/vault/1") == 503
    assert told(captured) == []
    assert "ZeroDivisionError" in caplog.text
    ask = site(features=FEATURES, audit={"open_vault": True}, user=lambda _: 1 / 0)
    assert ask("/vault/1") == 200
    (access,) = captured.accesses
    assert access.metadata == {"usage_instrument": "user: ZeroDivisionError raised"}


# ---- together with a decorator


def decorated(audit: Any, own: Any) -> Ask:
    @usage.tracks("open_vault", audit=own)
    def vault(_: Request) -> Response:
        return PlainTextResponse("open")

    app = Starlette(routes=[Route("/vault/{drawer}", vault)])
    app.add_middleware(asgi.UsageMiddleware, features=FEATURES, audit={"open_vault": audit})
    client = TestClient(app)
    return lambda path, method="GET", **more: client.request(method, path, **more).status_code


@pytest.mark.parametrize(
    ("audit", "own", "outcomes"),
    [
        (True, False, ["success"]),
        (True, True, ["success"]),
        (True, "required", ["attempted", "success"]),
        ("required", False, ["attempted", "success"]),
        ("required", True, ["attempted", "success"]),
        ("required", "required", ["attempted", "success"]),
    ],
)
def test_one_access_is_told_once(captured: CapturedUsage, audit: Any, own: Any, outcomes: list[str]) -> None:
    assert decorated(audit, own)("/vault/1") == 200
    assert [outcome for _, outcome in told(captured)] == outcomes
    captured.assert_tracked("open_vault", times=1)


def test_who_does_not_get_as_far_as_the_decorator_is_told_by_the_middleware(captured: CapturedUsage) -> None:
    def forbidding(view: Any) -> Any:
        def forbidden(_: Request) -> Response:
            return PlainTextResponse("no", 403)

        forbidden.__wrapped__ = view  # type: ignore[attr-defined]
        return forbidden

    @forbidding
    @usage.tracks("open_vault", audit=True)
    def vault(_: Request) -> Response:
        raise AssertionError

    app = Starlette(routes=[Route("/vault/{drawer}", vault)])
    app.add_middleware(asgi.UsageMiddleware, audit={"open_vault": True})  # the feature of the decorator
    TestClient(app).get("/vault/1")
    assert told(captured) == [("open_vault", "denied")]


def test_an_inner_middleware_tells_what_both_audit(captured: CapturedUsage) -> None:
    app = Starlette(routes=[Route("/vault/{drawer}", other)])
    for _ in range(2):
        app.add_middleware(asgi.UsageMiddleware, features=FEATURES, audit={"open_vault": "required"})
    TestClient(app).get("/vault/1")
    assert told(captured) == [("open_vault", "attempted"), ("open_vault", "success")]


# ---- before there is a route


@pytest.mark.parametrize("audit", [True, "required"])
def test_who_is_turned_away_before_any_route_is_told_by_the_path(captured: CapturedUsage, audit: Any) -> None:
    class Doorman:
        def __init__(self, app: Any) -> None: ...

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await PlainTextResponse("who are you?", 401)(scope, receive, send)

    app = Starlette(routes=[Route("/vault/{drawer}", other)])
    app.add_middleware(Doorman)
    app.add_middleware(asgi.UsageMiddleware, features=FEATURES, audit={"open_vault": audit})
    TestClient(app).get("/vault/1")
    assert told(captured)[-1] == ("open_vault", "denied")


@pytest.mark.parametrize("path", ["/vault/1", "/vault/1/", "/vault//1", "/vault/%31", "/vault/1%0A"])
@SITES
def test_no_spelling_of_a_path_gets_by(captured: CapturedUsage, site: Site, path: str) -> None:
    """Whatever each framework makes of it."""
    ask = site(features={"/vault/<drawer>": "open_vault"}, audit={"open_vault": "required"})
    ask(path)
    assert ("open_vault", "attempted") in told(captured)


def test_an_app_below_another_is_found_by_either_path(captured: CapturedUsage) -> None:
    inner = Starlette(routes=[Route("/vault/{drawer}", other)])
    inner.add_middleware(asgi.UsageMiddleware, features=FEATURES, audit={"open_vault": "required"})
    TestClient(Starlette(routes=[Mount("/bank", inner)])).get("/bank/vault/1")
    assert told(captured) == [("open_vault", "attempted"), ("open_vault", "success")]

    below = Flask("below")
    below.add_url_rule("/vault/<drawer>", "vault", lambda drawer: drawer)
    app = wsgi.UsageMiddleware(below, features=FEATURES, audit={"open_vault": "required"})
    Client(app).open(EnvironBuilder("/vault/1", base_url="http://localhost/bank"))
    assert told(captured)[2:] == [("open_vault", "attempted"), ("open_vault", "success")]


def test_what_came_by_a_path_that_nobody_foresaw_is_recorded_and_said(
    captured: CapturedUsage, caplog: pytest.LogCaptureFixture
) -> None:
    app = Starlette(routes=[Route("/files/{name:path}", other)])
    features = {"/files/{name}": "read_file"}  # of one segment, as the key says
    app.add_middleware(asgi.UsageMiddleware, features=features, audit={"read_file": "required"})
    client = TestClient(app)
    for _ in range(2):
        client.get("/files/a/b")
    assert told(captured) == [("read_file", "success")] * 2
    assert [record.levelno for record in caplog.records if "features= does not name" in record.message] == [
        logging.ERROR
    ]


def test_an_app_without_a_framework_is_told_by_the_path(captured: CapturedUsage) -> None:
    def plain(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"open"]

    app = wsgi.UsageMiddleware(plain, features=FEATURES, audit={"open_vault": "required"})
    for path in ("/vault/1", "//vault/1"):
        environ = {**EnvironBuilder().get_environ(), "PATH_INFO": path}
        run_wsgi_app(app, environ)
    assert told(captured) == [("open_vault", "attempted"), ("open_vault", "success")] * 2


# ---- how answers end


def test_a_body_that_fails_before_its_first_piece_is_a_failure(captured: CapturedUsage) -> None:
    def plain(environ: Any, start_response: Any) -> Iterable[bytes]:
        def pieces() -> Iterator[bytes]:
            if environ["PATH_INFO"].endswith("/lost"):
                raise Lost
            yield b"open"
            assert told(captured) == [("open_vault", "success")]  # while the rest is still to come
            yield b"shut"

        start_response("200 OK", [])
        return pieces()

    client = Client(wsgi.UsageMiddleware(plain, features=FEATURES, audit={"open_vault": True}))
    with pytest.raises(Lost):
        client.get("/vault/lost")
    assert told(captured) == [("open_vault", "failed")]
    captured.clear()
    assert client.get("/vault/1").data == b"openshut"
    assert told(captured) == [("open_vault", "success")]


def test_a_stream_is_told_as_it_begins(captured: CapturedUsage) -> None:
    async def vault(_: Request) -> Response:
        async def pieces() -> Any:
            assert told(captured) == [("open_vault", "success")]
            yield b"open"

        return StreamingResponse(pieces())

    app = Starlette(routes=[Route("/vault/{drawer}", vault)])
    app.add_middleware(asgi.UsageMiddleware, features=FEATURES, audit={"open_vault": True})
    assert TestClient(app).get("/vault/1").content == b"open"
    assert told(captured) == [("open_vault", "success")]


def test_an_app_that_says_nothing_has_failed(captured: CapturedUsage) -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None: ...

    app = asgi.UsageMiddleware(silent, features=FEATURES, audit={"open_vault": True})
    with pytest.raises(AssertionError):
        TestClient(app).get("/vault/1")
    assert told(captured) == [("open_vault", "failed")]


@pytest.mark.parametrize("audit", [True, "required"])
@pytest.mark.parametrize(("drawer", "outcome"), [("1", "success"), ("no", "denied"), ("denial", "denied")])
def test_a_websocket(captured: CapturedUsage, audit: Any, drawer: str, outcome: str) -> None:
    async def vault(websocket: WebSocket) -> None:
        if websocket.path_params["drawer"] == "denial":
            await websocket.send_denial_response(PlainTextResponse("no", 401))
            return
        if websocket.path_params["drawer"] != "no":
            await websocket.accept()
        await websocket.close()

    app = Starlette(routes=[WebSocketRoute("/vault/{drawer}", vault)])
    features = {"WEBSOCKET /vault/{drawer}": "open_vault"}
    app.add_middleware(asgi.UsageMiddleware, features=features, audit={"open_vault": audit})
    denied = contextlib.nullcontext() if drawer == "1" else pytest.raises(WebSocketDisconnect)
    with denied, TestClient(app).websocket_connect(f"/vault/{drawer}"):
        pass
    attempts = [("open_vault", "attempted")] if audit == "required" else []
    assert told(captured) == [*attempts, ("open_vault", outcome)]


def test_an_endpoint_class(captured: CapturedUsage) -> None:
    class Vault(HTTPEndpoint):
        async def get(self, _: Request) -> Response:
            return PlainTextResponse("open")

    app = Starlette(routes=[Route("/vault/{drawer}", Vault)])
    app.add_middleware(asgi.UsageMiddleware, audit={"Vault": True})
    TestClient(app).delete("/vault/1")
    assert told(captured) == [("Vault", "failed")]


# ---- where it cannot be recorded


class Unavailable(CapturedUsage):
    """A recorder whose database is away."""

    def admit(self, use: Any) -> None:
        raise AuditUnavailable.of(use.feature, "the database is away")


@SITES
def test_what_cannot_be_recorded_does_not_happen(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Unavailable(declared)
    with capture_usage(), declared.stand_in(recorder):
        ask = site(features=FEATURES, audit={"open_vault": "required"})
        assert ask("/vault/lost") == 503  # the view would have raised
        assert ask("/other") == 200
    assert "the database is away" in caplog.text
    assert told(recorder) == []
    assert [each.feature for each in recorder.uses] == ["other"]


@SITES
def test_an_attempt_beside_one_that_was_refused_is_told_to_its_end(site: Site) -> None:
    class Half(CapturedUsage):
        def admit(self, use: Any) -> None:
            if use.feature == "read_vault":
                raise AuditUnavailable.of(use.feature, "the database is away")
            super().admit(use)

    recorder = Half(declared)
    features = {"/vault/{drawer}": "open_vault", "GET /vault/{drawer}": "read_vault"}
    with capture_usage(), declared.stand_in(recorder):
        ask = site(features=features, audit=dict.fromkeys(["open_vault", "read_vault"], "required"))
        assert ask("/vault/lost") == 503
    assert told(recorder) == [("open_vault", "attempted"), ("open_vault", "failed")]


@SITES
def test_without_a_tracker_nothing_that_is_required_happens(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    assert site(features=FEATURES, audit={"open_vault": "required"})("/vault/1") == 503
    assert "not configured" in caplog.text


@SITES
def test_rows_of_a_real_trail(database: Database, site: Site) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = Tracker(database.url, Settings())
    ask = site(tracker=tracker, features=FEATURES, audit={"open_vault": "required", "other": True}, user=lambda _: ADA)
    for path in ("/vault/1", "/vault/forbidden", "/other"):
        ask(path, headers={"X-Request-ID": path})
    assert tracker.shutdown()
    rows = all_of(engine, tables.access)
    assert sorted((row.feature_name, row.outcome, row.request_id) for row in rows) == [
        ("open_vault", "attempted", "/vault/1"),
        ("open_vault", "attempted", "/vault/forbidden"),
        ("open_vault", "denied", "/vault/forbidden"),
        ("open_vault", "success", "/vault/1"),
        ("other", "success", "/other"),
    ]
    assert {row.user_id for row in rows} == {ADA}
    assert len({row.access_id for row in rows}) == 3
    with engine.connect() as connection:
        assert verify(connection, tables).findings == ()


# ---- what cannot be


@pytest.mark.parametrize(("app", "middleware"), [(Starlette(), asgi), (Flask("vault"), wsgi)])
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"audit": True}, DeclarationError, "mapping from names of features"),
        ({"audit": {"open_vault": "yes"}}, ConfigurationError, "True, False or 'required'"),
        ({"audit": {"": True}}, FeatureNameError, "1 to 100"),
        ({"audit": {"vault": "required"}}, ConfigurationError, "features= does not name it"),
        (
            {"features": {"/vault/{drawer}": "open", "vault": "open"}, "audit": {"open": "required"}},
            ConfigurationError,
            "features= names it by 'vault'",
        ),
        ({"features": lambda _: "open", "audit": {"open": "required"}}, ConfigurationError, "decided by the path"),
    ],
)
def test_what_cannot_be_audited_is_said_at_once(
    app: Any, middleware: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        middleware.UsageMiddleware(app, **options)


@SITES
def test_what_is_no_route_is_said(captured: CapturedUsage, site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site(features=FEATURES, audit={"open_valt": True, "open_vault": True, "other": True})("/other")
    assert [record.args for record in caplog.records if "no route of this app" in record.message] == [("open_valt",)]


def test_the_plan_of_an_app_tells_what_is_audited() -> None:
    app = Starlette(routes=[Route("/vault/{drawer}", other), Route("/other", other)])
    app.add_middleware(
        asgi.UsageMiddleware, features=FEATURES, audit={"open_vault": "required", "other": True, "gone": True}
    )
    assert [(row.feature, row.why) for row in route_coverage(app)][:3] == [
        ("open_vault", "features=; audit='required'"),
        ("other", "the name of the route; audit=True"),
        ("gone", "audit= names it, and it is no route of the app"),
    ]
