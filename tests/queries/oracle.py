"""The answers, worked out in plain Python from lists of rows: what every database has to say."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

T = TypeVar("T", bound=Hashable)
Moment = dt.timedelta | dt.date | str | None
Answer = list[tuple[Any, ...]]

HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)


class Use(NamedTuple):
    """A row of `feature_usage`."""

    user_id: UUID | None
    feature_name: str | None
    usage_count: int | None
    last_used: dt.datetime
    metadata: dict[str, Any] | None = None


class Bucket(NamedTuple):
    """A row of `feature_usage_history`."""

    user_id: UUID | None
    feature_name: str | None
    usage_count: int | None
    bucket_start: dt.datetime


class Declaration(NamedTuple):
    """A row of `feature_usage_catalog`."""

    service: str
    feature_name: str
    declared_at: dt.datetime
    last_declared_at: dt.datetime
    description: str | None = None


class Exposed(NamedTuple):
    """A row of `feature_usage_exposures`."""

    experiment: str
    unit: str
    variant: str
    user_id: UUID | None
    first_exposed_at: dt.datetime


class Sliced(NamedTuple):
    """A row of `feature_usage_dimensions`."""

    user_id: UUID | None
    feature_name: str
    dimension: str
    dimension_value: str
    bucket_start: dt.datetime
    usage_count: int
    value_count: int = 0
    value_sum: float = 0.0
    value_squares: float = 0.0
    value_minimum: float | None = None
    value_maximum: float | None = None


@dataclass(frozen=True)
class Rows:
    """All that a database holds, and its clock."""

    now: dt.datetime
    usage: list[Use] = field(default_factory=list)
    history: list[Bucket] = field(default_factory=list)
    catalog: list[Declaration] = field(default_factory=list)
    plans: dict[UUID, str | None] | None = None
    """The host's users and their plans; None where the tables know of no users."""
    exposures: list[Exposed] = field(default_factory=list)
    created: dict[UUID, dt.datetime | None] = field(default_factory=dict)
    """When the host's users were created."""
    dimensions: list[Sliced] = field(default_factory=list)
    clock: Callable[[dt.datetime], dt.datetime] = lambda moment: moment
    """The local time of a time in UTC."""

    @property
    def today(self) -> dt.datetime:
        return floor("day", self.now)

    @property
    def seen(self) -> int:
        return len({use.user_id for use in self.usage} - {None})

    @property
    def population(self) -> int:
        return self.seen if self.plans is None else len(self.plans)

    def members(self, rows: Iterable[Any]) -> int:
        """The users of these rows who are still there."""
        return users(row for row in rows if self.plans is None or row.user_id in self.plans)

    def counted(self, since: Moment, until: Moment) -> list[Any]:
        """The rows that hold the uses in between."""
        return self.usage if since is None and until is None else self.within(since, until)

    def used(self, since: Moment, until: Moment) -> list[Any]:
        """The rows that hold the users of each feature in between: until now, those that were last used since then, as
        far as the history reaches back."""
        if since is None or until is not None:
            return self.counted(since, until)
        first = min((row.bucket_start for row in self.within(since, until)), default=dt.datetime.max)
        return [use for use in self.usage if self.clock(use.last_used) >= first]

    def within(self, since: Moment, until: Moment, by: str = "day") -> list[Bucket]:
        """The buckets in between."""
        start, end = bounds(self.now, since, until, by)
        return [row for row in self.history if start <= row.bucket_start < end]

    def local(self, tz: str) -> Rows:
        """The same rows with a local clock and local hours, as a question in this time zone takes them."""
        zone = ZoneInfo(tz)

        def local(moment: dt.datetime) -> dt.datetime:
            return moment.replace(tzinfo=dt.UTC).astimezone(zone).replace(tzinfo=None)

        history = [row._replace(bucket_start=local(row.bucket_start)) for row in self.history]
        created = {user: time and local(time) for user, time in self.created.items()}
        return replace(self, now=local(self.now), history=history, created=created, clock=local)


# ---- the questions


def top_features(rows: Rows, limit: int, since: Moment, until: Moment) -> Answer:
    counted = rows.counted(since, until)
    answer = [(name, uses(row for row in counted if row.feature_name == name)) for name in features(counted)]
    return sorted(answer, key=lambda row: (-row[1], by_name(row[0])))[:limit]


def user_features(rows: Rows, user: UUID | None, since: Moment, until: Moment) -> Answer:
    if until is not None:
        return user_features_of_history(rows, user, since, until)
    found = [use for use in rows.usage if use.user_id == user and is_used_since(rows.now, use.last_used, since)]
    found.sort(key=lambda use: (-use.last_used.timestamp(), by_name(use.feature_name)))
    return [(use.feature_name, use.usage_count, use.last_used, use.metadata) for use in found]


