"""Callables that are no plain functions: tracked, they look as they were."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import math
import operator
import pickle
from collections.abc import Iterable

import pytest
import wrapt

from usage_instrument.capture.decorator import tracks
from usage_instrument.capture.registry import Catalog, features_of
from usage_instrument.testing import CapturedUse, capture_usage


@pytest.fixture
def usage():
    with capture_usage() as captured:
        yield captured


def power(base, exponent):
    return base**exponent


class Exporter:
    def __init__(self, form):
        self.form = form

    def __call__(self, event):
        return f"{event}.{self.form}"

    def __eq__(self, other):
        return isinstance(other, Exporter) and self.form == other.form

    def __hash__(self):
        return hash(self.form)


class AsyncExporter(Exporter):
    async def __call__(self, event):
        await asyncio.sleep(0)
        return f"{event}.{self.form}"


square = tracks("square")(functools.partial(power, exponent=2))
export = tracks("export", metadata=["event"])(Exporter("csv"))


@tracks("cached", metadata=["x"])
@functools.lru_cache
def cached(x):
    return x + 1


@tracks("later", when="call")
async def later():
    return 1


class View:
    def __init__(self, x=1):
        self.x = x

    @tracks("View.later", when="call")
    async def later(self):
        return self.x

    @tracks("View.cached")
    @functools.lru_cache  # noqa: B019
    def cached(self, x):
        return self.x + x

    exporter = tracks("View.exporter")(Exporter("csv"))

    def __eq__(self, other):
        return isinstance(other, View) and self.x == other.x

    def __hash__(self):
        return hash(self.x)


def test_partials(usage):
    assert square(3) == 9
    assert usage.names == ["square"]
    assert isinstance(square, functools.partial)
    assert (square.func, square.keywords) == (power, {"exponent": 2})
    assert str(inspect.signature(square)) == "(base, *, exponent=2)"


def test_instances(usage):
    assert export(7) == "7.csv"
    assert usage.uses == [CapturedUse("export", None, {"event": 7})]
    assert isinstance(export, Exporter)
    assert isinstance(export, Iterable) is not hasattr(wrapt, "BaseObjectProxy")  # wrapt 1 proxies everything
    assert export == Exporter("csv")
    assert export.form == "csv"
    export.form = "csv"
    assert callable(export)
    assert str(inspect.signature(export)) == "(event)"


def test_async_instances_look_async_where_frameworks_look(usage):
    tracked = tracks("f")(AsyncExporter("csv"))
    assert inspect.iscoroutinefunction(tracked.__call__)
    assert asyncio.run(tracked(7)) == "7.csv"
    with pytest.raises(TypeError):
        asyncio.run(tracked())
    usage.assert_tracked("f", times=1)


def test_async_partials(usage):
    tracked = tracks("f")(functools.partial(AsyncExporter("csv").__call__, 7))
    assert inspect.iscoroutinefunction(tracked)
    assert asyncio.run(tracked()) == "7.csv"
    usage.assert_tracked("f", times=1)


def test_generator_partials(usage):
    def numbers(count):
        yield from range(count)

    generator = tracks("f")(functools.partial(numbers, 2))()
    assert next(generator) == 0
    assert usage.uses == []
    assert list(generator) == [1]
    usage.assert_tracked("f", times=1)


def test_cached_functions_stay_cached_and_count_each_call(usage):
    cached.cache_clear()
    assert [cached(1), cached(1), cached(2)] == [2, 2, 3]
    assert cached.cache_info().hits == 1
    assert cached.__name__ == "cached"
    assert [use.metadata["x"] for use in usage.uses] == [1, 1, 2]


def test_builtins_and_c_callables(usage):
    assert tracks("f")(len)([1]) == 1
    assert tracks("f")(math.sqrt)(4) == 2
    assert tracks("f")(operator.itemgetter(1))("ab") == "b"
    assert tracks("f")(str.upper)("a") == "A"
    assert usage.count("f") == 4


def test_bound_methods(usage):
    view = View(3)

    class Plain:
        def run(self, x):
            return self, x

    plain = Plain()
    tracked = tracks("f", metadata=["x"])(plain.run)
    assert tracked(5) == (plain, 5)
    assert inspect.ismethod(tracked)
    assert tracked.__self__ is plain
    assert features_of(tracked) == {"f"}
    assert usage.uses == [CapturedUse("f", None, {"x": 5})]
    assert asyncio.run(tracks("g")(view.later)()) == 3
    assert usage.count("g") == 1


def test_as_attributes_of_classes_they_bind_as_what_they_wrap(usage):
    view = View(10)
    assert view.cached(1) == 11
    assert View.cached(view, 2) == 12
    assert view.exporter(7) == "7.csv"
    assert asyncio.run(view.later()) == 10
    assert inspect.iscoroutinefunction(view.later)
    assert inspect.iscoroutinefunction(View.later)
    assert View.later is View.__dict__["later"]
    assert usage.names == ["View.cached", "View.exporter", "View.later"]
    assert usage.count("View.cached") == 2


@wrapt.decorator
def seen(wrapped, instance, args, kwargs):
    return instance, args, wrapped(*args, **kwargs)


def test_decorators_made_with_wrapt_below_ours_still_see_the_instance(usage):
    class Calendar:
        @tracks("f", metadata=["event"])
        @seen
        def follow(self, event):
            return self

    calendar = Calendar()
    assert calendar.follow(7) == (calendar, (7,), calendar)
    assert Calendar.follow(calendar, 8) == (calendar, (8,), calendar)
    assert [use.metadata for use in usage.uses] == [{"event": 7}, {"event": 8}]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_by_name_keeps_identity(protocol):
    for tracked in (cached, later, View.later):
        assert pickle.loads(pickle.dumps(tracked, protocol)) is tracked


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_by_value_keeps_the_tracking(usage, protocol):
    loaded = pickle.loads(pickle.dumps([square, export, square], protocol))
    assert loaded[0] is loaded[2]
    assert (loaded[0](3), loaded[1](7)) == (9, "7.csv")
    assert usage.uses == [CapturedUse("square"), CapturedUse("export", None, {"event": 7})]


def test_bound_methods_pickle_and_copy(usage):
    view = View(5)
    for made in (pickle.loads(pickle.dumps(view.later)), copy.copy(view.later), copy.deepcopy(view.later)):
        assert asyncio.run(made()) == 5
    assert copy.deepcopy(view.later).__self__ is not view
    assert usage.count("View.later") == 3


def test_copies(usage):
    for tracked in (cached, later):
        assert copy.copy(tracked) is tracked
        assert copy.deepcopy(tracked) is tracked
    nested = copy.deepcopy({"export": export})["export"]
    assert nested.__wrapped__ is not export.__wrapped__
    for made in (copy.copy(export), nested):
        assert made == export
        made.form = "pdf"
        assert made(7) == "7.pdf"
    assert export.form == "csv"
    assert usage.count("export") == 2


def test_what_belongs_to_a_tracker_does_not_pickle_into_another():
    mine = tracks("f", catalog=Catalog())(functools.partial(power, 2))
    with pytest.raises(TypeError, match="belongs to a Tracker"):
        pickle.dumps(mine)
    assert copy.copy(mine)(3) == 8


def test_repr_and_hash_are_those_of_the_wrapped(usage):
    assert hash(export) == hash(Exporter("csv"))
    assert {export: 1}[Exporter("csv")] == 1
