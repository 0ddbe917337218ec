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


def in_microseconds(batch: Any) -> Any:
    """The batch without nanoseconds, as pandas writes them: datetime has none."""
    pa = pyarrow()
    for number, each in enumerate(batch.schema):
        if pa.types.is_timestamp(each.type) and each.type.unit == "ns":
            column = batch.column(number).cast(pa.timestamp("us", each.type.tz), safe=False)
            batch = batch.set_column(number, each.name, column)
    return batch
