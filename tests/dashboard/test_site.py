"""Every page, by both shells, on every database."""

from __future__ import annotations

import contextlib
import csv
import datetime as dt
import io
import re
from collections.abc import Callable
from html import unescape
from typing import Any, get_args

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from conftest import Database
from reading import made
from usage_instrument import _default
from usage_instrument.dashboard import asgi as by_asgi
from usage_instrument.dashboard import formatting
from usage_instrument.dashboard import wsgi as by_wsgi
from usage_instrument.dashboard.figures import freshness
from usage_instrument.dashboard.html import breakable
from usage_instrument.dashboard.http import POLICY, HTTPRequest
from usage_instrument.dashboard.page_request import LISTS, PERIODS
from usage_instrument.dashboard.pages import overview
from usage_instrument.dashboard.results import BY_PAGE, CARD, parameters_of
from usage_instrument.queries.questions import QUESTIONS, Topic

from .conftest import HOSTILE, Past
from .visitor import Answer, asgi, wsgi

Statements = Callable[[], contextlib.AbstractContextManager[list[str]]]


def yes(_: Any) -> bool:
    return True


def ways(past: Past) -> list[Callable[..., Answer]]:
    """How a page can be had."""
    apps = [
        (asgi, by_asgi.Dashboard(past.url, authorize=yes)),
        (wsgi, by_wsgi.Dashboard(past.engine, authorize=yes)),
        (asgi, by_asgi.Dashboard(past.database.async_url, authorize=yes)),
    ]
    return [lambda *args, ask=ask, app=app, **more: ask(app, *args, **more) for ask, app in apps]


def addresses(past: Past) -> list[tuple[str, dict[str, Any]]]:
    """Every page there is, with what it needs; on SQLite also with each thing that it may be given."""
    given: dict[str, Any] = {"feature": "export", "user": str(past.user_ids[0]), "key": "layout", "threshold": "3"}
    given |= {"features": "search, export", "returning": "export", "by": "month", "within": "2d", "dimension": "format"}
    given["source"] = "metadata"
    found = [
        ("/", {}),
        ("/experiments", {}),
        ("/search", {"q": "ex"}),
        ("/anomalies", {}),
        ("/anomalies", {"by": "user"}),
        ("/feature", {"feature": "export"}),
        ("/user", {"user": given["user"]}),
    ]
    for question in BY_PAGE.values():
        takes = parameters_of(question)
        given["by"] = "user" if question.name in ("spikes", "dimensions") else "month"
        needed = {name: given[name] for name in takes if takes[name]}
        found += [(f"/{question.page}", needed), (f"/{question.page}.csv", needed)]
        if past.database.name == "sqlite":  # tests/queries asks each database all of it
            found += [(f"/{question.page}", {**needed, name: given[name]}) for name in takes if not takes[name]]
    return found


def test_every_page_is_the_same_by_every_shell_and_driver(past: Past, statements: Statements) -> None:
    first, *others = ways(past)
    first("/")  # the tables are looked for once
    for path, parameters in addresses(past):
        with statements() as asked:
            answer = first(path, mount="/deep/down", **parameters)
        assert answer.status == 200, (path, answer.text)
        assert answer.headers["Content-Length"] == str(len(answer.body))
        assert 0 < len(asked) < 28, (path, len(asked), asked)
        _is_safe(answer)
        if not path.endswith(".csv"):
            assert answer.page.all("h1"), path
        for way in others if path in ("/", "/user", "/top-features.csv") else ():
            assert _timeless(way(path, mount="/else/where", **parameters)) == _timeless(answer), path


def _timeless(answer: Answer) -> str:
    return re.sub(r"\d+ (s|min|h) ago|, from the cache", "", answer.text)


def _is_safe(answer: Answer) -> None:
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"
    if answer.headers["Content-Type"].startswith("text/html"):
        links = [v for _, a in answer.page.tags for k, v in a.items() if k in ("href", "src", "action") and v]
        assert links
        assert not [link for link in links if link.startswith("/") or "//" in link.partition("data:")[0]], "relative"


