"""Many addresses, and visitors who leave, must not take a thread or a query each."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from conftest import Database
from dashboard.visitor import asgi
from reading import made
from usage_instrument.dashboard import page_jobs
from usage_instrument.dashboard.asgi import Dashboard
from usage_instrument.dashboard.http import Response, page
from usage_instrument.dashboard.page_jobs import Job, PageJobs, TooManyJobsError
from usage_instrument.dashboard.reader import Reader
from usage_instrument.dashboard.site import Site
from usage_instrument.errors import UsageInstrumentError


class Slow:
    """A page that is made when the test lets it."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.times = 0

    def __call__(self, *_: Any, **__: Any) -> Response:
        self.times += 1
        assert self.may_go_on.wait(60)
        return page("made")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_jobs, "SOON", 0.02)


def test_unknown_parameters_are_one_page(sqlite: Database, soon: None, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    monkeypatch.setattr(Site, "_answer", slow)
    dashboard = Dashboard(sqlite.url, authorize=lambda _: True)
    before = threading.active_count()
    statuses = {asgi(dashboard, "/", x=str(number)).status for number in range(100)}
    assert statuses == {202}
    assert slow.times == 1
    assert threading.active_count() <= before + 2 + 4  # the page, its watch, and the threads of the ASGI app
    slow.may_go_on.set()


def test_more_pages_than_there_are_jobs_are_a_503(
    sqlite: Database, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow()
    monkeypatch.setattr(Site, "_answer", slow)
    monkeypatch.setattr(page_jobs, "MAX_JOBS", 3)
    dashboard = Dashboard(sqlite.url, authorize=lambda _: True)
    answers = [asgi(dashboard, "/search", q=str(number)) for number in range(50)]
    assert [answer.status for answer in answers] == [202] * 3 + [503] * 47
    assert answers[-1].headers["Retry-After"] == "2"
    assert "busy" in answers[-1].text
    assert slow.times == 3
    slow.may_go_on.set()


def test_a_place_is_free_again(soon: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_jobs, "MAX_JOBS", 1)
    pages, slow = PageJobs(), Slow()
    assert isinstance(pages.page("a", slow), float)
    with pytest.raises(TooManyJobsError):
        pages.page("b", slow)
    slow.may_go_on.set()
    monkeypatch.setattr(page_jobs, "SOON", 60)
    assert isinstance(pages.page("a", slow), Response)
    assert isinstance(pages.page("b", slow), Response)


_LONG = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "postgresql": "SELECT pg_sleep(60)",
    "mariadb": "SELECT count(*) FROM seq_1_to_1000000 a, seq_1_to_1000000 b WHERE a.seq * b.seq = -1",
}


def test_a_query_ends_when_its_visitors_leave(
    database: Database, soon: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made(database.engine())
    monkeypatch.setattr(page_jobs, "ABANDONED", 0.3)
    reader, ended, errors = Reader(database.url, None, None), threading.Event(), []

    def make(job: Job) -> Response:
        try:
            reader.read(lambda connection, _: connection.exec_driver_sql(_LONG[database.name]).all(), job)
        except Exception as error:
            errors.append(error)
        ended.set()
        return page("")

    begun = time.monotonic()
    assert isinstance(PageJobs().page("a", make), float)
    assert ended.wait(25), "its statement timeout would have ended it after 30 seconds"
    assert time.monotonic() - begun < 25
    assert [str(error) for error in errors] == ["This page was cancelled"]
    assert not isinstance(errors[0], UsageInstrumentError)
    assert caplog.records == []


def test_a_visitor_who_comes_back_keeps_the_query(soon: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_jobs, "ABANDONED", 0.5)
    pages, slow, jobs = PageJobs(), Slow(), []

    def make(job: Job) -> Response:
        jobs.append(job)
        return slow()

    for _ in range(8):
        assert isinstance(pages.page("a", make), float)
        time.sleep(0.1)
    assert not jobs[0].is_cancelled
    slow.may_go_on.set()
