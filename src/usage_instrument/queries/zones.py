"""Time zones: the offset from UTC by time, worked out here, because not every database knows zones.

The history has hours of UTC, so a zone can be answered exactly while its clock is whole hours from UTC. Its offsets are
part of the statement: those of the window and of the 64 days before, which some questions read too, and those until
400 days from now, so that a printed statement stays right for a year.
"""

from __future__ import annotations

import datetime as dt
import functools
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, case, literal_column

from usage_instrument.database.expressions import Ago, Instant, Later
from usage_instrument.errors import ConfigurationError

TimeZone: TypeAlias = dt.tzinfo | str | None
"""A time zone: a tzinfo, its name in the IANA database, such as `Europe/Berlin`, or None for UTC."""
PAST = dt.timedelta(days=64)
"""The longest time before a window that a question reads by day."""
_FUTURE = dt.timedelta(days=400)
_EARLIEST = dt.datetime.fromisoformat("2000-01-01")
_HOUR, _DAY = dt.timedelta(hours=1), dt.timedelta(days=1)


@dataclass(frozen=True)
class Zone:
    """The offsets of a time zone from UTC."""

    steps: tuple[tuple[dt.datetime, int], ...]
    """The time (UTC, naive) from which on each offset holds, and the offset in hours; the first one also before."""

    @property
    def is_utc(self) -> bool:
        """Whether local times are those of UTC."""
        return all(not hours for _, hours in self.steps)

    def local(self, moment: ColumnElement[Any]) -> ColumnElement[Any]:
        """The local time of a time in UTC. In autumn, two hours have the same one."""
        if self.is_utc:
            return moment
        (_, first), *later = self.steps
        offsets: list[tuple[ColumnElement[bool], ColumnElement[int]]] = [
            (moment >= Instant(since), literal_column(str(hours))) for since, hours in reversed(later)
        ]
        otherwise: ColumnElement[int] = literal_column(str(first))
        return Later("hour", moment, case(*offsets, else_=otherwise) if offsets else otherwise)

    def now(self) -> ColumnElement[Any]:
        """The database's current time, as a local one."""
        return self.local(Ago())


UTC = Zone(((_EARLIEST, 0),))


def checked_zone(tz: object) -> dt.tzinfo | None:
    """The time zone. Raises ConfigurationError."""
    if tz is None or isinstance(tz, dt.tzinfo):
        return tz
    if not isinstance(tz, str):
        raise ConfigurationError(f"tz is a time zone such as 'Europe/Berlin', a tzinfo or None, not {tz!r}")
    try:
        return zoneinfo.ZoneInfo(tz)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        fix = "" if _has_zones() else '; this Python has no time zones: pip install "tzdata"'
        raise ConfigurationError(f"tz is the name of a time zone such as Europe/Berlin, not {tz!r}{fix}") from None


def zone_for(tz: dt.tzinfo | None, since: dt.datetime | None, until: dt.datetime | None) -> Zone:
    """The offsets of a window, between local times. Raises ConfigurationError where one is not a whole number of hours.

    Without `until`, the window goes on. It always reaches the current time, with which local times are compared.
    """
    if tz is None:
        return UTC
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    end = now + _FUTURE if until is None else min(max(until, now), now + _FUTURE)
    start = _EARLIEST if since is None else max(min(since, end) - PAST, _EARLIEST)
    return _zone(tz, start.date(), end.date())  # by day, so that a process works it out once a day


@functools.lru_cache(maxsize=64)
def _zone(tz: dt.tzinfo, first: dt.date, last: dt.date) -> Zone:
    steps: list[tuple[dt.datetime, int]] = []
    for since, offset in _offsets(tz, first, last):
        if offset % _HOUR:
            raise ConfigurationError(
                f"in {tz} the clock is {_written(offset)} from UTC on {since:%Y-%m-%d}, and the history has whole "
                "hours of UTC: choose a zone of whole hours, or UTC"
            )
        if steps and (since.minute or since.second):
            raise ConfigurationError(
                f"in {tz} the clock changes within an hour of UTC on {since:%Y-%m-%d}, which the history cannot "
                "divide: choose another window, or UTC"
            )
        steps.append((since, offset // _HOUR))
    return Zone(tuple(steps))


def _offsets(tz: dt.tzinfo, first: dt.date, last: dt.date) -> Iterator[tuple[dt.datetime, dt.timedelta]]:
    """Each offset with the time (UTC, naive) of its begin."""
    moment = dt.datetime.combine(first, dt.time()) - _DAY
    offset = _offset(tz, moment)
    yield moment, offset
    while moment.date() <= last:
        after = moment + _DAY
        while _offset(tz, after) != offset:
            low, high = moment, after
            while high - low > dt.timedelta(seconds=1):
                middle = (low + (high - low) / 2).replace(microsecond=0)
                low, high = (middle, high) if _offset(tz, middle) == offset else (low, middle)
            moment, offset = high, _offset(tz, high)
            yield moment, offset
        moment = after


def _offset(tz: dt.tzinfo, moment: dt.datetime) -> dt.timedelta:
    return moment.replace(tzinfo=dt.UTC).astimezone(tz).utcoffset() or dt.timedelta(0)


def _written(offset: dt.timedelta) -> str:
    minutes = round(offset.total_seconds() / 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def _has_zones() -> bool:
    try:
        zoneinfo.ZoneInfo("Europe/Berlin")
    except zoneinfo.ZoneInfoNotFoundError:
        return False
    return True
