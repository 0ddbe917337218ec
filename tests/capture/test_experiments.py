"""`variant` and `expose`: who is exposed to what, and what a mistake does."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

import usage_instrument as usage
from usage_instrument.capture import experiments, registry
from usage_instrument.capture.assignment import assign
from usage_instrument.capture.context import Request, holder
from usage_instrument.capture.registry import Catalog
from usage_instrument.errors import ExperimentError, UserIdError
from usage_instrument.testing import CapturedExposure, CapturedUsage, capture_usage

COLORS = ["red", "blue"]
ADA = uuid.UUID("018f3c9e-7b5a-7c31-9d2e-4f6a1b2c3d4e")


@pytest.fixture
def catalog() -> Catalog:
    """What a process without a call of `variant` so far knows."""
    return Catalog()


@pytest.fixture
def captured(catalog: Catalog) -> Iterator[CapturedUsage]:
    with capture_usage(catalog=catalog, user_id_type="integer") as found:
        yield found


def variant(captured: CapturedUsage, variants: Any = COLORS, **options: Any) -> str:
    return usage.variant("button", variants, catalog=captured.catalog, **options)


def expose(captured: CapturedUsage, name: str, **options: Any) -> None:
    usage.expose("button", name, catalog=captured.catalog, **options)


def test_a_user_gets_the_variant_of_the_hash_and_is_exposed(captured: CapturedUsage) -> None:
    for user in (1, 2, 1):
        assert variant(captured, user=user) == assign("button", str(user), COLORS)
    assert captured.exposures == [
        CapturedExposure("button", assign("button", str(user), COLORS), user) for user in (1, 2, 1)
    ]
    assert captured.uses == []


@pytest.mark.parametrize("spelled", [ADA, str(ADA), str(ADA).upper(), ADA.hex, ADA.urn])
def test_each_spelling_of_a_user_gets_one_variant(catalog: Catalog, spelled: object) -> None:
    variants = {f"v{number}": 1 for number in range(100)}
    with capture_usage(catalog=catalog, user_id_type="uuid") as captured:
        assert variant(captured, variants, user=spelled) == assign("button", str(ADA), variants)
    assert [exposure.user for exposure in captured.exposures] == [ADA]


def test_weights_and_their_order_decide(captured: CapturedUsage) -> None:
    for weights in ({"red": 1, "blue": 3}, {"blue": 3, "red": 1}, {"red": 0, "blue": 1}, ("red", "blue")):
        for user in range(50):
            assert variant(captured, weights, user=user) == assign("button", str(user), weights)


def test_a_list_that_the_host_changes_is_a_new_declaration(captured: CapturedUsage) -> None:
    colors = ["red"]
    assert variant(captured, colors, user=1) == "red"
    colors[0] = "blue"
    assert variant(captured, colors, user=1) == "blue"


def test_an_anonymous_user_gets_the_first_variant_and_is_not_recorded(captured: CapturedUsage) -> None:
    assert [variant(captured), variant(captured, user=None), variant(captured, {"x": 1, "y": 99})] == [
        "red",
        "red",
        "x",
    ]
    expose(captured, "x")
    expose(captured, "x", user=None)
    assert (captured.exposures, captured.rejected) == ([], [])


def test_a_unit_is_hashed_instead_of_the_user(captured: CapturedUsage) -> None:
    name = assign("button", "visitor 7", COLORS)
    assert variant(captured, unit="visitor 7") == name
    with usage.as_user(1):
        assert variant(captured, unit="visitor 7") == name
    assert variant(captured, unit="visitor 7", user=2) == name
    expose(captured, "red", unit="visitor 7")
    assert captured.exposures == [
        *(CapturedExposure("button", name, user, "visitor 7") for user in (None, 1, 2)),
        CapturedExposure("button", "red", None, "visitor 7"),
    ]


def test_the_user_is_that_of_a_use(captured: CapturedUsage) -> None:
    request = Request("http", "GET")
    request.identify(5)
    token = holder.set(request)
    try:
        variant(captured)
        variant(captured)
        with usage.as_user(6):
            variant(captured)
            variant(captured, user=None)
            expose(captured, "red", user=8)
        expose(captured, "red")
    finally:
        holder.reset(token)
    assert [exposure.user for exposure in captured.exposures] == [5, 5, 6, 8, 5]


def test_nothing_is_recorded_where_captures_pause(captured: CapturedUsage) -> None:
    name = assign("button", "5", COLORS)
    with usage.paused():
        assert variant(captured, user=5) == name
        assert variant(captured, unit="5") == name
        assert variant(captured, user=object()) == "red"
        assert variant(captured, unit="") == "red"
        expose(captured, "red", user=5)
        expose(captured, "red", unit="5")
    request = Request("http", "GET")
    request.identify(5)
    token = holder.set(request)
    try:
        variant(captured)
        usage.discard()
        assert variant(captured) == name
    finally:
        holder.reset(token)
    assert (len(captured.exposures), captured.rejected) == (1, [])


def test_a_process_without_a_tracker_assigns_all_the_same(catalog: Catalog) -> None:
    assert {usage.variant("button", COLORS, user=user, catalog=catalog) for user in range(50)} == {"red", "blue"}
    assert usage.variant("button", COLORS, user=1, catalog=catalog) == assign("button", "1", COLORS)
    usage.expose("button", "red", user=1, catalog=catalog)


def test_more_users_than_a_process_remembers(captured: CapturedUsage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "_ASSIGNED", 10)
    for user in [*range(25), *range(25)]:
        assert variant(captured, user=user) == assign("button", str(user), COLORS)
    assert len(captured.catalog.experiments["button"].assigned) <= 10
    assert len(captured.exposures) == 50


def test_names_are_taken_by_value(captured: CapturedUsage) -> None:
    class Name(enum.StrEnum):
        BUTTON = "button"
        RED = "red"
        BLUE = "blue"

    got = usage.variant(Name.BUTTON, [Name.RED, Name.BLUE], user=1, catalog=captured.catalog)
    usage.expose(Name.BUTTON, Name.RED, user=1, catalog=captured.catalog)
    usage.variant(Name.BUTTON, [Name.RED, Name.BLUE], unit="v", catalog=captured.catalog)
    assert got == variant(captured, user=1)
    texts = [text for exposure in captured.exposures for text in exposure[:2]]
    assert {type(text) for text in texts} == {str}
    assert set(texts) == {"button", "red", "blue"}


# ---- mistakes


@pytest.mark.parametrize("name", ["", "x" * 101, "a\0b", "\ud800", 7, None, ["button"]])
def test_a_wrong_experiment_raises_at_once(captured: CapturedUsage, name: Any) -> None:
    for options in ({}, {"user": 1}, {"unit": "v"}):
        with pytest.raises(ExperimentError, match="the name of an experiment"):
            usage.variant(name, COLORS, catalog=captured.catalog, **options)
        with pytest.raises(ExperimentError, match="the name of an experiment"):
            usage.expose(name, "red", catalog=captured.catalog, **options)


@pytest.mark.parametrize(
    "variants",
    [[], {}, "red", None, 7, {"red"}, ["red", "red"], ["x" * 101], [""], [["red"]], {"red": 0, "blue": 0},
     {"red": -1, "blue": 2}, {"red": float("nan")}, {"red": float("inf")}, {"red": "1"}],
)  # fmt: skip
def test_wrong_variants_raise_at_once_for_everybody(captured: CapturedUsage, variants: Any) -> None:
    variant(captured, user=1)
    for options in ({}, {"user": 1}, {"unit": "v"}):
        with pytest.raises(ExperimentError), usage.paused():
            variant(captured, variants, **options)
    assert variant(captured, user=1) == assign("button", "1", COLORS)


def test_an_unknown_variant_raises_at_once(captured: CapturedUsage) -> None:
    expose(captured, "green", user=1)  # nobody has listed the variants
    variant(captured, user=1)
    with pytest.raises(ExperimentError, match="the experiment 'button' has no variant 'green', but 'red', 'blue'"):
        expose(captured, "green", user=1)
    expose(captured, "red", user=1)
    for name in ("", "x" * 101, None, ["red"]):
        with pytest.raises(ExperimentError, match="the name of a variant"):
            expose(captured, name)  # type: ignore[arg-type]


def test_a_wrong_user_is_rejected_and_gets_the_first_variant(captured: CapturedUsage) -> None:
    assert [variant(captured, user=user) for user in ("nobody", object(), 2**70)] == ["red"] * 3
    expose(captured, "red", user=object())
    expose(captured, "red", user="nobody")
    assert captured.exposures == []
    assert [(rejected.feature, type(rejected.error)) for rejected in captured.rejected] == [("button", UserIdError)] * 5


def test_a_wrong_unit_is_rejected_and_gets_the_first_variant(captured: CapturedUsage) -> None:
    for unit in ("", "x" * 256, "a\0b", "\ud800", 7):
        assert variant(captured, unit=unit) == "red"
        expose(captured, "red", unit=unit)
    assert captured.exposures == []
    assert [type(rejected.error) for rejected in captured.rejected] == [ExperimentError] * 10
    assert variant(captured, unit="x" * 255) == assign("button", "x" * 255, COLORS)


def test_a_user_that_cannot_be_found_out_keeps_the_unit_s_variant(captured: CapturedUsage) -> None:
    assert variant(captured, unit="visitor 7", user=object()) == assign("button", "visitor 7", COLORS)
    assert (captured.exposures, len(captured.rejected)) == ([], 1)


def test_strict_raises_for_a_wrong_user_and_unit(catalog: Catalog) -> None:
    with capture_usage(catalog=catalog, user_id_type="integer", strict=True) as captured:
        for call in (variant, lambda *args, **options: expose(captured, "red", **options)):
            with pytest.raises(UserIdError):
                call(captured, user=object())
            with pytest.raises(ExperimentError):
                call(captured, unit="")


def test_names_that_are_made_at_run_time_fill_no_memory(
    captured: CapturedUsage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registry, "MAX_VARIANTS", 4)
    catalog = captured.catalog
    for number in range(50):
        usage.variant(f"test of {number}", COLORS, user=number, catalog=catalog)
        usage.expose("mail", f"to {number}", user=number, catalog=catalog)
    assert [exposure.user for exposure in captured.exposures] == [number for number in range(50) for _ in "ab"]
    assert captured.exposures[-2].variant == assign("test of 49", "49", COLORS)
    kept = [arm for experiment in catalog.experiments.values() for arm in experiment.arms]
    assert len(kept) <= 4
    assert caplog.text.count("this process has exposed users to more than 4 variants") == 1
