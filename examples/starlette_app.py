"""A Starlette app whose use is counted. Run it: uvicorn --app-dir examples starlette_app:app

curl -X POST -H "X-User: ada" http://127.0.0.1:8000/events/7/follow
curl http://127.0.0.1:8000/usage
"""

from __future__ import annotations

import os

import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import usage_instrument as usage
from usage_instrument.asgi import UsageMiddleware
from usage_instrument.queries import top_features
from usage_instrument.schema import create_all

DATABASE = os.environ.get("USAGE_INSTRUMENT_DATABASE_URL", "sqlite:///usage-example.db")
EVENTS = {7: "Choir practice", 8: "Book club"}

engine = sa.create_engine(DATABASE, poolclass=sa.NullPool)
create_all(engine, user_id_type="string")
usage.configure(DATABASE, user_id_type="string", service="starlette-example")


async def list_events(request: Request) -> Response:  # counted by the middleware, as "list_events"
    usage.identify(request.headers.get("X-User"))  # for the example only: the user of your verified login
    return JSONResponse({"events": list(EVENTS.values())})


@usage.tracks("calendar_follow_event", metadata=lambda request: {"event_id": request.path_params["event_id"]})
async def follow(request: Request) -> Response:
    usage.identify(request.headers.get("X-User"))  # for the example only: the user of your verified login
    if request.path_params["event_id"] not in EVENTS:
        raise HTTPException(404)  # a failure is no use
    return Response(status_code=204)


def read_usage(request: Request) -> Response:
    usage.flush()
    with engine.connect() as connection:
        return JSONResponse({row.feature_name: row.total_usage for row in connection.execute(top_features())})


app = Starlette(
    routes=[
        Route("/events", list_events),
        Route("/events/{event_id:int}/follow", follow, methods=["POST"]),
        Route("/usage", read_usage),
    ],
    middleware=[Middleware(UsageMiddleware, exclude=["/usage"])],
)
