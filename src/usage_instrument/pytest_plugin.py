"""The pytest plugin by its name in the package, for who loads plugins by hand: `-p usage_instrument.pytest_plugin`."""

from __future__ import annotations

from usage_instrument_pytest import captured_usage as captured_usage
