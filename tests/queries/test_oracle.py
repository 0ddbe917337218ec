"""Every question gets the same answer from every database as from plain Python, whatever the rows.

$USAGE_TEST_EXAMPLES is the number of databases that each is asked about: few by default, many in `scripts/faults`.
"""

from __future__ import annotations

import datetime as dt
import itertools
import os
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from queries import oracle
from queries.filled import FEATURES, KEYS, USERS, Filled, agree
from queries.oracle import DAY, HOUR, Bucket, Declaration, Exposed, Rows, Sliced, Use
from usage_instrument import queries
from usage_instrument.schema import define_tables

MINUTE = HOUR / 60
STRANGER = UUID(int=2**65)

users = st.none() | st.sampled_from(USERS)
features = st.none() | st.sampled_from(FEATURES)
counts = st.none() | st.integers(1, 9) | st.just(2**31 - 1)
values = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["a", "B", 'it\'s "ü"', "1.5", ""]) | st.just(1.5)
)
metadata = st.none() | st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, values))
SPANS = [0 * DAY, HOUR, DAY, 2 * DAY, 7 * DAY, 30 * DAY, 100 * DAY]
limits = st.integers(1, 4)


EXPERIMENTS, VARIANTS = ["colour", "Colour", 'it\'s "ü" 100% :b'], ["blue", "red", "Red", "größe"]


@st.composite
def exposures(draw: st.DrawFn, now: dt.datetime) -> list[Exposed]:
    """Users as their own units and as those of a visitor, visitors without a user, and some who saw several variants,
    at, before and after the start of a day and an hour."""
    found: dict[tuple[str, str, str], Exposed] = {}
    today, days = oracle.floor("day", now), st.integers(0, 3) | st.integers(0, 120)
    for _ in range(draw(st.sampled_from([0, 12]))):
        experiment, variant = draw(st.sampled_from(EXPERIMENTS[:2] * 3 + EXPERIMENTS)), draw(st.sampled_from(VARIANTS))
        user = draw(st.none() | st.sampled_from(USERS))
        unit = draw(st.sampled_from(["visitor 1", "visitor 2", "Visitor 1", *([str(user)] * 6 if user else [])]))
        past = draw(st.sampled_from([0 * HOUR, HOUR / 2, 5 * HOUR, 5 * HOUR + MINUTE, 23 * HOUR + 59 * MINUTE]))
        first = min(today - draw(days) * DAY + past, now - MINUTE)
        found[experiment, unit, variant] = Exposed(experiment, unit, variant, user, first)
    return list(found.values())


@st.composite
def dimensions(draw: st.DrawFn, now: dt.datetime) -> list[Sliced]:
    """Numbers and values of dimensions, of users, the anonymous one and those who are gone."""
    found: dict[tuple[Any, ...], Sliced] = {}
    today, days = oracle.floor("day", now), st.integers(0, 3) | st.integers(0, 120)
    values = st.sampled_from([("", "")] * 3 + [("format", "csv"), ("format", "Csv"), ("größe", "it's"), ("größe", "")])
    for _ in range(draw(st.sampled_from([0, 20]))):
        key = (draw(users), draw(st.sampled_from(FEATURES)), *draw(values), today - draw(days) * DAY)
        numbers = draw(st.lists(st.sampled_from([-2.5, 0.0, 1.0, 3.25, 1e6]), max_size=3))
        bounds = (min(numbers, default=None), max(numbers, default=None))
        squares = sum(number**2 for number in numbers)
        uses = draw(st.integers(1, 9)) + len(numbers)
        found[key] = Sliced(*key, uses, len(numbers), sum(numbers), squares, *bounds)
    return list(found.values())


