"""A GraphQL operation is a feature: by its name, and only without errors."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs, allow-subclassing-any
# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from werkzeug.test import Client

from usage_instrument import wsgi
from usage_instrument.asgi import UsageMiddleware
from usage_instrument.testing import capture_usage
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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_plan_says_what_counts_the_operations():
    found = {row[2:] for row in route_coverage(strawberry_fastapi()) if row.route}
    assert found == {(None, "its operations count, by usage_instrument.integrations.strawberry, .ariadne or .graphene")}


def test_names_of_operations_do_not_grow_without_bound(monkeypatch):
    graphql = pytest.importorskip("graphql")
    from usage_instrument.integrations import graphql as ours

    monkeypatch.setattr(ours, "NAMES", 2)
    monkeypatch.setattr(ours, "_names", set())
    with capture_usage() as captured:
        for name in ("One", "Two", "Three", "One"):
            document = graphql.parse(f"query {name} {{ book }}")
            ours.count_operation(ours.operation_in(document, None), failed=False)
    assert [use.feature for use in captured.uses] == [
        "graphql:One", "graphql:Two", "graphql:query book", "graphql:One",
    ]  # fmt: skip
