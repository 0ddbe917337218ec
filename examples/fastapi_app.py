"""A FastAPI app whose use is counted. Run it: uvicorn --app-dir examples fastapi_app:app

curl -X POST -H "X-User: ada" http://127.0.0.1:8000/events/7/follow
curl http://127.0.0.1:8000/usage
"""

from __future__ import annotations

import os
from typing import Annotated

import sqlalchemy as sa
from fastapi import Depends, FastAPI, Header, HTTPException

import usage_instrument as usage
from usage_instrument.asgi import UsageMiddleware
from usage_instrument.queries import top_features
from usage_instrument.schema import create_all

DATABASE = os.environ.get("USAGE_INSTRUMENT_DATABASE_URL", "sqlite:///usage-example.db")
EVENTS = {7: "Choir practice", 8: "Book club"}

engine = sa.create_engine(DATABASE, poolclass=sa.NullPool)
create_all(engine, user_id_type="string")
usage.configure(DATABASE, user_id_type="string", service="fastapi-example")


def who(x_user: Annotated[str | None, Header()] = None) -> None:
    usage.identify(x_user)  # for the example only: the claim "sub" of a verified token


app = FastAPI(dependencies=[Depends(who)])
app.add_middleware(UsageMiddleware, exclude=["/usage"])


@app.get("/events")
async def list_events() -> list[str]:  # counted by the middleware, as "list_events"
    return list(EVENTS.values())


@app.post("/events/{event_id}/follow", status_code=204)
@usage.tracks("calendar_follow_event", metadata=["event_id"])
async def follow(event_id: int) -> None:
    if event_id not in EVENTS:
        raise HTTPException(404)  # a failure is no use


@app.get("/usage")
def read_usage() -> dict[str, int]:
    usage.flush()
    with engine.connect() as connection:
        return {row.feature_name: row.total_usage for row in connection.execute(top_features())}
