"""A GraphQL operation is a feature: by its name, and only without errors."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs, allow-subclassing-any
# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
import logging
import sys

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from werkzeug.test import Client

import usage_instrument as usage
from usage_instrument import wsgi
from usage_instrument.asgi import UsageMiddleware
from usage_instrument.errors import ConfigurationError
from usage_instrument.testing import capture_usage
from usage_instrument.web.graphql import LONGEST
from usage_instrument.web.route_coverage import route_coverage

SCHEMA = "type Query { book(number: Int): String } type Mutation { addBook(title: String): String }"


def add_book(title):
    if title == "":
        raise ValueError("a book has a title")
    return title


def strawberry_schema():
    strawberry = pytest.importorskip("strawberry")
    from usage_instrument.integrations.strawberry import UsageExtension

    def book(number: int) -> str:
        return "Emma"

    def add(title: str) -> str:
        return str(add_book(title))

    query = strawberry.type(type("Query", (), {"book": strawberry.field(resolver=book)}))
    mutation = strawberry.type(type("Mutation", (), {"addBook": strawberry.mutation(resolver=add)}))
    return strawberry.Schema(query=query, mutation=mutation, extensions=[UsageExtension])


def strawberry_fastapi():
    schema = strawberry_schema()
    from fastapi import FastAPI
    from strawberry.fastapi import GraphQLRouter

    app = FastAPI(openapi_url=None)
    app.include_router(GraphQLRouter(schema), prefix="/graphql")
    return UsageMiddleware(app)


def strawberry_flask():
    schema = strawberry_schema()
    from flask import Flask
    from strawberry.flask.views import GraphQLView

    app = Flask("graphql", static_folder=None)
    app.add_url_rule("/graphql", view_func=GraphQLView.as_view("graphql_view", schema=schema))
    app.wsgi_app = wsgi.UsageMiddleware(app.wsgi_app)
    return app


def ariadne_schema():
    ariadne = pytest.importorskip("ariadne")
    query, mutation = ariadne.QueryType(), ariadne.MutationType()
    query.set_field("book", lambda obj, info, number: "Emma")
    mutation.set_field("addBook", lambda obj, info, title: add_book(title))
    return ariadne.make_executable_schema(SCHEMA, query, mutation)


def ariadne_starlette():
    schema = ariadne_schema()
    from ariadne.asgi import GraphQL
    from ariadne.asgi.handlers import GraphQLHTTPHandler

    from usage_instrument.integrations.ariadne import UsageExtension

    served = GraphQL(schema, http_handler=GraphQLHTTPHandler(extensions=[UsageExtension]))
    return UsageMiddleware(Starlette(routes=[Mount("/graphql", served, name="graphql")]))


def ariadne_flask():
    ariadne, schema = pytest.importorskip("ariadne"), ariadne_schema()
    from flask import Flask, jsonify, request

    from usage_instrument.integrations.ariadne import UsageExtension

    app = Flask("graphql", static_folder=None)

    @app.post("/graphql/")
    def serve():
        success, result = ariadne.graphql_sync(schema, request.get_json(), extensions=[UsageExtension])
        return jsonify(result), 200 if success else 400

    app.wsgi_app = wsgi.UsageMiddleware(app.wsgi_app)
    return app


def graphene_flask():
    graphene = pytest.importorskip("graphene", minversion="3")
    from flask import Flask, jsonify, request

    from usage_instrument.integrations.graphene import UsageExecutionContext

    class Query(graphene.ObjectType):
        book = graphene.String(number=graphene.Int())

        def resolve_book(self, info, number):
            return "Emma"

    class AddBook(graphene.Mutation):
        class Arguments:
            title = graphene.String()

        Output = graphene.String

        def mutate(self, info, title):
            return add_book(title)

    class Mutation(graphene.ObjectType):
        add_book = AddBook.Field()

    schema = graphene.Schema(query=Query, mutation=Mutation)
    app = Flask("graphql", static_folder=None)

    @app.post("/graphql/")
    def serve():
        sent = request.get_json()
        result = schema.execute(
            sent["query"], operation_name=sent.get("operationName"), execution_context_class=UsageExecutionContext
        )
        return jsonify(result.formatted), 200 if result.data is not None or not result.errors else 400

    app.wsgi_app = wsgi.UsageMiddleware(app.wsgi_app)
    return app


APPS = [strawberry_fastapi, strawberry_flask, ariadne_starlette, ariadne_flask, graphene_flask]
TWO = 'query Look { book(number: 1) } mutation Add { addBook(title: "Emma") }'
REQUESTS = [
    ({"query": "query Look { book(number: 1) }"}, "graphql:Look"),
    ({"query": TWO, "operationName": "Add"}, "graphql:Add"),
    ({"query": "{ book(number: 1) }"}, "graphql:query book"),
    ({"query": 'mutation { mine: addBook(title: "Emma") }'}, "graphql:mutation addBook"),
    ({"query": 'mutation Fail { addBook(title: "") }'}, None),
    ({"query": "query Wrong { nothing }"}, None),
    ({"query": "query {"}, None),
    ({"query": "query Introspection { __schema { queryType { name } } }"}, None),
]


@pytest.mark.parametrize("make", APPS, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_operations_count_by_their_names_and_without_errors(make):
    app = make()
    is_asgi = isinstance(app, UsageMiddleware)
    client = TestClient(app) if is_asgi else Client(app)
    with capture_usage() as captured:
        for sent, feature in REQUESTS:
            captured.clear()
            client.post("/graphql/" if "strawberry" not in make.__name__ else "/graphql", json=sent)
            assert captured.names == ([] if feature is None else [feature]), sent
            assert captured.complaints == []


def handwritten(kind):
    """A view of the app's own, which answers every query with 200."""
    from flask import Flask, jsonify, request
    from flask.views import MethodView

    graphene = pytest.importorskip("graphene", minversion="3")
    from usage_instrument.integrations.graphene import UsageExecutionContext

    class Query(graphene.ObjectType):
        book = graphene.String(number=graphene.Int())

        def resolve_book(self, info, number):
            return "Emma"

    schema = graphene.Schema(query=Query)

    class Counting(UsageExecutionContext): ...

    def serve():
        result = schema.execute(request.get_json()["query"], execution_context_class=Counting)
        return jsonify(result.formatted)

    class Served(MethodView):
        def post(self):
            return serve_as(Counting)

    def serve_as(context):
        return jsonify(schema.execute(request.get_json()["query"], execution_context_class=context).formatted)

    view = Served.as_view("serve") if kind == "graphene class" else serve
    app = Flask("graphql", static_folder=None)
    app.add_url_rule("/graphql", "serve", view, methods=["POST"])
    app.add_url_rule("/other", "other", lambda: "other")
    app.wsgi_app = wsgi.UsageMiddleware(app.wsgi_app)
    return app


