"""Two endpoints, methods or operations are never one feature, whatever the framework calls them."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs, allow-subclassing-any
# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import asyncio
import sys

import pytest
from werkzeug.test import Client as WSGIClient

import usage_instrument as usage
from usage_instrument.asgi import UsageMiddleware
from usage_instrument.testing import capture_usage
from usage_instrument.web.route_coverage import route_coverage
from usage_instrument.wsgi import UsageMiddleware as WSGIMiddleware

WEB = ("GET", "/form"), ("POST", "/form"), ("GET", "/items/7"), ("POST", "/only")


def counted(ask, requests):
    """The features that successful requests count as, in their order."""
    with capture_usage(user_id_type="integer") as captured:
        for method, path in requests:
            assert ask(method, path) < 300, (method, path)
    assert captured.complaints == []
    return captured.names


def asking(app):
    client = WSGIClient(app)
    return lambda method, path: client.open(path, method=method).status_code


def planned(app):
    return [row.feature for row in route_coverage(app) if row.route and row.feature]


def test_flask():
    from flask import Flask
    from flask.views import MethodView

    class Item(MethodView):
        def get(self, number):
            return "item"

        def delete(self, number):
            return "gone"

    app = Flask("names", static_folder=None)
    app.add_url_rule("/form", "form", lambda: "form", methods=["GET", "POST"])
    app.add_url_rule("/items/<int:number>", view_func=Item.as_view("item"))
    app.add_url_rule("/only", "only", lambda: "only", methods=["POST"])
    app.add_url_rule("/split", "split", lambda: "split", methods=["GET"])
    app.add_url_rule("/split", "split", methods=["POST"])
    app.wsgi_app = WSGIMiddleware(app.wsgi_app)
    requests = (*WEB, ("DELETE", "/items/7"), ("GET", "/split"), ("POST", "/split"))
    names = ["form GET", "form POST", "item GET", "only", "item DELETE", "split GET", "split POST"]
    assert counted(asking(app), requests) == names
    assert sorted(planned(app)) == sorted(names)


def test_dispatched_flask_apps():
    from flask import Flask
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    front, back = Flask("front", static_folder=None), Flask("back", static_folder=None)
    for app in (front, back):
        app.add_url_rule("/", "index", lambda: "index")
        app.add_url_rule(f"/{app.name}", app.name, lambda: "own")
    app = WSGIMiddleware(DispatcherMiddleware(front, {"/back": back}))
    requests = [("GET", "/"), ("GET", "/back/"), ("GET", "/front"), ("GET", "/back/back")]
    assert counted(asking(app), requests) == ["index /", "index /back/", "front", "back"]


def test_flask_restx():
    restx = pytest.importorskip("flask_restx")
    from flask import Flask

    app = Flask("names", static_folder=None)
    api = restx.Api(app)

    class Todo(restx.Resource):
        def get(self, number):
            return {}

        def put(self, number):
            return {}

    api.add_resource(Todo, "/todos/<int:number>")
    app.wsgi_app = WSGIMiddleware(app.wsgi_app)
    assert counted(asking(app), [("GET", "/todos/1"), ("PUT", "/todos/1")]) == ["todo GET", "todo PUT"]


def site_of(patterns):
    return type("Site", (), {"urlpatterns": patterns})


def django_site():
    pytest.importorskip("django")
    from django.http import HttpResponse
    from django.urls import path
    from django.views import View
    from django.views.decorators.http import require_http_methods, require_POST

    import django_site  # noqa: F401 - configures Django

    def view(request, **_):
        return HttpResponse("ok")

    class Item(View):
        def get(self, request, pk):
            return HttpResponse("ok")

        def delete(self, request, pk):
            return HttpResponse("ok")

    return site_of(
        [
            path("form", require_http_methods(["GET", "POST"])(view), name="form"),
            path("items/<int:pk>", Item.as_view(), name="item"),
            path("items/<int:pk>/again", Item.as_view(), name="item"),
            path("only", require_POST(view), name="only"),
            path("any", lambda request: view(request), name="any"),
            path("here", lambda request: view(request), name="same"),
            path("there", lambda request: view(request), name="same"),
        ]
    )


def asking_django(site):
    from django.test import Client, override_settings

    def ask(method, path):
        with override_settings(ROOT_URLCONF=site):
            return Client().generic(method, path).status_code

    return ask


def test_django():
    requests = (
        *WEB, ("DELETE", "/items/7"), ("GET", "/items/7/again"), ("GET", "/any"), ("POST", "/any"), ("GET", "/here"),
        ("GET", "/there"),
    )  # fmt: skip
    site = django_site()
    assert counted(asking_django(site), requests) == [
        "form GET", "form POST", "item GET", "only", "item DELETE", "any", "any POST", "same /here",
        "same /there",
    ]  # fmt: skip
    from django.core.wsgi import get_wsgi_application
    from django.test import override_settings

    with override_settings(ROOT_URLCONF=site):
        rows = {(row.method, row.route): row[2:] for row in route_coverage(get_wsgi_application())}
    assert rows["POST", "/form"] == ("form POST", "the name of the route, by its method")
    assert rows["POST", "/only"] == ("only", "the name of the route")
    assert rows["", "/here"][0] == "same /here"


def test_the_redirects_of_the_django_admin_are_no_features():
    django_site()
    from django.contrib import admin
    from django.contrib.auth import get_user_model
    from django.core.wsgi import get_wsgi_application
    from django.test import override_settings
    from django.urls import path
    from django.views.generic import RedirectView

    pages = admin.AdminSite()
    pages.register(get_user_model())
    moved = path("moved", RedirectView.as_view(url="/admin/"), name="moved")
    site = site_of([path("admin/", pages.urls), moved])
    with override_settings(ROOT_URLCONF=site):
        rows = [row for row in route_coverage(get_wsgi_application()) if row.route]
    redirects = {row.route for row in rows if row.why == "a redirect is no use, unless in include="}
    assert redirects == {"/admin/auth/user/{object_id}/", "/moved"}
    assert not any(row.feature for row in rows if row.route in redirects)
    assert asking_django(site)("POST", "/moved") == 302
    with capture_usage() as captured:
        asking_django(site)("POST", "/moved")
    assert captured.names == []


def test_rest_framework():
    pytest.importorskip("rest_framework")
    django_site()
    from django.urls import include, path
    from rest_framework import routers, viewsets
    from rest_framework.decorators import action, api_view
    from rest_framework.response import Response

    class Books(viewsets.ViewSet):
        def list(self, request):
            return Response([])

        def create(self, request):
            return Response({})

        def retrieve(self, request, pk=None):
            return Response({})

        @usage.tracks("book_changed")
        def update(self, request, pk=None):
            return Response({})

        def destroy(self, request, pk=None):
            return Response({})

        @action(detail=True, methods=["post"])
        def lend(self, request, pk=None):
            return Response({})

    class Authors(viewsets.ViewSet):
        def list(self, request):
            return Response([])

    @api_view(["GET", "POST"])
    def function(request):
        return Response({})

    @api_view(["POST"])
    @usage.tracks("function_called")
    def tracked(request):
        return Response({})

    router = routers.DefaultRouter()
    router.register("books", Books, basename="book")
    router.register("authors", Authors, basename="author")
    site = site_of([path("", include(router.urls)), path("f", function, name="f"), path("t", tracked, name="t")])
    requests = (
        ("GET", "/books/"), ("POST", "/books/"), ("GET", "/books/1/"), ("PUT", "/books/1/"), ("DELETE", "/books/1/"),
        ("POST", "/books/1/lend/"), ("GET", "/authors/"), ("GET", "/f"), ("POST", "/f"), ("POST", "/t"),
    )  # fmt: skip
    assert counted(asking_django(site), requests) == [
        "book-list", "book-create", "book-retrieve", "book_changed", "book-destroy", "book-lend", "author-list",
        "f GET", "f POST", "function_called",
    ]  # fmt: skip


def test_django_ninja():
    ninja = pytest.importorskip("ninja")
    django_site()
    from django.urls import path

    api, one, two = ninja.NinjaAPI(), ninja.Router(), ninja.Router()

    @api.get("/items/{number}")
    def get_item(request, number):
        return {}

    @api.delete("/items/{number}")
    def delete_item(request, number):
        return {}

    @api.post("/items/{number}")
    @usage.tracks("item_posted")
    def post_item(request, number):
        return {}

    for router in (one, two):

        @router.get("/all")
        def get_all(request):
            return {}

    api.add_router("/one", one)
    api.add_router("/two", two)
    requests = (
        ("GET", "/api/items/1"), ("DELETE", "/api/items/1"), ("POST", "/api/items/1"), ("GET", "/api/one/all"),
        ("GET", "/api/two/all"),
    )  # fmt: skip
    assert counted(asking_django(site_of([path("api/", api.urls)])), requests) == [
        "api:get_item", "api:delete_item", "item_posted", "api:get_all /api/one/all", "api:get_all /api/two/all",
    ]  # fmt: skip


def test_bottle():
    bottle = pytest.importorskip("bottle")
    app, inner = bottle.Bottle(), bottle.Bottle()
    app.route("/form", ["GET", "POST"], lambda: "form", name="form")
    app.route("/items/<number:int>", "GET", lambda number: "item", name="item")
    app.route("/only", "POST", lambda: "only", name="only")
    inner.route("/deep", "GET", lambda: "deep", name="deep")
    app.mount("/inner/", inner)
    wrapped = WSGIMiddleware(app, features={"/inner/deep": "deeper"})
    names = ["form GET", "form POST", "item", "only", "deeper"]
    assert counted(asking(wrapped), (*WEB, ("GET", "/inner/deep"))) == names
    assert planned(wrapped) == names


def test_pyramid():
    config = pytest.importorskip("pyramid.config")
    from pyramid.response import Response

    made = config.Configurator()
    for name, pattern in (("form", "/form"), ("item", "/items/{number}"), ("only", "/only")):
        made.add_route(name, pattern)
    for name, method in (("form", "GET"), ("form", "POST"), ("item", "GET"), ("only", "POST")):
        made.add_view(lambda request: Response("ok"), route_name=name, request_method=method)
    app = WSGIMiddleware(made.make_wsgi_app())
    names = ["form GET", "form POST", "item", "only"]
    assert counted(asking(app), WEB) == names
    assert planned(app) == names


@pytest.mark.parametrize("kind", ["AsyncApp", "FlaskApp"])
def test_connexion(kind, tmp_path, monkeypatch):
    connexion = pytest.importorskip("connexion")
    from starlette.testclient import TestClient

    parameters = "[{name: number, in: path, required: true, schema: {type: integer}}]"
    operation = f"parameters: {parameters}, responses: {{'200': {{description: ok}}}}"
    (tmp_path / "api.yaml").write_text(
        "openapi: 3.0.0\ninfo: {title: names, version: '1'}\npaths:\n  /items/{number}:\n"
        f"    get: {{operationId: handlers.show, {operation}}}\n"
        f"    put: {{operationId: handlers.change, {operation}}}\n"
    )
    (tmp_path / "handlers.py").write_text("def show(number): return {}\ndef change(number): return {}\n")
    monkeypatch.syspath_prepend(tmp_path)
    for features, names in ((None, ["handlers.show", "handlers.change"]), ({"/items/{number}": "item"}, ["item"])):
        app = getattr(connexion, kind)("names", specification_dir=str(tmp_path))
        app.add_api("api.yaml")
        client = TestClient(UsageMiddleware(app, features=features))
        requests = [("GET", "/items/1"), ("PUT", "/items/1")]
        assert counted(lambda method, path: client.request(method, path).status_code, requests) == names  # noqa: B023


def mounted_bottle():
    bottle = pytest.importorskip("bottle")
    app, inner = bottle.Bottle(), bottle.Bottle()
    app.route("/form", ["GET", "POST"], lambda: "form", name="form")
    app.route("/items/<number:int>", "GET", lambda number: "item", name="item")
    inner.route("/deep", "GET", lambda: "deep", name="deep")
    app.mount("/inner/", inner)
    return app, [("GET", "/inner/deep")], ["deep"]


def mounted_pyramid():
    config = pytest.importorskip("pyramid.config")
    from pyramid.response import Response

    made = config.Configurator()
    for name, pattern in (("form", "/form"), ("item", "/items/{number}")):
        made.add_route(name, pattern)
    for name, method in (("form", "GET"), ("form", "POST"), ("item", "GET")):
        made.add_view(lambda request: Response("ok"), route_name=name, request_method=method)
    return made.make_wsgi_app(), [], []


@pytest.mark.parametrize("make", [mounted_bottle, mounted_pyramid])
def test_a_bottle_or_pyramid_app_mounted_in_an_asgi_app(make, caplog):
    wrapper = pytest.importorskip("a2wsgi").WSGIMiddleware
    from starlette.applications import Starlette
    from starlette.routing import Mount
    from starlette.testclient import TestClient

    wsgi_app, more, own = make()
    app = UsageMiddleware(
        Starlette(routes=[Mount("/old", wrapper(wsgi_app)), Mount("/named", wrapper(wsgi_app), name="n")])
    )
    client = TestClient(app)
    requests = [("GET", "/form"), ("POST", "/form"), ("GET", "/items/7"), *more]
    asked = [(method, prefix + path) for prefix in ("/old", "/named") for method, path in requests]
    names = ["form GET", "form POST", "item", *own]
    assert counted(lambda method, path: client.request(method, path).status_code, asked) == [
        *names, *(f"n:{name}" for name in names),
    ]  # fmt: skip
    assert planned(app) == [*names, *(f"n:{name}" for name in names)]
    assert caplog.messages == []


def test_pyramids_traversal_is_reported_once(caplog):
    config = pytest.importorskip("pyramid.config")
    from pyramid.response import Response

    made = config.Configurator(root_factory=lambda request: {})
    made.add_route("routed", "/routed")
    made.add_view(lambda request: Response("ok"), route_name="routed")
    made.add_view(lambda request: Response("ok"), context=dict, name="seen")
    ask = asking(WSGIMiddleware(made.make_wsgi_app()))
    assert counted(ask, [("GET", "/routed"), *[("GET", "/seen")] * 5]) == ["routed"]
    (message,) = caplog.messages
    assert "features={'GET /seen': 'my_feature'}" in message


def connexion_app(kind, tmp_path, monkeypatch):
    connexion = pytest.importorskip("connexion")
    (tmp_path / "pets.yaml").write_text(
        "openapi: 3.0.0\ninfo: {title: names, version: '1'}\npaths:\n"
        "  /pets: {get: {operationId: pets.listed, responses: {'200': {description: ok}}}}\n"
        "  /told: {get: {operationId: pets.told, responses: {'200': {description: ok}}}}\n"
        "  /healthz: {get: {operationId: pets.healthz, responses: {'200': {description: ok}}}}\n"
    )
    (tmp_path / "pets.py").write_text(
        "import usage_instrument as usage\n"
        "def listed(): return []\n"
        "def healthz(): return []\n"
        "@usage.tracks('pet_told')\n"
        "def told(): return []\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pets", raising=False)
    app = getattr(connexion, kind)("names", specification_dir=str(tmp_path))
    app.add_api("pets.yaml", base_path="/v1")
    app.add_url_rule("/plain", "plain", plain_of_flask if kind == "FlaskApp" else plain_of_starlette)
    return app


def plain_of_flask():
    return "plain"


async def plain_of_starlette(request):
    from starlette.responses import PlainTextResponse

    return PlainTextResponse("plain")


def asked_without_extensions(app):
    """Requests as Uvicorn sends them: their scope has no `extensions`, unlike that of Starlette's TestClient."""

    async def request(path):
        sent = []
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
            "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sent.append(message)

        await app(scope, receive, send)
        return sent[0]["status"]

    return lambda method, path: asyncio.run(request(path))


