"""APScheduler: a decorated function counts each run that succeeds, and none that is missed, skipped or fails."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import queue
import threading

import pytest

import usage_instrument as usage
from conftest import Database
from reading import counts, made
from usage_instrument.testing import capture_usage

pytest.importorskip("apscheduler", "3.11")

from apscheduler import events
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.schedulers.background import BackgroundScheduler

WATCHED = events.EVENT_JOB_EXECUTED | events.EVENT_JOB_ERROR | events.EVENT_JOB_MISSED | events.EVENT_JOB_MAX_INSTANCES
GONE = dt.timedelta(minutes=10, seconds=30)
BEGUN, MAY_END = threading.Event(), threading.Event()


@usage.tracks("digest_sent", user_arg="user_id")
def send_digest(user_id, fails=False):
    if fails:
        raise ZeroDivisionError


@usage.tracks("digest_sent", user_arg="user_id")
async def send_digest_later(user_id, fails=False):
    await asyncio.sleep(0)
    if fails:
        raise ZeroDivisionError


@usage.tracks("long_job")
def take_long():
    BEGUN.set()
    assert MAY_END.wait(30)


@contextlib.contextmanager
def running(**options):
    """A scheduler that is not started yet, and what happens to its jobs."""
    scheduler, happened = BackgroundScheduler(timezone=dt.UTC, **options), queue.Queue()
    scheduler.add_listener(happened.put, WATCHED)
    try:
        yield scheduler, happened
    finally:
        scheduler.shutdown()


def codes(happened, number):
    return [happened.get(timeout=30).code for _ in range(number)]


def test_a_run_that_succeeds_is_a_use_and_an_error_is_none():
    with capture_usage() as captured, running() as (scheduler, happened):
        scheduler.start()
        scheduler.add_job(send_digest, args=[7])
        scheduler.add_job(send_digest, args=[8], kwargs={"fails": True})
        found = sorted(codes(happened, 2))
    assert found == sorted([events.EVENT_JOB_EXECUTED, events.EVENT_JOB_ERROR])
    assert [(use.feature, use.user) for use in captured.uses] == [("digest_sent", 7)]


def test_the_app_repeats_what_failed_and_it_counts_once():
    with capture_usage() as captured, running() as (scheduler, happened):

        def repeat(event):
            scheduler.add_job(send_digest, args=[7])

        scheduler.add_listener(repeat, events.EVENT_JOB_ERROR)
        scheduler.start()
        scheduler.add_job(send_digest, args=[7], kwargs={"fails": True})
        found = codes(happened, 2)
    assert found == [events.EVENT_JOB_ERROR, events.EVENT_JOB_EXECUTED]
    assert captured.count("digest_sent", user=7) == 1


@pytest.mark.parametrize(
    ("options", "uses", "missed"),
    [
        ({"misfire_grace_time": 3600, "coalesce": True}, 1, 0),
        ({"misfire_grace_time": 3600, "coalesce": False}, 11, 0),
        ({"misfire_grace_time": 45, "coalesce": False}, 1, 10),
    ],
)
def test_runs_that_were_missed_count_as_far_as_they_are_made_up_for(options, uses, missed):
    with capture_usage() as captured, running() as (scheduler, happened):
        first = dt.datetime.now(dt.UTC) - GONE  # as if the process had been away
        scheduler.add_job(
            send_digest, "interval", args=[7], seconds=60, next_run_time=first, max_instances=20, **options
        )
        scheduler.start()
        found = codes(happened, uses + missed)
    assert (found.count(events.EVENT_JOB_EXECUTED), found.count(events.EVENT_JOB_MISSED)) == (uses, missed)
    assert captured.count("digest_sent", user=7) == uses


def test_a_run_that_is_skipped_is_no_use():
    BEGUN.clear()
    MAY_END.clear()
    with capture_usage() as captured, running() as (scheduler, happened):
        scheduler.start()
        scheduler.add_job(take_long, "interval", seconds=3600, id="long", next_run_time=dt.datetime.now(dt.UTC))
        assert BEGUN.wait(30)
        scheduler.modify_job("long", next_run_time=dt.datetime.now(dt.UTC))
        assert codes(happened, 1) == [events.EVENT_JOB_MAX_INSTANCES]
        MAY_END.set()
        assert codes(happened, 1) == [events.EVENT_JOB_EXECUTED]
    assert captured.count("long_job") == 1


def test_a_job_store_finds_the_decorated_function_again(tmp_path):
    def stored():
        return running(jobstores={"default": SQLAlchemyJobStore(f"sqlite:///{tmp_path / 'jobs.db'}")})

    with stored() as (scheduler, _):
        scheduler.start()
        scheduler.add_job(send_digest, "interval", args=[7], id="digest", hours=1)
    with capture_usage() as captured, stored() as (scheduler, happened):
        scheduler.start()
        scheduler.modify_job("digest", next_run_time=dt.datetime.now(dt.UTC))
        assert codes(happened, 1) == [events.EVENT_JOB_EXECUTED]
    assert captured.count("digest_sent", user=7) == 1


def test_a_coroutine_counts_when_it_has_ended():
    async def main():
        scheduler, happened = AsyncIOScheduler(timezone=dt.UTC), asyncio.Queue()
        scheduler.add_listener(happened.put_nowait, WATCHED)
        scheduler.start()
        scheduler.add_job(send_digest_later, args=[7])
        scheduler.add_job(send_digest_later, args=[8], kwargs={"fails": True})
        scheduler.add_job(send_digest, args=[9])  # in the loop's thread pool
        found = [(await asyncio.wait_for(happened.get(), 30)).code for _ in range(3)]
        scheduler.shutdown()
        return found

    with capture_usage() as captured:
        found = asyncio.run(main())
    assert sorted(found) == sorted([events.EVENT_JOB_EXECUTED] * 2 + [events.EVENT_JOB_ERROR])
    assert sorted((use.feature, use.user) for use in captured.uses) == [("digest_sent", 7), ("digest_sent", 9)]


def test_the_user_of_the_request_does_not_follow_a_job():
    with capture_usage() as captured, running(executors={"default": ThreadPoolExecutor(1)}) as (scheduler, happened):
        scheduler.start()
        with usage.as_user(7):
            scheduler.add_job(usage.tracks("nobodys")(lambda: None))
            scheduler.add_job(usage.carry(usage.tracks("carried")(lambda: None)))
        assert codes(happened, 2) == [events.EVENT_JOB_EXECUTED] * 2
    assert sorted((use.feature, use.user) for use in captured.uses) == [("carried", 7), ("nobodys", None)]


@usage.tracks("report_sent", audit=True)
def send_report():
    pass


def report_job(user, actor):
    with usage.as_user(user, actor=actor):
        send_report()


def test_a_stored_job_enters_the_user_of_its_arguments(tmp_path):
    store = SQLAlchemyJobStore(f"sqlite:///{tmp_path / 'jobs.db'}")
    with capture_usage() as captured, running(jobstores={"default": store}) as (scheduler, happened):
        scheduler.start()
        with usage.as_user(7):
            scheduler.add_job(usage.carry(send_report))
        assert codes(happened, 1) == [events.EVENT_JOB_EXECUTED]
        scheduler.add_job(report_job, args=[7, 1])
        assert codes(happened, 1) == [events.EVENT_JOB_EXECUTED]
    assert [(access.user, access.actor) for access in captured.accesses] == [(None, None), (7, 1)]


def test_its_uses_become_rows(sqlite: Database) -> None:
    engine = sqlite.engine()
    tables = made(engine, user_id_type="integer")
    usage.configure(sqlite.url, user_id_type="integer", flush_interval=3600)
    with running() as (scheduler, happened):
        scheduler.start()
        for user in (7, 7, 8):
            scheduler.add_job(send_digest, args=[user])
        assert codes(happened, 3) == [events.EVENT_JOB_EXECUTED] * 3
    assert usage.shutdown(30)
    assert counts(engine, tables) == {("digest_sent", 7): 2, ("digest_sent", 8): 1}
