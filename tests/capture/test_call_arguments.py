"""`user=`, `user_arg=` and `metadata=`: what they find in a call, and that the host never suffers from them."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import asyncio
import functools
import uuid
from dataclasses import dataclass

import pytest

from usage_instrument.capture.context import Request, as_user, holder
from usage_instrument.capture.decorator import tracks
from usage_instrument.errors import DeclarationError, MetadataError, UserIdError
from usage_instrument.testing import CapturedUse, capture_usage
from usage_instrument.typing import UNSET

ANNA = uuid.UUID("0f0e6b8e-6f4f-4f1f-8a1a-2b2c5d8a7e11")


@pytest.fixture
def usage():
    with capture_usage() as captured:
        yield captured


def users(usage):
    return [use.user for use in usage.uses]


def test_the_user_argument_is_found_however_it_is_passed(usage):
    @tracks("f", user_arg="who")
    def positional(event, who=3, /): ...

    @tracks("f", user_arg="who")
    def either(event, who=None): ...

    @tracks("f", user_arg="who")
    def keyword(*events, who): ...

    @tracks("f", user_arg="who")
    def variadic(**options): ...

    positional(7, 1)
    positional(7)
    either(7, 2)
    either(7, who=ANNA)
    either(who="anna", event=7)
    either(7)
    keyword(1, 2, who=4)
    variadic(who=5)
    assert users(usage) == [1, 3, 2, ANNA, "anna", None, 4, 5]


@pytest.mark.parametrize("order", ["tracks above", "tracks below"])
@pytest.mark.parametrize("binding", [classmethod, staticmethod, None])
def test_arguments_of_methods(usage, binding, order):
    track = tracks("f", user_arg="who", metadata=["event"])
    arguments = (lambda event, who=9: event) if binding is staticmethod else (lambda self, event, who=9: event)
    method = arguments if binding is None else binding(arguments)

    class View:
        follow = track(method) if binding is None or order == "tracks above" else binding(track(arguments))

    assert View().follow(7, 1) == 7
    assert View().follow(event=8) == 8
    if binding is not None:
        assert View.follow(7, who=3) == 7
    expected = [CapturedUse("f", 1, {"event": 7}), CapturedUse("f", 9, {"event": 8}), CapturedUse("f", 3, {"event": 7})]
    assert usage.uses == expected[: len(usage.uses)]
    assert len(usage.uses) == (2 if binding is None else 3)


def test_the_user_argument_may_be_an_object_with_its_id_loaded(usage):
    @dataclass
    class User:
        id: int

    @tracks("f", user_arg="user")
    def follow(user): ...

    follow(User(5))
    follow({"id": 6})
    assert users(usage) == [5, 6]
    follow(User(None))
    follow(object())
    assert [type(rejected.error) for rejected in usage.rejected] == [UserIdError, UserIdError]


def test_a_user_argument_that_was_not_passed_is_rejected(usage):
    @tracks("f", user_arg="who")
    def variadic(**options): ...

    variadic()
    assert usage.uses == []
    assert "'who'" in str(usage.rejected[0].error)


def test_user_as_a_callable_gets_the_calls_own_arguments(usage):
    @tracks("f", user=lambda event, *, who=0: who)
    def function(event, *, who=0): ...

    class View:
        user_id = 11

        @tracks("f", user=lambda self, event: self.user_id)
        def method(self, event): ...

        @tracks("f", user=lambda cls, event: event)
        @classmethod
        def above(cls, event): ...

        @classmethod
        @tracks("f", user=lambda cls, event: event)
        def below(cls, event): ...

    function(1, who=10)
    View().method(1)
    View.above(12)
    View.below(13)
    assert users(usage) == [10, 11, 12, 13]


def test_user_as_a_value(usage):
    for user in (None, 4, "anna", ANNA):
        tracks("f", user=user)(lambda: None)()
    with as_user(9):
        tracks("f", user=None)(lambda: None)()
        tracks("f", user=lambda: None)(lambda: None)()
        tracks("f", user=lambda: UNSET)(lambda: None)()
    assert users(usage) == [None, 4, "anna", ANNA, None, None, 9]


def test_an_explicit_user_stands_above_as_user_and_identify(usage):
    @tracks("f", user_arg="who")
    def follow(who): ...

    request = Request("http", "GET")
    request.identify(1)
    token = holder.set(request)
    try:
        with as_user(2):
            follow(3)
    finally:
        holder.reset(token)
    assert users(usage) == [3]


@pytest.mark.parametrize("answer", [3.5, True, object(), ["x"]])
def test_what_is_no_user_is_rejected(usage, answer):
    @tracks("f", user=lambda: answer)
    def follow():
        return "fine"

    assert follow() == "fine"
    assert usage.uses == []
    assert [type(rejected.error) for rejected in usage.rejected] == [UserIdError]


def test_a_callable_that_raises_never_reaches_the_host(usage):
    def broken(*args):
        raise ZeroDivisionError("broken")

    @tracks("no_user", user=broken)
    def one(x):
        return x

    @tracks("no_metadata", metadata=broken, user=4)
    async def two(x):
        return x

    @tracks("neither", metadata=broken, user=broken)
    def three():
        raise KeyError("host")

    assert one(1) == 1
    assert asyncio.run(two(2)) == 2
    with pytest.raises(KeyError):
        three()
    assert usage.uses == [CapturedUse("no_metadata", 4)]
    assert [(rejected.feature, str(rejected.error)) for rejected in usage.rejected] == [("no_user", "broken")]
    assert [(lost.feature, str(lost.error)) for lost in usage.metadata_lost] == [("no_metadata", "broken")]


def test_a_callable_that_stops_the_program_is_not_held_up(usage):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tracks("f", user=stop)(lambda: None)()


def test_metadata_names_take_values_as_passed_and_defaults(usage):
    @tracks("f", metadata=["event", "tags", "page", "rest", "more"])
    def search(event, *rest, tags=("a",), page=1, **more):
        more.clear()

    search(7, 8, 9, page=2, kind="x")
    assert usage.uses[0].metadata == {
        "event": 7, "rest": [8, 9], "tags": ["a"], "page": 2, "more": {"kind": "x"},
    }  # fmt: skip


def test_arguments_are_those_that_the_caller_passed_whatever_the_call_does_to_them(usage):
    @tracks("f", metadata=["basket"], user=lambda basket: basket["owner"])
    def pay(basket):
        basket.clear()

    pay({"owner": 5, "items": [1, 2]})
    assert usage.uses == [CapturedUse("f", 5, {"basket": {"owner": 5, "items": [1, 2]}})]


def test_metadata_names_that_only_keyword_arguments_may_bring(usage):
    @tracks("f", metadata=["event_id", "page"])
    def view(**kwargs): ...

    view(event_id=7)
    view()
    assert [use.metadata for use in usage.uses] == [{"event_id": 7}, None]


def test_metadata_as_mapping_and_as_callable(usage):
    given = {"version": 2}
    versioned = tracks("f", metadata=given)(lambda: None)
    given["version"] = 3
    versioned()

    @tracks("f", metadata=lambda event, kind=None: {"kind": kind, "event": event})
    def follow(event, kind=None): ...

    follow(7, kind="x")
    tracks("f", metadata=lambda: None)(lambda: None)()
    assert [use.metadata for use in usage.uses] == [{"version": 2}, {"kind": "x", "event": 7}, None]


def test_metadata_that_json_cannot_carry_is_lost_and_the_use_counts(usage):
    @tracks("f", metadata=["value"])
    def keep(value): ...

    keep(object())
    keep([float("nan")])
    keep("fine")
    tracks("f", metadata=lambda: "text")(lambda: None)()
    assert usage.count("f") == 4
    assert [use.metadata for use in usage.uses] == [None, None, {"value": "fine"}, None]
    assert [type(lost.error) for lost in usage.metadata_lost] == [MetadataError] * 3


def test_a_call_with_wrong_arguments_raises_what_it_always_raised(usage):
    @tracks("f", user_arg="who", metadata=["event"], user=UNSET)
    def follow(event, who): ...

    with pytest.raises(TypeError, match="missing 2 required positional arguments: 'event' and 'who'"):
        follow()
    assert usage.uses == []
    assert usage.rejected == []


def test_partials_and_instances_have_their_own_arguments(usage):
    class Exporter:
        def __call__(self, form, who): ...

    def follow(event, who): ...

    tracks("f", user_arg="who", metadata=["form"])(Exporter())("csv", 1)
    tracks("f", user_arg="who")(functools.partial(follow, 7))(2)
    tracks("f", user_arg="who")(functools.partial(follow, who=3))(7)
    assert users(usage) == [1, 2, 3]


def test_the_arguments_of_a_class_are_those_of_init(usage):
    @tracks("f", user_arg="owner", metadata=["title"])
    class Report:
        def __init__(self, title, owner=None):
            self.title = title

    @tracks("f", user=lambda title, owner: owner, metadata=lambda title, owner: {"t": title})
    @dataclass
    class Note:
        title: str
        owner: int

    class Base:
        def __init__(self, owner):
            self.owner = owner

    @tracks("f", user_arg="owner")
    class Inherits(Base):
        pass

    assert Report("x", 1).title == "x"
    assert Note("y", owner=2) == Note("y", 2)
    assert Inherits(4).owner == 4
    assert usage.uses == [
        CapturedUse("f", 1, {"title": "x"}),
        CapturedUse("f", 2, {"t": "y"}),
        CapturedUse("f", 2, {"t": "y"}),
        CapturedUse("f", 4),
    ]


def annotated(event: NotImported, who: AlsoNotImported = None): ...  # type: ignore  # noqa: F821, PGH003


def test_annotations_that_exist_for_type_checkers_only_are_left_alone(usage):
    tracks("f", user_arg="who")(annotated)(7, 1)
    assert users(usage) == [1]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"metadata": "event"}, TypeError, "'event'; try \\['event'\\]"),
        ({"metadata": 5}, TypeError, "not 5"),
        ({"metadata": [1]}, TypeError, "not 1"),
        ({"metadata": {b"1": 2}}, TypeError, "no JSON"),
        ({"metadata": {"a": object()}}, TypeError, "no JSON"),
        ({"user": 3.5}, TypeError, "a user id is"),
        ({"user": 4, "user_arg": "event"}, TypeError, "pass one of them"),
        ({"user": None, "user_arg": "event"}, TypeError, "pass one of them"),
        ({"user_arg": 5}, TypeError, "not 5"),
    ],
)
def test_wrong_options_are_told_before_anything_is_decorated(options, error, words):
    with pytest.raises(error, match=words):
        tracks("f", **options)


@pytest.mark.parametrize("options", [{"user_arg": "evnt"}, {"metadata": ["event", "evnt"]}])
def test_unknown_arguments_are_told_when_decorating(options):
    def follow(event, *, page): ...

    class Report:
        def __init__(self, event, page): ...

    for target in (follow, Report, functools.partial(follow, page=1)):
        with pytest.raises(DeclarationError, match="no argument 'evnt'; the arguments are event, page"):
            tracks("f", **options)(target)
    with pytest.raises(DeclarationError, match="no known names"):
        tracks("f", **options)(max)


async def _later(*args): ...


class _Later:
    async def __call__(self): ...


@pytest.mark.parametrize("option", ["user", "metadata"])
@pytest.mark.parametrize("function", [_later, _Later(), functools.partial(_later, 1)])
def test_async_callables_are_refused(option, function):
    with pytest.raises(DeclarationError, match="async"):
        tracks("f", **{option: function})