@pytest.mark.parametrize("place", ["around", "within"])
@pytest.mark.parametrize("kind", ["AsyncApp", "FlaskApp"])
def test_connexion_below_a_base_path(kind, place, tmp_path, monkeypatch, caplog):
    app = connexion_app(kind, tmp_path, monkeypatch)
    if place == "within":
        app.add_middleware(UsageMiddleware)
    wrapped = UsageMiddleware(app) if place == "around" else app
    requests = [("GET", path) for path in ("/v1/pets", "/v1/told", "/v1/healthz", "/plain")]
    names = ["pets.listed", "pet_told", "plain"]
    is_seen = kind == "FlaskApp" or place == "within"  # a plain route of an AsyncApp is seen only within
    assert counted(asked_without_extensions(wrapped), requests) == (names if is_seen else names[:2])
    assert planned(wrapped) == (names if kind == "FlaskApp" else names[:2])
    assert [one for one in caplog.records if one.name == "usage_instrument"] == []


def test_what_connexion_does_not_route_is_reported_once(tmp_path, monkeypatch, caplog):
    ask = asked_without_extensions(UsageMiddleware(connexion_app("AsyncApp", tmp_path, monkeypatch)))
    assert counted(ask, [("GET", "/plain")] * 5) == []
    (message,) = [one.getMessage() for one in caplog.records if one.name == "usage_instrument"]
    assert "features={'GET /plain': 'my_feature'}" in message