def test_no_script_runs() -> None:
    assert "default-src 'none'" in POLICY
    assert "unsafe" not in POLICY
    assert "script-src" not in POLICY


def test_the_overview_answers_the_first_questions(past: Past) -> None:
    app = by_asgi.Dashboard(past.url, authorize=yes)
    said = asgi(app, "/").page.said
    daily = sum(range(2, 8))
    spike = 2 * 40
    assert f"Uses {28 * daily + 27 * 2 + spike + sum(range(1, len(HOSTILE) + 1)):,}" in said
    assert "Users 5" in said
    assert re.search(r"Top features .* search 756 export 134", said)
    assert re.search(r"Adoption .* search 5 100%", said)
    assert re.search(r"Unused .* fax never never", said)
    assert re.search(r"Spikes .* export \d+ \w+ 80 2", said)
    assert re.search(r"Power users .* Active users", said)
    assert "The last 28 days As of" in said
    week = asgi(app, "/", period="7d").page.said
    assert re.search(r"Top features .* search 189 export 92", week)


def test_the_overview_counts_the_uses_of_features_beyond_its_list(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "_MANY", 2)
    engine = sqlite.engine()
    tables = made(engine)
    today = dt.datetime.combine(dt.datetime.now(dt.UTC), dt.time())
    rows = [{"feature_name": name, "usage_count": 30} for name in ("export", "search", "share")]
    with engine.begin() as connection:
        connection.execute(tables.usage.insert(), [{**row, "last_used": today} for row in rows])
        connection.execute(tables.history.insert(), [{**row, "bucket_start": today} for row in rows])
    text = asgi(by_asgi.Dashboard(sqlite.url, authorize=yes), "/").text
    assert "<dt>Uses</dt>\n<dd><b>90</b>" in text


def test_the_honest_line(own_past: Past) -> None:
    said = asgi(by_asgi.Dashboard(own_past.url, authorize=yes), "/user", user=str(own_past.user_ids[0])).page.said
    assert re.search(r"As of \d+ s ago", said)
    assert "1 active writer." in said
    assert "1 writer has been silent for more than ten minutes: the last uses may be missing." in said
    assert "12 uses were lost in the last 7 days." in said
    assert "Pending uses of a few seconds are not included" in said


def test_without_a_recent_heartbeat_the_newest_use_says_as_of_when(own_past: Past) -> None:
    tables = own_past.tables
    with own_past.engine.begin() as connection:
        beat, use = (
            connection.scalar(sa.select(sa.func.max(column)))
            for column in (tables.writers.c.heartbeat_at, tables.usage.c.last_used)
        )
        assert freshness(connection, tables).as_of == beat
        assert use is not None
        for change in (
            tables.writers.update().values(heartbeat_at=use - dt.timedelta(hours=2)),
            tables.writers.delete(),
        ):
            connection.execute(change)
            assert freshness(connection, tables).as_of == use


def test_a_features_page(small_past: Past) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=yes)
    page = asgi(app, "/feature", feature="export").page
    assert "What export does, <b>boldly</b>" in page.said
    assert re.search(r"All time 198 uses by 2 users", page.said)
    assert re.search(r"Variants .* Related features", page.said)
    assert {"layout", "</td>"} <= set(page.said.split())
    assert re.search(r"Related features .* search 2 100%", page.said)
    other = asgi(app, "/feature", feature="export", key="</td>").page
    assert re.search(r"Variant Users Share Uses 1 2 100%", other.said)


