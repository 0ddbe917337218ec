"""Windows: conditions on times from `since` and `until`, and a calendar that fills gaps.

A timedelta is subtracted from the database's current time, and `last month` is a month of the database's calendar, so
printed SQL stays valid. The history has days (or hours), UTC, so a window consists of whole days: 7 days are today and
the six before, 36 hours are two days, and a datetime stands for its day. `until` is where a window ends: 7 days are the
end of the day before the last 7 days, a date is the last day of the window, a datetime is the first moment after it.

With a time zone, days are its days. All that is compared is local then: the edges, the current time, and the history,
whose hours are shifted where it is read.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from sqlalchemy import CTE, ColumnElement, FromClause, func, literal_column, select, union_all

from usage_instrument.database.expressions import Ago, Instant, Later, Once, StartOf
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError
from usage_instrument.typing import Unit

from .numbers import ONE, ZERO
from .zones import UTC, TimeZone, Zone, checked_zone, zone_for

HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
WEEK = 7 * DAY
MONTH = 28 * DAY
"""Four weeks, so that it contains every weekday equally often."""
QUARTER = 84 * DAY
"""Twelve weeks."""
LONG = 60
"""Days. A window of so many has most rows of a history."""
_LONGEST = 36_500 * DAY
_FORMS = "12h, 30d, 4w, 2026-01-31, 2026-01, 2026-W14, today, yesterday or last month"

Moment: TypeAlias = dt.timedelta | dt.date | str | None
"""`since` or `until`: a timedelta back from now, a date, a datetime (of the question's time zone, unless it has its
own), the text of one, or None for no bound."""
Side = Literal["since", "until"]


@dataclass(frozen=True)
class UnitStart:
    """The start of the current hour, day, week or month, or of one before or after it."""

    unit: Unit
    later: int
    """The number of units after the current one; negative before it."""

    def sql(self, now: ColumnElement[Any]) -> ColumnElement[Any]:
        """The expression."""
        start = StartOf(self.unit, now)
        return start if not self.later else Later(self.unit, start, literal_column(str(self.later)))


Edge: TypeAlias = dt.timedelta | dt.datetime | UnitStart | None
"""A checked `since` or `until`; a datetime is naive and local, and not in the window as `until`."""


@dataclass(frozen=True)
class Window:
    """The time from `since` to `until`, in whole units of the history."""

    since: Edge
    until: Edge
    tz: dt.tzinfo | None = None
    """The time zone of its days; None for UTC."""

    @functools.cached_property
    def zone(self) -> Zone:
        """The offsets of its time zone. Raises ConfigurationError where one is not a whole number of hours."""
        if self.tz is None:
            return UTC
        since, until = (point(edge, _clock(self.tz)) for edge in (self.since, self.until))
        if isinstance(since, dt.timedelta):
            since = _clock(self.tz) - since
        return zone_for(self.tz, since, until if isinstance(until, dt.datetime) else None)

    def now(self) -> ColumnElement[Any]:
        """The database's current time, as a local one."""
        return self.zone.now()

    def history(self, tables: Tables, before: int | None = 0, by: Unit = "day") -> FromClause:
        """The history with local times, of the window and so many days before it; None for all of it.

        The bounds in UTC are a day wider than the window, and let an index find the rows.
        """
        history = tables.history
        if self.zone.is_utc:
            return history
        bucket = history.c.bucket_start
        columns = [history.c[name] for name in ("user_id", "feature_name", "usage_count")]
        found = select(*columns, self.zone.local(bucket).label("bucket_start"))
        start, end = (None, None) if before is None else (self.start(by), self.end(by))
        if start is not None:
            found = found.where(bucket >= Later("day", start, literal_column(str(-1 - (before or 0)))))
        if end is not None:
            found = found.where(bucket < Later("day", end, ONE))
        return found.subquery("local_history")

    @property
    def is_all_time(self) -> bool:
        """Whether it has no bound, so that the totals answer and no history is needed."""
        return self.since is None and self.until is None

    @property
    def is_open(self) -> bool:
        """Whether it goes from a time until now: a user and feature is in it if its last use is."""
        return self.since is not None and self.until is None

    def start(self, by: Unit = "day") -> ColumnElement[Any] | None:
        """The start of its first day (hour, week, month), which may lie before `since`; None for no bound."""
        match self.since:
            case None:
                return None
            case dt.datetime():
                return StartOf(by, Instant(self.since))
            case UnitStart():
                start = self.since.sql(self.now())
                return start if by in ("hour", "day", self.since.unit) else StartOf(by, start)
        grain = _grain(by)
        return StartOf(by, self.ago(max(_whole(self.since, grain) - grain, dt.timedelta(0))))

    def end(self, by: Unit = "day") -> ColumnElement[Any] | None:
        """The end of its last day (hour, week, month), which may lie after `until`; None for no bound."""
        match self.until:
            case None:
                return None
            case dt.datetime():
                end = next_start(by, self.until)
                return None if end is None else Instant(end)
            case UnitStart():
                first_after = self.until.sql(self.now())
                if by in ("hour", "day", self.until.unit):
                    return first_after
                return Later(by, StartOf(by, Later("day", first_after, literal_column("-1"))), ONE)
        grain = _grain(by)
        whole = _whole(self.until, grain)
        if by in ("hour", "day"):
            return StartOf(by, self.ago(whole - grain))
        return Later(by, StartOf(by, self.ago(whole)), ONE)

    def ago(self, span: dt.timedelta) -> ColumnElement[Any]:
        """The local time so many days or hours ago; a day ago is the same time of the day before."""
        if self.zone.is_utc:
            return Ago(span)
        unit: Unit = "hour" if span % DAY else "day"
        number = span // (HOUR if span % DAY else DAY)
        return Later(unit, self.now(), literal_column(str(-number))) if number else self.now()

    def contains(
        self, bucket_start: ColumnElement[Any], by: Unit = "day", *, is_alone: bool = False
    ) -> list[ColumnElement[bool]]:
        """The conditions that a bucket is in the window; `is_alone`: no other condition leaves but few rows."""
        bound = self.bound if is_alone else lambda edge: edge
        start, end = self.start(by), self.end(by)
        return [
            *([] if start is None else [bucket_start >= bound(start)]),
            *([] if end is None else [bucket_start < bound(end)]),
        ]

    def bound(self, edge: ColumnElement[Any]) -> ColumnElement[Any]:
        """An edge for a condition that stands alone: if the window is long, a database reads the rows without an index,
        and would work the edge out for each."""
        is_fixed = isinstance(self.since, dt.datetime) and isinstance(self.until, dt.datetime | None)
        is_short = (days := self.days) is not None and days < LONG
        return edge if is_fixed or is_short else Once(edge)

    def begins_by(self, time: ColumnElement[Any]) -> list[ColumnElement[bool]]:
        """The condition that a time (UTC) is not before `since`, to the second."""
        match self.since:
            case None:
                return []
            case dt.timedelta():
                return [time >= Ago(self.since)]
            case dt.datetime():
                return [self.zone.local(time) >= Instant(self.since)]
        return [self.zone.local(time) >= self.since.sql(self.now())]

    @property
    def days(self) -> int | None:
        """Its number of days up to today, by the clock of this process; None without `since`."""
        first, after = self.bounds()
        return None if first is None else max((after - first).days, 1)

    def previous(self) -> Window:
        """The window of the same length before this one. Raises ConfigurationError without `since`.

        The last month is compared with the month before it; this month, which has not ended, with the same number of
        days before it.
        """
        match self.since, self.until:
            case dt.timedelta(), None | dt.timedelta():
                first = max(_whole(self.since, DAY), DAY)
                length = first - _whole(self.until or dt.timedelta(0), DAY)
                return Window(first + length, first, self.tz)
            case UnitStart(), UnitStart() if self.since.unit == self.until.unit and self.until.later <= 0:
                units = self.until.later - self.since.later
                return Window(UnitStart(self.since.unit, self.since.later - units), self.since, self.tz)
        first_day, after = self.bounds()
        if first_day is None:
            raise ConfigurationError("a window without since has none before it: pass since")
        length = min(max(after - first_day, DAY), first_day - dt.date.min)
        return Window(_midnight(first_day - length), _midnight(first_day), self.tz)

    def last_day(self) -> Window:
        """Its last day, today at the latest, by the clock of this process."""
        _, after = self.bounds()
        after = max(after, dt.date.min + DAY)
        return Window(_midnight(after - DAY), _midnight(after), self.tz)

    def bounds(self) -> tuple[dt.date | None, dt.date]:
        """The first day, None for all time, and the one after the last up to today, by the clock of this process."""
        now = _clock(self.tz)
        tomorrow = now.date() + DAY
        first = None if self.since is None else _first_day(self.since, now)
        return first, tomorrow if self.until is None else min(_first_day_after(self.until, now), tomorrow)


