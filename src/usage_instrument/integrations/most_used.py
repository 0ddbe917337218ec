"""A template filter that puts the most used features first: menus and admin panels follow what people use."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from usage_instrument import _default
from usage_instrument.database import engines
from usage_instrument.database.reflection import find_tables
from usage_instrument.queries import top_features
from usage_instrument.runtime import log, threads

__all__ = ["most_used_first"]

T = TypeVar("T")

PERIOD = dt.timedelta(days=28)
"""The uses that count."""
REFRESH = 60.0
"""Seconds until the uses are read again."""
_FEATURES = 1_000

_uses: dict[str, int] = {}
_read_at = -REFRESH


def most_used_first(items: Iterable[T], attribute: str | None = None) -> list[T]:
    """The items, those with more uses of their feature in 28 days first; without uses, they keep their order.

    An item is the name of a feature, or has it in an attribute or under a key. The uses of all users are read in the
    background, at most once a minute, from the database of the configured tracker: no page waits for them, and the
    first one has its items in the given order.

    `environment.filters["most_used_first"] = most_used_first` for Jinja; Django has `{% load usage_instrument %}`.
    """
    global _read_at
    now = time.monotonic()
    if now >= _read_at + REFRESH:
        _read_at = now
        with contextlib.suppress(RuntimeError):  # no thread can start: the order stays
            threads.start(read)
    return sorted(items, key=lambda item: -_uses.get(_feature(item, attribute), 0))


def read() -> None:
    """Read the uses now. An error is logged, and the uses of before stay."""
    global _uses
    tracker = _default.tracker()
    if tracker is None or tracker.database is None:
        return
    try:
        connector = engines.connect(tracker.database)
        try:
            schema = tracker.settings.schema
            _uses = connector.run(
                lambda connection: {
                    str(row.feature_name): row.total_usage
                    for row in connection.execute(
                        top_features(_FEATURES, since=PERIOD, tables=find_tables(connection, schema))
                    )
                }
            )
        finally:
            connector.dispose()
    except Exception as error:
        log.warning(("most used", type(error)), "the most used features cannot be read: %s", type(error).__name__)


def _feature(item: Any, attribute: str | None) -> str:
    if attribute is None:
        return str(item)
    return str(item.get(attribute) if isinstance(item, Mapping) else getattr(item, attribute, None))
