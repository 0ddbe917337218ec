"""Users by name, by a search of the host, and in groups."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from conftest import Database
from usage_instrument.dashboard import asgi as by_asgi
from usage_instrument.dashboard import wsgi as by_wsgi
from usage_instrument.dashboard.people import FOUND, KEPT, LONGEST, SIZE, People
from usage_instrument.errors import ConfigurationError
from usage_instrument.schema import create_all

from .conftest import HOSTILE, Past
from .visitor import asgi, wsgi


def yes(_: Any) -> bool:
    return True


class Names:
    """A host's own names, and what it was asked for."""

    def __init__(self, past: Past) -> None:
        self.names: dict[Any, str | None] = {
            str(user): f"Ada {number} <script>" for number, user in enumerate(past.user_ids)
        }
        self.asked: list[list[UUID]] = []

    def __call__(self, ids: Sequence[UUID]) -> Mapping[Any, str | None]:
        self.asked.append(list(ids))
        return self.names

    def search(self, text: str) -> list[str]:
        return [user for user, name in self.names.items() if name and text.lower() in name.lower()]


def test_users_are_shown_by_name(small_past: Past) -> None:
    names = Names(small_past)
    app = by_asgi.Dashboard(small_past.url, authorize=yes, user_label=names, user_url="/admin/users/{user}/")
    page = asgi(app, "/").page
    assert "Ada 0 <script>" in page.said
    assert not page.all("script")
    assert [sorted(ids) for ids in names.asked] == [small_past.user_ids], "once, each user of the page once"
    assert {type(each) for each in names.asked[0]} == {UUID}
    first = str(small_past.user_ids[0])
    assert {a.get("title") for a in page.all("a") if (a.get("href") or "").startswith("user?")} >= {first}
    page = asgi(app, "/user", user=first).page
    assert f"Ada 0 <script> {first} This user in the app" in page.said
    assert f"/admin/users/{first}/" in [a["href"] for a in page.all("a")]
    assert "Ada 1 <script>" in asgi(app, "/power-users").page.said
    assert len(names.asked) == 1, "names are kept for a minute"
    assert "Ada" not in asgi(app, "/power-users.csv").text
    assert asgi(app, "/user-features", user=first).page.said.count("Ada 0") == 1
    assert (
        "Ada 0"
        in wsgi(by_wsgi.Dashboard(small_past.url, authorize=yes, user_label=names), "/anomalies", by="user").text
    )


def test_names_that_fail_leave_ids(small_past: Past, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: object) -> Any:
        raise LookupError("no directory")

    async def later() -> dict[str, str]:
        return {}

    first = str(small_past.user_ids[0])
    with caplog.at_level(logging.ERROR, "usage_instrument"):
        app = by_asgi.Dashboard(small_past.url, authorize=yes, user_label=broken, user_search=broken)
        for _ in range(2):
            answer = asgi(app, "/power-users")
            assert answer.status == 200
            assert first in answer.page.said
        assert f"user={first}" in asgi(app, "/search", q=first).text
        for answer_ in (later(), None, ["ada"], 7):
            app = by_asgi.Dashboard(small_past.url, authorize=yes, user_label=lambda _, given=answer_: given)
            assert first in asgi(app, "/power-users").page.said
    lines = [record.getMessage().partition(",")[0] for record in caplog.records]
    assert lines.count("the dashboard's user_label failed") >= 2, "one a minute for each type"
    assert "the dashboard's user_search failed" in lines
    assert len([line for line in lines if "user_label" in line]) == len(
        {record.exc_info[0] for record in caplog.records if record.exc_info and "user_label" in record.getMessage()}
    )


def test_the_search_finds_names(small_past: Past) -> None:
    names = Names(small_past)
    names.names["00000000-0000-0000-0000-0000000000ff"] = "Ada without a use"
    names.names["no id"] = "Ada of another system"
    options: Any = {"user_label": names, "user_search": names.search}
    app = by_asgi.Dashboard(small_past.url, authorize=yes, **options)
    page = asgi(app, "/search", q="ada").page
    found = [a["href"] for a in page.all("a") if (a.get("href") or "").startswith("user?")]
    assert found == [f"user?user={user}" for user in small_past.user_ids]
    assert "Users Ada 0 <script>" in page.said
    assert "no user with uses has this name or id" in asgi(app, "/search", q="bob").page.said
    assert "a user’s name" in asgi(app, "/search").page.said


