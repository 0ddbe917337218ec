"""Formats values for people: counts, shares, times."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

_STEPS = ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h"))
# Those of strftime depend on the host's locale.
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def count(value: float | None) -> str:
    """1,234; a fraction has one decimal."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def short(value: int) -> str:
    """1.2M; exact below a hundred thousand."""
    if value < 100_000:
        return f"{value:,}"
    for size, unit in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}" if value < 1000 * size else f"{value // size:,}{unit}"
    return str(value)


def decimal(value: float) -> str:
    """1,234.5, with as many decimals as it has."""
    return f"{float(f'{value:.6g}'):,.10g}".replace("-", "−")


def share(value: float | None) -> str:
    """12.3% for 0.123."""
    if value is None:
        return "–"
    if 0 < value < 0.001:
        return "<0.1%"
    return f"{value:.1%}" if value < 0.0995 else f"{value:.0%}"


def change(now: int, before: int) -> str:
    """+12%; a factor from ten times as much."""
    if now >= 10 * before:
        return f"×{now / before:.3g}" if now < 1000 * before else "×999+"
    return f"{(now - before) / before:+.0%}".replace("-", "−")


def relative(value: float | None) -> str:
    """+12% for 0.12; a dash if there was nothing before."""
    return "–" if value is None else f"{value:+.0%}".replace("-", "−")


def day(value: dt.date, now: dt.date | None = None) -> str:
    """12 Mar 2026; without the year, if that is the current one."""
    return short_day(value) if now is not None and now.year == value.year else f"{short_day(value)} {value.year}"


def weekday(number: int) -> str:
    """Monday for 1, Sunday for 7."""
    return _WEEKDAYS[number - 1]


def short_day(value: dt.date) -> str:
    """12 Mar."""
    return f"{value.day} {_MONTHS[value.month - 1]}"


def moment(value: dt.datetime | None) -> str:
    """12 Mar 2026, 14:05 UTC."""
    return "–" if value is None else f"{day(value)}, {value:%H:%M} UTC"


def second(value: dt.datetime) -> str:
    """2026-03-12 14:05:07."""
    return value.isoformat(" ", "seconds")


def instant(value: dt.datetime) -> str:
    """2026-03-12 14:05:07.123456."""
    return value.isoformat(" ", "microseconds")


def ago(value: dt.datetime | None, now: dt.datetime) -> str:
    """5 min ago: the age in its largest unit."""
    if value is None:
        return "never"
    seconds = max((now - value).total_seconds(), 0)
    for below, unit, name in _STEPS:
        if seconds < below:
            return f"{int(seconds // unit)} {name} ago"
    days = int(seconds // 86_400)
    return f"{days} day{'' if days == 1 else 's'} ago" if days < 60 else f"{round(days / 30.44)} months ago"


def plural(number: int, one: str, many: str | None = None) -> str:
    """1 use, 2 uses."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def context(value: Any) -> str:
    """Metadata on one line."""
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)
