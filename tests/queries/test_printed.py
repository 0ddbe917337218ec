"""A question as text, for whoever has nothing but SQL."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa

from queries.clock import now
from queries.filled import Filled, asked, plain, rich
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import top_features
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


def test_says_which_databases_there_are() -> None:
    with pytest.raises(ConfigurationError, match="oracle is not supported; mariadb, mysql, postgresql, sqlite are"):
        printed(top_features(since=dt.timedelta(days=7)), sa.make_url("oracle+oracledb://").get_dialect()())