@pytest.mark.parametrize("kind", ["graphene", "graphene class"])
def test_an_invalid_query_that_no_extension_sees_counts_nothing(kind, caplog):
    app = handwritten(kind)
    client = Client(app)
    with capture_usage() as captured:
        for query in ["{ nothing }", "query {", *["query Wrong { nothing }"] * 5]:
            assert client.post("/graphql", json={"query": query}).status_code == 200
        assert captured.uses == []
        client.post("/graphql", json={"query": "query Look { book(number: 1) }"})
        client.get("/other")
        assert captured.names == ["graphql:Look", "other"]
        client = Client(wsgi.UsageMiddleware(app.wsgi_app.app, features={"/graphql": "asked"}))
        client.post("/graphql", json={"query": "{ nothing }"})
        assert captured.count("asked") == 0
    assert caplog.messages == []
    assert [row[1:] for row in route_coverage(app) if row.route == "/graphql"] == [
        ("/graphql", None, "its operations count, by its extension")
    ]


EXTENSIONS = [f"usage_instrument.integrations.{name}" for name in ("strawberry", "ariadne", "graphene")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_plan_says_what_counts_the_operations(monkeypatch):
    app = strawberry_fastapi().app

    def why(**options):
        (found,) = {row[2:] for row in route_coverage(UsageMiddleware(app, **options)) if row.route}
        assert found[0] is None
        return found[1]

    assert why(graphql="/graphql/") == "its operations count, by graphql="
    assert why() == "its operations count if its schema has our UsageExtension, else pass graphql='/graphql'"
    for name in EXTENSIONS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert why() == "nothing counts its operations: add our UsageExtension to its schema, or pass graphql='/graphql'"


def without_extension(kind):
    strawberry = pytest.importorskip("strawberry")

    @strawberry.type
    class Query:
        @strawberry.field
        def book(self, number: int) -> str:
            return "Emma"

    schema = strawberry.Schema(query=Query)
    if kind == "fastapi":
        from fastapi import FastAPI
        from strawberry.fastapi import GraphQLRouter

        app = FastAPI(openapi_url=None)
        app.include_router(GraphQLRouter(schema), prefix="/graphql")
        return app, UsageMiddleware, TestClient
    if kind == "mount":
        from strawberry.asgi import GraphQL

        app = Starlette(routes=[Mount("/graphql", GraphQL(schema))])
        return app, UsageMiddleware, TestClient
    from flask import Flask
    from strawberry.flask.views import GraphQLView

    app = Flask("graphql", static_folder=None)
    app.add_url_rule("/graphql/", view_func=GraphQLView.as_view("graphql_view", schema=schema))
    return app, wsgi.UsageMiddleware, Client


@pytest.mark.parametrize("kind", ["fastapi", "mount", "flask"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_operations_that_nothing_counts_are_reported_once_with_both_ways(kind, caplog):
    app, middleware, client_of = without_extension(kind)
    client, sent = client_of(middleware(app)), {"query": "query Look { book(number: 1) }"}
    path = "/graphql" if kind == "fastapi" else "/graphql/"
    with capture_usage() as captured:
        for _ in range(5):
            client.get(path, headers={"accept": "text/html"})
        assert caplog.messages == []
        for count in (0, 0, 1, 1, 1):
            assert client.post(path, json=sent).status_code == 200
            assert len(caplog.messages) == count
        assert captured.uses == []
        (message,) = caplog.messages
        assert message == (
            f"GraphQL requests to {'/graphql' if kind == 'mount' else path} succeed and none is counted, since nothing "
            "reads their operations: add the extension of usage_instrument.integrations.strawberry, .ariadne or "
            ".graphene to the schema, or pass graphql='/graphql' to the middleware"
        )
        client = client_of(middleware(app, graphql="/graphql"))  # what the message says, with or without a last slash
        client.post(path, json=sent, **({"buffered": True} if kind == "flask" else {}))
        assert captured.names == ["graphql:Look"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_endpoint_whose_extension_counts_is_not_reported(caplog):
    app = strawberry_fastapi()
    introspection = {"query": "query Introspection { __schema { queryType { name } } }"}
    with capture_usage():
        for _ in range(5):
            TestClient(app).post("/graphql", json=introspection)
    assert caplog.messages == []


def test_the_path_of_graphql_may_be_the_one_below_the_root_path():
    pytest.importorskip("graphql")
    app = starlette_by_bodies().app
    with capture_usage() as captured:
        TestClient(app, root_path="/api").post("/api/graphql", json=REQUESTS[0][0])
    assert captured.names == ["graphql:Look"]


def test_names_of_operations_do_not_grow_without_bound(monkeypatch):
    graphql = pytest.importorskip("graphql")
    from usage_instrument.web import graphql as ours

    monkeypatch.setattr(ours, "NAMES", 2)
    monkeypatch.setattr(ours, "_names", set())
    with capture_usage() as captured:
        for name in ("One", "Two", "Three", "One"):
            document = graphql.parse(f"query {name} {{ book }}")
            ours.count_operation(ours.operation_in(document, None), failed=False)
    assert [use.feature for use in captured.uses] == [
        "graphql:One", "graphql:Two", "graphql:query book", "graphql:One",
    ]  # fmt: skip


# ---- by the bodies, where the app has no extension


def executed(sent):
    graphql = pytest.importorskip("graphql")
    if "query" not in sent:
        return {"data": {"book": "kept on the server"}}
    roots = {"book": lambda info, number=0: "Emma", "addBook": lambda info, title="": add_book(title)}
    schema, name = graphql.build_schema(SCHEMA), sent.get("operationName")
    return graphql.graphql_sync(schema, sent["query"], root_value=roots, operation_name=name).formatted


def answer_of(sent):
    return [executed(each) for each in sent] if isinstance(sent, list) else executed(sent)


def starlette_by_bodies():
    async def serve(request: Request) -> Response:
        if request.method == "GET":
            return JSONResponse(executed(dict(request.query_params)))
        sent = json.loads(b"".join([piece async for piece in request.stream()]))
        usage.identify(7)
        whole = json.dumps(answer_of(sent))
        return StreamingResponse(iter([whole[:9], whole[9:]]), media_type="application/json")

    async def other(request: Request) -> Response:
        return JSONResponse(await request.json())

    routes = [Route("/graphql", serve, methods=["GET", "POST"]), Route("/other", other, methods=["POST"])]
    return TestClient(UsageMiddleware(Starlette(routes=routes), graphql="/graphql"))


def flask_by_bodies():
    from flask import Flask, jsonify, request

    app = Flask("graphql", static_folder=None)

    @app.route("/graphql", methods=["GET", "POST"])
    def serve():
        usage.identify(7)
        return jsonify(executed(request.args) if request.method == "GET" else answer_of(request.get_json()))

    @app.post("/other")
    def other():
        return jsonify(request.get_json())

    app.wsgi_app = wsgi.UsageMiddleware(app.wsgi_app, graphql=["/graphql"])
    client = app.test_client()
    client.post = functools.partial(client.post, buffered=True)
    client.get = functools.partial(client.get, buffered=True)
    return client


BY_BODIES = [starlette_by_bodies, flask_by_bodies]


@pytest.mark.parametrize("make", BY_BODIES, ids=lambda make: make.__name__)
def test_operations_are_read_from_the_bodies(make):
    pytest.importorskip("graphql")
    client = make()
    with capture_usage() as captured:
        for sent, feature in [*REQUESTS, ({"operationName": "Kept", "extensions": {}}, "graphql:Kept")]:
            captured.clear()
            client.post("/graphql", json=sent)
            assert [(use.feature, use.user) for use in captured.uses] == ([] if feature is None else [(feature, 7)]), (
                sent
            )
        captured.clear()
        batch = [REQUESTS[0][0], REQUESTS[4][0], REQUESTS[3][0]]
        client.post("/graphql", json=batch)
        assert captured.names == ["graphql:Look", "graphql:mutation addBook"]
        captured.clear()
        client.get("/graphql?query={book(number:1)}")
        client.post("/other", json=REQUESTS[0][0])
        assert captured.names == ["graphql:query book", "other"]
        assert captured.complaints == []


def answered_in_pieces(environ, start_response):
    """Fails after the first piece if the request says so."""

    def body():
        yield b'{"data":'
        if b"Fails" in environ["wsgi.input"].read():
            raise OSError("the database is away")
        yield b'{"book":"Emma"}}'

    start_response("200 OK", [("Content-Type", "application/json")])
    return body()


async def aanswered_in_pieces(scope, receive, send):
    sent = (await receive())["body"]
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
    await send(start)
    await send({"type": "http.response.body", "body": b'{"data":', "more_body": True})
    if b"Fails" in sent:
        raise OSError("the database is away")
    await send({"type": "http.response.body", "body": b'{"book":"Emma"}}'})


@pytest.mark.parametrize(("operation", "names"), [("Look", ["graphql:Look"]), ("Fails", [])])
def test_an_operation_counts_before_its_last_piece_is_sent_and_not_if_the_answer_fails(operation, names):
    """In WSGI, an operation whose answer failed in its midst counted."""
    pytest.importorskip("graphql")
    body = json.dumps({"query": f"query {operation} {{ book }}"}).encode()
    seen = []

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        if message["type"] == "http.response.body" and not message.get("more_body"):
            seen.append(list(captured.names))

    scope = {"type": "http", "method": "POST", "path": "/graphql", "headers": [(b"content-type", b"application/json")]}
    environ = {"wsgi.input": io.BytesIO(body), "CONTENT_TYPE": "application/json"}
    environ |= {"REQUEST_METHOD": "POST", "PATH_INFO": "/graphql", "SCRIPT_NAME": ""}
    with capture_usage() as captured:
        with contextlib.suppress(OSError):
            asyncio.run(UsageMiddleware(aanswered_in_pieces, graphql="/graphql")(scope, receive, send))
        assert (captured.names, seen) == (names, [names] if names else [])
        captured.clear()
        answer = wsgi.UsageMiddleware(answered_in_pieces, graphql="/graphql")(environ, lambda *_: None)
        with contextlib.suppress(OSError):
            list(answer)
        answer.close()
        assert captured.names == names


@pytest.mark.parametrize("make", BY_BODIES, ids=lambda make: make.__name__)
def test_what_cannot_be_read_passes_and_counts_nothing(make, caplog):
    pytest.importorskip("graphql")
    client = make()
    with capture_usage() as captured:
        long = {"query": "query Long { book }", "variables": {"text": "x" * LONGEST}}
        found = client.post("/graphql", json=long)
        assert (found.json() if callable(found.json) else found.json) == {"data": {"book": "Emma"}}
        for sent in (["no object", {"query": 3}], {"query": "{" * 30_000}):
            with contextlib.suppress(Exception):  # the app's own
                client.post("/graphql", json=sent)
    assert captured.uses == captured.complaints == []
    assert [record.levelno for record in caplog.records if "usage_instrument" in record.name] == [logging.WARNING]


def test_a_page_for_people_is_no_operation_and_a_bare_scope_passes():
    pytest.importorskip("graphql")
    from starlette.responses import HTMLResponse

    async def page(request: Request) -> Response:
        return HTMLResponse("<h1>GraphiQL</h1>")

    wrapped = UsageMiddleware(Starlette(routes=[Route("/graphql", page)]), graphql="/graphql")
    passed = []

    async def bare(scope, receive, send):
        passed.append(scope["type"])

    async def nothing(*_):
        pass

    with capture_usage() as captured:
        TestClient(wrapped).get("/graphql?query={book(number:1)}")
        for scope in ({"type": "http", "method": "GET", "path": "/graphql"}, {"type": "websocket", "path": "/graphql"}):
            asyncio.run(UsageMiddleware(bare, graphql="/graphql")(scope, nothing, nothing))
    assert captured.uses == []
    assert passed == ["http", "websocket"]


@pytest.mark.parametrize("sent", ['{"query": "' + "{a" * 990 + "}" * 990 + '"}', "[" * 100_000])
def test_what_is_nested_too_deeply_raises_nothing_and_counts_nothing(sent):
    """The app may answer it all the same: from a cache, or with a parser of its own."""
    pytest.importorskip("graphql")

    async def answer(request: Request) -> Response:
        await request.body()
        return JSONResponse({"data": {}})

    client = TestClient(
        UsageMiddleware(Starlette(routes=[Route("/graphql", answer, methods=["POST"])]), graphql="/graphql")
    )
    with capture_usage() as captured:
        assert client.post("/graphql", content=sent, headers={"content-type": "application/json"}).json() == {
            "data": {}
        }
    assert captured.uses == captured.complaints == []


def test_an_extension_of_the_app_goes_before():
    app = strawberry_fastapi().app
    with capture_usage() as captured:
        TestClient(UsageMiddleware(app, graphql="/graphql")).post("/graphql", json=REQUESTS[0][0])
    assert captured.names == ["graphql:Look"]


@pytest.mark.parametrize("wrong", ["graphql", ["/graphql", 7]])
def test_paths_that_are_none_raise_at_once(wrong):
    with pytest.raises(ConfigurationError, match="graphql="):
        UsageMiddleware(Starlette(), graphql=wrong)
