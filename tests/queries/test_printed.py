"""A question as text, for readers who only have SQL."""

from __future__ import annotations

import datetime as dt
import re

import pytest
import sqlalchemy as sa

from queries.clock import now
from queries.filled import USERS, Asked, Filled, asked, plain, rich
from queries.oracle import Rows, Use
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import (
    active_users,
    adoption,
    drops,
    funnel,
    lifecycle,
    power_users,
    recommend,
    related_features,
    retention,
    silent,
    spikes,
    stickiness,
    top_features,
    trend,
    unused_features,
    user_features,
    variants,
)
from usage_instrument.queries.printed import laid_out, printed
from usage_instrument.queries.windows import MONTH
from usage_instrument.schema import define_tables


def test_pasted_text_gets_the_same_answer(filled: Filled) -> None:
    filled.fill(rich(now()))
    for name, question in asked(filled).items():
        sql = printed(question, filled.engine.dialect)
        answer = filled.ask(question)
        assert answer, name
        pasted = [[*map(plain, row)] for row in filled.paste(sql)]
        assert pasted == [[*map(plain, row)] for row in answer], sql


def test_text_stays_right_tomorrow() -> None:
    sql = printed(top_features(since=dt.timedelta(days=7)), sa.make_url("postgresql+psycopg://").get_dialect()())
    assert "date_trunc('day', timezone('utc', now()) - interval '6 days')" in sql
    assert "%" not in sql


def test_a_person_can_read_a_question_without_a_database() -> None:
    assert "start_of(day, ago(518400))" in str(top_features(since=dt.timedelta(days=7)))


DIALECTS = ["postgresql", "mariadb", "sqlite"]


def text(question: Asked, dialect: str) -> str:
    return printed(question, sa.URL.create(dialect).get_dialect()())


@pytest.mark.parametrize(
    ("dialect", "week"),
    [
        ("postgresql", "last_used >= timezone('utc', now()) - interval '7 days'"),
        ("mariadb", "last_used >= UTC_TIMESTAMP(6) - INTERVAL 7 DAY"),
        ("sqlite", "last_used >= strftime('%Y-%m-%d %H:%M:%f000', 'now', '-7 days')"),
    ],
)
def test_a_person_could_have_written_it(dialect: str, week: str) -> None:
    assert text(top_features(), dialect) == (
        "SELECT feature_name, sum(usage_count) AS total_usage\n"
        "FROM feature_usage\n"
        "GROUP BY feature_name\n"
        "ORDER BY total_usage DESC, feature_name\n"
        "LIMIT 5"
    )
    assert text(user_features(42), dialect) == (
        "SELECT feature_name, usage_count, last_used, metadata\n"
        "FROM feature_usage\n"
        f"WHERE user_id = 42 AND {week}\n"
        "ORDER BY last_used DESC, feature_name"
    )


def test_a_question_in_full() -> None:
    assert text(power_users(limit=3), "postgresql").splitlines() == [
        "WITH used AS (",
        "  SELECT user_id, sum(usage_count) AS uses",
        "  FROM feature_usage",
        "  GROUP BY user_id",
        ")",
        "SELECT user_id, uses,",
        "    coalesce(uses::float / nullif((SELECT sum(uses) FROM used), 0), 0.0) AS share, (",
        "      SELECT count(DISTINCT feature_name)",
        "      FROM feature_usage",
        "      WHERE user_id = top.user_id",
        "    ) AS features,",
        "        (SELECT max(last_used) FROM feature_usage WHERE user_id = top.user_id) AS last_used",
        "FROM (",
        "  SELECT user_id, uses",
        "  FROM used",
        "  WHERE user_id IS NOT NULL",
        "  ORDER BY uses DESC, user_id",
        "  LIMIT 3",
        ") AS top",
        "ORDER BY uses DESC, user_id",
    ]


