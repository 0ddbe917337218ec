"""Celery: what a task counts as, and whose it is. How its workers end is in tests/faults/test_processes.py."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import contextlib
import uuid

import pytest

import usage_instrument as usage
from usage_instrument.capture.context import Request, holder
from usage_instrument.errors import DeclarationError
from usage_instrument.testing import capture_usage

celery = pytest.importorskip("celery")

from celery.contrib.testing.worker import start_worker  # noqa: E402
from celery.signals import before_task_publish, setup_logging  # noqa: E402

from usage_instrument.integrations.celery import instrument  # noqa: E402
from usage_instrument.integrations.tasks import HEADER  # noqa: E402

ADA = uuid.UUID(int=2**64 + 7)


@pytest.fixture
def app():
    app = celery.Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(broker_transport_options={"polling_interval": 0.01}, broker_connection_retry_on_startup=True)
    return app


@pytest.fixture
def captured():
    with capture_usage() as found:
        yield found


def declare(app, name, **options):
    return app.task(name=name, shared=False, **options)  # shared, it would be a task of the other tests' apps as well


@contextlib.contextmanager
def worker(app, **options):
    """A worker in threads of this process, whose logging is left alone."""
    setup_logging.connect(plain, dispatch_uid="tests")
    try:
        with start_worker(app, perform_ping_check=False, shutdown_timeout=30, **options):
            yield
    finally:
        setup_logging.disconnect(dispatch_uid="tests")


def states(results):
    results = list(results)
    for result in results:
        result.get(timeout=20, propagate=False)
    return [result.state for result in results]


def test_a_success_is_a_use_under_the_tasks_name_and_nothing_else_is(app, captured):
    instrument(app)

    @declare(app, "report.export")
    def export(): ...

    @declare(app, "report.fail")
    def fail():
        raise ZeroDivisionError

    @declare(app, "report.ignore")
    def ignore():
        raise celery.exceptions.Ignore

    @declare(app, "report.retry", bind=True, max_retries=2, default_retry_delay=0)
    def retry(self):
        if self.request.retries < 2:
            raise self.retry(countdown=0)

    @declare(app, "celery.internal")
    def internal(): ...

    with worker(app):
        ignored = ignore.delay()
        sent = [task.delay() for task in (export, export, fail, retry, internal)]
        assert states(sent) == ["SUCCESS", "SUCCESS", "FAILURE", "SUCCESS", "SUCCESS"]
    assert ignored.state == "PENDING"
    assert [(use.feature, use.user) for use in captured.uses] == [("report.export", None)] * 2 + [
        ("report.retry", None)
    ]
    export()
    assert captured.count("report.export") == 2, "a call is no task"


def test_the_user_of_a_request_is_the_user_of_its_tasks_and_of_theirs(app, captured):
    instrument(app)

    @usage.tracks("pdf_rendered")
    def render(): ...

    @declare(app, "mail")
    def mail():
        render()

    mails = []

    @declare(app, "export", bind=True, max_retries=1)
    def export(self, user):
        if user == 42 and not self.request.retries:
            raise self.retry(countdown=0)
        render()
        mails.append(mail.delay())

    request = Request("http", "POST")
    request.identify(7)
    sent = []
    with worker(app, pool="threads", concurrency=4):
        for user in (ADA, 42, "ada"):
            with usage.as_user(user):
                sent.append(export.delay(user))
        token = holder.set(request)
        sent.append(export.delay(None))
        with usage.paused():
            sent.append(mail.delay())
        holder.reset(token)
        sent.append(export.delay(None))
        assert {*states(sent), *states(mails)} == {"SUCCESS"}
    for user in (ADA, 42, "ada", None):
        assert [captured.count(name, user=user) for name in ("export", "mail", "pdf_rendered")] == [1, 1, 2], user
    assert [captured.count(name, user=7) for name in ("export", "mail", "pdf_rendered")] == [1, 2, 3]
    assert captured.rejected == []


def test_a_task_may_say_itself_who_its_user_is(app, captured):
    instrument(app, metadata=lambda task: {"id": task.request.id})

    @declare(app, "sync")
    def sync(user):
        usage.identify(user)
        usage.track("contacts_read")

    @declare(app, "nobody")
    def nobody():
        usage.track("nobodys")

    sync.apply((1,), task_id="first")
    nobody.apply(task_id="second")
    assert [use[:3] for use in captured.uses] == [
        ("contacts_read", 1, None),
        ("sync", 1, {"id": "first"}),
        ("nobodys", None, None),
        ("nobody", None, {"id": "second"}),
    ]
    assert captured.complaints == []


def test_a_header_that_holds_no_user_rejects_instead_of_counting_for_nobody(app, captured):
    instrument(app)

    @declare(app, "export")
    def export(): ...

    export.apply(headers={HEADER: "int:seven"})
    export.apply(headers={HEADER: 7})
    request = Request("http", "POST")
    with pytest.raises(TypeError):
        request.identify(3.5)
    token = holder.set(request)
    stamped = {}
    before_task_publish.send(sender="export", headers=stamped)
    holder.reset(token)
    export.apply(headers=stamped)
    assert captured.uses == []
    assert [rejected.feature for rejected in captured.rejected] == ["export"] * 3


def test_the_options_are_those_of_the_middlewares(app, captured):
    instrument(
        app,
        features={"a": "alpha", "b": lambda task: f"beta_{task.request.args[0]}", "celery.c": "gamma", "d": None},
        exclude=["tmp.*"],
        user=lambda task: task.request.kwargs.get("user"),
    )
    for name in ("a", "b", "celery.c", "d", "e", "tmp.x"):
        declare(app, name)(plain).apply((1,), {"user": 9})
    assert [(use.feature, use.user) for use in captured.uses] == [
        ("alpha", 9), ("beta_1", 9), ("gamma", 9), ("e", 9),
    ]  # fmt: skip
    for wrong, error in (
        ({"exclude": "tmp.*"}, DeclarationError),
        ({"features": {"a": 1}}, DeclarationError),
        ({"features": {"a": "x" * 101}}, ValueError),
    ):
        with pytest.raises(error):
            instrument(celery.Celery("other", set_as_current=False), **wrong)


def test_a_tracked_task_counts_once_and_as_its_decorator_says(app, captured, caplog):
    instrument(app, features={"both": "second"})

    @declare(app, "below")
    @usage.tracks("export", metadata=["kind"])
    def below(kind): ...

    @declare(app, "both")
    @usage.tracks("first")
    def both(): ...

    @usage.tracks("never")
    @declare(app, "above")
    def above(): ...

    below.apply(("csv",))
    both.apply()
    app.tasks["above"].apply()
    assert [use[:3] for use in captured.uses] == [
        ("export", None, {"kind": "csv"}),
        ("first", None, None),
        ("second", None, None),
        ("above", None, None),
    ]
    assert "@tracks('never')" in caplog.text


def test_eager_tasks_are_their_requests(app, captured):
    app.conf.task_always_eager = True
    instrument(app)

    @declare(app, "inner")
    def inner(): ...

    @declare(app, "outer")
    def outer():
        inner.delay()

    request = Request("http", "POST", lookup=lambda info: 5)
    token = holder.set(request)
    outer.delay()
    with usage.paused():
        outer.delay()
    assert holder.get() is request
    holder.reset(token)
    outer.delay()
    assert [(use.feature, use.user) for use in captured.uses] == [
        ("inner", 5), ("outer", 5), ("inner", None), ("outer", None),
    ]  # fmt: skip


def test_apps_are_apart(app, captured):
    tracker = usage.Tracker(None, usage.Settings(enabled=False))
    mine, other = (celery.Celery(name, set_as_current=False) for name in ("mine", "other"))
    instrument(app)
    instrument(mine, tracker=tracker)
    for one in (app, mine, other):
        one.conf.task_always_eager = True
        declare(one, "export")(plain)
    with capture_usage(catalog=tracker.catalog) as apart:
        for one in (app, mine, other):
            one.tasks["export"].delay()
    assert (captured.count("export"), apart.count("export")) == (1, 1)


def test_an_app_that_is_instrumented_twice_is_told(app, captured, caplog):
    app.conf.task_always_eager = True
    instrument(app)
    instrument(app, features={"export": "other"})
    declare(app, "export")(plain).delay()
    assert captured.names == ["other"]
    assert "'shop' is instrumented already" in caplog.text


def plain(number=0, user=None, **_): ...
