"""A Flask app whose use is counted. Run it: python examples/flask_app.py

curl -X POST -H "X-User: ada" http://127.0.0.1:5000/events/7/follow
curl http://127.0.0.1:5000/usage
"""

from __future__ import annotations

import os

import sqlalchemy as sa
from flask import Flask, Response, abort, request

import usage_instrument as usage
from usage_instrument.queries import top_features
from usage_instrument.schema import create_all
from usage_instrument.wsgi import UsageMiddleware

DATABASE = os.environ.get("USAGE_INSTRUMENT_DATABASE_URL", "sqlite:///usage-example.db")
EVENTS = {7: "Choir practice", 8: "Book club"}

engine = sa.create_engine(DATABASE, poolclass=sa.NullPool)  # no connection for a forked worker to inherit
create_all(engine, user_id_type="string")
usage.configure(DATABASE, user_id_type="string", service="flask-example")

app = Flask(__name__)
app.wsgi_app = UsageMiddleware(app.wsgi_app, exclude=["/usage"])  # type: ignore[method-assign]


@app.before_request
def who() -> None:
    usage.identify(request.headers.get("X-User"))  # for the example only: the user of your verified login


@app.get("/events")
def list_events() -> dict[str, object]:  # counted by the middleware, as "list_events"
    return {"events": list(EVENTS.values())}


@app.post("/events/<int:event_id>/follow")
@usage.tracks("calendar_follow_event", metadata=["event_id"])
def follow(event_id: int) -> Response:
    if event_id not in EVENTS:
        abort(404)  # a failure is no use
    return Response(status=204)


@app.get("/usage")
def read_usage() -> dict[str, int]:
    usage.flush()
    with engine.connect() as connection:
        return {row.feature_name: row.total_usage for row in connection.execute(top_features())}


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "5000")))