def window(since: Moment, until: Moment = None, tz: TimeZone = None) -> Window:
    """The window of these arguments. Raises ConfigurationError."""
    zone = checked_zone(tz)
    found = Window(edge_of(since, "since", zone), edge_of(until, "until", zone), zone)
    now = _clock(zone)
    has_both = found.since is not None and found.until is not None
    if has_both and _first_day(found.since, now) >= _first_day_after(found.until, now):
        raise ConfigurationError(f"since must be before until: {_written(since)} to {_written(until)} has no day")
    return found


def counted_in(
    tables: Tables, window: Window, *, is_alone: bool = False
) -> tuple[FromClause, list[ColumnElement[bool]]]:
    """The table with the uses of a window and the conditions for it; for all time, `feature_usage` without any."""
    if window.is_all_time:
        return tables.usage, []
    history = window.history(tables)
    return history, window.contains(history.c.bucket_start, is_alone=is_alone)


def pairs_in(tables: Tables, window: Window) -> tuple[FromClause, list[ColumnElement[bool]]]:
    """The table with the users and features of a window and the conditions for it.

    `feature_usage` has one row for each. Where the window goes until now, it answers by the last use, not before the
    first bucket of the window: earlier than that, nothing was counted by time.
    """
    if not window.is_open:
        return counted_in(tables, window)
    bucket, usage, start = tables.history.c.bucket_start, tables.usage, window.start()
    inside = window.contains(window.zone.local(bucket))
    if start is not None and not window.zone.is_utc:  # for the index
        inside.append(bucket >= Later("day", start, literal_column("-1")))
    first = select(func.min(bucket, type_=bucket.type)).where(*inside).scalar_subquery()
    return usage, [usage.c.last_used >= first]


