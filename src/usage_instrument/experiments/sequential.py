"""Tests that hold however often they are looked at: the mixture sequential probability ratio test (mSPRT).

The statistic `z` is an estimate over its standard error `s`. The likelihood ratio of an effect `e` against no effect is
`exp(z e / s - e² / (2 s²))`. The mixture averages it over effects from a normal distribution with the mean 0 and the
standard deviation `τ`. All that matters of these is `ratio = τ² / s²`, which grows with the number of units.

Robbins, H. (1970), Statistical methods related to the law of the iterated logarithm, Annals of Mathematical Statistics
41, 1397-1409. Johari, R., Koomen, P., Pekelis, L. and Walsh, D. (2022), Always valid inference: continuous monitoring
of A/B tests, Operations Research 70, 1806-1821; before that (2017), Peeking at A/B tests, KDD, 1517-1525.

All functions take numbers or arrays of NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special


def always_valid_p(statistic: Any, ratio: Any) -> Any:
    """Two-sided: 1 over the mixture's likelihood ratio, at most 1.

    Johari et al. (2017), the mixture for normal data, with `V / n = s²`:
    `Λ = sqrt(s² / (s² + τ²)) exp(z² τ² / (2 (s² + τ²)))`. It is valid for any time at which one stops: if there is no
    effect, the probability that it is ever below alpha is at most alpha (Ville's inequality).
    """
    return np.minimum(1.0, np.exp(-_log_likelihood_ratio(statistic, ratio)))


def always_valid_p_of_fall(statistic: Any, ratio: Any) -> Any:
    """One-sided, small for an effect below 0: the mixture has effects below 0 only.

    Howard, S. R., Ramdas, A., McAuliffe, J. and Sekhon, J. (2021), Time-uniform, nonparametric, nonasymptotic
    confidence sequences, Annals of Statistics 49, 1055-1080, the one-sided normal mixture, whose likelihood ratio is
    `2 Λ Φ(-z sqrt(ratio / (1 + ratio)))`.
    """
    share = special.log_ndtr(-np.asarray(statistic) * np.sqrt(ratio / (1 + np.asarray(ratio))))
    return np.minimum(1.0, np.exp(-_log_likelihood_ratio(statistic, ratio) - np.log(2) - share))


def critical_value(ratio: Any, alpha: float) -> Any:
    """The absolute statistic at which the two-sided p is alpha; infinite without data.

    It makes the interval of any time valid at all times: Robbins (1970), Johari et al. (2022).
    """
    with np.errstate(divide="ignore"):
        return np.sqrt((1 + np.asarray(ratio)) / ratio * (np.log1p(ratio) - 2 * np.log(alpha)))


def _log_likelihood_ratio(statistic: Any, ratio: Any) -> Any:
    ratio = np.asarray(ratio, dtype=float)
    return np.square(statistic) * ratio / (2 * (1 + ratio)) - np.log1p(ratio) / 2
