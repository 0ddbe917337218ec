"""`@tracks` itself: what it refuses, what it declares, and that what it decorates stays what it was."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import asyncio
import collections
import copy
import dataclasses
import doctest
import functools
import inspect
import logging
import multiprocessing
import pickle
import sys
import typing

import fastapi
import fastapi.testclient
import flask
import pytest
import starlette.applications
import starlette.responses
import starlette.routing
import starlette.testclient

from usage_instrument.capture.decorator import tracks
from usage_instrument.capture.registry import Catalog, features_of
from usage_instrument.errors import ConfigurationError, DeclarationError, FeatureNameError
from usage_instrument.testing import CapturedUse, capture_usage


@pytest.fixture
def usage():
    with capture_usage() as captured:
        yield captured


@tracks("double")
def double(x: int, *, by: float = 2) -> float:
    """Twice as much.

    >>> double(2)
    4
    """
    return x * by


@tracks("double_later", metadata=["x"])
async def double_later(x: int) -> int:
    """Later."""
    return x * 2


@tracks("generate")
def generate(x): yield x  # fmt: skip


@tracks("generate_later")
async def generate_later(x): yield x  # fmt: skip


class View:
    """A view.

    >>> View().follow(3)
    3
    """

    @tracks("View.follow")
    def follow(self, x: int) -> int:
        """Follow.

        >>> View().follow(4)
        4
        """
        return x

    @tracks("View.above")
    @classmethod
    def above(cls, x):
        """Above."""
        return cls, x

    @classmethod
    @tracks("View.below")
    def below(cls, x):
        return cls, x

    @tracks("View.static_above")
    @staticmethod
    def static_above(x):
        return x

    @staticmethod
    @tracks("View.static_below")
    def static_below(x):
        return x

    @property
    @tracks("View.name")
    def name(self):
        return "view"

    def __eq__(self, other):
        return isinstance(other, View)

    def __hash__(self):
        return 1


class Child(View):
    def follow(self, x):
        return super().follow(x) + 1


@tracks("Report")
class Report:
    """A report."""

    def __init__(self, title="x"):
        self.title = title


class Special(Report):
    pass


# ---- what it refuses


@pytest.mark.parametrize("name", ["", "x" * 101, "a\0b", "\ud800", None, 5])
def test_a_name_that_is_none_is_told_where_it_is_declared(name):
    with pytest.raises(FeatureNameError) as info:
        tracks(name)
    assert isinstance(info.value, ValueError)
    assert tracks("x" * 100).feature == "x" * 100


def test_forgotten_parentheses_are_told_with_the_fix():
    with pytest.raises(DeclarationError, match=r'@tracks\("follow"\)'):

        @tracks
        def follow(): ...


@pytest.mark.parametrize("when", ["sometimes", None, True, ["success"]])
def test_a_wrong_when_is_told(when):
    with pytest.raises(ConfigurationError, match="'success', 'call', 'failure'"):
        tracks("f", when=when)


def test_what_cannot_be_called_is_refused_with_the_fix():
    for target in (property(lambda self: 1), functools.cached_property(lambda self: 1)):
        with pytest.raises(DeclarationError, match="put @tracks below it"):
            tracks("f")(target)
    with pytest.raises(DeclarationError, match="not a str"):
        tracks("f")("text")
    with pytest.raises(DeclarationError, match="cannot wrap the __init__"):
        tracks("f")(int)


# ---- what it declares


def test_it_declares_the_feature_with_its_source_and_description():
    catalog = Catalog()
    track = functools.partial(tracks, catalog=catalog)

    @track("documented")
    def documented():
        """Follow an event.

        At length."""

    @track("described", description="What it is.")
    def described():
        """What the code says."""

    track("bare")(lambda: None)
    track("object")(functools.partial(documented))
    found = {feature.name: feature for feature in catalog}
    assert {name: feature.description for name, feature in found.items() if name != "object"} == {
        "documented": "Follow an event.", "described": "What it is.", "bare": None,
    }  # fmt: skip
    here = f"{__name__}:test_it_declares_the_feature_with_its_source_and_description.<locals>."
    assert found["documented"].source == here + "documented"
    assert found["object"].source == "functools:partial"


def test_a_decorator_serves_any_number_of_functions(usage):
    track = tracks("shared", metadata=["x"])

    @track
    def one(x): ...

    @track
    def two(y, x): ...

    one(1)
    two(0, 2)
    assert usage.uses == [CapturedUse("shared", None, {"x": 1}), CapturedUse("shared", None, {"x": 2})]
    assert features_of(one) == features_of(two) == {"shared"}


def test_nested_decorators_count_each(usage):
    @tracks("outer")
    @tracks("inner", metadata={"a": 1})
    def function():
        return 1

    @tracks("outer")
    @tracks("inner", when="call")
    async def coroutine():
        return 2

    @tracks("outer")
    @tracks("inner")
    class Both: ...

    assert function() == 1
    assert asyncio.run(coroutine()) == 2
    Both()
    assert usage.count("outer") == usage.count("inner") == 3
    for tracked in (function, coroutine, Both):
        assert features_of(tracked) == {"outer", "inner"}


def test_features_are_found_below_what_others_wrap():
    @functools.wraps(double)
    def closure(*args, **kwargs):
        return double(*args, **kwargs)

    for endpoint in (double, closure, functools.partial(closure, 1), functools.partial(functools.partial(double))):
        assert features_of(endpoint) == {"double"}
    assert features_of(View().follow) == features_of(View.follow) == {"View.follow"}
    assert features_of(View.above) == {"View.above"}
    assert features_of(Report) == {"Report"}
    assert features_of(Special) == features_of(print) == features_of(None) == frozenset()


# ---- that it stays what it was


def test_names_signature_and_annotations_survive():
    assert (double.__name__, double.__qualname__, double.__module__) == ("double", "double", __name__)
    assert double.__doc__.startswith("Twice as much.")
    assert str(inspect.signature(double)) == "(x: 'int', *, by: 'float' = 2) -> 'float'"
    assert inspect.signature(double, eval_str=True).return_annotation is float
    assert typing.get_type_hints(double) == {"x": int, "by": float, "return": float}
    assert double.__annotations__ == {"x": "int", "by": "float", "return": "float"}
    assert inspect.getsource(double).startswith('@tracks("double")')
    assert View.follow.__qualname__ == "View.follow"
    assert str(inspect.signature(View().follow)) == "(x: 'int') -> 'int'"
    assert str(inspect.signature(View.above)) == "(x)"
    assert View.above.__doc__ == "Above."


def test_kinds_survive():
    assert inspect.isfunction(double)
    assert inspect.iscoroutinefunction(double_later)
    assert not inspect.iscoroutinefunction(double)
    assert inspect.isgeneratorfunction(generate)
    assert inspect.isasyncgenfunction(generate_later)
    assert inspect.ismethod(View().follow)
    assert isinstance(View.__dict__["above"], classmethod)
    assert isinstance(View.__dict__["static_above"], staticmethod)
    if sys.version_info < (3, 14):
        assert asyncio.iscoroutinefunction(double_later)


def test_attributes_of_functions_survive():
    def view(): ...

    view.csrf_exempt = True
    tracked = tracks("f")(view)
    assert tracked.csrf_exempt
    tracked.methods = ["GET"]
    assert tracked.methods == ["GET"]


def test_abstract_methods_stay_abstract():
    import abc

    class Base(abc.ABC):
        @tracks("above")
        @abc.abstractmethod
        def above(self): ...

        @abc.abstractmethod
        @tracks("below")
        def below(self): ...

    with pytest.raises(TypeError, match="abstract"):
        Base()
    assert Base.__abstractmethods__ == {"above", "below"}


def test_methods_count(usage):
    assert View().follow(1) == 1
    assert View.follow(View(), 1) == 1
    assert Child().follow(1) == 2
    assert View.above(1) == View().above(1) == (View, 1)
    assert Child.above(1) == (Child, 1)
    assert Child.below(1) == (Child, 1)
    assert View.static_above(1) == View().static_above(1) == 1
    assert View.static_below(1) == View().static_below(1) == 1
    assert View().name == "view"
    counts = collections.Counter(use.feature for use in usage.uses)
    assert counts == {
        "View.follow": 3, "View.above": 3, "View.below": 1, "View.static_above": 2, "View.static_below": 2,
        "View.name": 1,
    }  # fmt: skip


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_keeps_identity(protocol):
    for tracked in (double, double_later, generate, generate_later, View.follow, View.static_above, Report):
        assert pickle.loads(pickle.dumps(tracked, protocol)) is tracked


def test_bound_methods_and_instances_pickle_and_copy(usage):
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(View().follow, protocol))(5) == 5
        assert pickle.loads(pickle.dumps(View.above, protocol))(5) == (View, 5)
        assert pickle.loads(pickle.dumps(Report("t"), protocol)).title == "t"
    assert copy.deepcopy(View().follow)(5) == 5
    assert copy.deepcopy(Report("t")).title == "t"
    assert usage.count("Report") == pickle.HIGHEST_PROTOCOL  # unpickling and copying make no report


def test_copies_are_the_same():
    for tracked in (double, double_later, View.follow, Report):
        assert copy.copy(tracked) is tracked
        assert copy.deepcopy({"a": [tracked]})["a"][0] is tracked


def test_it_can_be_sent_to_a_spawned_process():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(double, [1, 2]) == [2, 4]
        assert pool.map(View().follow, [3]) == [3]


def test_doctest_finds_it():
    found = {test.name: len(test.examples) for test in doctest.DocTestFinder().find(sys.modules[__name__])}
    assert {name.removeprefix(f"{__name__}."): examples for name, examples in found.items() if examples} == {
        "double": 1, "View": 1, "View.follow": 1,
    }  # fmt: skip
    assert doctest.testmod(sys.modules[__name__]).failed == 0


def test_singledispatch_stays_extensible(usage):
    @tracks("f")
    @functools.singledispatch
    def show(x):
        return "object"

    @show.register
    def _(x: int) -> str:
        return "int"

    assert (show(1), show("a")) == ("int", "object")
    assert usage.count("f") == 2


# ---- classes


def test_a_class_is_returned_itself_and_only_its_own_instances_count(usage):
    assert inspect.isclass(Report)
    assert type(Report()) is Report
    assert Special("y").title == "y"
    assert str(inspect.signature(Report)) == "(title='x')"
    assert Report.__doc__ == "A report."
    assert usage.names == ["Report"]
    assert usage.count("Report") == 1


def test_an_instance_that_was_not_made_does_not_count(usage):
    @tracks("f")
    class Picky:
        def __init__(self, x):
            if x < 0:
                raise ValueError

    @tracks("g", when="failure")
    class Failing(Picky):
        pass

    with pytest.raises(ValueError):
        Picky(-1)
    with pytest.raises(ValueError):
        Failing(-1)
    Picky(1)
    Failing(1)
    assert [use.feature for use in usage.uses] == ["g", "f"]


def test_classes_without_an_init_of_their_own(usage):
    made = []

    class First:
        def __init__(self, x):
            made.append(("First", x))

    @tracks("inherits")
    class Inherits(First): ...

    @tracks("mixin")
    class Mixin: ...

    class Both(Mixin, First): ...

    @tracks("both")
    class TrackedBoth(Mixin, First): ...

    @tracks("bare")
    class Bare: ...

    @tracks("new")
    class New:
        def __new__(cls, x):
            self = super().__new__(cls)
            self.x = x
            return self

    @tracks("tuple")
    class Pair(typing.NamedTuple):
        a: int
        b: int = 2

    @tracks("error")
    class Oops(Exception): ...

    @tracks("typed")
    class Typed(typing.Generic[typing.TypeVar("T")]): ...

    Inherits(1), Both(2), TrackedBoth(3), Mixin(), Bare()
    assert made == [("First", 1), ("First", 2), ("First", 3)]
    assert New(4).x == 4
    assert Pair(1) == (1, 2)
    assert Oops("a", "b").args == ("a", "b")
    Typed[int]()
    assert usage.names == ["inherits", "both", "mixin", "bare", "new", "tuple", "error", "typed"]
    for wrong in (lambda: Bare(1), lambda: Inherits(), lambda: New(), lambda: Mixin(1)):
        with pytest.raises(TypeError):
            wrong()
    assert len(usage.uses) == 8
    names = [list(inspect.signature(cls).parameters) for cls in (Inherits, Bare, New, Pair)]
    assert names == [["x"], [], ["x"], ["a", "b"]]


def test_dataclasses(usage):
    @tracks("plain")
    @dataclasses.dataclass
    class Plain:
        a: int

    @tracks("slots")
    @dataclasses.dataclass(slots=True, frozen=True)
    class Slots:
        a: int = 1

    @dataclasses.dataclass(slots=True, init=False)
    @tracks("below")
    class Below:
        a: int

        def __init__(self, a):
            self.a = a

    assert Plain(1) == Plain(a=1)
    assert dataclasses.replace(Slots(), a=3) == Slots(3)
    assert Below(5).a == 5
    assert collections.Counter(use.feature for use in usage.uses) == {"plain": 2, "slots": 3, "below": 1}


# ---- with frameworks


def test_flask_takes_it_below_its_own_decorator(usage):
    app = flask.Flask(__name__)

    @app.get("/events/<int:event_id>")
    @tracks("follow", metadata=["event_id"])
    def follow(event_id):
        return f"event {event_id}"

    assert app.test_client().get("/events/7").text == "event 7"
    assert app.view_functions == {"static": app.view_functions["static"], "follow": follow}
    assert usage.uses == [CapturedUse("follow", None, {"event_id": 7})]


def test_starlette_takes_it(usage):
    @tracks("sync")
    def sync(request):
        return starlette.responses.PlainTextResponse("sync")

    @tracks("later")
    async def later(request):
        return starlette.responses.PlainTextResponse("later")

    class Endpoint:
        async def __call__(self, request):
            return starlette.responses.PlainTextResponse("object")

    app = starlette.applications.Starlette(
        routes=[
            starlette.routing.Route("/sync", sync),
            starlette.routing.Route("/later", later),
            starlette.routing.Route("/call", tracks("call", when="call")(later.__wrapped__)),
            starlette.routing.Route("/partial", tracks("partial")(functools.partial(later.__wrapped__))),
        ]
    )
    client = starlette.testclient.TestClient(app)
    for path, text in (("/sync", "sync"), ("/later", "later"), ("/call", "later"), ("/partial", "later")):
        assert client.get(path).text == text
    assert usage.names == ["sync", "later", "call", "partial"]


def current_user(token: str = "anna") -> str:
    return token


def test_fastapi_takes_it_with_string_annotations_dependencies_and_openapi(usage):
    app = fastapi.FastAPI()

    @tracks("session")
    def session():
        yield "session"

    @app.get("/events/{event_id}")
    @tracks("follow", user_arg="user", metadata=["event_id"])
    async def follow(
        event_id: int,
        user: str = fastapi.Depends(current_user),
        opened: str = fastapi.Depends(session),
    ) -> dict[str, str]:
        """Follow an event."""
        return {"event": str(event_id), "user": user, "session": opened}

    @app.get("/sync/{x}")
    @tracks("sync")
    def sync(x: int) -> int:
        return x

    client = fastapi.testclient.TestClient(app)
    assert client.get("/events/7?token=bob").json() == {"event": "7", "user": "bob", "session": "session"}
    assert client.get("/sync/3").json() == 3
    assert client.get("/sync/x").status_code == 422
    operation = app.openapi()["paths"]["/events/{event_id}"]["get"]
    assert operation["description"] == "Follow an event."
    assert [parameter["name"] for parameter in operation["parameters"]] == ["event_id", "token"]
    assert sorted(usage.uses) == [
        CapturedUse("follow", "bob", {"event_id": 7}), CapturedUse("session"), CapturedUse("sync"),
    ]  # fmt: skip


def test_above_a_decorator_that_makes_a_celery_task_it_says_that_no_worker_calls_it(usage, caplog):
    task = type("Task", (), {"__module__": "celery.app.task", "__call__": lambda self: 1})()
    with caplog.at_level(logging.WARNING, "usage_instrument"):
        assert tracks("f")(task)() == 1
    assert "put it below" in caplog.text
    usage.assert_tracked("f", times=1)