# ---- arguments


def edge_of(moment: object, side: Side, tz: dt.tzinfo | None = None) -> Edge:
    """A `since` or `until`, checked, in local time. Raises ConfigurationError."""
    if isinstance(moment, str):
        moment = _of_text(moment, side)
    match moment:
        case None | UnitStart():
            return moment
        case dt.datetime():
            return moment if moment.tzinfo is None else moment.astimezone(tz or dt.UTC).replace(tzinfo=None)
        case dt.date():
            return _midnight(moment) if side == "since" else _following(moment)
        case dt.timedelta():
            if not dt.timedelta(0) <= moment <= _LONGEST:
                raise ConfigurationError(
                    f"{side} goes back from 0 to {_LONGEST.days} days, not {written(moment)}; None is all time"
                )
            return moment if moment or side == "since" else None  # until now is no bound
    raise ConfigurationError(f"{side} is a timedelta, a date, a datetime, a text or None, not {moment!r}")


_UNITS = {"h": HOUR, "d": DAY, "w": WEEK}
_NAMED: dict[str, tuple[Unit, int]] = {
    "today": ("day", 0),
    "yesterday": ("day", -1),
    "this week": ("week", 0),
    "last week": ("week", -1),
    "this month": ("month", 0),
    "last month": ("month", -1),
}