@st.composite
def pasts(draw: st.DrawFn) -> Rows:
    """Rows at a safe distance from where a period of whole hours or days begins."""
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    today = oracle.floor("day", now)
    keys = draw(st.lists(st.tuples(users, features), unique=True, min_size=draw(st.sampled_from([0, 8])), max_size=16))
    days = st.integers(0, 3) | st.integers(0, 120)
    usage = [
        Use(
            user,
            feature,
            draw(counts),
            now - draw(days) * DAY - draw(st.sampled_from([20, 40, 80])) * MINUTE,
            draw(metadata),
        )
        for user, feature in keys
    ]
    buckets: dict[tuple[Any, ...], Bucket] = {}
    for key in draw(st.lists(st.sampled_from(keys), max_size=30)) if keys else []:
        ago = draw(days)
        start = today - ago * DAY + (draw(st.sampled_from([0, 0, 5, 23])) if ago else 0) * HOUR
        buckets[*key, start] = Bucket(*key, draw(counts), start)
    # A steady past, in which days stand out.
    for user, feature in keys[: draw(st.integers(0, 2))]:
        usual, high = draw(st.sampled_from([(9, 11), (1, 40)])), draw(st.sampled_from([20, 60, 2**31 - 1]))
        for ago in range(draw(st.integers(5, 45))):
            start = today - ago * DAY
            uses = draw(st.integers(*usual)) if draw(st.integers(0, 4)) or ago > 8 else high
            buckets[user, feature, start] = Bucket(user, feature, uses, start)
    catalog = {}
    for service, feature in draw(
        st.lists(st.tuples(st.sampled_from(["", "web", "worker"]), st.sampled_from(FEATURES)))
    ):
        last = now.replace(microsecond=0) - draw(st.integers(0, 100)) * DAY  # SQLite adds days to milliseconds
        description = draw(st.sampled_from([None, "What it is", "Said otherwise"]))
        catalog[service, feature] = Declaration(service, feature, last - draw(days) * DAY, last, description)
    # Users who are missing are gone, and left rows.
    there = draw(st.just(USERS) | st.lists(st.sampled_from(USERS), unique=True))
    plans = {user: draw(st.sampled_from([None, "free", "pro"])) for user in there}
    created = {user: draw(st.none() | days.map(lambda ago: today - ago * DAY + 9 * MINUTE)) for user in there}
    past = (usage, list(buckets.values()), list(catalog.values()), plans)
    return Rows(now, *past, draw(exposures(now)), created, draw(dimensions(now)))


def windows(now: dt.datetime, *, has_start: bool = False) -> list[tuple[oracle.Moment, oracle.Moment]]:
    """Windows with a day."""
    fixed = [now - 10 * DAY - HOUR / 2, oracle.floor("day", now) - 20 * DAY, (now - 5 * DAY).date(), now.date()]
    moments: list[oracle.Moment] = [*SPANS, *fixed, *oracle.NAMED]
    begins, ends = [*([] if has_start else [None]), *moments], [None, *(each for each in moments if each != 0 * DAY)]

    def has_day(window: tuple[oracle.Moment, oracle.Moment]) -> bool:
        start, after = oracle.bounds(now, *window)
        return start < after

    until_now = itertools.product(begins * 4, ends[:1])
    return [*until_now, *filter(has_day, itertools.product(begins, ends))]


def is_short(now: dt.datetime, begin: oracle.Moment, end: oracle.Moment) -> bool:
    """Whether spikes can be looked for in it."""
    start, after = oracle.bounds(now, begin, end)
    return min(after, oracle.floor("day", now) + DAY) - start <= 28 * DAY


