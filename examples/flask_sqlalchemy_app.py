"""A Flask-SQLAlchemy app whose use is counted. Run it: python examples/flask_sqlalchemy_app.py

curl -X POST -H "X-User: ada" http://127.0.0.1:5000/events/7/follow
curl http://127.0.0.1:5000/usage
"""

from __future__ import annotations

import os

from flask import Flask, Response, abort
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column

import usage_instrument as usage
from usage_instrument.integrations.flask import UsageInstrument
from usage_instrument.queries import top_features

EVENTS = {7: "Choir practice", 8: "Book club"}
db = SQLAlchemy()


class User(db.Model):  # type: ignore[name-defined,misc]
    id: Mapped[str] = mapped_column(primary_key=True)


app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ.get("USAGE_INSTRUMENT_DATABASE_URL", "sqlite:///usage-example.db")
db.init_app(app)
# The header is for the example only. With Flask-Login, its user is found without `user=`.
UsageInstrument(app, db=db, users=User, user=lambda environ: environ.get("HTTP_X_USER"), exclude=["read_usage"])
with app.app_context():
    db.create_all()  # user, and the tables of usage-instrument
    for name in ("ada", "bob"):
        db.session.merge(User(id=name))
    db.session.commit()


@app.get("/events")
def list_events() -> dict[str, object]:  # counted by the extension, as "list_events"
    return {"events": list(EVENTS.values())}


@app.post("/events/<int:event_id>/follow")
@usage.tracks("calendar_follow_event", metadata=["event_id"])
def follow(event_id: int) -> Response:
    return Response(status=204) if event_id in EVENTS else abort(404)  # a failure is no use


@app.get("/usage")
def read_usage() -> dict[str, int]:
    usage.flush()
    return {row.feature_name: row.total_usage for row in db.session.execute(top_features())}


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "5000")))
