"""The pytest plugin under its name in the package, for `-p usage_instrument.pytest_plugin`."""

from __future__ import annotations

from usage_instrument_pytest import captured_usage as captured_usage
