"""Assigns units to the variants of an experiment by a stable hash, without state.

The algorithm is fixed: it is the same in every process, release and language, and test vectors guard it.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from math import isfinite, lcm
from numbers import Rational
from typing import NamedTuple

from usage_instrument.errors import ExperimentError, FeatureNameError
from usage_instrument.events import check_feature, text_of

_HASHES = 2**64
"""The number of hashes: 0 to 2**64 - 1."""


class Ranges(NamedTuple):
    """The checked variants of an experiment: each has the hashes from the bound of the one before to below its own."""

    prefix: bytes
    """What is hashed before the unit."""
    names: tuple[str, ...]
    bounds: tuple[int, ...]
    """The last one is 2**64."""


def assign(experiment: str, unit: str, variants: Sequence[str] | Mapping[str, float]) -> str:
    """The variant of a unit (a user id as text, or a visitor id): always the same for the same arguments.

    `variants` is a list of names with equal weights, or a mapping of names to weights: `{"red": 1, "blue": 3}` gives
    blue to three units of four. Weights are relative. Their order counts: a variant that is added, moved or weighted
    otherwise moves units between variants, so give a changed experiment a new name.

    The algorithm, for other languages:

    1. The text is the experiment and the unit as netstrings: `12:button_color,3:ada,`. The numbers are lengths in
       bytes of UTF-8. So no two pairs of names give the same text.
    2. The hash `h` is the first 8 bytes of the text's SHA-256, as an unsigned big-endian integer.
    3. The weights are exact: integers, or fractions. A float counts as its shortest decimal text: 0.1 is 1/10.
    4. The variant is the first one in declared order with `h * total < cumulative * 2**64`, where `cumulative` is the
       sum of its weight and all weights before it, and `total` the sum of all.

    The hash of a unit differs between experiments, so experiments do not influence each other.

    Raises ExperimentError for a name that does not have 1 to 100 characters, for no variants, duplicate names, weights
    that are negative, not finite or all zero, and a unit that is not a text of at least 1 character.
    """
    ranges = ranges_of(experiment, variants)
    if not isinstance(unit, str) or not unit:
        raise ExperimentError(f"a unit is a str of at least 1 character, such as str(user_id), not {unit!r}")
    try:
        text = text_of(unit).encode()
    except UnicodeEncodeError:
        raise ExperimentError("a unit holds no lone surrogate") from None
    digest = hashlib.sha256(b"%b%d:%b," % (ranges.prefix, len(text), text)).digest()
    return ranges.names[bisect_right(ranges.bounds, int.from_bytes(digest[:8], "big"))]


def ranges_of(experiment: str, variants: Sequence[str] | Mapping[str, float]) -> Ranges:
    """The checked declaration of an experiment, kept for the next call. Raises ExperimentError."""
    try:
        if isinstance(variants, Mapping):
            return _weighted(experiment, tuple(variants.items()))
        if isinstance(variants, Sequence) and not isinstance(variants, str | bytes):
            return _equal(experiment, tuple(variants))
    except TypeError:  # something that has no hash: the check names it
        items = variants.items() if isinstance(variants, Mapping) else [(name, 1.0) for name in variants]
        return _checked(experiment, [*items])
    raise ExperimentError(
        f"variants are a list of names or a mapping of names to weights, not {type(variants).__name__}"
    )


def checked_experiment(name: object) -> str:
    """The value of an experiment's name. Raises ExperimentError."""
    return _checked_name(name, "the name of an experiment")


def checked_variant(name: object) -> str:
    """The value of a variant's name. Raises ExperimentError."""
    return _checked_name(name, "the name of a variant")


def _checked_name(name: object, what: str) -> str:
    try:
        return check_feature(name)
    except FeatureNameError as error:
        raise ExperimentError(str(error).replace("a feature name", what, 1)) from None


@lru_cache(maxsize=1024)
def _equal(experiment: str, names: tuple[str, ...]) -> Ranges:
    return _checked(experiment, [(name, 1) for name in names])


@lru_cache(maxsize=1024)
def _weighted(experiment: str, items: tuple[tuple[str, float], ...]) -> Ranges:
    return _checked(experiment, items)


def _checked(experiment: str, items: Sequence[tuple[str, float]]) -> Ranges:
    experiment = checked_experiment(experiment)
    names = tuple([checked_variant(name) for name, _ in items])
    if not names:
        raise ExperimentError(f"the experiment {experiment!r} has no variants: name at least one")
    if len(set(names)) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ExperimentError(f"the experiment {experiment!r} names the variant {duplicate!r} twice")
    weights = [_weight(name, weight) for name, (_, weight) in zip(names, items, strict=True)]
    scale = lcm(*(weight.denominator for weight in weights))
    cumulative = [*accumulate(int(weight * scale) for weight in weights)]
    total = cumulative[-1]
    if not total:
        raise ExperimentError(f"all weights of the experiment {experiment!r} are 0: give one a positive weight")
    encoded = experiment.encode()
    # h * total < sum * 2**64 for an integer h, exactly if h is less than the quotient, rounded up.
    bounds = tuple([-(-part * _HASHES // total) for part in cumulative])
    return Ranges(b"%d:%b," % (len(encoded), encoded), names, bounds)


def _weight(name: str, weight: object) -> Fraction:
    """The exact value of a weight. Raises ExperimentError."""
    if not isinstance(weight, float | Rational):
        raise ExperimentError(f"the weight of {name!r} is a number, not {weight!r}")
    if isinstance(weight, float) and not isfinite(weight):
        raise ExperimentError(f"the weight of {name!r} is a finite number, not {weight!r}")
    if weight < 0:
        raise ExperimentError(f"the weight of {name!r} is at least 0, not {weight!r}")
    if isinstance(weight, float):
        return Fraction(float.__repr__(weight))
    # NumPy's integers are Rational, and would overflow within a Fraction.
    return Fraction(int(weight.numerator), int(weight.denominator))
