"""A page that takes long is promised within a second, made once, and there for visitors who come back."""

from __future__ import annotations

import threading

import pytest

from usage_instrument.dashboard import page_jobs
from usage_instrument.dashboard.asgi import Dashboard
from usage_instrument.dashboard.http import Response, page
from usage_instrument.dashboard.page_jobs import Job, PageJobs

from .conftest import Past
from .visitor import asgi

PAGE = page("here it is")


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_jobs, "SOON", 0.05)


class Slow:
    """A page that is made when it is told to."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.times = 0

    def __call__(self, job: Job) -> Response:
        self.times += 1
        assert self.may_go_on.wait(60)
        return PAGE


def test_a_waiting_visitor_hears_how_long_and_gets_the_page_that_was_made(
    hurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages, slow = PageJobs(), Slow()
    first, second = pages.page("/", slow), pages.page("/", slow)
    assert isinstance(first, float)
    assert isinstance(second, float)
    assert 0.05 <= first < second
    monkeypatch.setattr(page_jobs, "SOON", 60)
    slow.may_go_on.set()
    assert pages.page("/", slow) is PAGE
    assert slow.times == 1
    assert pages.page("/", slow) is PAGE, "somebody else who was told to come back"
    assert slow.times == 1
    monkeypatch.setattr(page_jobs, "KEPT", 0.0)
    assert pages.page("/else", slow) is PAGE
    assert pages.page("/else", slow) is PAGE
    assert slow.times == 3, "what nobody had to wait for is made anew"


@pytest.mark.parametrize("past", ["postgresql"], indirect=True)
def test_a_page_is_promised_while_the_database_counts(
    past: Past, hurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Dashboard(past.url, authorize=lambda _: True)
    with past.engine.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE feature_usage_history IN ACCESS EXCLUSIVE MODE")
        answer = asgi(app, "/", period="7d")
    assert answer.status == 202
    assert answer.page.all("h1")
    assert "There is much to count: 1 second so far." in answer.page.said
    (refresh,) = [meta for meta in answer.page.all("meta") if meta.get("http-equiv") == "refresh"]
    assert refresh["content"] == "1"
    monkeypatch.setattr(page_jobs, "SOON", 60)
    assert "The last 7 days" in asgi(app, "/", period="7d").page.said
