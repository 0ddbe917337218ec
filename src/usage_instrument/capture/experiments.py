"""Exposures to the variants of an experiment: `variant` assigns one and records that the user saw it, `expose` records
one that something else has assigned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any
from uuid import UUID

from usage_instrument.errors import ExperimentError
from usage_instrument.events import STRING_ID_LENGTH, Exposure, Use, text_of
from usage_instrument.runtime.processes import ALIVE, notice_fork
from usage_instrument.typing import UNSET, UserId

from .assignment import assign, checked_experiment, checked_variant, ranges_of
from .context import Holder, holder, request_of, user_here
from .registry import Catalog, Experiment, Feature, Recorder, declared

_ASSIGNED = 10_000
"""Users of one experiment whose variant a process remembers: to hash a user again takes longer than to record one."""


def variant(
    experiment: str,
    variants: Sequence[str] | Mapping[str, float],
    *,
    user: object = UNSET,
    unit: str | None = None,
    catalog: Catalog = declared,
) -> str:
    """The variant of an experiment for a user, by a stable hash. Records that the user is exposed to it.

    `variants` are names with equal weights, or names with weights: `{"red": 1, "blue": 3}`. `user` is that of `track`.
    `unit` is a stable text of 1 to 255 characters, such as the id of a visitor: it is hashed instead of the user, who
    is recorded beside it, if known. An anonymous user without a unit gets the first variant, and is not recorded.
    Inside `paused`, and without a configured tracker, the variant is the same, and nothing is recorded.

    Never waits for the database. A wrong user or unit is rejected, and gets the first variant. Raises ExperimentError
    for a wrong name, no variants, and weights that are negative, not finite or all zero.
    """
    try:
        known = catalog.experiments.get(experiment)
    except TypeError:  # it has no hash
        known = None
    order = None if known is None else known.order
    if known is None or known.variants != variants or (order is not None and order != [*variants]):
        known = _declared(catalog, experiment, variants)
    held = holder.get()
    if unit is None and (held is None or held.ready):  # what `_variant_of_user` does, unrolled
        if user is UNSET:
            who: Any = None if held is None else held.user
        else:
            kind = type(user)
            who = user if kind is UUID or kind is int or kind is str else None
        arm = known.assigned.get(who)
        if arm is not None:
            if not ALIVE[0]:  # a fork that ran no hook
                notice_fork()
            arm[1].append(who)
            return arm[0]
    if unit is None:
        return _variant_of_user(catalog.recorder, known, experiment, variants, user, held)
    return _variant_of_unit(catalog.recorder, known, experiment, variants, user, unit, held)


def expose(
    experiment: str, variant: str, *, user: object = UNSET, unit: str | None = None, catalog: Catalog = declared
) -> None:
    """Record that a user is exposed to a variant that something else has assigned.

    `user` and `unit` are those of `variant`. An anonymous user without a unit is not recorded. Raises ExperimentError
    for a wrong name, and for a variant that is not among those that the process has passed to `variant`.
    """
    feature = _arm(catalog, experiment, variant)
    held, recorder = holder.get(), catalog.recorder
    if _is_silent(held):
        return
    if unit is not None:
        _expose_unit(recorder, Exposure.of(feature.name), user, unit, held)
        return
    try:
        who = _user(held, user)
    except Exception as error:
        recorder.reject(Exposure.of(feature.name).experiment, error)
        return
    if who is not None:
        notice_fork()
        feature.append(who)


def _declared(catalog: Catalog, experiment: str, variants: Sequence[str] | Mapping[str, float]) -> Experiment:
    if type(experiment) is not str:
        experiment = checked_experiment(experiment)  # an enum's value
    known = catalog.experiments.get(experiment)
    if known is None or known.variants != variants or known.order != _order(variants):
        names = ranges_of(experiment, variants).names
        known = Experiment(copy(variants), _order(variants))
        known.arms = {name: catalog.exposed(Exposure(experiment, name)) for name in names}
        if all(map(catalog.keeps, known.arms.values())):  # names that are made at run time would fill the memory
            catalog.experiments[experiment] = known  # with the former one goes what was assigned by other variants
    return known


def _order(variants: Sequence[str] | Mapping[str, float]) -> list[str] | None:
    return [*variants] if isinstance(variants, Mapping) else None


def _variant_of_user(
    recorder: Recorder,
    known: Experiment,
    experiment: str,
    variants: Sequence[str] | Mapping[str, float],
    user: object,
    held: Holder | None,
) -> str:
    try:
        who = _user(held, user)
        if who is None:
            return next(iter(known.arms))
        arm = known.assigned.get(who)
        if arm is None:
            name = assign(experiment, recorder.unit_of(who), variants)
            if len(known.assigned) >= _ASSIGNED:
                known.assigned.clear()
            known.assigned[who] = arm = (name, known.arms[name])
    except Exception as error:  # a user of the host's may raise anything
        if not _is_silent(held):
            recorder.reject(text_of(experiment), error)
        return next(iter(known.arms))
    name, feature = arm
    if not _is_silent(held):
        notice_fork()
        feature.append(who)
    return name


def _variant_of_unit(
    recorder: Recorder,
    known: Experiment,
    experiment: str,
    variants: Sequence[str] | Mapping[str, float],
    user: object,
    unit: str,
    held: Holder | None,
) -> str:
    try:
        name = assign(experiment, _checked_unit(unit), variants)
    except ExperimentError as error:
        if not _is_silent(held):
            recorder.reject(text_of(experiment), error)
        return next(iter(known.arms))
    if not _is_silent(held):
        _expose_unit(recorder, Exposure(text_of(experiment), name), user, unit, held)
    return name


def _expose_unit(recorder: Recorder, exposure: Exposure, user: object, unit: str, held: Holder | None) -> None:
    try:
        use = Use(exposure._replace(unit=_checked_unit(unit)).key, _user(held, user))
    except Exception as error:
        recorder.reject(exposure.experiment, error)
    else:
        recorder.record(use)


def _arm(catalog: Catalog, experiment: str, variant: str) -> Feature:
    if not (type(experiment) is type(variant) is str):
        experiment, variant = checked_experiment(experiment), checked_variant(variant)
    known = catalog.experiments.get(experiment)
    feature = None if known is None else known.arms.get(variant)
    if feature is not None:
        return feature
    exposure = Exposure(checked_experiment(experiment), checked_variant(variant))
    if known is not None and known.variants is not None:
        names = ", ".join(map(repr, known.arms))
        raise ExperimentError(f"the experiment {experiment!r} has no variant {variant!r}, but {names}")
    feature = catalog.exposed(exposure)
    if catalog.keeps(feature):
        catalog.experiments.setdefault(experiment, Experiment()).arms[variant] = feature
    return feature


def _user(held: Holder | None, stated: object) -> UserId:
    """Raises UserIdError, and what the host's own lookup raises."""
    if held is None:
        return None if stated is UNSET else user_here(stated)
    if stated is UNSET and held.ready:
        return held.user  # type: ignore[return-value]  # ready: the user is known
    user, request = held.known_user() if stated is UNSET else user_here(stated), request_of(held)
    if request is not None:
        request.note_user(user)
    return user


def _is_silent(held: Holder | None) -> bool:
    return held is not None and held.silent


def _checked_unit(unit: object) -> str:
    """The value of a unit. Raises ExperimentError."""
    if not isinstance(unit, str):
        raise ExperimentError(f"a unit is a str, such as the id of a visitor, not {type(unit).__name__}")
    unit = text_of(unit)
    if not 1 <= len(unit) <= STRING_ID_LENGTH or "\0" in unit:
        raise ExperimentError(f"a unit has 1 to {STRING_ID_LENGTH} characters and no NUL")
    try:
        unit.encode()
    except UnicodeEncodeError:
        raise ExperimentError("a unit holds no lone surrogate") from None
    return unit
