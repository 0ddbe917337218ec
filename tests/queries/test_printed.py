"""A question as text, for whoever has nothing but SQL."""

from __future__ import annotations

import datetime as dt
import re

import pytest
import sqlalchemy as sa

from queries.clock import now
from queries.filled import USERS, Filled, asked, plain, rich
from queries.oracle import Rows, Use
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import power_users, top_features, variants
from usage_instrument.queries.printed import printed


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
    assert "date_trunc('day', (timezone('utc', now()) - interval '6 days'))" in sql
    assert "%" not in sql


def test_a_person_can_read_a_question_without_a_database() -> None:
    assert "start_of(day, ago(518400))" in str(top_features(since=dt.timedelta(days=7)))


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb", "sqlite"])
def test_each_clause_has_its_line(dialect: str) -> None:
    kind = sa.URL.create(dialect).get_dialect()()
    lines = printed(power_users(limit=3), kind).splitlines()
    assert lines[0] == "WITH used AS ("
    clauses = [re.match(r"\s*(SELECT|FROM|WHERE|GROUP BY|ORDER BY|LIMIT 3|\)|)", line) for line in lines]
    assert [found[0] for found in clauses if found and found[1]] == [
        *("  SELECT", "  FROM", "  GROUP BY", ")", "SELECT", "      SELECT", "      FROM", "    )"),
        *("      SELECT", "      FROM", "      WHERE", "    )"),
        *("FROM", "  SELECT", "  FROM", "  WHERE", "  ORDER BY", "  LIMIT 3", ")", "ORDER BY"),
    ]
    assert ("CAST(coalesce" in "".join(lines)) is (dialect == "mariadb")


@pytest.mark.parametrize("key", ["it's (SELECT x FROM y) , WHERE", 'a "b" `c` (', "x\n  FROM \\ z"])
def test_a_text_keeps_its_characters(key: str, filled: Filled) -> None:
    tables = filled.tables
    filled.fill(Rows(now(), [Use(USERS[0], "f", 1, now(), {key: "found"})]))
    sql = printed(variants("f", key, tables=tables), filled.engine.dialect)
    assert [row[0] for row in filled.paste(sql)] == ["found"]


def test_says_which_databases_there_are() -> None:
    with pytest.raises(ConfigurationError, match="oracle is not supported; mariadb, mysql, postgresql, sqlite are"):
        printed(top_features(since=dt.timedelta(days=7)), sa.make_url("oracle+oracledb://").get_dialect()())
