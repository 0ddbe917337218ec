"""What stands out in the trail: bursts of denials, first accesses, accesses out of hours, attempts without an outcome.

Each finding is of one person and one day. The person is the actor, else the user; all unknown and erased ones are one.
The trail has exact times, so any time zone is exact. Counting and statistics are done here: few rows are left after the
conditions, and a median by weekday and person needs no SQL of three databases.
"""

from __future__ import annotations

import datetime as dt
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

from sqlalchemy import Connection, and_, func, select

from usage_instrument.errors import ConfigurationError
from usage_instrument.typing import UserId

from .query import accesses

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

Kind: TypeAlias = Literal["denials", "first access", "out of hours", "no outcome"]
KINDS: tuple[Kind, ...] = get_args(Kind)

WEEKS = 8
"""Earlier days of the same weekday with which the denials of a day are compared."""
FEWEST_WEEKS = 4
"""Earlier days of the same weekday that the trail needs for a comparison."""
LEAST_DENIALS = 10
"""The least denials of a burst."""
LEAST_ACCESSES = 3
"""The least accesses of a person out of hours on a day."""
RARELY = 0.1
"""The share of the days with an access, in the four weeks before, below which a person is rarely there out of hours."""
ESTABLISHED = dt.timedelta(days=28)
"""A first access stands out if both the person and the feature are in the trail for so long."""
RUNNING = dt.timedelta(hours=1)
"""An attempt without an outcome may still be running for so long."""
_EARLIEST = dt.date(1970, 1, 1)
"""No access is older, and the weeks before it are still days of the calendar."""
_DAY = dt.timedelta(days=1)
_Days: TypeAlias = "Counter[tuple[UserId, dt.date]]"


class Anomaly(NamedTuple):
    """One finding."""

    what: Kind
    day: dt.date
    """In the time zone of the question."""
    user_id: UserId
    feature_name: str | None
    """None: of all features together."""
    accesses: int
    usual: float | None
    """The same number on a usual day; None where nothing is usual."""
    score: float | None
    """How many times the usual deviation it is away; None for a finding without statistics."""


class Search(NamedTuple):
    """The days to search, and what is out of hours there."""

    first: dt.date
    after: dt.date
    """The day after the last one."""
    tz: dt.tzinfo = dt.UTC
    from_hour: int = 7
    """Before this hour it is out of hours; so it is on Saturdays and Sundays."""
    to_hour: int = 19
    """From this hour on it is out of hours."""
    threshold: float = 5.0
    """The least score of a burst."""


def office_hours(text: str) -> tuple[int, int]:
    """The first and the last hour of a text such as `7-19`. Raises ConfigurationError."""
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and int(first) < int(last) <= 24):
        raise ConfigurationError(
            f"hours is the first and the last full hour of a working day, such as 7-19, not {text!r}"
        )
    return int(first), int(last)


def anomalies(connection: Connection, tables: Tables, search: Search) -> list[Anomaly]:
    """All findings, kind by kind, the highest score and the last day first."""
    search = search._replace(first=max(search.first, _EARLIEST))
    finders: tuple[Callable[[Connection, Tables, Search], Iterator[Anomaly]], ...] = (
        denials, first_accesses, out_of_hours, without_outcome,
    )  # fmt: skip
    found: list[Anomaly] = []
    for find in finders:
        its = find(connection, tables, search)
        found += sorted(its, key=lambda one: (-(one.score or 0), -one.day.toordinal(), str(one.user_id)))
    return found


def denials(connection: Connection, tables: Tables, search: Search) -> Iterator[Anomaly]:
    """Days on which a person was denied far more often than on the same weekday of the 8 weeks before.

    The score is (denials - median) / the largest of 1.4826 x the median absolute deviation, a tenth of the median, and
    1. So neither a weekly rhythm nor growth is a burst.
    """
    access = tables.access
    began = connection.scalar(select(func.min(access.c.occurred_at, type_=access.c.occurred_at.type)))
    if began is None:
        return
    first_day = _local(began, search.tz).date() + _DAY  # the trail may have begun in the midst of its first day
    counted = _by_day(connection, tables, search, 7 * WEEKS, access.c.outcome == "denied")
    for (person, day), number in counted.items():
        earlier = [day - 7 * weeks * _DAY for weeks in range(1, WEEKS + 1)]
        past = [counted[person, other] for other in earlier if other >= first_day]
        if day < search.first or number < LEAST_DENIALS or len(past) < FEWEST_WEEKS:
            continue
        usual = float(statistics.median(past))
        spread = statistics.median(abs(value - usual) for value in past)
        score = (number - usual) / max(1.4826 * spread, usual / 10, 1.0)
        if score >= search.threshold:
            yield Anomaly("denials", day, person, None, number, usual, score)


