"""One call, one row, one answer."""

from __future__ import annotations

import uuid

from flask import Flask

import usage_instrument as usage
from conftest import Database, UsersDatabase
from usage_instrument import queries
from usage_instrument.schema import create_all
from usage_instrument.wsgi import UsageMiddleware


def test_one_call_one_row_one_answer(users_database: UsersDatabase) -> None:
    create_all(users_database.engine)
    usage.configure(users_database.database.url)
    ada = users_database.user_ids[0]

    @usage.tracks("calendar_follow_event", metadata=["event_id"])
    def follow(event_id: uuid.UUID) -> str:
        return "following"

    event = uuid.uuid4()
    with usage.as_user(ada):
        assert follow(event) == "following"
    assert usage.shutdown()

    with users_database.engine.connect() as connection:
        (top,) = connection.execute(queries.top_features()).all()
        assert (top.feature_name, top.total_usage) == ("calendar_follow_event", 1)
        (row,) = connection.execute(queries.user_features(ada)).all()
        assert row.feature_name == "calendar_follow_event"
        assert row.usage_count == 1
        (adopted,) = connection.execute(queries.adoption()).all()
        assert (adopted.feature_name, adopted.unique_users) == ("calendar_follow_event", 1)


def test_the_middleware_alone_answers_what_nobody_uses(sqlite: Database) -> None:
    engine = sqlite.engine()
    create_all(engine, users=None)
    usage.configure(sqlite.url)
    app = Flask("shop", static_folder=None)
    for name in ("orders", "reports", "healthz"):
        app.add_url_rule(f"/{name}", name, lambda: "ok")
    app.wsgi_app = UsageMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    assert app.test_client().get("/orders").status_code == 200
    assert usage.shutdown(60)
    with engine.connect() as connection:
        unused = {row.feature_name: row.status for row in connection.execute(queries.unused_features())}
    # The decorators of the process's other tests declare features as well.
    assert {name: unused.get(name) for name in ("orders", "reports", "healthz")} == {
        "orders": None, "reports": "never", "healthz": None
    }  # fmt: skip
