"""The pages of experiments: the list, the verdict in words with its intervals, files, and what can be wrong."""

from __future__ import annotations

import csv
import datetime as dt
import io
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from blue_wins import START, exposure, filled, paid
from conftest import Database, fresh_sqlite
from usage_instrument import experiments
from usage_instrument.dashboard import asgi as by_asgi
from usage_instrument.dashboard import wsgi as by_wsgi
from usage_instrument.dashboard.charts import Interval, intervals
from usage_instrument.schema import Tables

from .conftest import HOSTILE
from .visitor import Answer, asgi, wsgi


def yes(_: Any) -> bool:
    return True


ASKED: dict[str, Any] = {"experiment": "button", "goal": "buy", "weights": "red=1,blue=1"}


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with fresh_sqlite(tmp_path_factory.mktemp("past")) as database:
        filled(database)
        yield database


def ask(database: Database, **parameters: Any) -> Answer:
    return asgi(by_asgi.Dashboard(database.url, authorize=yes), "/experiment", **parameters)


def test_the_verdict_and_the_list(database: Database) -> None:
    tables = filled(database)
    app = by_asgi.Dashboard(database.url, authorize=yes)
    page = asgi(app, "/experiments").page
    assert re.search(r"price idle new 1 0 11 Apr.* button idle blue 1,000 red 1,001 2 2 Mar", page.said)
    assert {"experiment?experiment=button", "experiments.csv"} <= {a["href"] for a in page.all("a")}
    _, *rows = csv.reader(io.StringIO(asgi(app, "/experiments.csv").text))
    assert [row[:4] for row in rows] == [
        ["button", "blue", "1000", "2"],
        ["button", "red", "1001", "2"],
        ["price", "new", "1", "0"],
    ]

    answer = asgi(app, "/experiment", guardrail="search", **ASKED)
    said = answer.page.said
    assert re.search(r"Blue is better: \+300 % \(\d+ to \d+ %\) You can stop, and give blue to everybody", said)
    assert "red 1,001 100 10.0 % (8.3 to 12.0 %) control 0 %" in said
    assert re.search(r"blue 1,000 400 40.0 % \(37.0 to 43.1 %\) \+300 % \(\d+ to \d+ %\) 100 %", said)
    assert "50 of 500 units used buy only in the day (hour) of their first exposure" in said
    assert "2 units saw several variants" in said
    assert re.search(r"search blue no fall found", said)
    assert "not checked" not in said
    assert len(answer.page.all("circle")) == 3, "two shares and one comparison are drawn"
    sql = re.sub(r".*<pre[^>]*><code>(.*)</code></pre>.*", r"\1", answer.text, flags=re.DOTALL)
    sql = sql.replace("&#39;", "'").replace("&gt;", ">").replace("&lt;", "<")
    with database.engine().connect() as connection:
        found = connection.execute(sa.text(sql.replace(":", "\\:"))).all()
    header, *rows = csv.reader(io.StringIO(asgi(app, "/experiment.csv", **ASKED).text))
    assert [row[:4] for row in rows] == [[str(cell) for cell in row[:4]] for row in found]
    assert header[:4] == ["variant", "units", "without_user", "converted"]

    with database.engine().begin() as connection:
        tables.exposures.drop(connection)
    for path in ("/experiments", "/experiment", "/experiment.csv", "/experiments.csv"):
        refused = asgi(app, path, experiment="button")
        assert (refused.status, "run usage-instrument db upgrade" in refused.page.said) == (503, True)


def test_every_verdict_in_words(past: Database) -> None:
    broken = ask(past, **{**ASKED, "weights": "red=1,blue=3"})
    assert "Broken: 50/50 split where 25/75 was meant No other figure can be trusted" in broken.page.said
    assert "better" not in broken.text, "nothing is praised"
    search = {"experiment": "button", "goal": "search"}
    assert "No difference of 10 % or more" in ask(past, **search).page.said
    assert re.search(r"Not decided: [\d,]+ more users needed", ask(past, **search, effect="0.1").page.said)
    unchecked = ask(past, experiment="button", goal="buy", control="red", metric="uses").page.said
    assert "Uses of buy per user" in unchecked
    assert "The split between the variants is not checked: fill in the planned split above." in unchecked
    assert "Nothing to compare: there is only one variant" in ask(past, experiment="price", goal="buy").page.said
    assert "Which feature shall the variants lead to?" in ask(past, experiment="button").page.said


