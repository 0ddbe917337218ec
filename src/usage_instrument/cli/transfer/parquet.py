"""Parquet, by pyarrow of the extra `parquet`."""

from __future__ import annotations

from typing import Any

from usage_instrument.errors import ConfigurationError


def pyarrow() -> Any:
    """The library. Raises ConfigurationError without it."""
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ConfigurationError('Parquet needs pyarrow: pip install "usage-instrument[parquet]"') from None
    return pa
