"""Declared features: one cell a name, attached recorders, descriptions, and what an endpoint is tracked for."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable

import pytest

from usage_instrument.capture.decorator import tracks
from usage_instrument.capture.registry import Catalog, Feature, Recorder, Unconfigured, declared, features_of
from usage_instrument.errors import FeatureNameError
from usage_instrument.events import Use
from usage_instrument.testing import CapturedUsage, CapturedUse
from usage_instrument.typing import UserId


def test_a_name_is_declared_once() -> None:
    catalog = Catalog()
    first = catalog.declare("export", fallback="Doc.", source="a:b")
    assert catalog.declare("export", fallback="Other.", source="c:d") is first
    assert (first.name, first.description, first.source, first.catalog) == ("export", "Doc.", "a:b", catalog)
    assert len(catalog) == 1
    assert list(catalog) == [first]
    assert "export" in catalog
    assert "import" not in catalog
    assert repr(first) == "Feature('export')"


def test_a_wrong_name_raises_where_it_is_declared() -> None:
    catalog = Catalog()
    for name in ("", "x" * 101, "a\0b"):
        with pytest.raises(FeatureNameError):
            catalog.declare(name)
    assert len(catalog) == 0


def test_a_catalogue_may_grow_while_it_is_read() -> None:
    catalog = Catalog()
    catalog.declare("a")
    for feature in catalog:
        catalog.declare(feature.name + "a" if len(feature.name) < 5 else "a")
    assert {feature.name for feature in catalog} == {"a", "aa"}


# ---- descriptions


def test_what_the_author_says_goes_before_a_docstring(caplog: pytest.LogCaptureFixture) -> None:
    catalog = Catalog()
    catalog.declare("export", fallback="A docstring.")
    catalog.declare("export", description="Exports.")
    feature = catalog.declare("export", fallback="Another docstring.")
    assert feature.description == "Exports."
    assert caplog.records == []


def test_two_different_descriptions_are_said(caplog: pytest.LogCaptureFixture) -> None:
    catalog = Catalog()
    catalog.declare("export", description="Exports.")
    catalog.declare("export", description="Exports.")
    assert caplog.records == []
    catalog.declare("export", description="Something else.", source="app:view")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    lines = (f"{__file__}:{test_two_different_descriptions_are_said.__code__.co_firstlineno + add}" for add in (2, 5))
    first, second = lines
    assert f"'Exports.' at {first} and 'Something else.' at {second}; the first one is kept" in caplog.text
    assert next(iter(catalog)).description == "Exports."


# ---- recorders


def test_a_recorder_takes_the_uses_of_features_old_and_new() -> None:
    catalog = Catalog()
    old = catalog.declare("old")
    captured = CapturedUsage(catalog)
    catalog.attach(captured)
    new = catalog.declare("new")
    old.append(1)
    new.append(None)
    assert captured.uses == [CapturedUse("old", 1), CapturedUse("new", None)]


def test_the_latest_recorder_takes_all() -> None:
    catalog = Catalog()
    feature = catalog.declare("export")
    first, second = CapturedUsage(catalog), CapturedUsage(catalog)
    catalog.attach(first)
    feature.append(1)
    catalog.attach(second)
    feature.append(2)
    assert catalog.recorder is second
    assert (first.uses, second.uses) == ([CapturedUse("export", 1)], [CapturedUse("export", 2)])


def test_threads_that_declare_the_same_names_meet_in_the_same_features() -> None:
    catalog = Catalog()
    captured = CapturedUsage(catalog)
    names = [f"feature {n}" for n in range(200)]
    start = threading.Barrier(5)
    found: list[list[Feature]] = []

    def declare() -> None:
        start.wait()
        found.append([catalog.declare(name) for name in names])

    threads = [threading.Thread(target=declare) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        start.wait()
        catalog.attach(captured)
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert all(features == found[0] for features in found)
    for features in found:
        for feature in features:
            feature.append(None)
    assert Counter(use.feature for use in captured.uses) == dict.fromkeys(names, 4)


def test_a_recorder_attached_while_a_feature_is_being_declared_gets_its_uses() -> None:
    class Slow(CapturedUsage):
        asked = 0

        def sink(self, feature: Feature) -> Callable[[UserId], object]:
            found = super().sink(feature)
            self.asked += 1
            if self.asked == 2:  # as another thread might, when the new feature is known already
                catalog.attach(late)
            return found

    catalog = Catalog()
    late = CapturedUsage(catalog)
    catalog.attach(early := Slow(catalog))
    catalog.declare("export").append(1)
    assert (early.uses, late.uses) == ([], [CapturedUse("export", 1)])


def test_unconfigured_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    catalog = Catalog()
    recorder: Recorder = catalog.recorder
    assert isinstance(recorder, Unconfigured)
    assert caplog.records == []
    for _ in range(3):
        catalog.declare("export").append(5)
        recorder.record(Use("export", 5))
        recorder.reject("export", ValueError())
        recorder.complain(ValueError())
        recorder.lose_metadata("export", ValueError())
        recorder.request_ended()
    assert asyncio.run(recorder.ashutdown()) is True
    (record,) = caplog.records
    assert record.message == (
        "usage-instrument is not configured: call usage_instrument.configure(), or, with an integration, set "
        "$USAGE_INSTRUMENT_DATABASE_URL"
    )


# ---- features_of


def plain(function: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(function)
    def wrapper(*args: object) -> object:
        return function(*args)

    return wrapper


def test_what_an_endpoint_is_tracked_for() -> None:
    @tracks("test_catalog.view")
    def view() -> None:
        pass

    @tracks("test_catalog.outer")
    @plain
    @tracks("test_catalog.inner")
    def twice() -> None:
        pass

    class Views:
        @tracks("test_catalog.method")
        def method(self) -> None:
            pass

    assert "test_catalog.view" in declared
    assert features_of(view) == {"test_catalog.view"}
    assert features_of(plain(view)) == {"test_catalog.view"}
    assert features_of(functools.partial(functools.partial(plain(view), 1), 2)) == {"test_catalog.view"}
    assert features_of(twice) == {"test_catalog.outer", "test_catalog.inner"}
    assert features_of(Views().method) == {"test_catalog.method"}
    assert features_of(Views.method) == {"test_catalog.method"}


def test_a_tracked_class_is_and_its_heir_is_not() -> None:
    @tracks("test_catalog.class")
    class Tracked:
        def __init__(self) -> None:
            pass

    class Heir(Tracked):
        pass

    assert features_of(Tracked) == {"test_catalog.class"}
    assert features_of(Heir) == set()


def test_what_is_not_tracked() -> None:
    def loop() -> None:
        pass

    loop.__wrapped__ = loop  # type: ignore[attr-defined]
    for endpoint in (None, loop, plain(len), 5, object(), int):
        assert features_of(endpoint) == set()
