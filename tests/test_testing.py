"""`capture_usage()`: what a host's tests see of what was captured, and that it leaves no trace."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import threading
import uuid

import pytest

from usage_instrument import Settings, Tracker, configure
from usage_instrument.capture.decorator import tracks
from usage_instrument.capture.registry import Catalog, declared
from usage_instrument.errors import UserIdError
from usage_instrument.events import Use
from usage_instrument.testing import CapturedUse, capture_usage


@tracks("testing_follow", user_arg="user", metadata=["event"])
def follow(event, user=None):
    return event


@tracks("testing_search")
def search(): ...


def test_what_is_captured_inside_can_be_asked_for():
    with capture_usage() as usage:
        search()
        search()
        follow(7, user=42)
        follow([1], user="anna")
    assert usage.names == ["testing_search", "testing_follow"]
    assert usage.count("testing_search") == 2
    assert usage.count("testing_search", user=None) == 2
    assert usage.count("testing_follow", user=42) == 1
    assert usage.uses[2:] == [
        CapturedUse("testing_follow", 42, {"event": 7}),
        CapturedUse("testing_follow", "anna", {"event": [1]}),
    ]


def test_ids_are_the_same_in_any_form_that_a_column_takes():
    ada = uuid.uuid4()
    with capture_usage() as usage:
        follow(1, user=ada)
        follow(1, user=str(ada).upper())
        follow(1, user="42")
    assert usage.count("testing_follow", user=str(ada)) == usage.count("testing_follow", user=ada) == 2
    usage.assert_tracked("testing_follow", user=42, times=1)


def test_ids_are_coerced_and_rejected_as_by_the_database():
    ada = uuid.uuid4()
    with capture_usage(user_id_type="uuid") as usage:
        follow(1, user=str(ada))
        follow(1, user=7)
    assert usage.uses == [CapturedUse("testing_follow", ada, {"event": 1})]
    assert [rejected.feature for rejected in usage.rejected] == ["testing_follow"]
    with capture_usage(user_id_type="uuid", strict=True), pytest.raises(UserIdError):
        follow(1, user=7)


def test_the_type_of_ids_is_that_of_the_tracker_in_place(tmp_path):
    tracker = Tracker(f"sqlite:///{tmp_path}/usage.db", Settings(user_id_type="integer"))
    with capture_usage(catalog=tracker.catalog) as usage, capture_usage(catalog=tracker.catalog) as inner:
        tracker.catalog.recorder.record(Use("f", "42"))
        tracker.catalog.recorder.record(Use("f", "anna"))
    assert usage.uses == []
    assert inner.uses == [CapturedUse("f", 42)]
    assert len(inner.rejected) == 1


def test_metadata_that_would_be_lost_is_told():
    with capture_usage() as usage:
        follow(float("nan"))
        follow("x" * 5_000)
    assert [use.metadata for use in usage.uses] == [None, None]
    assert len(usage.metadata_lost) == 2


def test_nothing_is_captured_outside_and_the_recorder_of_before_is_back():
    before = declared.recorder
    with capture_usage() as usage:
        with capture_usage() as inner:
            search()
        search()
    search()
    assert (usage.count("testing_search"), inner.count("testing_search")) == (1, 1)
    assert declared.recorder is before


def test_the_recorder_of_before_is_back_after_an_exception():
    before = declared.recorder
    with pytest.raises(ZeroDivisionError), capture_usage():
        raise ZeroDivisionError
    assert declared.recorder is before


def test_an_app_that_configures_inside_is_captured_and_its_tracker_takes_over_afterwards(sqlite):
    with capture_usage() as usage:
        with capture_usage() as inner:
            tracker = configure(sqlite.url)
            search()
        search()
        assert tracker.stats().captured == 0
    assert (usage.count("testing_search"), inner.count("testing_search")) == (1, 1)
    assert declared.recorder is tracker
    search()
    assert tracker.stats().captured == 1


def test_a_catalog_of_its_own_is_captured_apart():
    catalog = Catalog()
    mine = tracks("testing_mine", catalog=catalog)(lambda: None)
    with capture_usage(catalog=catalog) as usage:
        mine()
        search()
    assert usage.names == ["testing_mine"]


def test_it_sees_every_thread():
    with capture_usage() as usage:
        threads = [threading.Thread(target=search) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    usage.assert_tracked("testing_search", times=8)


def test_assert_tracked_says_what_was_captured_instead():
    with capture_usage() as usage:
        follow(7, user=42)
        follow(7, user=3.5)
    usage.assert_tracked("testing_follow")
    usage.assert_tracked("testing_follow", user=42, times=1)
    usage.assert_tracked("testing_search", times=0)
    with pytest.raises(AssertionError, match=r"'testing_follow' was not used 2 times by 42, but 1 times; ") as info:
        usage.assert_tracked("testing_follow", user=42, times=2)
    assert "captured: 'testing_follow' by 42 1 times; 'testing_follow' rejected: a user id is" in str(info.value)
    with pytest.raises(AssertionError, match=r"'testing_search' was not used at least once, but 0 times"):
        usage.assert_tracked("testing_search")


def test_what_is_rejected_is_told_apart_and_raises_when_strict():
    with capture_usage() as usage:
        follow(7, user=3.5)
        follow(object(), user=1)
    assert [rejected.feature for rejected in usage.rejected] == ["testing_follow"]
    assert isinstance(usage.rejected[0].error, UserIdError)
    assert [lost.feature for lost in usage.metadata_lost] == ["testing_follow"]
    assert usage.uses == [CapturedUse("testing_follow", 1)]
    with capture_usage(strict=True), pytest.raises(UserIdError):
        follow(7, user=3.5)


def test_uses_that_stand_for_several_count_so():
    with capture_usage() as usage:
        usage.record(Use("testing_export", 1, '{"format":"csv"}', 3))
    usage.assert_tracked("testing_export", user=1, times=3)
    assert usage.uses[0].metadata == {"format": "csv"}


def test_clear_forgets():
    with capture_usage() as usage:
        search()
        follow(7, user=3.5)
        usage.clear()
        search()
    assert (usage.count("testing_search"), usage.rejected) == (1, [])
