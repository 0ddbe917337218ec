"""Generates a realistic past of any size, with known facts for the questions to find."""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from usage_instrument.database.tables import Tables
from usage_instrument.experiments import assign

from . import trail
from .traffic import Person, people

DAYS = 240
"""The length of the past."""
_SLICE = 5_000  # rows an INSERT


class Habit(NamedTuple):
    """The use of a feature."""

    share: float
    """The share of people that use it."""
    days: float
    """The average number of days on which each of them uses it."""
    uses: float
    """The average number of uses on such a day."""
    description: str


HABITS = {
    "calendar_sign_in": Habit(0.97, 9, 1.2, "Sign in with a password"),
    "calendar_browse": Habit(0.93, 8, 4.0, "Look through the month"),
    "calendar_open_event": Habit(0.84, 6, 3.0, "Open one event"),
    "calendar_search": Habit(0.55, 4, 2.0, "Search events by title and place"),
    "calendar_follow_event": Habit(0.38, 3, 1.5, "Follow an event's changes"),
    "calendar_share_event": Habit(0.22, 2, 1.2, "Send an event to somebody"),
    "calendar_new_event": Habit(0.40, 4, 1.5, "Create an event; its dialog comes in two variants"),
    "calendar_invite_guests": Habit(0.18, 3, 2.0, "Invite guests by mail"),
    "calendar_set_reminder": Habit(0.16, 3, 1.2, "Be reminded of an event"),
    "calendar_snooze_reminder": Habit(0.70, 3, 1.5, "Be reminded once more"),
    "calendar_export": Habit(0.12, 2, 1.1, "Export to a file"),
    "calendar_week_numbers": Habit(0.05, 1, 1.0, "Show the weeks' numbers"),
    "calendar_dark_mode": Habit(0.30, 1, 1.0, "Switch the colours"),
    "calendar_upload_picture": Habit(0.09, 1, 1.1, "Give an event a picture"),
    "calendar_sync_phone": Habit(0.27, 5, 2.0, "Synchronise with a phone"),
    "calendar_time_zones": Habit(0.04, 1, 1.3, "Show a second time zone"),
    "calendar_fax_invitation": Habit(0.06, 1, 1.0, "Invite guests by fax"),
    "calendar_classic_view": Habit(0.08, 2, 1.5, "The month as it looked before"),
    "calendar_print_month": Habit(0.0, 0, 0.0, "Print the month on one page"),
}
# Known in advance, so that an answer can be checked.
SPIKE, DEAD, RETIRED, NEVER = (
    "calendar_export",
    "calendar_fax_invitation",
    "calendar_classic_view",
    "calendar_print_month",
)
VARIED, RELATED = "calendar_new_event", ("calendar_set_reminder", "calendar_snooze_reminder")
EXPORTED, DIMENSION, _FORMATS = "calendar_export", "format", {"ics": 6, "csv": 3, "pdf": 1}
FELL, SILENT = "calendar_sign_in", "calendar_time_zones"
GOAL, WON, CHECK = "calendar_invite_guests", "invite_dialog", "invite_check"
_WON_ARMS, _CHECK_ARMS = ("form", "suggestions"), ("one", "two")
_WINNERS = 0.68
"""The share of those who reach the goal that the winner gets."""
_EXPOSED = 20_000
"""People in an experiment, at most."""
_SPIKE_DAYS_AGO, _FELL_DAYS_AGO, _RUSH_DAYS_AGO = 2, 3, 4
_SILENT_FOR, _DEAD_FOR, _RETIRED_FOR = 9, 150, 60
_SCRIPT = 2
"""The place of the person whose uses are a script's on one day."""
_BUSY = 12
"""Uses of one person on a day, at most; and one of each further feature. So no other person's day stands out."""


