"""OpenFeature: flag evaluations become exposures to the variants of an experiment, and tracked events become uses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any, Literal, cast

from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagEvaluationDetails, FlagValueType
from openfeature.hook import Hook, HookContext, HookHints
from openfeature.provider import FeatureProvider
from openfeature.track import TrackingEventDetails

import usage_instrument as usage
from usage_instrument.errors import ConfigurationError, describe
from usage_instrument.runtime import log
from usage_instrument.tracker import Tracker

__all__ = ["ExposureHook", "tracking"]

Key = Literal["user", "unit"]
"""What a targeting key is: the id of a user, or of a visitor, whose user is that of the request."""


class ExposureHook(Hook):
    """`api.add_hooks([ExposureHook()])` records that a user is exposed to the variant of each flag that is evaluated.

    The experiment is the key of the flag. An evaluation without a variant or a targeting key is not recorded, and
    neither is one that failed. `flags` are the keys of the flags that are experiments, all of them by default.
    `targeting_key="unit"` takes the key for the id of a visitor, and the user from the request, as `unit=` of
    `usage.expose` does. `tracker` is that of `usage.configure` by default.

    No error reaches the evaluation: it is logged, once a minute. Raises ConfigurationError for a wrong option.
    """

    def __init__(
        self,
        *,
        flags: Collection[str] | None = None,
        targeting_key: Key = "user",
        tracker: Tracker | None = None,
    ) -> None:
        if isinstance(flags, str):
            raise ConfigurationError(f"flags are the keys of flags, such as [{flags!r}], not a str")
        self._flags = None if flags is None else frozenset(flags)
        self._key = _checked(targeting_key)
        self._expose = usage.expose if tracker is None else tracker.expose

    def after(self, hook_context: HookContext, details: FlagEvaluationDetails[FlagValueType], hints: HookHints) -> None:
        """Record the exposure."""
        try:
            key = hook_context.evaluation_context.targeting_key
            if details.variant and key and (self._flags is None or details.flag_key in self._flags):
                self._expose(details.flag_key, details.variant, **{self._key: key})
        except Exception as error:  # the client would return the default value instead of the flag's
            log.limited(logging.ERROR, "openfeature", "an exposure to a flag was not recorded: %s", describe(error))


def tracking(
    provider: FeatureProvider, *, targeting_key: Key = "user", tracker: Tracker | None = None
) -> FeatureProvider:
    """The provider, whose tracked events become uses too: `api.set_provider(tracking(provider))`.

    `client.track("checkout", context, details)` reaches the provider alone, and no hook. The use has the name of the
    event, the targeting key as its user, the attributes of the details as its metadata and their value as its `value`,
    which is added up. Without a key, and with `targeting_key="unit"`, the user is that of the request. The provider
    gets the event, too.

    No error of recording reaches the caller: it is logged, once a minute. Raises ConfigurationError for a wrong option.
    """
    track = usage.track if tracker is None else tracker.track
    return cast("FeatureProvider", _TrackingProvider(provider, _checked(targeting_key), track))


class _TrackingProvider:
    """Everything but `track` and the events is the provider's own."""

    def __init__(self, provider: FeatureProvider, key: Key, track: Callable[..., None]) -> None:
        self._provider = provider
        self._key = key
        self._track = track

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    def attach(self, on_emit: Callable[..., None]) -> None:
        """Let the provider's events come from this object, which is the one that the clients know."""
        self._provider.attach(lambda _, event, details: on_emit(self, event, details))

    def track(
        self,
        tracking_event_name: str,
        evaluation_context: EvaluationContext | None = None,
        tracking_event_details: TrackingEventDetails | None = None,
    ) -> None:
        """Record the use, and pass the event on."""
        try:
            key = evaluation_context.targeting_key if evaluation_context is not None else None
            user = {"user": key} if key and self._key == "user" else {}
            details = tracking_event_details or TrackingEventDetails()
            metadata = dict(details.attributes) or None
            self._track(tracking_event_name, metadata=metadata, value=details.value, **user)
        except Exception as error:  # the host goes on
            log.limited(logging.ERROR, "openfeature", "an event of OpenFeature was not recorded: %s", describe(error))
        forward = getattr(self._provider, "track", None)  # a provider made for an older SDK has none
        if forward is not None:
            forward(tracking_event_name, evaluation_context, tracking_event_details)


def _checked(key: Key) -> Key:
    if key not in ("user", "unit"):
        raise ConfigurationError(f"targeting_key is 'user' or 'unit', not {key!r}")
    return key
