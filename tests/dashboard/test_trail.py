"""The page of the audit trail: a right of its own, a search, a file; and every look is an access itself."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import random
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.routing import Mount
from starlette.testclient import TestClient

import usage_instrument as usage
from conftest import Database
from reading import all_of, made
from usage_instrument import Settings, Tracker
from usage_instrument.asgi import UsageMiddleware
from usage_instrument.audit.verify import verify
from usage_instrument.cli.demo import trail as past
from usage_instrument.dashboard import asgi as by_asgi
from usage_instrument.dashboard import wsgi as by_wsgi
from usage_instrument.errors import ConfigurationError
from usage_instrument.privacy import erasure
from usage_instrument.schema import Tables
from usage_instrument.testing import capture_usage

from .conftest import HOSTILE
from .test_mounted import Backend
from .visitor import Answer, asgi, wsgi

ADA, BOB, EVE = (uuid.UUID(int=2**64 + number) for number in (1, 2, 3))
LOOK = "usage_instrument.look"
DAY = dt.timedelta(days=1)


@dataclass
class Trail:
    """A database with accesses of Ada's and Bob's, and a dashboard over it, in which Eve may look at them."""

    engine: sa.Engine
    tables: Tables
    tracker: Tracker
    ask: Callable[..., Answer]

    def looks(self) -> list[sa.Row[Any]]:
        """As they are recorded, the oldest first."""
        assert self.tracker.flush()
        rows = [row for row in all_of(self.engine, self.tables.access) if row.feature_name == LOOK]
        return sorted(rows, key=lambda row: row.occurred_at)


def eve(_: Any) -> bool:
    usage.identify(EVE)
    return True


def nobody(_: Any) -> bool:
    return False


def somebody(_: Any) -> bool:
    usage.identify(BOB)
    return False


@contextmanager
def trail_on(database: Database, kind: Any, **options: Any) -> Iterator[Trail]:
    engine = database.engine()
    tables = made(engine)
    tracker = Tracker(database.url, Settings(flush_interval=0, service="bank", privacy_key="k" * 32, audit_timeout=30))
    with tracker.as_user(BOB, actor=ADA):
        tracker.track("open_vault", audit="required", metadata={"drawer": 4})
    for user in (ADA, BOB, None):
        tracker.track("read_report", user=user, audit=True)
    assert tracker.flush(30)
    dashboard = kind.Dashboard(
        database.url, **{"authorize": nobody, "authorize_audit": eve, "tracker": tracker, **options}
    )
    visit = asgi if kind is by_asgi else wsgi
    try:
        yield Trail(engine, tables, tracker, lambda path="/audit", **more: visit(dashboard, path, **more))
    finally:
        assert tracker.shutdown()


KINDS = pytest.mark.parametrize("kind", [by_asgi, by_wsgi])


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def trail(request: pytest.FixtureRequest) -> Iterator[Trail]:
    """On each kind of database, and by each shell."""
    shell = by_wsgi if request.param == "postgresql" else by_asgi
    with trail_on(request.getfixturevalue(request.param), shell) as made:
        yield made


@pytest.fixture
def small(sqlite: Database) -> Iterator[Trail]:
    with trail_on(sqlite, by_asgi) as made:
        yield made


def cells(answer: Answer) -> list[tuple[str, str, str, str]]:
    """User, actor, feature and outcome of each row of the file."""
    return [(row["user_id"], row["actor_id"], row["feature_name"], row["outcome"]) for row in read_csv(answer)]


def read_csv(answer: Answer) -> list[dict[str, str]]:
    assert answer.status == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text)))


# ---- what it shows


def test_the_page_shows_who_accessed_what_the_newest_first(trail: Trail) -> None:
    page = trail.ask().page
    assert page.said.index("read_report") < page.said.index("open_vault")
    assert f"{BOB} by {ADA} open_vault success bank" in page.said
    assert '{"drawer": 4}' in page.said
    assert "unknown user" in page.said
    assert "This look is recorded" in page.said


SEARCHES: list[tuple[dict[str, str], int]] = [
    ({}, 4),
    ({"user": str(ADA)}, 1),
    ({"user": str(BOB).upper()}, 2),
    ({"user": "anonymous"}, 1),
    ({"actor": str(ADA)}, 1),
    ({"feature": "read_report"}, 3),
    ({"feature": "read_report", "user": f" {BOB} "}, 1),
    ({"outcome": "success"}, 4),
    ({"outcome": "denied"}, 0),
    ({"from": "2026-01-01"}, 4),
    ({"from": "9999-12-31"}, 0),
    ({"to": "9999-12-31"}, 4),
    ({"to": "2026-01-01"}, 0),
    ({"user": "", "actor": "", "feature": "", "outcome": "", "from": "", "to": ""}, 4),
]
"""What is asked for, and how many of the accesses that were there before are found."""


def test_the_search(trail: Trail) -> None:
    for asked, number in SEARCHES:
        found = cells(trail.ask("/audit.csv", **asked))
        assert len([row for row in found if row[2] != LOOK]) == number, asked
        page = trail.ask(**asked).page
        assert len(page.all("tr")[1:]) >= number, asked
        fields = {field.get("name"): field.get("value") for field in page.all("input")}
        assert {name: fields[name] for name in asked if name in fields} == {
            name: value for name, value in asked.items() if name in fields
        }, "the form keeps what was asked"


def test_today_counts_from_its_first_to_its_last_moment(small: Trail) -> None:
    days = {row.occurred_at.date() for row in all_of(small.engine, small.tables.access)}
    assert len(cells(small.ask("/audit.csv", **{"from": str(min(days)), "to": str(max(days))}))) == 4
    before = min(days) - dt.timedelta(days=1)
    assert cells(small.ask("/audit.csv", to=str(before))) == []


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({"user": "ada"}, 404, "This is no user id"),
        ({"outcome": "maybe"}, 400, "attempted, success, denied, failed"),
        ({"from": "yesterday"}, 400, "2026-01-31"),
        ({"feature": "x" * 101}, 400, "at most 100"),
        ({"user": "a\0"}, 400, "broken"),
    ],
)
def test_what_cannot_be_asked_is_said(small: Trail, asked: dict[str, str], status: int, words: str) -> None:
    answer = small.ask(**asked)
    assert answer.status == status
    assert words in answer.text.replace("&#39;", "'")
    (look,) = small.looks()
    assert (look.user_id, look.outcome, look.metadata) == (EVE, "failed", None)


def test_whatever_is_in_it_is_escaped(small: Trail) -> None:
    for text in HOSTILE:
        small.tracker.track(text, user=ADA, metadata={text: text}, audit=True)
    assert small.tracker.flush()
    answer = small.ask()
    assert answer.status == 200
    assert {attributes.get("src") for attributes in answer.page.all("img")} == set()
    assert answer.page.all("script") == []
    file = small.ask("/audit.csv")
    assert "'=HYPERLINK(1)" in {cell for row in csv.reader(io.StringIO(file.text)) for cell in row}
    assert file.headers["Content-Disposition"] == 'attachment; filename="audit.csv"'


def test_a_database_without_a_trail(small: Trail) -> None:
    small.tables.access.drop(small.engine)
    answer = small.ask()
    assert answer.status == 503
    assert "feature_usage_access does not exist" in answer.text
    small.tables.access.create(small.engine)


def test_what_stands_out(trail: Trail) -> None:
    today = dt.datetime.now(dt.UTC).date()
    with trail.engine.begin() as connection:
        people = [uuid.UUID(int=number) for number in range(1, past.STAFF + 1)]
        known = past.fill(connection, trail.tables, people, today, random.Random(7))
    answer = trail.ask("/audit-anomalies.csv")
    rows = [(row["what"], row["day"], row["user_id"], row["feature_name"]) for row in read_csv(answer)]
    assert rows == [(what, str(day), str(user), feature or "") for what, day, user, feature in known]
    page = trail.ask("/audit-anomalies").page
    assert re.search(rf"denials \d+ \w+ {people[0]} any 25 0.0 25.0 first access", page.said)
    assert f"audit?user={people[0]}" in [a.get("href") for a in page.all("a")]
    friday = known[0].day
    quiet = trail.ask("/audit-anomalies", **{"from": str(friday - DAY), "to": str(friday - DAY), "hours": "8-18"}).page
    assert "Nothing stands out in these days." in quiet.said
    first = trail.looks()[0]
    assert (first.outcome, first.user_id) == ("success", EVE)
    details = dict(first.metadata if isinstance(first.metadata, dict) else json.loads(first.metadata))
    assert details == {
        "view": "anomalies", "from": str(today - 6 * DAY), "to": str(today), "hours": "7-19", "as": "csv", "rows": 4
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"from": "2026-01-01", "to": "2026-03-01"}, "Choose 28 days at most"),
        ({"from": "2026-02-01", "to": "2026-01-31"}, "the first one first"),
        ({"to": "9999-12-31"}, "28 days at most"),
        ({"to": "0001-01-01"}, "28 days at most"),
        ({"hours": "19-7"}, "Hours is the first and the last full hour"),
        ({"from": "monday"}, "2026-01-31"),
    ],
)
def test_days_that_cannot_be_searched(small: Trail, asked: dict[str, str], words: str) -> None:
    answer = small.ask("/audit-anomalies", **asked)
    assert (answer.status, words in answer.text) == (400, True), answer.text
    assert [look.outcome for look in small.looks()] == ["failed"]


# ---- who may look


def test_the_rights_are_two(small_past: Any) -> None:
    """Who may look at the numbers may not look at the trail, nor the other way round."""
    for kind, visit in ((by_asgi, asgi), (by_wsgi, wsgi)):
        numbers = kind.Dashboard(small_past.url, authorize=lambda _: True, authorize_audit=nobody)
        assert visit(numbers, "/").status == 200
        trail = kind.Dashboard(small_past.url, authorize=nobody, authorize_audit=eve)
        assert visit(trail, "/").status == 403
        closed = kind.Dashboard(small_past.url, authorize=lambda _: True)
        for path in ("/audit", "/audit.csv", "/audit-anomalies", "/audit-anomalies.csv"):
            assert "You may not look at this" in visit(numbers, path).text
            answer = visit(closed, path)
            assert (answer.status, "authorize_audit" in answer.text) == (403, True)
        assert 'href="audit"' not in visit(closed, "/").text


@KINDS
@pytest.mark.parametrize("authorize", ["yes", 1, True])
def test_what_lets_in_is_a_callable(small_past: Any, kind: Any, authorize: Any) -> None:
    with pytest.raises(ConfigurationError, match="authorize"):
        kind.Dashboard(small_past.url, authorize=nobody, authorize_audit=authorize)


def test_nobody_awaits_in_a_wsgi_app(small_past: Any) -> None:
    async def later(_: Any) -> bool:
        return True

    with pytest.raises(ConfigurationError, match="ordinary function"):
        by_wsgi.Dashboard(small_past.url, authorize=nobody, authorize_audit=later)  # type: ignore[arg-type]


@KINDS
@pytest.mark.parametrize("answer", [None, 1, "yes", "raise"])
def test_only_true_lets_in(small_past: Any, kind: Any, answer: Any, statements: Any) -> None:
    def says(_: Any) -> Any:
        if answer == "raise":
            raise LookupError
        return answer

    with capture_usage(), statements() as found:
        dashboard = kind.Dashboard(small_past.url, authorize=lambda _: True, authorize_audit=says)
        assert (asgi if kind is by_asgi else wsgi)(dashboard, "/audit").status == 403
    assert found == []


# ---- every look is an access


def test_a_look_is_recorded_with_what_it_asked_for(small: Trail) -> None:
    small.ask(headers=[("X-Request-ID", "r1")])
    small.ask("/audit.csv", user=str(BOB).upper(), outcome="success")
    first, second = small.looks()
    assert (first.user_id, first.actor_id, first.outcome, first.request_id) == (EVE, EVE, "success", "r1")
    assert (first.metadata, second.metadata) == (
        '{"rows":4}',
        f'{{"user":"{BOB}","outcome":"success","as":"csv","rows":2}}',
    )
    assert "This look is recorded" in small.ask(actor=str(EVE)).text  # and is to be found
    with small.engine.connect() as connection:
        assert verify(connection, small.tables).findings == ()
    counted = {row.feature_name for row in all_of(small.engine, small.tables.usage)}
    assert LOOK not in counted, "who looks at the numbers adds nothing to them"


@KINDS
def test_who_is_turned_away_is_recorded(sqlite: Database, kind: Any) -> None:
    with trail_on(sqlite, kind, authorize_audit=somebody) as trail:
        assert trail.ask().status == 403
        (look,) = trail.looks()
    assert (look.user_id, look.outcome) == (BOB, "denied")


@KINDS
def test_who_is_not_known_may_not_look(sqlite: Database, kind: Any) -> None:
    with trail_on(sqlite, kind, authorize_audit=lambda _: True) as trail:
        answer = trail.ask()
        assert answer.status == 403
        assert "usage_instrument.identify" in answer.text
        assert str(ADA) not in answer.text
        assert trail.looks() == []


@KINDS
def test_what_cannot_be_recorded_is_not_shown(sqlite: Database, kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    impatient = Tracker(sqlite.url, Settings(flush_interval=0, audit_timeout=0.5))  # it retries until then
    with trail_on(sqlite, kind, tracker=impatient) as trail:
        access = trail.tables.access
        refuse = sa.event.listens_for(sa.Engine, "before_cursor_execute")

        def refusing(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if statement.lstrip().upper().startswith("INSERT") and access.name in statement:
                raise ConnectionError("the disk is full")

        refuse(refusing)
        try:
            answer = trail.ask()
        finally:
            sa.event.remove(sa.Engine, "before_cursor_execute", refusing)
        assert impatient.shutdown()
    assert answer.status == 503
    assert "This look cannot be recorded" in answer.text
    assert str(ADA) not in answer.text
    assert "could not be recorded" in caplog.text


@KINDS
def test_without_a_tracker_nobody_looks(small_past: Any, kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    dashboard = kind.Dashboard(small_past.url, authorize=nobody, authorize_audit=eve)
    answer = (asgi if kind is by_asgi else wsgi)(dashboard, "/audit")
    assert answer.status == 503
    assert "not configured" in caplog.text


def test_the_user_of_the_request_is_who_looks(small: Trail) -> None:
    """As AuthenticationMiddleware knows them, with or without a middleware of ours around."""

    class Id(Backend):
        async def authenticate(self, conn: Any) -> Any:
            credentials, user = await super().authenticate(conn)
            user.id = EVE
            return credentials, user

    def is_admin(scope: Any) -> bool:
        return "admin" in scope["auth"].scopes

    dashboard = by_asgi.Dashboard(
        small.engine, authorize=is_admin, authorize_audit=is_admin, tracker=small.tracker, tables=small.tables
    )
    for around in ([], [Middleware(UsageMiddleware, tracker=small.tracker)]):
        app = Starlette(
            routes=[Mount("/admin/usage", dashboard)],
            middleware=[Middleware(AuthenticationMiddleware, backend=Id()), *around],
        )
        client = TestClient(app, headers={"x-user": "root"})
        assert 'href="audit"' in client.get("/admin/usage/").text
        assert client.get("/admin/usage/audit").status_code == 200
        client.headers["x-user"] = "ada"
        assert client.get("/admin/usage/audit").status_code == 403
    assert [(look.user_id, look.outcome) for look in small.looks()] == [(EVE, "success"), (EVE, "denied")] * 2


# ---- and who is forgotten


def test_a_look_for_somebody_who_is_forgotten_tells_of_them_no_more(
    trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "_MARGIN", -2 * trail.tracker.settings.audit_timeout)  # no other process has a gate
    trail.ask(user=str(BOB))
    trail.ask(actor=str(BOB))
    trail.ask(user=str(ADA))
    trail.tracker.privacy.forget(BOB)
    assert [look.metadata for look in trail.looks()] == [None, None, f'{{"user":"{ADA}","rows":1}}']
    assert {look.user_id for look in trail.looks()} == {EVE}
    page = trail.ask().page
    assert str(BOB) not in page.said
    assert "forgotten:" in page.said
    with trail.engine.connect() as connection:
        assert verify(connection, trail.tables).findings == ()
        text = str(connection.execute(sa.select(trail.tables.access)).all())
    assert str(BOB) not in text
    assert repr(BOB) not in text


def test_a_long_trail_is_pages(small: Trail) -> None:
    for number in range(60):
        small.tracker.track(f"read_{number}", user=ADA, audit=True)
    assert small.tracker.flush()
    newest = small.ask(user=str(ADA)).page
    assert len(newest.all("tr")) == 1 + 50
    assert "read_59" in newest.said
    (link,) = [a["href"] for a in newest.all("a") if a.get("rel") == "next"]
    assert link == f"audit?user={ADA}&page=2"
    rest = small.ask(user=str(ADA), page="2").page
    assert len(rest.all("tr")) == 1 + 11
    assert "read_0 " in rest.said
    assert "read_59" not in rest.said
    assert [look.metadata for look in small.looks()] == [
        f'{{"user":"{ADA}","rows":50}}',
        f'{{"user":"{ADA}","page":"2","rows":11}}',
    ]