def test_a_features_page_has_its_dimensions(sqlite: Database) -> None:
    engine = sqlite.engine()
    tables = made(engine, user_id_type="integer")
    today = dt.datetime.combine(dt.datetime.now(dt.UTC), dt.time())
    key = {"feature_name": "pay", "bucket_start": today, "value_count": 0}
    rows = [
        {**key, "user_id": user, "dimension": dimension, "dimension_value": value, "usage_count": uses}
        for user, dimension, value, uses in [
            (1, "currency", "EUR", 2),
            (2, "currency", "EUR", 1),
            (None, "currency", "<b>", 1),
            (1, "method", "card", 4),
        ]
    ]
    number = {"dimension": "", "dimension_value": "", "value_count": 2, "value_sum": 7.0, "usage_count": 2}
    with engine.begin() as connection:
        connection.execute(tables.dimensions.insert(), rows)
        connection.execute(tables.dimensions.insert().values({**key, **number, "feature_name": "refund", "user_id": 1}))
        connection.execute(
            tables.usage.insert(),
            [
                {"user_id": 1, "feature_name": name, "usage_count": 4, "last_used": today}
                for name in ("pay", "refund", "search")
            ],
        )
    app = by_asgi.Dashboard(sqlite.url, authorize=yes)
    page = asgi(app, "/feature", feature="pay").page
    assert "in the last 28 days. currency method Value Users Share Uses EUR 2 75% 3 <b> 0 25% 1" in page.said
    file = next(a["href"] for a in page.all("a") if (a["href"] or "").startswith("dimensions.csv"))
    answer = asgi(app, "/dimensions.csv", **_parameters(file))
    assert [row[:4] for row in csv.reader(io.StringIO(answer.text))][1:] == [
        ["currency", "EUR", "2", "3"],
        ["currency", "<b>", "0", "1"],
    ]
    method = asgi(app, "/feature", feature="pay", dimension="method").page
    assert "currency method Value Users Share Uses card 1 100% 4" in method.said
    assert "dimensions?feature=pay&dimension=method" in {a["href"] for a in method.all("a")}
    numbers = asgi(app, "/feature", feature="refund").page.said
    assert "The numbers beside the uses in the last 28 days. Users Uses Sum Mean 1 2 7.0 3.5" in numbers
    without = asgi(app, "/feature", feature="search").page
    assert {"id": "dimensions"} not in without.all("h2")
    assert {"id": "dimensions"} in page.all("h2")
    with engine.begin() as connection:
        tables.dimensions.drop(connection)
    assert asgi(app, "/feature", feature="pay", period="7d").status == 200


def test_a_users_page(small_past: Past) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=yes)
    said = asgi(app, "/user", user=str(small_past.user_ids[0])).page.said
    assert re.search(r"Features .* search 120 \d+ (s|min) ago", said)
    assert '"layout": ' in said
    other = asgi(app, "/user", user=str(small_past.user_ids[4])).page.said
    assert re.search(r"Might like .* export", other)


def test_search_finds_features_by_a_part_and_users_by_the_whole_id(past: Past) -> None:
    app = by_asgi.Dashboard(past.url, authorize=yes)
    found = asgi(app, "/search", q="EXP").page
    assert {"feature": "export"}.items() <= _link(found, "feature?").items()
    whole = str(past.user_ids[1])
    assert _link(asgi(app, "/search", q=f" {whole.upper()} ").page, "user?") == {"user": whole}
    assert "no user with uses has this id" in asgi(app, "/search", q=whole[:-1]).page.said
    assert "fax" in asgi(app, "/search", q="fa").page.said
    assert "search" not in asgi(app, "/search", q="se%").page.said.replace("Search", "")
    assert "Type a part" in asgi(app, "/search").page.said


def _link(page: Any, start: str) -> dict[str, str]:
    from urllib.parse import parse_qsl

    (found,) = {a["href"] for a in page.all("a") if (a.get("href") or "").startswith(start)}
    return dict(parse_qsl(found.partition("?")[2]))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_text(small_past: Past, name: str) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=yes)
    pages: list[tuple[str, dict[str, Any]]] = [
        *([("/", {})] if name == HOSTILE[0] else []),  # which has them all
        ("/feature", {"feature": name}),
        ("/top-features", {}),
        ("/spikes", {"feature": name}),
        ("/search", {"q": name}),
        ("/search", {"q": name[:5]}),
        ("/feature", {"feature": name[:99] + "?"}),
    ]
    for path, parameters in pages:
        answer = asgi(app, path, **parameters)
        assert answer.status in (200, 404)
        page = answer.page
        assert not page.all("script")
        assert not page.all("img")
        assert not page.all("b") or all(tag[1] == {} for tag in page.tags if tag[0] == "b")
        assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on") or key == "style"]
    page = asgi(app, "/top-features").page
    assert name in page.words
    assert {"feature": name} in [_parameters(a["href"]) for a in page.all("a")]
    assert name in asgi(app, "/feature", feature=name).page.words