def span_of(text: str) -> dt.timedelta | None:
    """A number of hours, days or weeks, as in 12h, 30d, 4w; None for another text."""
    number, unit = text[:-1], _UNITS.get(text[-1:].lower())
    is_number = number.isascii() and number.isdecimal() and len(number) <= 5
    return int(number) * unit if unit is not None and is_number else None


def _of_text(text: str, side: Side) -> Any:
    """A text names a time of some length; `since` is its start, `until` its end."""
    named = _NAMED.get(re.sub(r"[-_\s]+", " ", text.strip().lower()))
    if named is not None:
        unit, later = named
        return UnitStart(unit, later if side == "since" else later + 1)
    back = span_of(text)
    if back is not None:
        return back
    try:
        return _of_iso(text, side)
    except (ValueError, OverflowError):
        raise ConfigurationError(f"{side} is {_FORMS} (UTC), not {text!r}") from None


def _of_iso(text: str, side: Side) -> Any:
    if re.fullmatch(r"\d{4}", text):
        return _midnight(dt.date(int(text) + (side == "until"), 1, 1))
    if re.fullmatch(r"\d{4}-\d{2}", text):
        first = dt.datetime.fromisoformat(f"{text}-01")
        return first if side == "since" else next_start("month", first + dt.timedelta(microseconds=1))
    if re.fullmatch(r"\d{4}-?W\d{2}", text):
        return _midnight(dt.date.fromisoformat(text)) + (WEEK if side == "until" else dt.timedelta(0))
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        return dt.datetime.fromisoformat(text)


def _midnight(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time())


def _following(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time.max) if day == dt.date.max else _midnight(day + DAY)


def next_start(by: Unit, moment: dt.datetime) -> dt.datetime | None:
    """The first start of a unit that is not before this moment; None after the last year of Python."""
    hour = moment.replace(minute=0, second=0, microsecond=0)
    day = hour.replace(hour=0)
    try:
        match by:
            case "hour":
                start, after = hour, hour + HOUR
            case "day":
                start, after = day, day + DAY
            case "week":
                start = day - day.weekday() * DAY
                after = start + WEEK
            case _:
                start = day.replace(day=1)
                after = (start + 31 * DAY).replace(day=1)
    except OverflowError:
        return None
    return start if start == moment else after


def _clock(tz: dt.tzinfo | None) -> dt.datetime:
    """The local time by the clock of this process."""
    return dt.datetime.now(tz or dt.UTC).replace(tzinfo=None)


def _grain(by: Unit) -> dt.timedelta:
    return HOUR if by == "hour" else DAY