def user_features_of_history(rows: Rows, user: UUID | None, since: Moment, until: Moment) -> Answer:
    mine = [row for row in rows.within(since, until) if row.user_id == user]
    answer = []
    for name in features(mine):
        its = [row for row in mine if row.feature_name == name]
        latest = [use for use in rows.usage if (use.user_id, use.feature_name) == (user, name)]
        is_latest = latest and latest[0].last_used < bounds(rows.now, since, until)[1]
        last = max(row.bucket_start for row in its)
        answer.append((name, uses(its), last, latest[0].metadata if is_latest else None))
    return sorted(answer, key=lambda row: (-row[2].timestamp(), by_name(row[0])))


def adoption(rows: Rows, since: Moment, until: Moment) -> Answer:
    answer = []
    used = rows.used(since, until)
    for name in features(counted := rows.counted(since, until)):
        mine = [row for row in counted if row.feature_name == name]
        members = rows.members(row for row in used if row.feature_name == name)
        if is_shown(mine, since, until):
            answer.append((name, members, uses(mine), share(members, rows.population)))
    return sorted(answer, key=lambda row: (-row[1], -row[2], by_name(row[0])))


def adoption_by_plan(rows: Rows, since: Moment, until: Moment) -> Answer:
    answer, plans = [], rows.plans or {}
    used, counted = (
        [(row.feature_name, plans.get(row.user_id), row) for row in found]
        for found in (rows.used(since, until), rows.counted(since, until))
    )
    for name, plan in {key[:2] for key in counted}:
        mine = [row for *key, row in counted if key == [name, plan]]
        members = rows.members(row for *key, row in used if key == [name, plan])
        size = sum(value == plan for value in plans.values())
        if is_shown(mine, since, until):
            answer.append((name, plan, members, uses(mine), share(members, size)))
    return sorted(answer, key=lambda row: (-row[2], -row[3], by_name(row[0]), by_name(row[1])))


def is_shown(counted: list[Any], since: Moment, until: Moment) -> bool:
    """Where users and uses are from two tables, only with a use: rows without a number have none."""
    return since is None or until is not None or uses(counted) > 0


def unused_features(rows: Rows, since: Moment, until: Moment) -> Answer:
    answer = []
    for name in features(rows.usage) | {declaration.feature_name for declaration in rows.catalog}:
        last = max((use.last_used for use in rows.usage if use.feature_name == name), default=None)
        declared = [declaration for declaration in rows.catalog if declaration.feature_name == name]
        if until is not None:
            start, end = bounds(rows.now, since, until)
            times = [row.bucket_start for row in rows.history if row.feature_name == name] + ([last] if last else [])
            if not any(declaration.declared_at < end for declaration in declared) and not any(
                time < start for time in times
            ):
                continue
            if any(start <= time < end for time in times):
                continue
        elif last is not None and (since is None or is_used_since(rows.now, last, since)):
            continue
        if declared and all(is_deserted(rows, declaration) for declaration in declared):
            status = "retired"
        elif last is None:
            status = "never"
        else:
            status = "dormant" if declared else "undeclared"
        since_when = min((declaration.declared_at for declaration in declared), default=None)
        text = max((declaration.description or "" for declaration in declared), default="") or None
        total = uses(use for use in rows.usage if use.feature_name == name)
        answer.append((name, status, total, last, since_when, text))
    return sorted(answer, key=lambda row: (row[3] is not None, row[3] or dt.datetime.min, by_name(row[0])))


def is_deserted(rows: Rows, mine: Declaration) -> bool:
    alive = max(other.last_declared_at for other in rows.catalog if other.service == mine.service)
    return alive > mine.last_declared_at + 30 * DAY


def power_users(rows: Rows, feature: str | None, limit: int, since: Moment, until: Moment) -> Answer:
    counted = of_feature(rows.counted(since, until), feature)
    everything = uses(counted)
    answer = []
    for user in {row.user_id for row in counted} - {None}:
        mine = [row for row in counted if row.user_id == user]
        last = max(use.last_used for use in of_feature(rows.usage, feature) if use.user_id == user)
        answer.append((user, uses(mine), share(uses(mine), everything), len(features(mine) - {None}), last))
    return sorted(answer, key=lambda row: (-row[1], row[0]))[:limit]


def trend(rows: Rows, feature: str | None, by: str, since: Moment, until: Moment) -> Answer:
    counted = of_feature(rows.within(since, until, by), feature)
    start, end = bounds(rows.now, since, until, by)
    if since is None:
        if not counted:
            return []
        start = floor(by, min(row.bucket_start for row in counted))
    answer, last = [], floor(by, rows.now)
    while start <= rows.now and start < end:
        mine = [row for row in counted if floor(by, row.bucket_start) == start]
        answer.append((start, uses(mine), users(mine), uses(row for row in mine if row.user_id is None), start == last))
        start = following(by, start)
    return answer