def comparisons(
    filled: Filled, rows: Rows, data: st.DataObject, name: str, key: str
) -> list[tuple[Any, oracle.Answer]]:
    """The questions beside the window before."""
    limit, by = data.draw(limits), data.draw(st.sampled_from(["day", "week", "month"]))
    window = data.draw(st.sampled_from(windows(rows.now, has_start=True)))
    span = {"since": window[0], "until": window[1], "compare": "previous"}
    steps = [name, *data.draw(st.lists(st.sampled_from(FEATURES), min_size=1, max_size=2))]
    q: Any = queries
    return [
        (q.top_features(limit, **span), oracle.top_features_compared(rows, limit, *window)),
        (q.user_features(USERS[0], **span), oracle.user_features_compared(rows, USERS[0], *window)),
        (q.adoption(tables=filled.tables, **span), oracle.adoption_compared(rows, *window)),
        (q.adoption(by=filled.people.c.plan, **span), oracle.adoption_by_plan_compared(rows, *window)),
        (q.power_users(name, limit, **span), oracle.power_users_compared(rows, name, limit, *window)),
        (q.power_users(None, limit, **span), oracle.power_users_compared(rows, None, limit, *window)),
        (q.trend(name, by, **span), oracle.trend_compared(rows, name, by, *window)),
        (
            q.active_users(name, until=window[1], compare="previous"),
            oracle.active_users_compared(rows, name, window[1]),
        ),
        (q.lifecycle(name, by, **span), oracle.lifecycle_compared(rows, name, by, *window)),
        (q.stickiness(name, **span), oracle.stickiness_compared(rows, name, *window)),
        (q.time_to_adopt(name, **span), oracle.time_to_adopt_compared(rows, name, *window)),
        (q.funnel(steps, 7 * DAY, **span), oracle.funnel_compared(rows, steps, 7 * DAY, *window)),
        (q.variants(name, key, **span), oracle.variants_compared(rows, name, key, *window)),
    ]


