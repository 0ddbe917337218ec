"""The figures of each variant that an analysis takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import isfinite
from typing import Any, Literal, TypeAlias

from usage_instrument.errors import ExperimentError

Metric: TypeAlias = Literal["converted", "uses", "value"]
"""What is compared: the share of units that reached the goal, or the mean of uses or values of a unit."""

_ROUNDING = Fraction(1, 10**6)
"""How far, relatively, a sum of squares may be off by rounding."""


@dataclass(frozen=True, slots=True)
class VariantFigures:
    """The figures of one variant. Units that saw two variants are in none of them.

    Raises ExperimentError for figures that no data can have.
    """

    name: str
    units: int
    """Exposed units: users or visitors."""
    converted: int = 0
    """The units among them that reached the goal."""
    total: float | Decimal = 0
    """The sum of the metric over all units, for uses and values. A unit without any counts as 0."""
    total_squares: float | Decimal = 0
    """The sum of the squares of each unit's metric."""
    weight: float | None = None
    """The planned weight. None if it is not known: then the sample ratio is not checked."""

    def __post_init__(self) -> None:
        """Checks the figures."""
        for what in ("units", "converted"):
            number = getattr(self, what)
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise ExperimentError(f"{what} of {self.name!r} is a whole number of at least 0, not {number!r}")
        if self.converted > self.units:
            raise ExperimentError(f"{self.name!r} has {self.converted} converted units of only {self.units}")
        for what in ("total", "total_squares"):
            number = getattr(self, what)
            if not isinstance(number, int | float | Decimal) or not isfinite(number):
                raise ExperimentError(f"{what} of {self.name!r} is a finite number, not {number!r}")
        if self.weight is not None and not (isinstance(self.weight, int | float) and 0 <= self.weight < float("inf")):
            raise ExperimentError(f"the weight of {self.name!r} is a finite number of at least 0, not {self.weight!r}")
        squares = Fraction(self.total_squares)
        if squares * self.units * (1 + _ROUNDING) < Fraction(self.total) ** 2:
            raise ExperimentError(
                f"total_squares of {self.name!r} is too small for its total: it is the sum of each unit's square"
            )

    @property
    def mean(self) -> float:
        """The mean of the metric over the units, which are at least 1."""
        return float(Fraction(self.total) / self.units)

    @property
    def variance(self) -> float:
        """The sample variance of the metric over the units, which are at least 2: with n - 1 in the denominator.

        It is exact up to the last rounding: the difference of two large sums would lose its digits as floats.
        """
        total = Fraction(self.total)
        squares = Fraction(self.total_squares) - total * total / self.units
        return float(squares / (self.units - 1)) if squares > 0 else 0.0


@dataclass(frozen=True, slots=True)
class GuardrailFigures:
    """A feature that must not fall, by the figures of the same variants."""

    feature: str
    variants: Sequence[VariantFigures]
    metric: Metric = "converted"


def figures_of(
    rows: Iterable[Mapping[str, Any]], weights: Mapping[str, float] | None = None
) -> tuple[VariantFigures, ...]:
    """The figures in the rows of `queries.experiment`, as `connection.execute(…).mappings()` returns them: of uses, or
    with `metric="value"` of numbers.

    `weights` are the planned ones by variant, those that the code passes to `variant`. A variant among them that no
    unit saw has a row of zeros. Raises ExperimentError for weights that lack a variant that was seen.
    """
    by_name = {row["variant"]: row for row in rows}
    if weights is not None and (unplanned := sorted(by_name.keys() - weights.keys())):
        raise ExperimentError(f"the weights lack variants that were seen: {', '.join(map(repr, unplanned))}")
    return tuple(
        VariantFigures(
            name=name,
            units=row["units"],
            converted=row["converted"],
            total=row["value" if "value" in row else "uses"],
            total_squares=row["value_squares" if "value" in row else "uses_squares"],
            weight=None if weights is None else weights[name],
        )
        if (row := by_name.get(name)) is not None
        else VariantFigures(name, 0, weight=None if weights is None else weights[name])
        for name in (weights or by_name)
    )