def rhythm(rows: Rows, feature: str | None, since: Moment, until: Moment) -> Answer:
    counted = of_feature(rows.within(since, until), feature)
    answer = []
    for weekday, hour in itertools.product(range(1, 8), range(24)) if counted else ():
        mine = [row for row in counted if (row.bucket_start.isoweekday(), row.bucket_start.hour) == (weekday, hour)]
        answer.append((weekday, hour, uses(mine), users(mine), share(uses(mine), uses(counted))))
    return answer


def active_users(rows: Rows, feature: str | None, until: Moment) -> Answer:
    end = min(bounds(rows.now, None, until)[1], rows.today + DAY)
    today, history = end - DAY, [row for row in rows.history if row.bucket_start < end]

    def active(days: int) -> set[tuple[UUID, dt.datetime]]:
        start = today - (days - 1) * DAY
        mine = [row for row in of_feature(history, feature) if row.bucket_start >= start and row.user_id]
        return {(row.user_id, floor("day", row.bucket_start)) for row in mine}

    dau, wau, mau = (len({user for user, _ in active(days)}) for days in (1, 7, 28))
    first = min((floor("day", row.bucket_start) for row in history), default=today)
    days = min((today - first) // DAY + 1, 28)
    return [(today.date(), dau, wau, mau, share(len(active(28)), days * mau))]


def spikes(
    rows: Rows, since: Moment, until: Moment, feature: str | None, threshold: float, by: str = "feature_name"
) -> Answer:
    start, end = bounds(rows.now, since, until)
    answer = []
    read = [row for row in of_feature(rows.history, feature) if start - 56 * DAY <= row.bucket_start < end]
    for name in {getattr(row, by) for row in read} - {None}:
        first, daily = by_day(row for row in read if getattr(row, by) == name)
        for day, number in daily.items():
            past = [daily[other] for other in weeks_before(day) if other >= first]
            recent = [daily[other] for other in (day - ago * DAY for ago in range(1, 57)) if daily[other]][:28]
            if not start <= day < end or first > day - 7 * DAY or number < 20:
                continue
            score = deviation(number, past)
            if score >= threshold and recent and deviation(number, recent) >= threshold:
                answer.append((name, day.date(), number, float(statistics.median(past)), score, threshold))
    return sorted(answer, key=lambda row: (-row[4], row[1], row[0]))


def by_day(rows: Iterable[Bucket]) -> tuple[dt.datetime, Counter[dt.datetime]]:
    """The first day, and the uses of each day."""
    daily: Counter[dt.datetime] = Counter()
    for row in rows:
        daily[floor("day", row.bucket_start)] += row.usage_count or 0
    return min(daily), daily


def weeks_before(day: dt.datetime) -> list[dt.datetime]:
    return [day - 7 * number * DAY for number in range(1, 9)]


def deviation(number: int, past: list[int]) -> float:
    """How far a number lies above the median of others."""
    baseline = statistics.median(past)
    spread = statistics.median(abs(value - baseline) for value in past)
    return (number - baseline) / max(spread * 1.4826, baseline * 0.1, 1.0)


def variants(rows: Rows, feature: str, key: str, since: Moment, until: Moment) -> Answer:
    found: list[tuple[str | None, Any]]
    its = [row for row in rows.dimensions if (row.feature_name, row.dimension) == (feature, key)]
    if its:
        start, end = bounds(rows.now, since, until)
        found = [(row.dimension_value, row) for row in its if row.user_id and start <= row.bucket_start < end]
    else:
        latest = {use.user_id: text((use.metadata or {}).get(key)) for use in of_feature(rows.usage, feature)}
        counted = [row for row in of_feature(rows.counted(since, until), feature) if row.user_id is not None]
        found = [(latest.get(row.user_id), row) for row in counted]
    everyone = users(use for _, use in found)
    answer = []
    for variant in {variant for variant, _ in found}:
        mine = [use for other, use in found if other == variant]
        answer.append((variant, users(mine), uses(mine), share(users(mine), everyone)))
    return sorted(answer, key=lambda row: (-row[1], -row[2], by_name(row[0])))


def related_features(rows: Rows, feature: str, limit: int, since: Moment, until: Moment) -> Answer:
    counted = rows.used(since, until)
    its, seen = users_of(counted, feature), users(counted)
    ranked = []
    for name in features(counted) - {feature, None}:
        theirs = users_of(counted, name)
        common = len(its & theirs)
        if common:
            by_chance = len(its) * len(theirs) / seen
            row = (name, common, common / seen, common / len(its), common / by_chance)
            ranked.append((by_chance - common, -common, name, row))
    return [row for *_, row in sorted(ranked)][:limit]


def recommend(rows: Rows, user: UUID, limit: int, since: Moment, until: Moment) -> Answer:
    tastes: dict[UUID, set[str]] = {}
    for use in rows.used(since, until):
        if use.user_id is not None and use.feature_name is not None:
            tastes.setdefault(use.user_id, set()).add(use.feature_name)
    mine = tastes.pop(user, set())
    weights = {other: len(mine & taste) / len(mine | taste) for other, taste in tastes.items() if mine & taste}
    answer = []
    for name in set().union(*(tastes[other] for other in weights)) - mine:
        theirs = [weights[other] for other in weights if name in tastes[other]]
        answer.append((name, sum(theirs) / sum(weights.values()), len(theirs)))
    return sorted(answer, key=lambda row: (-row[1], row[0]))[:limit]


def drops(rows: Rows, since: Moment, until: Moment, feature: str | None, threshold: float) -> Answer:
    start, end = bounds(rows.now, since, until)
    end = min(end, rows.today)
    answer = []
    read = [row for row in of_feature(rows.history, feature) if start - 56 * DAY <= row.bucket_start < end]
    for name in features(read) - {None}:
        first, daily = by_day(row for row in read if row.feature_name == name)
        for day in (start + number * DAY for number in range((end - start).days)):
            past = [daily[other] for other in weeks_before(day) if other >= first]
            if len(past) >= 4 and statistics.median(past) >= 20:
                score = -deviation(daily[day], past)
                if score >= threshold:
                    answer.append((name, day.date(), daily[day], float(statistics.median(past)), score, threshold))
    return sorted(answer, key=lambda row: (-row[4], row[1], row[0]))


def silent(rows: Rows, since: Moment, until: Moment) -> Answer:
    start, end = bounds(rows.now, since, until)
    end = min(end, rows.today + DAY) if until is None else end
    answer = []
    for name in features(rows.catalog):
        declared = [declaration for declaration in rows.catalog if declaration.feature_name == name]
        mine = [row for row in rows.history if row.feature_name == name]
        before = [row for row in mine if start - 28 * DAY <= row.bucket_start < start]
        days = len({row.bucket_start.date() for row in before})
        last = max((use.last_used for use in rows.usage if use.feature_name == name), default=None)
        is_used = any(start <= time < end for time in [*(row.bucket_start for row in mine), *([last] if last else [])])
        if days >= 14 and not is_used and not all(is_deserted(rows, declaration) for declaration in declared):
            answer.append((name, uses(before), days, last))
    return sorted(answer, key=lambda row: (-row[1], row[0]))


# ---- users over time


def started(rows: Rows, feature: str | None, by: str) -> dict[Any, dt.datetime]:
    """The unit of each user's first use."""
    first: dict[Any, dt.datetime] = {}
    for row in of_feature(rows.history, feature):
        if row.user_id is not None:
            first[row.user_id] = min(first.get(row.user_id, row.bucket_start), row.bucket_start)
    return {user: floor(by, start) for user, start in first.items()}


def retention(rows: Rows, feature: str | None, returning: str | None, by: str, since: Moment, until: Moment) -> Answer:
    start, end = bounds(rows.now, since, until, by)
    cohorts = {user: begun for user, begun in started(rows, feature, by).items() if start <= begun < end}
    again = of_feature(rows.history, feature if returning is None else returning)
    answer = []
    for cohort in sorted(set(cohorts.values())):
        members = {user for user, begun in cohorts.items() if begun == cohort}
        unit, number = cohort, 0
        while unit <= rows.now:
            back = {row.user_id for row in again if floor(by, row.bucket_start) == unit} & members
            is_running = unit == floor(by, rows.now)
            answer.append((cohort, number, len(members), len(back), share(len(back), len(members)), is_running))
            unit, number = following(by, unit), number + 1
    return answer


def lifecycle(rows: Rows, feature: str | None, by: str, since: Moment, until: Moment) -> Answer:
    start, end = bounds(rows.now, since, until, by)
    active: dict[dt.datetime, set[Any]] = {}
    for row in of_feature(rows.history, feature):
        if row.user_id is not None and row.bucket_start < end:
            active.setdefault(floor(by, row.bucket_start), set()).add(row.user_id)
    if since is None:
        if not active:
            return []
        start = min(active)
    answer: Answer = []
    while start <= rows.now and start < end:
        here, last = active.get(start, set()), active.get(floor(by, start - DAY), set())
        earlier = {user for unit, their in active.items() if unit < start for user in their}
        kinds = (here - earlier, here & last, (here & earlier) - last, last - here)
        answer.append((start, *map(len, kinds), start == floor(by, rows.now)))
        start = following(by, start)
    return answer


def time_to_adopt(rows: Rows, feature: str, since: Moment, until: Moment, *, by_creation: bool = False) -> Answer:
    days, started = days_to_adopt(rows, feature, since, until, by_creation=by_creation)
    quantiles = [quantile(days, percent) for percent in (25, 50, 75, 90)]
    answer, adopted = [], 0
    for number, count in sorted(Counter(days).items()):
        adopted += count
        answer.append((number, count, adopted, share(adopted, started), started, *quantiles))
    return answer


def days_to_adopt(
    rows: Rows, feature: str, since: Moment, until: Moment, *, by_creation: bool = False
) -> tuple[list[int], int]:
    """The days of each user who adopted, and how many users started."""
    start, end = bounds(rows.now, since, until)
    begins = {user: time for user, time in rows.created.items() if time is not None}
    if not by_creation:
        known = {row.user_id for row in rows.history if row.user_id is not None}
        begins = {user: min(row.bucket_start for row in rows.history if row.user_id == user) for user in known}
    begins = {user: time for user, time in begins.items() if start <= time < end}
    days = []
    for user, begin in begins.items():
        used = [row.bucket_start for row in of_feature(rows.history, feature) if row.user_id == user]
        if used:
            days.append(max((min(used).date() - begin.date()).days, 0))
    return sorted(days), len(begins)


def quantile(days: list[int], percent: int) -> int | None:
    return days[math.ceil(len(days) * percent / 100) - 1] if days else None


def stickiness(rows: Rows, feature: str | None, since: Moment, until: Moment) -> Answer:
    mine = [row for row in of_feature(rows.within(since, until), feature) if row.user_id is not None]
    days = Counter(user for user, _ in {(row.user_id, row.bucket_start.date()) for row in mine})
    return [(number, count, count / len(days)) for number, count in sorted(Counter(days.values()).items())]


def funnel(rows: Rows, features: list[str], within: dt.timedelta, since: Moment, until: Moment) -> Answer:
    answer: Answer = []
    taken: dict[Any, tuple[dt.datetime, dt.datetime]] = {}
    for row in of_feature(rows.within(since, until), features[0]):
        if row.user_id is not None:
            first = min(taken.get(row.user_id, (row.bucket_start,))[0], row.bucket_start)
            taken[row.user_id] = (first, first)
    everyone, last = len(taken), None
    for number, name in enumerate(features, 1):
        unknown = 0
        if number > 1:
            following_: dict[Any, tuple[dt.datetime, dt.datetime]] = {}
            for user, (begun, before) in taken.items():
                theirs = [row.bucket_start for row in of_feature(rows.history, name) if row.user_id == user]
                times = [time for time in theirs if before <= time < begun + within]
                if times:
                    following_[user] = (begun, min(times))
                    unknown += min(times) == before
            taken = following_
        of_last = None if last is None else share(len(taken), last)
        answer.append((number, name, len(taken), share(len(taken), everyone), of_last, unknown))
        last = len(taken)
    return answer


def persons(exposures: list[Exposed], start: dt.datetime) -> dict[Any, tuple[set[str], dt.datetime]]:
    """The variants that each user, or visitor without one, saw in an experiment, and when first."""
    found: dict[Any, tuple[set[str], dt.datetime]] = {}
    for row in exposures:
        of_unit = [other for other in exposures if other.unit == row.unit]
        if row.user_id is None and any(other.user_id is not None for other in of_unit):
            continue
        key = row.unit if row.user_id is None else row.user_id
        saw, first = found.get(key, (set(), row.first_exposed_at))
        found[key] = (saw | {other.variant for other in of_unit}, min(first, row.first_exposed_at))
    return {key: (saw, first) for key, (saw, first) in found.items() if first >= start}


def experiment(rows: Rows, name: str, goal: str, since: Moment, until: Moment) -> Answer:
    start, end = bounds(rows.now, since, until)
    seen = [row for row in rows.exposures if row.experiment == name and row.first_exposed_at < end]
    everybody = persons(seen, start)
    answer: Answer = []
    for variant in sorted({row.variant for row in seen if row.first_exposed_at >= start}):
        mine = {key: first for key, (saw, first) in everybody.items() if saw == {variant}}
        used, unsure = [], []
        for user, first in mine.items():
            theirs = [row for row in of_feature(rows.within(since, until), goal) if row.user_id == user]
            after = uses(row for row in theirs if row.bucket_start >= first)
            same = uses(
                row
                for row in theirs
                if row.bucket_start < first and row.bucket_start in (floor("day", first), floor("hour", first))
            )
            used.append(after + same)
            unsure.append(same)
        answer.append(
            (
                variant,
                len(mine),
                sum(isinstance(key, str) for key in mine),
                sum(number > 0 for number in used),
                sum(number > 0 and number == same for number, same in zip(used, unsure, strict=True)),
                sum(used),
                sum(unsure),
                float(sum(number**2 for number in used)),
                sum(len(saw) > 1 for saw, _ in everybody.values()),
            )
        )
    return answer


def experiments(rows: Rows, since: Moment, until: Moment) -> Answer:
    start, end = bounds(rows.now, since, until)
    answer: Answer = []
    for name in sorted({row.experiment for row in rows.exposures}):
        seen = [row for row in rows.exposures if row.experiment == name and row.first_exposed_at < end]
        everybody = [saw for saw, _ in persons(seen, start).values()]
        shown = [row for row in seen if row.first_exposed_at >= start]
        for variant in sorted({row.variant for row in shown}):
            times = [row.first_exposed_at for row in shown if row.variant == variant]
            units, several = everybody.count({variant}), sum(len(saw) > 1 for saw in everybody)
            answer.append((name, variant, units, several, min(times), max(times) + HOUR))
    return answer


def experiment_of_value(rows: Rows, name: str, goal: str, since: Moment, until: Moment) -> Answer:
    start, end = bounds(rows.now, since, until)
    seen = [row for row in rows.exposures if row.experiment == name and row.first_exposed_at < end]
    everybody = persons(seen, start)
    within = [row for row in rows.dimensions if start <= row.bucket_start < end]
    numbers = [row for row in within if (row.feature_name, row.dimension) == (goal, "")]
    answer: Answer = []
    for variant in sorted({row.variant for row in seen if row.first_exposed_at >= start}):
        mine = {key: first for key, (saw, first) in everybody.items() if saw == {variant}}
        after = {
            user: [row for row in numbers if row.user_id == user and row.bucket_start >= first]
            for user, first in mine.items()
        }
        same = {
            user: [row for row in numbers if row.user_id == user and first > row.bucket_start == floor("day", first)]
            for user, first in mine.items()
        }
        sums = [sum(row.value_sum for row in (*after[user], *same[user])) for user in mine]
        used = [sum(row.value_count for row in (*after[user], *same[user])) for user in mine]
        later = [sum(row.value_count for row in after[user]) for user in mine]
        answer.append(
            (
                variant,
                len(mine),
                sum(isinstance(key, str) for key in mine),
                sum(number > 0 for number in used),
                sum(number > 0 and not then for number, then in zip(used, later, strict=True)),
                float(sum(sums)),
                float(sum(row.value_sum for user in mine for row in same[user])),
                float(sum(number**2 for number in sums)),
                sum(len(saw) > 1 for saw, _ in everybody.values()),
            )
        )
    return answer


def dimensions(rows: Rows, feature: str, dimension: str | None, by: str | None, since: Moment, until: Moment) -> Answer:
    start, end = bounds(rows.now, since, until)
    mine = [
        row
        for row in rows.dimensions
        if row.feature_name == feature and dimension in (None, row.dimension) and start <= row.bucket_start < end
    ]
    of_user = by == "user"
    answer: Answer = []
    for name, value, *who in {(*row[2:4], *([row.user_id] if of_user else [])) for row in mine}:
        its = [row for row in mine if row[2:4] == (name, value) and (not of_user or row.user_id == who[0])]
        number = sum(row.value_count for row in its)
        added = sum(row.value_sum for row in its)
        least = [row.value_minimum for row in its if row.value_minimum is not None]
        greatest = [row.value_maximum for row in its if row.value_maximum is not None]
        answer.append(
            (
                *(name, value, *who, users(its), uses(its)),
                share(uses(its), uses(row for row in mine if row.dimension == name)),
                float(added) if number else None,
                added / number if number else None,
                min(least, default=None),
                max(greatest, default=None),
            )
        )
    uses_at = 4 if of_user else 3
    return sorted(answer, key=lambda row: (row[0], -row[uses_at], row[1], *([_user_order(row[2])] if of_user else [])))


def _user_order(user: UUID | None) -> tuple[bool, UUID]:
    return user is None, user or UUID(int=0)


# ---- beside the window before


def before(rows: Rows, since: Moment, until: Moment) -> tuple[dt.datetime, dt.datetime]:
    """The window of the same length before this one; before the last month is the month before that."""
    start, end = bounds(rows.now, since, until)
    if (since, until) == ("last month", "last month"):
        return floor("month", start - DAY), start
    return start - (min(end, rows.today + DAY) - start), start


def compared(now: Answer, then: Answer, keys: int, numbers: list[int]) -> Answer:
    """The rows of both answers by their first values, with the changes of the numbers at these places."""
    ours, theirs = ({row[:keys]: row for row in answer} for answer in (now, then))
    answer = []
    for key in ours.keys() | theirs.keys():
        row = ours.get(key)
        values: list[Any] = [*key]
        for place in range(keys, len((now or then)[0])):
            values.append(row[place] if row else 0 if place in numbers else None)
            if place in numbers:
                values += changes(values[-1], theirs[key][place] if key in theirs else 0)
        answer.append(tuple(values))
    return answer


def changes(now: int, then: int) -> list[Any]:
    return [then, now - then, (now - then) / then if then else None]


def top_features_compared(rows: Rows, limit: int, since: Moment, until: Moment) -> Answer:
    now, then = (top_features(rows, 1000, *side) for side in ((since, until), before(rows, since, until)))
    return sorted(compared(now, then, 1, [1]), key=lambda row: (-row[1], by_name(row[0])))[:limit]


def user_features_compared(rows: Rows, user: UUID | None, since: Moment, until: Moment) -> Answer:
    sides = ((since, until), before(rows, since, until))
    now, then = (user_features_of_history(rows, user, *side) for side in sides)
    last = dt.datetime.min
    return sorted(compared(now, then, 1, [1]), key=lambda row: (last - (row[5] or last), by_name(row[0])))


def adoption_by_plan_compared(rows: Rows, since: Moment, until: Moment) -> Answer:
    now, then = (adoption_by_plan(rows, *side) for side in ((since, until), before(rows, since, until)))
    return sorted(compared(now, then, 2, [2, 3]), key=lambda row: (-row[2], -row[6], by_name(row[0]), by_name(row[1])))


def adoption_compared(rows: Rows, since: Moment, until: Moment) -> Answer:
    now, then = (adoption(rows, *side) for side in ((since, until), before(rows, since, until)))
    return sorted(compared(now, then, 1, [1, 2]), key=lambda row: (-row[1], -row[5], by_name(row[0])))


def variants_compared(rows: Rows, feature: str, key: str, since: Moment, until: Moment) -> Answer:
    now, then = (variants(rows, feature, key, *side) for side in ((since, until), before(rows, since, until)))
    return sorted(compared(now, then, 1, [1, 2]), key=lambda row: (-row[1], -row[5], by_name(row[0])))


def power_users_compared(rows: Rows, feature: str | None, limit: int, since: Moment, until: Moment) -> Answer:
    then = {row[0]: row[1] for row in power_users(rows, feature, 1000, *before(rows, since, until))}
    answer = power_users(rows, feature, limit, since, until)
    return [(*row[:2], *changes(row[1], then.get(row[0], 0)), *row[2:]) for row in answer]


def active_users_compared(rows: Rows, feature: str | None, until: Moment) -> Answer:
    [(day, *now, stickiness)] = active_users(rows, feature, until)
    history = of_feature(rows.history, feature)
    beside: list[Any] = []
    for number, days in zip(now, (1, 7, 28), strict=True):
        after = dt.datetime.combine(day, dt.time()) - (days - 1) * DAY
        beside += [number, *changes(number, users(r for r in history if after - days * DAY <= r.bucket_start < after))]
    return [(day, *beside, stickiness)]


def stickiness_compared(rows: Rows, feature: str | None, since: Moment, until: Moment) -> Answer:
    now, then = (stickiness(rows, feature, *side) for side in ((since, until), before(rows, since, until)))
    return sorted(compared(now, then, 1, [1]))


def rhythm_compared(rows: Rows, feature: str | None, since: Moment, until: Moment) -> Answer:
    now, then = (rhythm(rows, feature, *side) for side in ((since, until), before(rows, since, until)))
    nothing = [(weekday, hour, 0, 0, 0.0) for weekday, hour in itertools.product(range(1, 8), range(24))]
    both = zip(now or nothing, then or nothing, strict=True) if now or then else ()
    return [(*row[:3], *changes(row[2], old[2]), row[3], *changes(row[3], old[3]), row[4]) for row, old in both]


def time_to_adopt_compared(rows: Rows, feature: str, since: Moment, until: Moment) -> Answer:
    days, started = days_to_adopt(rows, feature, since, until)
    then, started_then = days_to_adopt(rows, feature, *before(rows, since, until))
    now, last = quantile(days, 50), quantile(then, 50)
    median = [last, None, None] if now is None or last is None else changes(now, last)
    answer = []
    for number in sorted({*days, *then}):
        adopted, adopted_then = (sum(each <= number for each in side) for side in (days, then))
        counts = [adopted, *changes(adopted, adopted_then), share(adopted, started)]
        counts += [started, *changes(started, started_then), quantile(days, 25), now, *median]
        answer.append((number, days.count(number), *counts, quantile(days, 75), quantile(days, 90)))
    return answer


def lifecycle_compared(rows: Rows, feature: str | None, by: str, since: Moment, until: Moment) -> Answer:
    then = lifecycle(rows, feature, by, *before(rows, since, until))
    answer = []
    for number, row in enumerate(lifecycle(rows, feature, by, since, until)):
        old = then[number] if number < len(then) else (None, 0, 0, 0, 0)
        beside = (value for place in range(1, 5) for value in (row[place], *changes(row[place], old[place])))
        answer.append((row[0], *beside, row[5]))
    return answer


def funnel_compared(rows: Rows, features: list[str], within: dt.timedelta, since: Moment, until: Moment) -> Answer:
    now, then = (funnel(rows, features, within, *side) for side in ((since, until), before(rows, since, until)))
    return sorted(compared(now, then, 2, [2]))


def trend_compared(rows: Rows, feature: str | None, by: str, since: Moment, until: Moment) -> Answer:
    then = trend(rows, feature, by, *before(rows, since, until))
    answer = []
    for number, row in enumerate(trend(rows, feature, by, since, until)):
        old = then[number] if number < len(then) else (None, 0, 0)
        answer.append((*row[:2], *changes(row[1], old[1]), row[2], *changes(row[2], old[2]), *row[3:]))
    return answer


# ---- what they share


def features(rows: Iterable[Any]) -> set[Any]:
    return {row.feature_name for row in rows}


def of_feature(rows: Iterable[Any], feature: str | None) -> list[Any]:
    return [row for row in rows if feature is None or row.feature_name == feature]


def users_of(rows: Iterable[Any], feature: str) -> set[Any]:
    return {row.user_id for row in rows if row.feature_name == feature} - {None}


def users(rows: Iterable[Any]) -> int:
    return len({row.user_id for row in rows} - {None})


def uses(rows: Iterable[Any]) -> int:
    return sum(row.usage_count or 0 for row in rows)


def share(part: float, of: float) -> float:
    return part / of if of else 0.0


def by_name(name: str | None) -> tuple[bool, str]:
    return name is None, name or ""


def text(value: Any) -> str | None:
    """A scalar of the metadata as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value)


def floor(by: str, moment: dt.datetime) -> dt.datetime:
    hour = moment.replace(minute=0, second=0, microsecond=0)
    day = hour.replace(hour=0)
    return {"hour": hour, "day": day, "week": day - day.weekday() * DAY, "month": day.replace(day=1)}[by]


def following(by: str, start: dt.datetime) -> dt.datetime:
    steps = {"hour": HOUR, "day": DAY, "week": 7 * DAY}
    return start + steps[by] if by in steps else (start + 31 * DAY).replace(day=1)


def bounds(now: dt.datetime, since: Moment, until: Moment, by: str = "day") -> tuple[dt.datetime, dt.datetime]:
    """The start of the first unit of a window, and of the one after the last."""
    smaller = HOUR if by == "hour" else DAY
    begin = floor("hour" if by == "hour" else "day", now)
    start, end = dt.datetime.min, dt.datetime.max
    if isinstance(since, dt.timedelta):
        start = floor(by, begin - max(math.ceil(since / smaller) - 1, 0) * smaller)
    elif since is not None:
        start = floor(by, first_and_next(now, since)[0])
    if isinstance(until, dt.timedelta):
        end = following(by, floor(by, begin - math.ceil(until / smaller) * smaller))
    elif until is not None:
        after = first_and_next(now, until)[1]
        end = after if floor(by, after) == after else following(by, floor(by, after))
    return start, end


NAMED = {
    "today": ("day", None),
    "this week": ("week", None),
    "last month": ("month", None),
    "2024-W14": ("week", dt.datetime(2024, 4, 1)),
    "2024-02": ("month", dt.datetime(2024, 2, 1)),
}


def first_and_next(now: dt.datetime, named: Any) -> tuple[dt.datetime, dt.datetime]:
    """The first moment of what is named, and the first one after it."""
    if isinstance(named, str):
        unit, known = NAMED[named]
        start = known or floor(unit, now)
        if named.startswith("last"):
            start = floor(unit, start - DAY)
        return start, following(unit, start)
    if isinstance(named, dt.datetime):
        return named, named
    day = dt.datetime.combine(named, dt.time())
    return day, day + DAY


def is_used_since(now: dt.datetime, last_used: dt.datetime, since: Moment) -> bool:
    if since is None or isinstance(since, dt.timedelta):
        return since is None or last_used >= now - since
    return last_used >= first_and_next(now, since)[0]