def _parameters(href: str | None) -> dict[str, Any]:
    from urllib.parse import parse_qsl

    return dict(parse_qsl((href or "").partition("?")[2]))


def test_a_page_takes_no_more_questions_for_more_users(small_past: Past, statements: Statements) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=yes)
    asgi(app, "/")  # the tables are looked for once
    with statements() as few:
        asgi(app, "/feature", feature="share")
    with statements() as many:
        asgi(app, "/feature", feature="search")
    assert len(many) == len(few)


def test_every_file_is_what_the_question_answers(small_past: Past) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=yes)
    answer = asgi(app, "/top-features.csv", period="90d")
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="top-features-90d.csv"'
    header, *rows = csv.reader(io.StringIO(answer.text, newline=""))
    assert header == ["feature_name", "total_usage"]
    assert rows[0] == ["search", str(60 * sum(range(2, 8)))]
    assert {name for name, _ in rows} == {"search", "export", *HOSTILE} - {"=HYPERLINK(1)"} | {"'=HYPERLINK(1)"}


def test_every_table_of_a_page_has_headers_a_file_and_the_whole(small_past: Past) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=yes)
    pages: list[tuple[str, dict[str, Any]]] = [
        ("/", {}),
        ("/feature", {"feature": "export"}),
        ("/user", {"user": str(small_past.user_ids[0])}),
    ]
    for path, parameters in pages:
        page = asgi(app, path, **parameters).page
        tables = len(page.all("table"))
        assert tables >= 2
        assert len([th for th in page.all("th") if th.get("scope") == "col"]) >= 2 * tables
        files = [a["href"] for a in page.all("a") if "download" in a]
        assert len(files) >= tables
        for href in files:
            assert asgi(app, f"/{(href or '').partition('?')[0]}", **_parameters(href)).status == 200, href


def test_the_question_is_there_in_sql(small_past: Past) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=yes)
    given: dict[str, Any] = {
        "feature": "50% 'off'",
        "user": str(small_past.user_ids[0]),
        "key": "a%b",
        "features": "a,b",
    }
    for question in BY_PAGE.values():
        needed = {name: given[name] for name, is_required in parameters_of(question).items() if is_required}
        text = asgi(app, f"/{question.page}", **needed).text
        (sql,) = map(unescape, re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", text, re.DOTALL))
        with contextlib.closing(small_past.engine.raw_connection()) as connection:
            connection.cursor().execute(sql)  # as it stands, by a driver that is given no parameters
        assert ("feature" in needed) == ("'50% ''off'''" in sql), sql


@pytest.mark.parametrize("period", [period.name for period in PERIODS])
def test_every_period_has_its_pages(small_past: Past, period: str) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=yes)
    page = asgi(app, "/", period=period).page
    (chosen,) = [a for a in page.all("a") if a.get("aria-current") == "true"]
    assert chosen["href"] in (f"./?period={period}", "./")
    days = next(p.days for p in PERIODS if p.name == period)
    assert f"The last {days} days" in page.said
    assert asgi(app, "/feature", feature="export", period=period).status == 200
    kept = [a["href"] for a in page.all("a") if (a.get("href") or "").startswith("feature?")]
    assert all(("period" in _parameters(href)) == (period != "28d") for href in kept)


def _dates(first: dt.date, last: dt.date) -> dict[str, Any]:
    return {"from": str(first), "to": str(last)}