def first_accesses(connection: Connection, tables: Tables, search: Search) -> Iterator[Anomaly]:
    """The first success ever of a person at a feature, where both are in the trail for four weeks: so a new colleague
    and a new feature are no findings."""
    access = tables.access
    person, feature, time = (
        func.coalesce(access.c.actor_id, access.c.user_id),
        access.c.feature_name,
        access.c.occurred_at,
    )
    first = func.min(time, type_=time.type)
    pairs = select(person.label("person"), feature, first.label("first")).where(access.c.outcome == "success")
    pair = pairs.where(person.is_not(None)).group_by(person, feature).subquery("pairs")
    people, features = (
        select(key.label("key"), first.label("first")).group_by(key).subquery(name)
        for key, name in ((person, "people"), (feature, "features"))
    )
    start, end = _utc(search.first, search.tz), _utc(search.after, search.tz)
    found = (
        select(pair.c.person, pair.c.feature_name, pair.c.first, people.c.first, features.c.first)
        .join_from(pair, people, people.c.key == pair.c.person)
        .join(features, features.c.key == pair.c.feature_name)
        .where(pair.c.first >= start, pair.c.first < end)
    )
    for who, name, when, since, known in connection.execute(found):
        if max(since, known) <= when - ESTABLISHED:
            yield Anomaly("first access", _local(when, search.tz).date(), who, name, 1, None, None)


def out_of_hours(connection: Connection, tables: Tables, search: Search) -> Iterator[Anomaly]:
    """Days on which a person was there out of hours, and rarely was in the four weeks before."""

    def is_out(moment: dt.datetime) -> bool:
        return moment.weekday() >= 5 or not search.from_hour <= moment.hour < search.to_hour

    access = tables.access
    is_known = and_(access.c.outcome != "attempted", func.coalesce(access.c.actor_id, access.c.user_id).is_not(None))
    there: _Days = Counter()
    out: _Days = Counter()
    for person, moment in _moments(connection, tables, search, ESTABLISHED.days, is_known):
        there[person, moment.date()] += 1
        out[person, moment.date()] += is_out(moment)
    past: dict[UserId, Counter[str]] = defaultdict(Counter)
    for (person, day), number in out.items():
        if day < search.first:
            past[person] += Counter(days=1, out=number > 0)
    for (person, day), number in out.items():
        days, usual = past[person]["days"], past[person]["out"]
        if day >= search.first and number >= LEAST_ACCESSES and usual <= RARELY * days:
            yield Anomaly("out of hours", day, person, None, number, usual / days if days else None, None)


def without_outcome(connection: Connection, tables: Tables, search: Search) -> Iterator[Anomaly]:
    """Attempts that were cut short: a process was killed, or lost the database, between an attempt and its outcome."""
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    until = min(_utc(search.after, search.tz), now - RUNNING)
    query = accesses(tables, since=_utc(search.first, search.tz), until=until, unresolved=True, limit=None)
    found: Counter[tuple[dt.date, UserId, str]] = Counter()
    for row in connection.execute(query):
        person = row.user_id if row.actor_id is None else row.actor_id
        found[_local(row.occurred_at, search.tz).date(), person, row.feature_name] += 1
    for (day, person, feature), number in found.items():
        yield Anomaly("no outcome", day, person, feature, number, None, None)


def _by_day(connection: Connection, tables: Tables, search: Search, before: int, which: Any) -> _Days:
    """The number of accesses by person and local day, from so many days before the search on."""
    return Counter((person, moment.date()) for person, moment in _moments(connection, tables, search, before, which))


def _moments(
    connection: Connection, tables: Tables, search: Search, before: int, which: Any
) -> Iterator[tuple[UserId, dt.datetime]]:
    """Each access: its person and its local time."""
    access = tables.access
    start, end = _utc(search.first - before * _DAY, search.tz), _utc(search.after, search.tz)
    query = select(access.c.actor_id, access.c.user_id, access.c.occurred_at)
    query = query.where(access.c.occurred_at >= start, access.c.occurred_at < end, which)
    for actor, user, time in connection.execute(query, execution_options={"yield_per": 2000}):
        yield user if actor is None else actor, _local(time, search.tz)


def _local(moment: dt.datetime, tz: dt.tzinfo) -> dt.datetime:
    return moment.replace(tzinfo=dt.UTC).astimezone(tz)


def _utc(day: dt.date, tz: dt.tzinfo) -> dt.datetime:
    """The start of a local day, in UTC and naive as the column."""
    return dt.datetime.combine(day, dt.time(), tz).astimezone(dt.UTC).replace(tzinfo=None)