every = settings(
    max_examples=int(os.environ.get("USAGE_TEST_EXAMPLES", "5")),
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def anomalies(rows: Rows, data: st.DataObject, feature: str | None) -> list[tuple[Any, oracle.Answer]]:
    """The questions for what is not as usual."""
    q, threshold = queries, data.draw(st.sampled_from([0.5, 1.5, 5.0]))
    short = data.draw(st.sampled_from([each for each in windows(rows.now) if is_short(rows.now, *each)]))
    window = data.draw(st.sampled_from(windows(rows.now, has_start=True)))
    found: Any = q.drops(short[0], until=short[1], feature=feature, threshold=threshold)
    return [
        (found, oracle.drops(rows, *short, feature, threshold)),
        (
            q.spikes(short[0], until=short[1], feature=feature, threshold=threshold, by="user"),
            oracle.spikes(rows, *short, feature, threshold, "user_id"),
        ),
        (q.silent(window[0], until=window[1]), oracle.silent(rows, *window)),
    ]


def over_time(filled: Filled, rows: Rows, data: st.DataObject, name: str) -> list[tuple[Any, oracle.Answer]]:
    """The questions that follow users over time."""
    q = queries
    by, window = data.draw(st.sampled_from(["day", "week", "month"])), data.draw(st.sampled_from(windows(rows.now)))
    feature, other = data.draw(st.sampled_from([None, name])), data.draw(st.sampled_from([None, *FEATURES]))
    steps = [name, *data.draw(st.lists(st.sampled_from(FEATURES), min_size=1, max_size=3))]
    within = data.draw(st.sampled_from([HOUR, DAY, 7 * DAY, 60 * DAY]))
    span: Any = {"since": window[0], "until": window[1]}
    return [
        (q.retention(feature, other, by, **span), oracle.retention(rows, feature, other, by, *window)),
        (q.lifecycle(feature, by, **span), oracle.lifecycle(rows, feature, by, *window)),
        (q.stickiness(feature, **span), oracle.stickiness(rows, feature, *window)),
        (q.time_to_adopt(name, **span), oracle.time_to_adopt(rows, name, *window)),
        (
            q.time_to_adopt(name, filled.people.c.created_at, **span),
            oracle.time_to_adopt(rows, name, *window, by_creation=True),
        ),
        (q.funnel(steps, within, **span), oracle.funnel(rows, steps, within, *window)),
    ]


def of_experiments(rows: Rows, data: st.DataObject, goal: str) -> list[tuple[Any, oracle.Answer]]:
    """The figures of experiments."""
    q, window = queries, data.draw(st.sampled_from(windows(rows.now)))
    name = data.draw(st.sampled_from([row.experiment for row in rows.exposures] or EXPERIMENTS))
    span: Any = {"since": window[0], "until": window[1]}
    return [
        (q.experiment(name, goal, **span), oracle.experiment(rows, name, goal, *window)),
        (q.experiment(name, goal), oracle.experiment(rows, name, goal, None, None)),
        (q.experiments(**span), oracle.experiments(rows, *window)),
        (q.experiment(name, goal, metric="value", **span), oracle.experiment_of_value(rows, name, goal, *window)),
        (q.experiment(name, goal, metric="value"), oracle.experiment_of_value(rows, name, goal, None, None)),
        (q.dimensions(goal, **span), oracle.dimensions(rows, goal, None, None, *window)),
        (q.dimensions(goal, "format"), oracle.dimensions(rows, goal, "format", None, None, None)),
        (q.dimensions(goal, by="user", **span), oracle.dimensions(rows, goal, None, "user", *window)),
        (q.variants(goal, "format", **span), oracle.variants(rows, goal, "format", *window)),
    ]


@every
@given(st.data())
def test_answers_are_those_of_plain_python(filled: Filled, data: st.DataObject) -> None:
    rows = data.draw(pasts())
    filled.fill(rows)
    known, unknown = filled.tables, define_tables(sa.MetaData(), users=None)
    alone = Rows(rows.now, rows.usage, rows.history, rows.catalog)
    q = queries
    name = data.draw(st.sampled_from([use.feature_name for use in rows.usage if use.feature_name] or FEATURES))
    feature = data.draw(st.sampled_from([None, None, name, *FEATURES]))
    user, key = data.draw(st.sampled_from([*USERS, STRANGER])), data.draw(st.sampled_from(KEYS))
    limit, window = data.draw(limits), data.draw(st.sampled_from(windows(rows.now)))
    period, end = window
    short = data.draw(st.sampled_from([each for each in windows(rows.now) if is_short(rows.now, *each)]))
    by, threshold = data.draw(st.sampled_from(["hour", "day", "week", "month"])), data.draw(st.sampled_from([1.5, 5.0]))
    asked = [
        (q.top_features(limit, since=period, until=end), oracle.top_features(rows, limit, *window)),
        (q.user_features(user, period, until=end), oracle.user_features(rows, user, *window)),
        (q.user_features(None, period, until=end), oracle.user_features(rows, None, *window)),
        (q.adoption(since=period, until=end, tables=known), oracle.adoption(rows, *window)),
        (q.adoption(since=period, until=end, tables=unknown), oracle.adoption(alone, *window)),
        (q.adoption(by=filled.people.c.plan, since=period, until=end), oracle.adoption_by_plan(rows, *window)),
        (q.unused_features(period, until=end), oracle.unused_features(rows, *window)),
        (q.power_users(feature, limit, since=period, until=end), oracle.power_users(rows, feature, limit, *window)),
        (q.trend(feature, by, since=period, until=end), oracle.trend(rows, feature, by, *window)),
        (q.active_users(feature, until=end), oracle.active_users(rows, feature, end)),
        (
            q.spikes(short[0], until=short[1], feature=feature, threshold=threshold),
            oracle.spikes(rows, *short, feature, threshold),
        ),
        (q.variants(name, key, since=period, until=end), oracle.variants(rows, name, key, *window)),
        (
            q.related_features(name, limit, since=period, until=end),
            oracle.related_features(rows, name, limit, *window),
        ),
    ]
    asked += comparisons(filled, rows, data, name, key)
    asked += over_time(filled, rows, data, name)
    asked += anomalies(rows, data, feature)
    asked += of_experiments(rows, data, name)
    answers = [filled.ask(question) for question, _ in asked]
    similar = filled.ask(q.recommend(user, since=period, until=end))
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    assume(oracle.floor("hour", rows.now) == oracle.floor("hour", now))
    for answer, (question, expected) in zip(answers, asked, strict=True):
        agree(question, answer, expected)
    assert [row[1] for row in similar] == pytest.approx(sorted((row[1] for row in similar), reverse=True))
    agree("recommend", sorted(similar), sorted(oracle.recommend(rows, user, 5, period, end)))