def test_dates_have_their_pages(small_past: Past) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=yes)
    today = dt.datetime.now(dt.UTC).date()
    first, last = today - dt.timedelta(days=19), today - dt.timedelta(days=10)
    given = _dates(first, last)
    page = asgi(app, "/", **given).page
    assert f"{formatting.day(first)} to {formatting.day(last)}" in page.said
    daily = sum(range(2, 8))
    assert re.search(rf"Top features .* search {10 * daily} ", page.said)
    assert f"Uses {10 * (daily + 2):,}" in page.said
    kept = [a["href"] for a in page.all("a") if (a.get("href") or "").startswith(("feature?", "adoption", "active"))]
    assert kept
    assert all(given.items() <= _parameters(href).items() for href in kept)
    fields = {field.get("name"): field.get("value") for field in page.all("input")}
    assert (fields["from"], fields["to"]) == (str(first), str(last))
    assert not [a for a in page.all("a") if a.get("aria-current") == "true"]
    days = [row[1:11] for row in asgi(app, "/trend.csv", **given).text.splitlines()[1:]]
    assert days == [str(today - dt.timedelta(days=ago)) for ago in range(19, 9, -1)]
    for path in ("/feature", "/power-users", "/spikes", "/related"):
        assert asgi(app, path, feature="export", **given).status == 200


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("top-features", "top-features-{from}-to-{to}"),
        ("active", "active-{from}-to-{to}"),
        ("spikes", "spikes-{from}-to-{to}"),
        ("related", "related"),
    ],
)
def test_the_names_of_files_have_the_dates(small_past: Past, page: str, name: str) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=yes)
    last = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=3)
    given = _dates(last - dt.timedelta(days=9), last)
    answer = asgi(app, f"/{page}.csv", feature="export", **given)
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{name.format(**given)}.csv"'
    assert page != "active" or f'"{last}",' in answer.text


def test_a_table_beside_the_days_before(small_past: Past) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=yes)
    alone = asgi(app, "/top-features", period="7d").page
    (link,) = [a["href"] for a in alone.all("a") if "compare" in (a.get("href") or "")]
    assert _parameters(link) == {"period": "7d", "compare": "previous"}
    beside = asgi(app, "/top-features", **_parameters(link)).page
    assert re.search(r"Feature Uses Before Difference Change search 189 189 0 \+0%", beside.said)
    assert "total_usage_before" in beside.said
    assert [a for a in beside.all("a") if a.get("href") == "top-features?period=7d"], "a way back"
    header = asgi(app, "/top-features.csv", **_parameters(link)).text.splitlines()[0]
    number = "total_usage"
    names = ["feature_name", number, f"{number}_before", f"{number}_change", f"{number}_relative_change"]
    assert [name.strip('"') for name in header.split(",")] == names
    given: Any = {"feature": "export", "key": "format", "features": "search,export"}
    for question in QUESTIONS:
        if question.compared and not question.is_of_all_time:
            said = asgi(app, f"/{question.page}", compare="previous", **given).page.said
            assert "Before Difference Change" in said or question.empty.split("{")[0] in said, question.page
    for path in ("/", "/feature"):
        answer = asgi(app, path, compare="previous", feature="export")
        assert (answer.status, "Difference" in answer.page.said) == (200, False), "cards have no room for it"
    of_all_time = asgi(app, "/user-features", compare="previous", user=str(small_past.user_ids[0]))
    assert (of_all_time.status, "Difference" in of_all_time.page.said) == (200, False)
    assert asgi(app, "/adoption", compare="last").status == 400


def test_spikes_of_users_name_users(small_past: Past) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=yes)
    tables, user = small_past.tables, small_past.user_ids[0]
    today = dt.datetime.now(dt.UTC).replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)
    key = {"user_id": user, "feature_name": "burst"}
    with small_past.engine.begin() as connection:
        for ago, uses in ((1, 900), (40, 1)):
            bucket = today - dt.timedelta(days=ago)
            connection.execute(tables.history.insert().values(**key, bucket_start=bucket, usage_count=uses))
    try:
        by_user = asgi(app, "/spikes", by="user", feature="burst").page
        by_feature = asgi(app, "/spikes", feature="burst").page
    finally:  # other tests look at this small_past too
        with small_past.engine.begin() as connection:
            connection.execute(tables.history.delete().where(tables.history.c.feature_name == "burst"))
    assert re.search(rf"User Day Uses Usual Score Threshold {user} \d+ \w+ 900 0\b", by_user.said)
    assert "Feature Day" not in by_user.said
    assert re.search(r"Feature Day Uses .* burst \d+ \w+ 900 0", by_feature.said)


