"""Experiments. In: figures of each variant, which `queries` or the app supplies. Out: estimates, tests and a verdict.

`analyse` and `sample_size` need SciPy (`pip install "usage-instrument[experiments]"`), which their first use imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_instrument.capture.assignment import assign
from usage_instrument.errors import ConfigurationError

from .figures import GuardrailFigures, Metric, VariantFigures, figures_of
from .results import (
    Analysis,
    Comparison,
    Estimate,
    GuardrailResult,
    SampleRatio,
    VariantResult,
    Verdict,
)

if TYPE_CHECKING:
    from .analysis import analyse
    from .planning import sample_size
else:
    _LATER = {"analyse": "analysis", "sample_size": "planning"}

    def __getattr__(name):  # noqa: ANN001, ANN202 - hidden from type checkers, who would take it for any name
        """Imports the functions that need SciPy."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        try:
            module = import_module(f".{_LATER[name]}", __name__)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in {"numpy", "scipy"}:
                raise
            raise ConfigurationError(
                f'{__name__}.{name} calculates with SciPy: pip install "usage-instrument[experiments]"'
            ) from None
        found = globals()[name] = getattr(module, name)
        return found


__all__ = [
    "Analysis",
    "Comparison",
    "Estimate",
    "GuardrailFigures",
    "GuardrailResult",
    "Metric",
    "SampleRatio",
    "VariantFigures",
    "VariantResult",
    "Verdict",
    "analyse",
    "assign",
    "figures_of",
    "sample_size",
]