@pytest.mark.parametrize("module", ["starlette.middleware.wsgi", "a2wsgi"])
def test_a_flask_app_mounted_in_an_asgi_app(module):
    wrapper = pytest.importorskip(module).WSGIMiddleware
    from flask import Flask
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route
    from starlette.testclient import TestClient

    flask = Flask("names", static_folder=None)
    flask.add_url_rule("/form", "form", lambda: "form", methods=["GET", "POST"])
    flask.add_url_rule("/index", "index", lambda: "index")

    @flask.get("/user")
    def user():
        usage.identify(7)
        return "user"

    async def index(request):
        return PlainTextResponse("index")

    app = Starlette(routes=[Route("/", index, name="index"), Mount("/old", wrapper(flask))])
    client = TestClient(UsageMiddleware(app))
    requests = [("GET", "/"), ("GET", "/old/index"), ("GET", "/old/form"), ("POST", "/old/form"), ("GET", "/old/user")]
    names = ["index /", "index /old/index", "form GET", "form POST", "user"]
    assert counted(lambda method, path: client.request(method, path).status_code, requests) == names
    assert sorted(planned(UsageMiddleware(app))) == sorted(names)


@pytest.mark.parametrize("is_inner_counted", [False, True])
def test_fastapi_apps_within_a_wsgi_app(is_inner_counted, caplog):
    """Nothing of them was counted."""
    adapter = pytest.importorskip("a2wsgi").ASGIMiddleware
    from fastapi import APIRouter, FastAPI
    from flask import Flask
    from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
    from starlette.middleware.authentication import AuthenticationMiddleware
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    class User(SimpleUser):
        id = 7

    class Backend(AuthenticationBackend):
        async def authenticate(self, conn):
            return AuthCredentials(), User("ada")

    flask, api, router = Flask("names", static_folder=None), FastAPI(), APIRouter(prefix="/items")
    flask.add_url_rule("/index", "index", lambda: "index")
    api.add_middleware(AuthenticationMiddleware, backend=Backend())
    api.get("/index", name="index")(lambda: "index")
    api.get("/healthz", name="probe")(lambda: "up")
    api.get("/told", name="told")(usage.tracks("told_inside")(lambda: "told"))
    router.get("/{number}", name="item")(lambda number: number)
    router.delete("/{number}", name="item")(lambda number: number)
    api.include_router(router)
    if is_inner_counted:
        api.add_middleware(UsageMiddleware)
    app = WSGIMiddleware(DispatcherMiddleware(flask, {"/api": adapter(api), "/other": adapter(FastAPI())}))
    client = WSGIClient(app)
    requests = [("GET", path) for path in ("/index", "/api/index", "/api/items/7", "/api/healthz", "/api/told")]
    requests.append(("DELETE", "/api/items/7"))
    place = "/items/{number}" if is_inner_counted else "/api/items/{number}"  # an inner middleware knows its own app
    index = "index" if is_inner_counted else "index /api/index"
    names = ["index /index", index, f"item GET {place}", "told_inside", f"item DELETE {place}"]
    with capture_usage() as captured:
        for method, path in requests:
            with client.open(path, method=method) as response:
                assert (response.status_code, bool(response.data)) == (200, True), path
        assert client.open("/api/missing", buffered=True).status_code == 404
    assert [(use.feature, use.user) for use in captured.uses] == [
        (name, None if name == "index /index" else 7) for name in names
    ]  # fmt: skip
    if not is_inner_counted:
        assert sorted({*planned(app)} - {"openapi", "swagger_ui_html"}) == sorted(names)
    assert caplog.messages == []


