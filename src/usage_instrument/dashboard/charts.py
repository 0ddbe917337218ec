"""Charts as geometry: the bars are shares of the width, so that a chart fits any screen without a script."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass

from . import formatting

HEIGHT = 168
"""Pixels of the plot."""
_LABELS = 5


@dataclass(frozen=True)
class Point:
    """The values of one day, week or month."""

    start: dt.date
    above: tuple[int, ...]
    """The values that are stacked on the ground line, the lowest first."""
    below: tuple[int, ...] = ()
    """The values that hang below it."""
    is_running: bool = False
    """Whether it is not over."""


@dataclass(frozen=True)
class Segment:
    """One value of a bar: y and height in pixels."""

    y: float
    height: float
    number: int
    """The number of its series, from 1, which has a colour."""


@dataclass(frozen=True)
class Bar:
    """One bar: x and width in percent."""

    x: float
    width: float
    segments: tuple[Segment, ...]
    slot: float
    """The start of the area that reacts to the pointer, in percent."""
    title: str
    is_running: bool


@dataclass(frozen=True)
class Tick:
    """A label and its position."""

    at: float
    label: str
    anchor: str = "middle"
    spare: bool = False
    """Whether a narrow screen hides it."""


@dataclass(frozen=True)
class Chart:
    """A bar chart."""

    name: str
    """The prefix of its ids."""
    title: str
    about: str
    """The content in words, for screen readers."""
    legend: tuple[str, ...]
    """The names of the series; none for a single one."""
    has_axis: bool
    """Whether its days are printed below."""
    height: int
    ground: float
    """The y of the ground line, in pixels."""
    step: float
    """The width of one slot, in percent."""
    bars: tuple[Bar, ...]
    grid: tuple[Tick, ...]
    axis: tuple[Tick, ...]


def chart(
    name: str,
    title: str,
    unit: str,
    points: Sequence[Point],
    *,
    series: Sequence[str] = (),
    adds_up: bool = True,
    height: int = HEIGHT,
    has_axis: bool = True,
) -> Chart:
    """A chart of these points. `unit` names the values, `series` their parts, those below the ground line last.

    `adds_up`: whether the sum of all days is a number of this unit; the users of two days may be the same.
    """
    top = _round_up(max((sum(point.above) for point in points), default=0))
    deepest = max((sum(point.below) for point in points), default=0)
    scale = height / (top + deepest)
    ground = top * scale
    step = 100 / max(len(points), 1)
    bars = [
        Bar(
            round(number * step + step * 0.16, 3),
            round(step * 0.68, 3),
            tuple(_segments(point, ground, scale)),
            round(number * step, 3),
            _title(point, unit, series),
            point.is_running,
        )
        for number, point in enumerate(points)
    ]
    return Chart(
        name,
        title,
        _description(unit, points, adds_up),
        tuple(series),
        has_axis,
        height,
        round(ground, 1),
        round(step, 3),
        tuple(bars),
        _grid(top, ground),
        _axis(points),
    )


@dataclass(frozen=True)
class Interval:
    """A value that lies somewhere in a range."""

    name: str
    words: str
    """The value and its range, as people read them."""
    low: float
    value: float
    high: float
    mark: str = ""
    """A class of the style sheet."""


@dataclass(frozen=True)
class IntervalBar:
    """An interval as it is drawn: positions in percent of the width."""

    name: str
    words: str
    mark: str
    x: float
    end: float
    at: float


@dataclass(frozen=True)
class IntervalChart:
    """Intervals on one scale, one below the other. Their words are the text equivalent."""

    title: str
    about: str
    bars: tuple[IntervalBar, ...]
    zero: float | None
    """Where 0 is, in percent; None if it is not on the scale."""
    axis: tuple[Tick, ...]


_MARGIN = 0.04
"""The part of the width that is free on both sides."""


def intervals(title: str, about: str, found: Sequence[Interval], unit: str, *, has_zero: bool) -> IntervalChart:
    """A chart of these intervals. `has_zero`: the scale includes 0."""
    ends = [each for one in found for each in (one.low, one.high)] + ([0.0] if has_zero else [])
    low, high = min(ends), max(ends)
    span = (high - low) or abs(high) or 1.0
    low, span = (low + high - span) / 2 - span * _MARGIN, span * (1 + 2 * _MARGIN)

    def at(value: float) -> float:
        return round(100 * (value - low) / span, 2)

    bars = [IntervalBar(one.name, one.words, one.mark, at(one.low), at(one.high), at(one.value)) for one in found]
    step = _step(span / (_LABELS - 1))
    marks = [number * step for number in range(math.ceil(low / step), math.floor((low + span) / step) + 1)]
    ticks = [
        Tick(at(mark), f"{formatting.decimal(mark)}{unit}", spare=place % 2 == 1) for place, mark in enumerate(marks)
    ]
    return IntervalChart(title, about, tuple(bars), at(0) if has_zero else None, tuple(ticks))


def _step(least: float) -> float:
    """The next number at which a scale may have its marks: 1, 2 or 5 times a power of ten."""
    size: float = 10.0 ** math.floor(math.log10(least))
    return next(size * factor for factor in (1, 2, 5, 10) if size * factor >= least)


def _segments(point: Point, ground: float, scale: float) -> list[Segment]:
    """What of a value is seen: at least a line."""
    found = []
    y = ground
    for number, value in enumerate(point.above, 1):
        if value:
            tall = max(value * scale, 1.5)
            y -= tall
            found.append(Segment(round(y, 1), round(tall, 1), number))
    y = ground
    for number, value in enumerate(point.below, len(point.above) + 1):
        if value:
            tall = max(value * scale, 1.5)
            found.append(Segment(round(y, 1), round(tall, 1), number))
            y += tall
    return found


def _title(point: Point, unit: str, series: Sequence[str]) -> str:
    parts = [f"{value:,} {name}" for value, name in zip((*point.above, *point.below), series, strict=False) if value]
    return ", ".join([f"{formatting.day(point.start)}: {sum(point.above):,} {unit}", *parts])


def _description(unit: str, points: Sequence[Point], adds_up: bool) -> str:
    if not points or not any(any((*point.above, *point.below)) for point in points):
        return f"No {unit} in this period."
    most = max(points, key=lambda point: sum(point.above))
    period = f"from {formatting.day(points[0].start)} to {formatting.day(points[-1].start)}"
    whole = f"{sum(sum(point.above) for point in points):,} {unit} {period}" if adds_up else f"{unit} {period}"
    text = f"{whole}; the most, {sum(most.above):,}, on {formatting.day(most.start)}."
    return text[:1].upper() + text[1:]


def _round_up(value: int) -> int:
    """The next number at which a scale may end: an even one."""
    if value <= 4:
        return 4
    size = 10 ** int(math.log10(value))
    return next(
        int(step * size)
        for step in (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10)
        if int(step * size) >= value and int(step * size) % 2 == 0
    )


def _grid(top: int, ground: float) -> tuple[Tick, ...]:
    values = (top, top // 2) if ground >= 90 else (top,)
    return tuple(Tick(round(ground - ground * value / top, 1), formatting.short(value)) for value in values)


def _axis(points: Sequence[Point]) -> tuple[Tick, ...]:
    """Some of the days, evenly spread, below the middle of their bars."""
    if not points:
        return ()
    last = len(points) - 1
    chosen = sorted({round(last * number / (_LABELS - 1)) for number in range(_LABELS)})
    years = len({point.start.year for point in points}) > 1
    ticks = []
    for place, number in enumerate(chosen):
        first, end = place == 0, number == last and last > 0
        start = points[number].start
        label = formatting.day(start) if years and (first or end) else formatting.short_day(start)
        at = 0.0 if first else 100.0 if end else round((number + 0.5) * 100 / len(points), 2)
        ticks.append(Tick(at, label, "start" if first else "end" if end else "middle", place % 2 == 1))
    return tuple(ticks)