def test_the_menu_has_each_question_about_the_app_once(small_past: Past) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=yes)
    page = asgi(app, "/search", period="7d").page
    links = [(a.get("href") or "").partition("?") for a in page.all("a")]
    for question in QUESTIONS:
        if question.topic is not None:
            assert links.count((question.page, "?", "period=7d")) == 1, question.page
        else:
            assert question.page not in {page for page, _, _ in links}
            required = {argument.name for argument in question.arguments if argument.is_required}
            assert required & {"feature", "user_id"}, f"{question.name} is on no other page: it needs a topic"
    here = [a["href"] for a in asgi(app, "/lifecycle").page.all("a") if a.get("aria-current") == "page"]
    assert here == ["lifecycle"]
    assert [detail["name"] for detail in page.all("details") if "name" in detail] == ["menu"] * len(get_args(Topic))


def test_anomalies_are_on_one_page(small_past: Past) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=yes)
    page = asgi(app, "/anomalies", period="7d").page
    assert re.search(r"Spikes .* export \d+ \w+ 80 2\b.* Drops .* No day .* Silent .* Every declared", page.said)
    users = asgi(app, "/anomalies", period="7d", by="user").page
    assert re.search(rf"User Day Uses Usual ({'|'.join(map(str, small_past.user_ids[:2]))}) \d+ \w+ \d+ ", users.said)
    files = [a["href"] for a in users.all("a") if "download" in a]
    assert files == ["spikes.csv?by=user&period=7d", "drops.csv?period=7d", "silent.csv?period=7d"]
    assert asgi(app, "/anomalies", by="weekday").status == 400


def test_a_page_asks_for_what_its_question_needs(small_past: Past) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=yes)
    page = asgi(app, "/funnel", period="7d").page
    assert "Fill in the fields above." in page.said
    steps = [field for field in page.all("input") if field.get("list") == "features"]
    assert [(field["value"], "required" in field) for field in steps] == [("", True), ("", True), ("", False)]
    assert "export" in [option.get("value") for option in page.all("option")], "a browser suggests the names"
    assert [field["value"] for field in page.all("input") if field.get("name") == "period"] == ["7d", "7d"]
    page = asgi(app, "/funnel", features="search,export,fax", within="2d").page
    steps = [field for field in page.all("input") if field.get("list") == "features"]
    assert [field["value"] for field in steps] == ["search", "export", "fax", ""], "and one more step"
    assert re.search(r"search 5 users 100% export 2 users 40% 3 users of the step before did not get here", page.said)
    nobody = asgi(app, "/funnel", features="fax,export").page
    assert "No signed-in user used these features in the last 28 days." in nobody.said
    assert "2 users took both steps in one day or hour" in page.said
    assert "drawn pale" in page.said
    assert asgi(app, "/recommend").page.all("input")
    assert asgi(app, "/funnel.csv").status == asgi(app, "/funnel", features="search").status == 400


def test_the_fields_of_a_list_are_one_parameter() -> None:
    request = HTTPRequest("GET", "", "/funnel", "features=search&features=open%2Cbook&features=&by=day&by=week")
    assert request.parameters(LISTS) == {"features": "search,open,book", "by": "week"}


@pytest.mark.parametrize(("period", "by"), [("7d", "day"), ("28d", "week"), ("400d", "month")])
def test_users_are_followed_by_steps_that_fit_the_period(small_past: Past, period: str, by: str) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=yes)
    assert f"again in each {by} since then" in asgi(app, "/retention", period=period).page.said
    lifecycle = asgi(app, "/lifecycle", period=period).page
    assert f"Lifecycle by {by}" in lifecycle.said
    assert [option for option in lifecycle.all("option") if "selected" in option]
    if period == "400d":  # everybody began 60 days ago
        assert "Steps later, by month" in asgi(app, "/retention", period=period).page.said
        assert "Steps later, by day" in asgi(app, "/retention", period=period, by="day").page.said


