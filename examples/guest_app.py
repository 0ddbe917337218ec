"""A Flask app whose guests keep their counts when they sign in. Run it: python examples/guest_app.py

curl -b jar -c jar http://127.0.0.1:5000/events     # as a guest, from the second request on
curl -b jar -c jar -d name=ada http://127.0.0.1:5000/login
curl -b jar http://127.0.0.1:5000/usage
"""

from __future__ import annotations

import os
import uuid
from functools import partial

import sqlalchemy as sa
from flask import Flask, Response, request, session

import usage_instrument as usage
from usage_instrument.schema import create_all
from usage_instrument.wsgi import UsageMiddleware

DATABASE = os.environ.get("USAGE_INSTRUMENT_DATABASE_URL", "sqlite:///usage-example.db")
# No foreign key: a guest is in no users table.
create_all(sa.create_engine(DATABASE, poolclass=sa.NullPool), user_id_type="string", users=None)
usage.configure(DATABASE, user_id_type="string", service="guest-example")

app = Flask(__name__)
app.secret_key = os.urandom(32)  # for the example only: all processes need the same
app.wsgi_app = UsageMiddleware(app.wsgi_app, exclude=["/usage"])  # type: ignore[method-assign]


@app.before_request
def who() -> None:
    usage.identify(session.get("user") or session.get("guest"))


@app.get("/events")
def list_events() -> dict[str, object]:
    session.setdefault("guest", f"guest:{uuid.uuid4().hex}")
    return {"events": ["Choir practice", "Book club"]}


@app.post("/login")
def log_in() -> Response:
    user, guest = request.form["name"], session.pop("guest", None)  # for the example only: verify a password
    session["user"] = user
    usage.identify(user)
    response = Response(status=204)
    if guest is not None:  # after the response: no login waits for it, or fails because of it
        response.call_on_close(partial(usage.merge, guest=guest, user=user))
    return response


@app.get("/usage")
def read_usage() -> dict[str, int]:
    return {str(use.feature_name): use.usage_count for use in usage.user_features(session.get("user"))}


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "5000")))