def test_a_mount_that_nothing_names_is_reported_beside_features_of_other_routes(caplog):
    """`features=` for other routes silenced the warning."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route
    from starlette.testclient import TestClient

    async def page(request):
        return PlainTextResponse("page")

    async def hidden(scope, receive, send):
        await PlainTextResponse("hidden")(scope, receive, send)

    def ask_five_times(**options):
        app = Starlette(routes=[Route("/home", page, name="home"), Mount("/old", hidden)])
        client = TestClient(UsageMiddleware(app, **options))
        caplog.clear()
        with capture_usage():
            for _ in range(5):
                client.get("/home")
                client.get("/old/pages")
        return caplog.messages

    (message,) = ask_five_times(features={"home": "start", "/home": "start"})
    assert "features={'GET /old/{id}': 'my_feature'}" in message or "'GET /old/pages'" in message
    assert ask_five_times(features={"/old/other": "other"}) == []
    assert ask_five_times(exclude=["/old/*"]) == []


@pytest.mark.parametrize("ours_first", [True, False])
def test_flask_socketio_copies_the_environ(ours_first):
    socketio = pytest.importorskip("flask_socketio")
    from flask import Flask

    app = Flask("names", static_folder=None)
    app.add_url_rule("/", "index", lambda: "index")
    steps = [
        lambda: setattr(app, "wsgi_app", WSGIMiddleware(app.wsgi_app)),
        lambda: socketio.SocketIO(app, async_mode="threading"),
    ]
    for step in steps if ours_first else steps[::-1]:
        step()
    assert counted(asking(app.wsgi_app), [("GET", "/")]) == ["index"]