@dataclass(frozen=True)
class Truths:
    """The known facts of a past."""

    spike: tuple[str, dt.date]
    """A feature, and the day with far more uses than usual."""
    power_user: UUID
    """The user with the most uses."""
    rush: tuple[UUID, dt.date]
    """A user, and the day with far more uses than this user's usual ones."""
    fell: tuple[str, dt.date]
    """A feature, and the day on which almost nobody used it."""
    trail: tuple[trail.Known, ...]
    """What stands out in the audit trail."""
    silent: str = SILENT
    """Declared and used regularly until last week."""
    dead: str = DEAD
    """Declared, and unused for months."""
    retired: str = RETIRED
    """No longer declared, and unused since."""
    never: str = NEVER
    """Declared and never used."""
    variant: tuple[str, str, str] = (VARIED, "variant", "B")
    """A feature, the key in its metadata, and the value of the users who use it twice as often."""
    related: tuple[str, str] = RELATED
    """The users of the second feature use the first."""
    experiment: tuple[str, str, str] = (WON, GOAL, _WON_ARMS[1])
    """An experiment, its goal, and the variant that leads more users to it."""
    dimension: tuple[str, str, str] = (EXPORTED, DIMENSION, next(iter(_FORMATS)))
    """A feature, its dimension, and the most frequent value."""
    check: str = CHECK
    """An experiment with two equal variants, an A/A test."""