def test_labels_are_bounded_in_time_and_number() -> None:
    now = 0.0
    asked: list[int] = []

    def label(ids: Sequence[int]) -> dict[int, Any]:
        asked.extend(ids)
        return {each: "x" * 300 if each == 1 else "  a\nb " if each == 2 else None for each in ids}

    people = People(label=label, search=lambda text: iter(range(10**9)), clock=lambda: now)
    assert people.labels_of([1, 2, 3, None, 1]) == {"1": "x" * LONGEST, "2": "a b"}
    people.labels_of([3, 2])
    assert asked == [1, 2, 3], "also of a user without one"
    now = KEPT
    people.labels_of([2])
    assert asked == [1, 2, 3, 2]
    people.labels_of(range(10, 10 + SIZE))
    assert len(people._labels) == SIZE
    assert len(people.found("a")) == FOUND


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"user_label": {"1": "Ada"}}, "user_label is a callable"),
        ({"user_search": "name"}, "user_search is a callable"),
        ({"user_url": "javascript:alert(1)"}, "user_url is a path or an http"),
        ({"user_url": "/admin/users/"}, "user_url has {user} where the id of a user goes"),
        ({"user_groups": "plan"}, "user_groups is a list of columns"),
        ({"user_groups": [7]}, "user_groups has columns of the users table, such as 'plan', not 7"),
    ],
)
def test_options_that_cannot_be(small_past: Past, options: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        by_asgi.Dashboard(small_past.url, authorize=yes, **options)


def test_an_async_label_is_refused(small_past: Past) -> None:
    async def label(ids: Sequence[Any]) -> dict[Any, str]:
        return {}

    with pytest.raises(ConfigurationError, match="user_label is called in a thread: make it an ordinary function"):
        by_asgi.Dashboard(small_past.url, authorize=yes, user_label=label)  # type: ignore[arg-type]


def test_users_by_a_column_of_theirs(past: Past) -> None:
    app = by_asgi.Dashboard(past.url, authorize=yes, user_groups=["name", "users.id"])
    page = asgi(app, "/groups", period="7d").page
    assert "name Users Active users Share Uses user 0 1 1 100%" in page.said
    assert "groups?by=id&period=7d" in [a["href"] for a in page.all("a")]
    rows = list(csv.reader(io.StringIO(asgi(app, "/groups.csv", period="7d").text)))
    assert rows[0] == ["name", "users", "unique_users", "share", "uses"]
    assert len(rows) == 6
    page = asgi(app, "/group", by="name", group="user 1", period="28d").page
    assert "Feature Users Share Uses search 1 100% 84" in page.said
    assert "export 1 100% 67" in page.said, "28 days, and the day of the spike with 40"
    file = asgi(app, "/group.csv", by="name", group="user 1", period="28d").text
    assert '"search",1,1.0,84' in file


def test_groups_have_any_value_and_only_the_named_columns(sqlite: Database) -> None:
    engine = sqlite.engine()
    values = [HOSTILE[0], "", None, None]
    plans = sa.Table("people", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("plan", sa.Text))
    plans.metadata.create_all(engine)
    tables = create_all(engine, users="people.id", user_id_type="integer").tables
    with engine.begin() as connection:
        connection.execute(plans.insert(), [{"id": n, "plan": value} for n, value in enumerate(values, 1)])
        used = [{"user_id": n, "feature_name": f"f{n}", "usage_count": 1} for n in (1, 2, 3)]
        connection.execute(tables.usage.insert(), used)
        now = sa.func.current_timestamp()
        connection.execute(tables.history.insert().values(bucket_start=now), used)
    app = by_asgi.Dashboard(sqlite.url, authorize=yes, user_groups=["plan"])
    page = asgi(app, "/groups").page
    assert HOSTILE[0] in page.words
    hrefs = [a["href"] or "" for a in page.all("a") if (a.get("href") or "").startswith("group?")]
    assert len(hrefs) == 3
    assert "empty text 1 1 100%" in page.said
    assert "group?by=plan" in hrefs
    assert "group?by=plan&group=" in hrefs
    assert "f3 1 50% 1" in asgi(app, "/group", by="plan").page.said, "of the users without a value"
    empty = asgi(app, "/group", by="plan", group="").page
    assert "f2 1 100% 1" in empty.said
    assert "group?by=plan&group=&period=7d" in [a.get("href") for a in empty.all("a")], "the same group"
    assert {"name": "group", "value": "", "type": "hidden"} in empty.all("input")
    assert "f1 1 100% 1" in asgi(app, "/group", by="plan", group=HOSTILE[0]).page.said
    assert asgi(app, "/group", by="plan", group="pro").status == 404
    assert asgi(app, "/groups", by="id").status == 404, "no column that the host does not name"
    assert "groups" in [a.get("href") for a in asgi(app, "/").page.all("a")]
    without = by_asgi.Dashboard(sqlite.url, authorize=yes)
    assert "Users Active users Share Uses 4 3 75% 3" in asgi(without, "/groups", by="plan").page.said, "all users"
    assert asgi(without, "/groups.csv", by="plan").text.splitlines()[1] == "4,3,0.75,3"
    assert "user_groups=" in asgi(without, "/group", by="plan").page.said