def _whole(span: dt.timedelta, grain: dt.timedelta) -> dt.timedelta:
    return -(-span // grain) * grain  # 36 hours are two days


def _first_day(since: Edge, now: dt.datetime) -> dt.date:
    """The first day of a window, by the clock of this process."""
    since = point(since, now)
    if isinstance(since, dt.datetime):
        return since.date()
    return dt.date.min if since is None else now.date() - max(_whole(since, DAY) - DAY, dt.timedelta(0))


def _first_day_after(until: Edge, now: dt.datetime) -> dt.date:
    """The day after the last one of a window, by the clock of this process."""
    until = point(until, now)
    if isinstance(until, dt.timedelta):
        return now.date() + DAY - _whole(until, DAY)
    end = None if until is None else next_start("day", until)
    return dt.date.max if end is None else end.date()


def _start_of(edge: UnitStart, now: dt.datetime) -> dt.datetime:
    today = _midnight(now.date())
    if edge.unit == "month":
        months = today.year * 12 + today.month - 1 + edge.later
        return _midnight(dt.date(months // 12, months % 12 + 1, 1))
    start = today if edge.unit == "day" else today - today.weekday() * DAY
    return start + edge.later * (WEEK if edge.unit == "week" else DAY)


def point(edge: Edge, now: dt.datetime | None = None) -> dt.timedelta | dt.datetime | None:
    """An edge without the calendar of the database; now is by default that of this process."""
    now = now or _clock(None)
    return _start_of(edge, now) if isinstance(edge, UnitStart) else edge


# ---- words


def written(moment: Any) -> str:
    """A `since` or `until` as the command line takes it: 60d, 36h, 2026-01-31."""
    if isinstance(moment, dt.timedelta):
        hours = moment.total_seconds() / 3600
        return f"{hours / 24:g}d" if hours % 24 == 0 else f"{hours:g}h"
    return f"{moment:%Y-%m-%d}" if isinstance(moment, dt.date) else str(moment)


def _written(moment: object) -> str:
    return "now" if moment is None else written(moment)


def window_words(since: Moment, until: Moment = None) -> str:
    """A window as the gap `{period}` of a description takes it."""
    asked = window(since, until)
    if asked.is_all_time:
        return "so far"
    if isinstance(asked.since, UnitStart) and isinstance(asked.until, UnitStart):
        unit, later = asked.since.unit, asked.since.later
        if asked.until == UnitStart(unit, later + 1):
            names = {name: edge for name, edge in _NAMED.items() if edge == (unit, later)}
            return next(iter(names))
    if asked.until is None:
        if isinstance(asked.since, dt.timedelta):
            return f"in the last {_span_words(asked.since)}"
        return f"since {_edge_words(asked.since, 'since')}"
    last = _edge_words(asked.until, "until")
    if asked.since is None:
        return f"until {last}"
    return f"from {_edge_words(asked.since, 'since')} to {last}"


def _edge_words(edge: Edge, side: Side) -> str:
    match edge:
        case dt.timedelta():
            return f"{_span_words(edge, is_ago=True)} ago"
        case dt.datetime():
            return f"{edge - dt.timedelta(microseconds=1) if side == 'until' else edge:%Y-%m-%d}"
        case UnitStart():
            later = edge.later - (side == "until")
            name = next((name for name, named in _NAMED.items() if named == (edge.unit, later)), str(edge))
            return name if edge.unit == "day" else f"the {'start' if side == 'since' else 'end'} of {name}"
    return "now"


def _span_words(span: dt.timedelta, *, is_ago: bool = False) -> str:
    hours = round(span.total_seconds() / 3600)
    number, unit = (hours // 24, "day") if hours % 24 == 0 else (hours, "hour")
    if number == 1:
        return f"1 {unit}" if is_ago else unit
    return f"{number} {unit}s"


# ---- the calendar


def calendar(
    unit: Unit,
    start: ColumnElement[Any],
    end: ColumnElement[Any] | None = None,
    name: str = "units",
    zone: Zone = UTC,
) -> CTE:
    """A row per unit, used or not, from `start` until now and before `end`, all local: `bucket_start`. No rows if start
    is NULL.

    The units are numbered like the nodes of a binary tree, n with the children 2n and 2n + 1. So the recursion is only
    as deep as the logarithm of their number: MariaDB silently stops after a thousand rounds.
    """
    span = select(start.label("start")).subquery("span")
    children = union_all(select(ZERO.label("child")), select(ONE)).subquery("children")
    first = select(ONE.label("n"), span.c.start, span.c.start.label("bucket_start")).where(span.c.start.is_not(None))
    units = first.cte(name, recursive=True)
    number = units.c.n * literal_column("2") + children.c.child
    moment = Later(unit, units.c.start, number - ONE)
    inside = [moment <= zone.now(), *([] if end is None else [moment < end])]
    always = children.c.child <= units.c.n  # without a comparison SQLAlchemy warns of a cartesian product
    more = (
        select(number.label("n"), units.c.start, moment.label("bucket_start"))
        .select_from(units)
        .join(children, always)
        .where(*inside)
    )
    return units.union_all(more)