def test_the_numbers_of_a_goal_are_compared(sqlite: Database) -> None:
    tables = filled(sqlite)
    paid(tables, sqlite.engine())
    given: dict[str, Any] = {**ASKED, "goal": "pay", "metric": "value"}
    said = ask(sqlite, **given).page.said
    assert "Blue is better: +" in said
    assert "Value of pay per user (mean)" in said
    assert "The lift of the mean. A line" in said
    assert re.search(r"With a number Value per user .* red 1,001 500 5\.4\d \(.*\) control", said)
    app = by_asgi.Dashboard(sqlite.url, authorize=yes)
    rows = csv.DictReader(io.StringIO(asgi(app, "/experiment.csv", **given).text))
    assert [(row["variant"], float(row["value"])) for row in rows] == [("blue", 10_499.0), ("red", 5_499.0)]
    without = ask(sqlite, **{**given, "goal": "buy", "guardrail": "search,pay"}).page
    assert "Not decided: no use of the goal has a number Pass value= where the goal is captured" in without.said
    assert not without.all("circle"), "nothing is drawn of no numbers"
    assert re.search(r"search blue not known pay blue no fall found", without.said)
    assert "Whether search falls cannot be known: no use of it has a number." in without.said
    with sqlite.engine().begin() as connection:
        tables.dimensions.drop(connection)
    refused = ask(sqlite, **given)
    assert (refused.status, "There are no numbers here" in refused.page.said) == (503, True)
    assert ask(sqlite, **{**given, "goal": "buy", "metric": "uses"}).status == 200


def test_a_period_is_of_the_first_exposures(past: Database) -> None:
    none = ask(past, **ASKED, **{"from": "2026-03-03", "to": "2026-03-09"}).page
    assert "Nobody saw this experiment for the first time from 2026-03-03 to 2026-03-09" in none.said
    day = ask(past, **ASKED, **{"from": "2026-03-02", "to": "2026-03-02"}).page
    assert "Only users who first saw it from 2026-03-02 to 2026-03-02. " in day.said
    assert "red 1,001 10 1.0 %" in day.said, "the uses end with the period, too"
    (file,) = [a["href"] for a in day.all("a") if (a["href"] or "").startswith("experiment.csv")]
    assert "from=2026-03-02" in (file or "")
    links = [a["href"] or "" for a in day.all("a") if "period=28d" in (a["href"] or "")]
    assert links == ["experiment?experiment=button&goal=buy&weights=red%3D1%2Cblue%3D1&period=28d"]
    assert {"name": "goal", "value": "buy", "type": "hidden"} in day.all("input"), "a choice of days keeps the rest"


def test_days_are_those_of_the_time_zone(past: Database) -> None:
    app = by_asgi.Dashboard(past.url, authorize=yes, tz="Europe/Berlin")
    assert "Blue is better" in asgi(app, "/experiment", **ASKED).page.said, "without a period, no day is divided"
    for path in ("/experiment", "/experiment.csv"):
        answer = asgi(app, path, **{**ASKED, "from": "2026-03-02"})
        assert (answer.status, "The history has a day instead of hours" in answer.page.said) == (400, True)


def test_a_hostile_name_is_text(sqlite: Database) -> None:
    tables = filled(sqlite)
    name, variants = HOSTILE[0], HOSTILE[1:5]
    rows = [exposure(name, variant, user, START) for user, variant in enumerate(variants * 3)]
    with sqlite.engine().begin() as connection:
        connection.execute(tables.exposures.insert(), rows)
    app = by_wsgi.Dashboard(sqlite.url, authorize=yes)
    for page in (
        wsgi(app, "/experiments").page,
        wsgi(app, "/experiment", experiment=name, goal="buy", control=variants[0], guardrail="search").page,
        wsgi(app, "/experiment", experiment=name, goal=HOSTILE[1], weights=HOSTILE[0]).page,
        wsgi(app, "/experiment", experiment=name, goal="buy", weights=HOSTILE[0]).page,
        wsgi(app, "/experiment", experiment=HOSTILE[1], goal="buy").page,
    ):
        assert not page.all("script")
        assert not page.all("img")
        assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on") or key == "style"]


