"""The probability that a variant is the best, and what choosing it costs on average, by numerical quadrature.

The priors are flat: Beta(1, 1) for shares, and for means the normal approximation of the posterior, which needs tens
of units (Gelman, A. et al. (2013), Bayesian data analysis, 3rd edition, section 4.1). Nothing is random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy import special

_TAILS = (1e-15, 1e-11, 1e-8, 1e-5, 1e-3, 0.02, 0.16, 0.5)
"""The range is cut at these quantiles of either tail. Within a piece, the integrands are smooth."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


class Posterior(Protocol):
    """The distribution of a variant's share or mean."""

    def below(self, values: Any) -> Any:
        """The probability of less than each value."""

    def density(self, values: Any) -> Any:
        """The density at each value, up to a common factor."""

    def quantiles(self) -> Any:
        """Values that cut the range of the distribution into pieces."""


@dataclass(frozen=True, slots=True)
class BetaPosterior:
    """Of a share, after `converted` of `units`: Beta(1 + converted, 1 + units - converted)."""

    converted: int
    units: int

    def below(self, values: Any) -> Any:
        """As Posterior."""
        return special.betainc(self.converted + 1, self.units - self.converted + 1, values)

    def density(self, values: Any) -> Any:
        """As Posterior: relative to the mode, since logarithms of Beta functions of large counts lose their digits."""
        failed = self.units - self.converted
        mode = self.converted / self.units if self.units else 0.5
        of_converted = special.xlog1py(self.converted, (values - mode) / mode) if self.converted else 0.0
        of_failed = special.xlog1py(failed, (mode - values) / (1 - mode)) if failed else 0.0
        return np.exp(of_converted + of_failed) * np.ones_like(values)

    def quantiles(self) -> Any:
        """As Posterior: by the normal approximation where SciPy has none, as its older releases for 10**12 units."""
        shape = a, b = self.converted + 1, self.units - self.converted + 1
        exact = np.concatenate([special.betaincinv(*shape, _TAILS), special.betainccinv(*shape, _TAILS)])
        mean, deviation = a / (a + b), math.sqrt(a * b / (a + b + 1)) / (a + b)
        below = mean + deviation * special.ndtri(_TAILS)
        return np.where(np.isnan(exact), np.clip(np.concatenate([below, 2 * mean - below]), 0, 1), exact)


@dataclass(frozen=True, slots=True)
class NormalPosterior:
    """Of a mean, with its standard error."""

    mean: float
    error: float

    def below(self, values: Any) -> Any:
        """As Posterior."""
        return special.ndtr((values - self.mean) / self.error)

    def density(self, values: Any) -> Any:
        """As Posterior."""
        return np.exp(-np.square((values - self.mean) / self.error) / 2)

    def quantiles(self) -> Any:
        """As Posterior."""
        below = special.ndtri(_TAILS)
        return self.mean + self.error * np.concatenate([below, -below])


def best(posteriors: Sequence[Posterior]) -> list[tuple[float, float]]:
    """The probability that each is the greatest, and its expected loss.

    The probability is `∫ f_i ∏ F_j`, over all others j: Scott, S. L. (2010), A modern Bayesian look at the multi-armed
    bandit, Applied Stochastic Models in Business and Industry 26, 639-658; for two shares the closed form is that of
    Miller, E. (2015), Formulas for Bayesian A/B testing. The loss is the mean of what the best has more
    than i, `E[max(θ_j) - θ_i] = ∫ F_i (1 - ∏ F_j)`: Stucchio, C. (2015), Bayesian A/B testing at VWO.
    """
    values, weights = _grid(posteriors)
    below = [posterior.below(values) for posterior in posteriors]
    found = []
    for position, posterior in enumerate(posteriors):
        others = math.prod((each for other, each in enumerate(below) if other != position), start=np.ones_like(values))
        density = posterior.density(values) * weights
        probability = float(np.sum(density * others) / np.sum(density))
        found.append((min(probability, 1.0), float(np.sum(weights * below[position] * (1 - others)))))
    return found


def _grid(posteriors: Sequence[Posterior]) -> tuple[Any, Any]:
    """The nodes and weights of Gauss and Legendre's quadrature on each piece of the common range."""
    cuts = np.unique(np.concatenate([posterior.quantiles() for posterior in posteriors]))
    middles, halves = (cuts[1:] + cuts[:-1]) / 2, (cuts[1:] - cuts[:-1]) / 2
    nodes = middles[:, None] + halves[:, None] * _NODES
    return nodes.ravel(), (halves[:, None] * _WEIGHTS).ravel()