def test_a_trend_counts_one_day_after_the_other_where_the_database_can() -> None:
    of_a_day = "WHERE bucket_start >= units.bucket_start"
    for question in (trend(), trend(by="hour", tz="Europe/Berlin")):
        assert text(question, "postgresql").count("LEFT JOIN LATERAL (") == 1
        assert of_a_day in text(question, "postgresql")
    # A local hour is in no index: for each day, the whole window would be read.
    others = [text(trend(tz="Europe/Berlin"), "postgresql"), *(text(trend(), name) for name in ("mariadb", "sqlite"))]
    others.append(str(trend()))
    for sql in others:
        assert "LATERAL" not in sql
        assert of_a_day not in sql


def test_users_are_counted_by_their_bits_where_the_database_can() -> None:
    year = dt.timedelta(days=400)
    for question in (lifecycle(), lifecycle(since=year), lifecycle("f", "day", since=MONTH), retention(since=year)):
        assert "bit_or" in text(question, "postgresql")
        for sql in (text(question, "mariadb"), text(question, "sqlite"), str(question)):
            assert "bit_or" not in sql
    rolled_up = define_tables(sa.MetaData(), history_rollups=True)
    assert "bit_or" in text(trend(by="week", since=year, tables=rolled_up), "postgresql")
    for too_many in (lifecycle(by="day", since=year), retention(by="day"), lifecycle(since=None)):
        assert "bit_or" not in text(too_many, "postgresql")


def test_the_start_of_a_long_window_is_worked_out_once() -> None:
    """PostgreSQL would do so for each row; in a short window, it has to know how many rows there are."""
    long, short = (text(top_features(since=dt.timedelta(days=days)), "postgresql") for days in (400, 28))
    assert "bucket_start >= (SELECT date_trunc('day', timezone('utc', now()) - interval '399 days'))" in long
    assert "bucket_start >= date_trunc('day', timezone('utc', now()) - interval '27 days')" in short


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_question_has_what_only_a_program_needs(dialect: str) -> None:
    tables = define_tables(sa.MetaData(), users="users.id", user_id_type="integer")
    made = [top_features(), user_features(1), adoption(), adoption(tables=tables), unused_features(), power_users()]
    made += [trend(), active_users(), spikes(), variants("f", "k"), related_features("f"), recommend(1)]
    made += [retention(), lifecycle(), funnel(["a", "b"]), stickiness(), drops(), silent()]
    for question in made:
        sql = text(question, dialect)
        for needless in ("CAST(coalesce", "::bigint", "AS SIGNED", "anon_", "count_1", "max_1", "OUTER", "OFFSET"):
            assert needless not in sql, sql
        assert not re.search(r"\b(\w+) AS \1\b", sql), sql
        # A column has its table before it only where there are two: a join, or the query around.
        for name in re.findall(r"\b(feature_usage\w*)\.\w+", sql):
            assert re.search(rf"FROM {name}(\n\s*(LEFT )?JOIN| AS)|JOIN {name}", sql), sql


def test_brackets_that_matter_stay() -> None:
    kept = "SELECT (a + b) * c, (SELECT x FROM t), f((a), (b, c)), a - (b - c) FROM t WHERE (a OR b) AND c IN (1)"
    assert laid_out(kept) == (
        "SELECT (a + b) * c, (SELECT x FROM t), f(a, (b, c)), a - (b - c)\nFROM t\nWHERE (a OR b) AND c IN (1)"
    )
    assert laid_out("SELECT CASE WHEN (a = 1) THEN ((1) * 2) ELSE ((b)) END") == (
        "SELECT CASE WHEN a = 1 THEN 1 * 2 ELSE b END"
    )


@pytest.mark.parametrize("key", ["it's (SELECT x FROM y) , WHERE", 'a "b" `c` (', "x\n  FROM \\ z"])
def test_a_text_keeps_its_characters(key: str, filled: Filled) -> None:
    tables = filled.tables
    filled.fill(Rows(now(), [Use(USERS[0], "f", 1, now(), {key: "found"})]))
    sql = printed(variants("f", key, tables=tables), filled.engine.dialect)
    assert [row[0] for row in filled.paste(sql)] == ["found"]


def test_says_which_databases_there_are() -> None:
    with pytest.raises(ConfigurationError, match="oracle is not supported; mariadb, mysql, postgresql, sqlite are"):
        printed(top_features(since=dt.timedelta(days=7)), sa.make_url("oracle+oracledb://").get_dialect()())