STEPS = [(1, "day"), (120, "day"), (121, "week"), (1000, "week"), (1001, "month"), (9999, "month")]


@pytest.mark.parametrize(("days", "by"), STEPS)
def test_the_steps_of_long_periods_are_longer(small_past: Past, days: int, by: str) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=yes)
    last = dt.datetime.now(dt.UTC).date()
    assert f"Uses per {by}" in asgi(app, "/", **_dates(last - dt.timedelta(days=days - 1), last)).page.said


def test_the_mount_without_its_slash_leads_in(small_past: Past) -> None:
    for ask, app in (
        (asgi, by_asgi.Dashboard(small_past.url, authorize=yes)),
        (wsgi, by_wsgi.Dashboard(small_past.url, authorize=yes)),
    ):
        answer = ask(app, "", mount="/admin/our usage", period="7d")
        assert answer.status == 303
        assert answer.headers["Location"] == "./our%20usage/?period=7d"
        assert ask(app, "/", mount="/admin/our usage").status == 200


def test_the_style_sheet_is_named_by_its_content(small_past: Past) -> None:
    app = by_wsgi.Dashboard(small_past.url, authorize=yes)
    (sheet,) = [link["href"] for link in wsgi(app, "/").page.all("link") if link["rel"] == "stylesheet"]
    answer = wsgi(app, f"/{sheet}")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/css")
    assert "immutable" in answer.headers["Cache-Control"]
    assert "url(" not in answer.text
    assert "@import" not in answer.text


def test_only_reads(small_past: Past) -> None:
    from usage_instrument.dashboard.reader import Reader
    from usage_instrument.database import dialects

    def write(connection: sa.Connection, tables: Any) -> None:
        connection.execute(tables.losses.delete())

    reader = Reader(small_past.url, None, None)
    with pytest.raises(Exception, match="refused a statement"):
        reader.read(write)
    with small_past.engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(small_past.tables.losses)) == 1
    assert dialects.get(small_past.engine.dialect.name)


def test_head_has_no_body_and_other_methods_nothing(small_past: Past) -> None:
    for ask, app in (
        (asgi, by_asgi.Dashboard(small_past.url, authorize=yes)),
        (wsgi, by_wsgi.Dashboard(small_past.url, authorize=yes)),
    ):
        head = ask(app, "/", method="HEAD")
        assert (head.status, head.body) == (200, b"")
        assert int(head.headers["Content-Length"]) > 1000
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            answer = ask(app, "/", method=method)
            assert answer.status == 405
            assert answer.headers["Allow"] == "GET, HEAD"
            assert "export" not in answer.text


@pytest.mark.parametrize("past", ["postgresql", "mariadb"], indirect=True)
def test_leaves_no_connection_and_no_tracker(past: Past) -> None:
    """A file has no list of connections."""
    app = by_asgi.Dashboard(past.engine, authorize=yes)
    asgi(app, "/")
    past.engine.dispose()
    count = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        if past.database.name == "postgresql"
        else "SELECT count(*) FROM information_schema.processlist WHERE db = database()"
    )
    with past.engine.connect() as connection:
        for _ in range(100):  # a server takes a moment to notice that somebody left
            others = connection.exec_driver_sql(count).scalar_one() - 1
            connection.rollback()
            if not others:
                break
    assert others == 0
    assert _default.tracker() is None


def test_an_async_engine_serves_both_shells(past: Past) -> None:
    engine = create_async_engine(past.database.async_url)
    assert asgi(by_asgi.Dashboard(engine, authorize=yes), "/").status == 200
    assert wsgi(by_wsgi.Dashboard(engine, authorize=yes), "/").status == 200


def test_a_card_shows_the_first_rows_and_leads_to_the_others(small_past: Past) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=yes)
    page = asgi(app, "/").page
    assert "top-features" in [a["href"] for a in page.all("a")]
    assert asgi(app, "/top-features").text.count('<th scope="row"') > CARD