def test_without_scipy_the_page_names_the_extra(past: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(experiments, "analyse", raising=False)
    for module in [name for name in sys.modules if name.startswith("usage_instrument.experiments.")]:
        if module.rpartition(".")[2] in {"analysis", "posteriors", "proportions", "means", "pairs"}:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "scipy", None)
    answer = ask(past, **ASKED)
    assert answer.status == 200
    assert 'pip install "usage-instrument[experiments]"' in answer.page.said
    assert "red 1,001 100 10% 200" in answer.page.said
    assert re.search(r"red 1,001 0 \S+ 0\.0", ask(past, **{**ASKED, "metric": "value"}).page.said)
    assert ask(past, experiment="button").status == 200


@pytest.mark.parametrize(
    ("parameters", "status", "said"),
    [
        ({}, 400, "Which experiment?"),
        ({"experiment": "x" * 101}, 400, "Which experiment?"),
        ({"experiment": "buton"}, 404, "Nobody has seen an experiment “buton” .* button"),
        ({**ASKED, "goal": "buys"}, 404, "No feature is called “buys” .* buy "),
        ({**ASKED, "goal": "x" * 101}, 400, "at most 100|1 to 100"),
        ({**ASKED, "guardrail": "serch"}, 404, "No feature is called “serch” .* search"),
        ({**ASKED, "guardrail": "a,b,c,d,e,f"}, 400, "too many"),
        ({**ASKED, "weights": "red"}, 400, "Weights are given as red=1,blue=3"),
        ({**ASKED, "weights": "red=0,blue=0"}, 400, "All weights are 0: give one a positive weight"),
        ({**ASKED, "weights": "red=1"}, 400, "The weights lack variants that were seen: 'blue'"),
        ({**ASKED, "control": "green"}, 400, "The control 'green' is none of the variants"),
        ({**ASKED, "metric": "money"}, 400, "Metric is one of converted, uses"),
        ({**ASKED, "effect": "much"}, 400, "a number of percent"),
        ({**ASKED, "effect": "nan"}, 400, "The smallest effect is a number of percent between 0 and 100"),
        ({**ASKED, "effect": "200"}, 400, "The smallest effect is a number of percent between 0 and 100"),
    ],
)
def test_what_is_wrong_is_explained(past: Database, parameters: dict[str, str], status: int, said: str) -> None:
    answer = ask(past, **parameters)
    assert answer.status == status
    assert re.search(said, answer.page.said), answer.page.said


def test_nobody_looks_without_permission(past: Database) -> None:
    app = by_asgi.Dashboard(past.url, authorize=lambda _: False)
    for path in ("/experiments", "/experiment", "/experiments.csv", "/experiment.csv"):
        assert asgi(app, path, **ASKED).status == 403


def test_no_experiments_yet(sqlite: Database) -> None:
    tables: Tables = filled(sqlite)
    with sqlite.engine().begin() as connection:
        connection.execute(tables.exposures.delete())
        row = exposure("fresh", "a", 1, dt.datetime.now(dt.UTC).replace(tzinfo=None) - dt.timedelta(days=1, seconds=5))
    app = by_asgi.Dashboard(sqlite.url, authorize=yes)
    assert "No experiment has exposed anybody. usage.variant assigns" in asgi(app, "/experiments").page.said
    with sqlite.engine().begin() as connection:
        connection.execute(tables.exposures.insert(), [row])
    assert "fresh running a 1 0" in asgi(app, "/experiments").page.said


def test_intervals_share_a_scale() -> None:
    found = [Interval("a", "", -0.05, 0.0, 0.1), Interval("b", "", 0.3, 0.4, 0.95, "better")]
    chart = intervals("t", "", found, " %", has_zero=True)
    assert [tick.label for tick in chart.axis] == ["0 %", "0.5 %"]
    assert chart.zero == pytest.approx(chart.axis[0].at)
    assert 0 < chart.bars[0].x < chart.bars[0].at < chart.bars[0].end < chart.bars[1].x < chart.bars[1].end < 100
    alone = intervals("t", "", [Interval("a", "", 5.0, 5.0, 5.0)], "", has_zero=False)
    assert alone.zero is None
    assert alone.bars[0].at == 50
