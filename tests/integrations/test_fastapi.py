"""One line in real FastAPI apps: routers and their prefixes, dependencies that say who it is, and all else it adds."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import pytest
import sqlalchemy as sa
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Header, HTTPException, Security, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.testclient import TestClient
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.requests import Request

import usage_instrument as usage
from conftest import Database
from reading import counts, made
from usage_instrument.errors import ConfigurationError
from usage_instrument.integrations.fastapi import instrument
from usage_instrument.schema import define_tables
from usage_instrument.testing import CapturedUsage, capture_usage

ADA = uuid.UUID(int=2**64 + 1)


@pytest.fixture
def captured() -> Iterator[CapturedUsage]:
    with capture_usage() as captured:
        yield captured


def in_a_thread(x_user: Annotated[int | None, Header()] = None) -> None:
    usage.identify(x_user)


async def in_the_loop(x_user: Annotated[int | None, Header()] = None) -> None:
    usage.identify(x_user)


async def while_it_lasts(x_user: Annotated[int | None, Header()] = None) -> AsyncIterator[None]:
    usage.identify(x_user)
    yield


# Before 0.123, FastAPI knows of a class and of an instance only annotations that name builtins.
class Session:
    """A dependency that is a class."""

    def __init__(self, x_user: int | None = Header(None)) -> None:
        usage.identify(x_user)


class Caller:
    """A dependency, and an endpoint, that is an instance."""

    def __call__(self, x_user: int | None = Header(None)) -> str:
        usage.identify(x_user)
        return "called"


def subject(token: Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))]) -> str:
    if token is None:
        raise HTTPException(401)
    usage.identify(token.credentials)  # where an app verifies it first, and takes its claim "sub"
    return token.credentials


def shop() -> FastAPI:
    app = FastAPI()
    items, admin = APIRouter(prefix="/items", tags=["items"]), APIRouter(dependencies=[Depends(in_a_thread)])

    @app.get("/", dependencies=[Depends(in_the_loop)])
    def home() -> str:
        return "home"

    @items.get("/{item_id}", dependencies=[Depends(while_it_lasts)])
    async def show_item(item_id: int) -> int:
        if item_id == 404:
            raise HTTPException(404)
        return item_id

    @items.post("/{item_id}/buy", status_code=201)
    @usage.tracks("item_bought", metadata=["item_id", "pieces"])
    async def buy(item_id: int, session: Annotated[Session, Depends()], pieces: int = 1) -> str:
        return f"{pieces} of {item_id}"

    @admin.delete("/{item_id}", status_code=204, response_model=None)
    def remove(item_id: int) -> None: ...

    @app.get("/stream")
    async def stream(session: Annotated[Session, Depends()]) -> StreamingResponse:
        return StreamingResponse(iter(["a", "b"]))

    @app.post("/mail", status_code=202)
    async def mail(tasks: BackgroundTasks, session: Annotated[Session, Depends()]) -> str:
        tasks.add_task(usage.track, "mail_sent")
        return "later"

    @app.websocket("/live/{room}")
    async def live(websocket: WebSocket, room: str, who: Annotated[None, Depends(in_the_loop)]) -> None:
        await websocket.accept()
        await websocket.close()

    items.include_router(admin, prefix="/admin")
    app.include_router(items, prefix="/v1")
    app.add_api_route("/call", Caller(), name="call")
    return app


REQUESTS = {
    "GET /": ["home"],
    "GET /v1/items/7": ["show_item"],
    "GET /v1/items/404": [],
    "GET /v1/items/none": [],
    "POST /v1/items/7/buy?pieces=2": ["item_bought"],
    "DELETE /v1/items/admin/7": ["remove"],
    "GET /stream": ["stream"],
    "POST /mail": ["mail", "mail_sent"],
    "GET /call": ["call"],
    "GET /docs": [],
    "GET /openapi.json": [],
}


def test_one_line_counts_what_succeeds_for_whom_a_dependency_says(captured: CapturedUsage) -> None:
    bare, app = shop(), shop()
    instrument(app)
    assert app.openapi() == bare.openapi()
    with TestClient(bare) as plain, TestClient(app) as client:
        for said, names in REQUESTS.items():
            method, path = said.split()
            headers = {"X-User": "7"}
            expected = plain.request(method, path, headers=headers)
            captured.clear()
            answer = client.request(method, path, headers=headers)
            assert (answer.status_code, answer.headers, answer.content) == (
                expected.status_code, expected.headers, expected.content,
            )  # fmt: skip
            assert [(use.feature, use.user) for use in captured.uses] == [(name, 7) for name in names], said
        captured.clear()
        with client.websocket_connect("/live/kitchen", headers={"X-User": "8"}):
            pass
        client.get("/")
    assert [(use.feature, use.user) for use in captured.uses] == [("live", 8), ("home", None)]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("GET /v1/items/{item_id}", "GET /v1/items/7"),
        ("DELETE /v1/items/admin/{item_id}", "DELETE /v1/items/admin/7"),
        ("remove", "DELETE /v1/items/admin/7"),
    ],
)
def test_features_are_named_by_whole_templates(captured: CapturedUsage, key: str, said: str) -> None:
    app = shop()
    instrument(app, features={key: "named"}, include=[])
    TestClient(app).request(*said.split())
    assert captured.names == ["named"]


def test_a_sub_app_is_counted_by_the_app_around_it(captured: CapturedUsage) -> None:
    app, sub = FastAPI(), shop()
    app.mount("/shop", sub, name="shop")
    instrument(app, features={"GET /shop/v1/items/{item_id}": "seen_in_the_shop"})
    client = TestClient(app)
    client.get("/shop/v1/items/7")
    client.get("/shop/docs")
    client.get("/shop/call")
    assert captured.names == ["seen_in_the_shop", "shop:call"]


def test_the_subject_of_a_bearer_token(sqlite: Database) -> None:
    app = FastAPI()

    @app.get("/me")
    def me(who: Annotated[str, Depends(subject)]) -> str:
        return who

    instrument(app, database=sqlite.url, user_id_type="string", service="api")
    made(sqlite.engine(), users=None, user_id_type="string")
    with TestClient(app) as client:
        assert client.get("/me", headers={"Authorization": "Bearer auth0|ada"}).json() == "auth0|ada"
        assert client.get("/me").status_code == 401
    tables = define_tables(sa.MetaData(), users=None, user_id_type="string")
    assert counts(sqlite.engine(), tables) == {("me", "auth0|ada"): 1}


def test_an_async_engine_and_the_user_in_the_state(sqlite: Database) -> None:
    engine = create_async_engine(sqlite.async_url)
    made(sqlite.engine(), users=None)
    app = FastAPI()

    async def authenticated(request: Request) -> None:
        request.state.user_id = ADA

    @app.get("/", dependencies=[Depends(authenticated)])
    async def home() -> str:
        return "home"

    instrument(app, database=engine, user=lambda scope: scope["state"]["user_id"])
    with TestClient(app) as client:
        client.get("/")
    asyncio.run(engine.dispose())
    assert counts(sqlite.engine(), define_tables(sa.MetaData(), users=None)) == {("home", ADA): 1}


def test_twice_is_refused() -> None:
    app = FastAPI()
    instrument(app)
    with pytest.raises(ConfigurationError, match="already"):
        instrument(app)