def test_many_power_users_are_pages(sqlite: Database) -> None:
    tables = made(sqlite.engine(), user_id_type="integer")
    with sqlite.engine().begin() as connection:
        rows = [{"user_id": user, "feature_name": "search", "usage_count": 1000 - user} for user in range(1, 121)]
        connection.execute(tables.usage.insert(), rows)
        days = [{**row, "bucket_start": dt.datetime.now(dt.UTC).replace(tzinfo=None)} for row in rows]
        connection.execute(tables.history.insert(), days)
    app = by_asgi.Dashboard(sqlite.url, authorize=yes)

    def page(**parameters: Any) -> tuple[list[str], dict[str | None, dict[str, Any]]]:
        found = asgi(app, "/power-users", feature="search", period="7d", **parameters).page
        users = [_parameters(a["href"])["user"] for a in found.all("a") if (a.get("href") or "").startswith("user?")]
        return users, {a["rel"]: _parameters(a["href"]) for a in found.all("a") if "rel" in a}

    carried = {"feature": "search", "period": "7d"}
    users, links = page()
    assert (users, links) == ([*map(str, range(1, 51))], {"next": {**carried, "page": "2"}})
    users, links = page(page="2")
    assert (users, links) == ([*map(str, range(51, 101))], {"prev": carried, "next": {**carried, "page": "3"}})
    users, links = page(page="3")
    assert (users, links) == ([*map(str, range(101, 121))], {"prev": {**carried, "page": "2"}})
    answer = asgi(app, "/power-users", page="3")
    assert "Rows 101 to 120" in answer.page.said
    bars = [float((rect["width"] or "").rstrip("%")) for rect in answer.page.all("rect") if rect.get("rx") == "3"]
    assert bars[0] == pytest.approx(100 * 899 / 999, abs=0.01), "of the first of all, not of the first of this page"
    assert {_parameters(a["href"]).get("page") for a in answer.page.all("a") if a.get("aria-current") == "true"} == {
        None
    }
    for number in ("4", "0", "-1", "201", "x", "1" * 5000):
        assert asgi(app, "/power-users", page=number).status in (404, 400)
    assert asgi(app, "/power-users.csv").text.count("\n") == 121


@pytest.mark.parametrize(("period", "days"), [("7d", 1), ("90d", 2)])
def test_spikes_are_those_of_the_period(sqlite: Database, period: str, days: int) -> None:
    tables = made(sqlite.engine())
    today = dt.datetime.now(dt.UTC).replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)
    with sqlite.engine().begin() as connection:
        rows = [
            {"feature_name": "search", "bucket_start": today - dt.timedelta(days=day), "usage_count": uses}
            for day in range(60)
            for uses in [500 if day in (2, 20) else 10]
        ]
        connection.execute(tables.history.insert(), rows)
        connection.execute(tables.usage.insert().values(feature_name="search", usage_count=1, last_used=today))
    app = by_asgi.Dashboard(sqlite.url, authorize=yes)
    answer = asgi(app, "/spikes.csv", period=period)
    assert len(answer.text.splitlines()) == 1 + days
    length = "7d" if period == "7d" else "28d"  # the longest that a spike is looked for in
    assert answer.headers["Content-Disposition"] == f'attachment; filename="spikes-{length}.csv"'
    page = asgi(app, "/spikes", period=period).page
    assert len(page.all("tr")) == 1 + days
    assert f"Days in the last {length[:-1]} days" in page.said


def test_the_running_week_is_marked(small_past: Past) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=yes)
    rows = re.findall(r"<tr>.*?</tr>", asgi(app, "/trend", period="400d", page="2").text, re.DOTALL)
    assert ["so far" in row for row in rows] == [False] * (len(rows) - 1) + [True]
    assert "The last week is not over." in asgi(app, "/trend", period="400d").page.said


def test_a_name_breaks_between_its_words() -> None:
    assert breakable("api:v1.getUser_by-id/x__y") == ("api:<wbr>v1.<wbr>get<wbr>User_<wbr>by-<wbr>id/<wbr>x__<wbr>y")
    assert breakable("a_<b>") == "a_<wbr>&lt;b&gt;"