def fill(
    engine: sa.Engine,
    tables: Tables,
    rows: int,
    seed: int = 7,
    users: sa.Table | None = None,
    progress: Callable[[int], object] = lambda rows: None,
) -> Truths:
    """Write rows of `feature_usage`, their history, dimensions, exposures, an audit trail and the catalogue into empty
    tables, and the people into `users`."""
    dice = random.Random(seed)
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    persons = people(rows // 4 + 8, dice)  # some of them without uses
    with engine.begin() as connection:
        connection.execute(tables.catalog.insert(), list(_catalog(now)))
        if users is not None:
            for part in _parts((person.row for person in persons), _SLICE):
                connection.execute(users.insert(), part)
        written, reached, formats = 0, _Reached(now), random.Random(seed)
        for part in _parts(_uses(persons, rows, now, dice), _SLICE):
            connection.execute(tables.usage.insert(), [usage for usage, _ in part])
            days = [day for _, days in part for day in days]
            reached.note(part)
            for slice_ in _parts(iter(days), _SLICE):
                connection.execute(tables.history.insert(), slice_)
            for slice_ in _parts(_by_format(days, formats), _SLICE):
                connection.execute(tables.dimensions.insert(), slice_)
            written += len(part)
            progress(written)
        for part in _parts(reached.exposures(random.Random(seed)), _SLICE):
            connection.execute(tables.exposures.insert(), part)
        staff = [person.id for person in persons[-trail.STAFF :]]
        stands_out = trail.fill(connection, tables, staff, now.date(), random.Random(seed))
    spike, fell, rush = (
        now.date() - dt.timedelta(days=ago) for ago in (_SPIKE_DAYS_AGO, _FELL_DAYS_AGO, _RUSH_DAYS_AGO)
    )
    return Truths(
        spike=(SPIKE, spike),
        power_user=persons[0].id,
        rush=(persons[_SCRIPT - 1].id, rush),
        fell=(FELL, fell),
        trail=stands_out,
    )


def _catalog(now: dt.datetime) -> Iterator[dict[str, Any]]:
    for feature, habit in HABITS.items():
        last = now - dt.timedelta(days=_RETIRED_FOR if feature == RETIRED else 0)
        yield {
            "service": "",
            "feature_name": feature,
            "description": habit.description,
            "source": f"calendar.views:{feature.removeprefix('calendar_')}",
            "declared_at": now - dt.timedelta(days=DAYS),
            "last_declared_at": last,
        }


def _uses(
    persons: list[Person], rows: int, now: dt.datetime, dice: random.Random
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Rows of `feature_usage` with their days, those of the most active user first."""
    made = 0
    for number, person in enumerate([persons[0], None, *persons[1:]]):
        heavy, is_script = number < 2, number == _SCRIPT
        variant = "B" if heavy else dice.choice("AB")
        since = DAYS - 1 if heavy else dice.randrange(20, DAYS)
        used: set[str] = set()
        busy: Counter[int] = Counter()
        for feature, habit in HABITS.items():
            share = habit.share if feature != RELATED[1] else habit.share * (RELATED[0] in used)
            if not habit.days or not (heavy or is_script or dice.random() < share):
                continue
            if made == rows:
                return
            made += 1
            used.add(feature)
            counts = _days(feature, habit, since, dice, heavy=heavy)
            if feature == VARIED and variant == "B":
                counts = {day: uses * 2 for day, uses in counts.items()}
            if not heavy:
                counts = {day: min(uses, max(_BUSY - busy[day], 1)) for day, uses in counts.items()}
                busy.update(counts)
            if is_script and feature not in (DEAD, RETIRED, SILENT):
                counts[_RUSH_DAYS_AGO] = counts.get(_RUSH_DAYS_AGO, 0) + 4
            yield _row(person, feature, counts, {"variant": variant} if feature == VARIED else None, now, dice)


def _days(feature: str, habit: Habit, since: int, dice: random.Random, *, heavy: bool) -> dict[int, int]:
    """Uses by their age in days."""
    last = {DEAD: _DEAD_FOR, RETIRED: _RETIRED_FOR + 5, SILENT: _SILENT_FOR}.get(feature, 0)
    first = max(since, last + 20)
    usual = habit.days * 2 * first / DAYS  # the longer they are here, the more days
    number = min(1 + int(dice.expovariate(1 / usual)), first - last)
    counts = {day: 1 + int(dice.expovariate(1 / habit.uses)) for day in dice.sample(range(last, first), number)}
    if heavy:
        counts = {day: 2 + dice.randrange(6) for day in range(last, first) if dice.random() < 0.7}
    if feature == SPIKE and dice.random() < 0.6:
        counts[_SPIKE_DAYS_AGO] = counts.get(_SPIKE_DAYS_AGO, 0) + 5
    if feature == FELL and len(counts) > 1:
        counts.pop(_FELL_DAYS_AGO, None)
    return counts


def _row(
    person: Person | None,
    feature: str,
    counts: dict[int, int],
    metadata: dict[str, str] | None,
    now: dt.datetime,
    dice: random.Random,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    key = {"user_id": None if person is None else person.id, "feature_name": feature}
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    latest = today - dt.timedelta(days=min(counts)) + dt.timedelta(seconds=dice.randrange(86_400))
    usage = {**key, "metadata": metadata, "usage_count": sum(counts.values()), "last_used": min(latest, now)}
    history = [
        {**key, "bucket_start": today - dt.timedelta(days=day), "usage_count": uses} for day, uses in counts.items()
    ]
    return usage, history


def _by_format(days: list[dict[str, Any]], dice: random.Random) -> Iterator[dict[str, Any]]:
    """The exports of each day by their format; people stay with one for a day."""
    for day in days:
        if day["feature_name"] == EXPORTED:
            (value,) = dice.choices(list(_FORMATS), list(_FORMATS.values()))
            yield {**day, "dimension": DIMENSION, "dimension_value": value}


class _Reached:
    """The people, each with the ages in days of their uses of the goal."""

    def __init__(self, now: dt.datetime) -> None:
        self._now = now
        self._ages: dict[UUID, list[int]] = {}

    def note(self, rows: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> None:
        for usage, days in rows:
            user = usage["user_id"]
            if user is None or (user not in self._ages and len(self._ages) >= _EXPOSED):
                continue
            ages = self._ages.setdefault(user, [])
            if usage["feature_name"] == GOAL:
                ages += [(self._now.date() - day["bucket_start"].date()).days for day in days]

    def exposures(self, dice: random.Random) -> Iterator[dict[str, Any]]:
        """An exposure to a variant of each experiment for each of them. The winner has more who reach the goal later,
        and as many people; the other experiment's variants are those of the hash."""
        begun = {user: dice.randrange(30, 90) for user in self._ages}
        reached = {user: any(age < begun[user] for age in ages) for user, ages in self._ages.items()}
        share = sum(reached.values()) / max(len(reached), 1)
        others = (0.5 - share * _WINNERS) / (1 - share) if share < 0.5 else 0.5
        for user, is_reached in reached.items():
            won = _WON_ARMS[dice.random() < (_WINNERS if is_reached else others)]
            first = self._now - dt.timedelta(days=begun[user], seconds=dice.randrange(3_600))
            last = self._now - dt.timedelta(seconds=dice.randrange(60, 86_400))
            for name, variant in ((WON, won), (CHECK, assign(CHECK, str(user), _CHECK_ARMS))):
                yield {
                    "experiment": name,
                    "unit": str(user),
                    "user_id": user,
                    "variant": variant,
                    "first_exposed_at": first,
                    "last_exposed_at": last,
                    "exposures": 1 + dice.randrange(20),
                }


def _parts(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    part: list[Any] = []
    for item in items:
        part.append(item)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
