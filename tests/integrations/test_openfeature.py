"""OpenFeature's own client and provider: evaluations become exposures, tracked events become uses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent, ProviderEventDetails
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider
from openfeature.track import TrackingEventDetails

import usage_instrument as usage
from conftest import Database
from reading import made
from usage_instrument import queries
from usage_instrument.errors import ConfigurationError
from usage_instrument.integrations.openfeature import ExposureHook, tracking
from usage_instrument.testing import CapturedUsage, capture_usage

ADA = EvaluationContext("ada")
FLAGS: dict[str, InMemoryFlag[Any]] = {
    "button_color": InMemoryFlag("blue", {"red": "#f00", "blue": "#00f"}),
    "new_dialog": InMemoryFlag("on", {"on": True, "off": False}),
    "x" * 101: InMemoryFlag("on", {"on": True}),
}


@pytest.fixture
def provider() -> InMemoryProvider:
    return InMemoryProvider(FLAGS)


@pytest.fixture
def client(provider: InMemoryProvider) -> Iterator[OpenFeatureClient]:
    api.set_provider_and_wait(tracking(provider))
    yield api.get_client()
    api.clear_hooks()
    api.clear_providers()


@pytest.fixture
def captured() -> Iterator[CapturedUsage]:
    with capture_usage() as found:
        yield found


def test_evaluations_are_exposures(client: OpenFeatureClient, captured: CapturedUsage) -> None:
    api.add_hooks([ExposureHook()])
    assert client.get_string_value("button_color", "#000", ADA) == "#00f"
    assert asyncio.run(client.get_boolean_value_async("new_dialog", False, ADA)) is True
    client.get_string_value("button_color", "#000")  # nobody
    assert client.get_string_value("unknown", "#000", ADA) == "#000"
    assert client.get_integer_value("button_color", 7, ADA) == 7  # of another type
    found = [(each.experiment, each.variant, each.user, each.unit) for each in captured.exposures]
    assert found == [("button_color", "blue", "ada", None), ("new_dialog", "on", "ada", None)]


def test_only_some_flags_are_experiments_and_keys_may_be_visitors(
    client: OpenFeatureClient, captured: CapturedUsage
) -> None:
    client.add_hooks([ExposureHook(flags=["button_color"], targeting_key="unit")])
    client.get_boolean_value("new_dialog", False, ADA)
    with usage.as_user("bob"):
        client.get_string_value("button_color", "#000", ADA)
    assert [(each.user, each.unit) for each in captured.exposures] == [("bob", "ada")]


def test_an_error_of_recording_reaches_nobody(
    client: OpenFeatureClient, captured: CapturedUsage, caplog: pytest.LogCaptureFixture
) -> None:
    api.add_hooks([ExposureHook()])
    with caplog.at_level(logging.ERROR):
        assert client.get_boolean_value("x" * 101, False, ADA) is True, "not the default"
        client.track("y" * 101, ADA)
        client.track("z", EvaluationContext("a"), TrackingEventDetails(attributes={"list": object()}))  # type: ignore[dict-item]
    assert captured.exposures == []
    assert "an exposure to a flag was not recorded: the name of an experiment has 1 to 100 characters" in caplog.text


def test_tracked_events_are_uses_and_reach_the_provider(
    client: OpenFeatureClient, provider: InMemoryProvider, captured: CapturedUsage
) -> None:
    client.track("checkout", ADA, TrackingEventDetails(49.5, {"currency": "EUR"}))
    client.track("search", ADA)
    with usage.as_user("bob"):
        client.track("search")
    uses = [(each.feature, each.user, each.metadata, each.value) for each in captured.uses]
    assert uses == [
        ("checkout", "ada", {"currency": "EUR"}, 49.5),
        ("search", "ada", None, None),
        ("search", "bob", None, None),
    ]
    assert provider._tracking_events["checkout"].value == 49.5


def test_the_provider_keeps_its_state_and_events(client: OpenFeatureClient, provider: InMemoryProvider) -> None:
    seen: list[EventDetails] = []
    client.add_handler(ProviderEvent.PROVIDER_STALE, seen.append)
    provider.emit_provider_stale(ProviderEventDetails(message="old"))
    assert [each.message for each in seen] == ["old"]
    assert client.get_provider_status().value == "STALE"


def test_from_a_flag_to_the_verdict(sqlite: Database, client: OpenFeatureClient) -> None:
    tables = made(sqlite.engine(), user_id_type="integer")
    tracker = usage.Tracker(sqlite.url, tables=tables)
    api.set_provider_and_wait(tracking(InMemoryProvider(FLAGS), tracker=tracker))
    client.add_hooks([ExposureHook(tracker=tracker)])
    client.get_string_value("button_color", "#000", EvaluationContext("42"))
    client.track("checkout", EvaluationContext("42"), TrackingEventDetails(49.5))
    assert tracker.shutdown()
    with sqlite.engine().connect() as connection:
        ((variant, units, _, converted, *_others),) = connection.execute(
            queries.experiment("button_color", goal="checkout", tables=tables)
        )
        assert (variant, units, converted) == ("blue", 1, 1)
        assert connection.scalar(sa.select(tables.exposures.c.user_id)) == 42
        assert connection.execute(sa.select(tables.dimensions.c.value_sum)).scalars().first() == 49.5


def test_wrong_options_are_refused() -> None:
    wrong: Any = "users"
    for make in (lambda: ExposureHook(flags="button"), lambda: tracking(InMemoryProvider({}), targeting_key=wrong)):
        with pytest.raises(ConfigurationError):
            make()
