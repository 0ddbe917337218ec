"""The pytest plugin under its name in the package, for `-p usage_instrument.pytest_plugin`."""

from __future__ import annotations

from usage_instrument_pytest import captured_usage as captured_usage
from usage_instrument_pytest import pytest_sessionfinish as pytest_sessionfinish
from usage_instrument_pytest import pytest_terminal_summary as pytest_terminal_summary
from usage_instrument_pytest import pytest_testnodedown as pytest_testnodedown
