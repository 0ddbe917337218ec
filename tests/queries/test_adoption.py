"""How many people use each feature?"""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column

from conftest import Database, with_users
from queries.conftest import Past
from reading import made_beside_users
from usage_instrument.database.reflection import find_tables
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import adoption
from usage_instrument.schema import FeatureUsageMixin, Tables

BY_NAME = {
    ("search", "user 0", 1, 3, 1.0),
    ("search", "user 1", 1, 2, 1.0),
    ("search", "user 2", 1, 1, 1.0),
    ("search", None, 0, 10, 0.0),
    ("export", "user 0", 1, 2**31 - 1, 1.0),
    ("export", "user 1", 1, 2**31 - 1, 1.0),
    ("share", "user 0", 1, 0, 1.0),
}


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]


class FeatureUsage(FeatureUsageMixin, Base):
    pass


def test_counts_users_once_and_all_uses(past: Past) -> None:
    answer = past.ask(adoption())
    assert answer == [("search", 3, 16, 1.0), ("export", 2, 2**32 - 2, 2 / 3), ("share", 1, 0, 1 / 3)]
    assert [type(value) for value in answer[0]] == [str, int, int, float]


def test_shares_are_of_the_hosts_users_where_the_tables_know_them(past: Past) -> None:
    shares = [row.share for row in past.rows(adoption(tables=past.tables))]
    assert shares == [3 / 5, 2 / 5, 1 / 5]
    assert past.rows(adoption(since=dt.timedelta(days=1), tables=past.tables)) == []


def test_users_who_are_gone_are_in_no_share(sqlite: Database) -> None:
    """SQLite enforces no foreign key unless a connection asks for it."""
    host = with_users(sqlite)
    made_beside_users(host.engine)
    engine = sa.create_engine(sqlite.url)
    with engine.begin() as connection:
        tables = find_tables(connection)
        connection.execute(
            tables.usage.insert(), [{"user_id": user, "feature_name": "search"} for user in host.user_ids]
        )
        connection.execute(host.users.delete().where(host.users.c.name != "user 3"))
        assert connection.execute(adoption(tables=tables)).all() == [("search", 1, 5, 1.0)]
        by_name = connection.execute(adoption(by=host.users.c.name, tables=tables)).all()
    assert by_name == [("search", "user 3", 1, 1, 1.0), ("search", None, 0, 4, 0.0)]
    engine.dispose()


def test_says_the_same_as_the_specifications_query(past: Past) -> None:
    with past.engine.connect() as connection:
        verbatim = connection.exec_driver_sql(
            "SELECT feature_name, COUNT(DISTINCT user_id) AS unique_users FROM feature_usage GROUP BY feature_name"
        ).all()
    assert {row[:2] for row in past.ask(adoption())} == {tuple(row) for row in verbatim}


def test_splits_by_a_column_of_the_hosts_table(past: Past) -> None:
    assert set(past.ask(adoption(by=past.users.c.name))) == BY_NAME


@pytest.mark.parametrize("tables", [None, Tables.of(FeatureUsage)], ids=["default", "of the model"])
def test_splits_by_an_attribute_of_the_hosts_model(past: Past, tables: Tables | None) -> None:
    with Session(past.engine) as session:
        rows = session.execute(adoption(by=User.name, tables=tables)).all()
    assert {(row.feature_name, row.name, row.unique_users, row.uses, row.share) for row in rows} == BY_NAME


def test_splits_by_an_alias(past: Past) -> None:
    assert set(past.ask(adoption(by=aliased(User).name))) == BY_NAME


def test_joins_what_the_foreign_key_refers_to(sqlite: Database) -> None:
    metadata = sa.MetaData()
    people = sa.Table(
        "people",
        metadata,
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("key", sa.Uuid, unique=True),
        sa.Column("plan", sa.String(10)),
    )
    from usage_instrument.schema import define_tables

    tables = define_tables(metadata, users="people.key")
    engine = sqlite.engine()
    metadata.create_all(engine)
    key = UUID(int=5)
    with engine.begin() as connection:
        connection.execute(people.insert().values(number=1, key=key, plan="pro"))
        connection.execute(tables.usage.insert().values(user_id=key, feature_name="search"))
        assert connection.execute(adoption(by=people.c.plan, tables=tables)).all() == [("search", "pro", 1, 1, 1.0)]


@pytest.mark.parametrize("by", ["plan", User, 7, sa.literal("x"), sa.column("plan")])
def test_refuses_what_is_no_column_of_a_table(by: Any) -> None:
    with pytest.raises(ConfigurationError, match="is a column"):
        adoption(by=by)


def test_refuses_a_table_without_one_key() -> None:
    pairs = sa.Table(
        "pairs", sa.MetaData(), sa.Column("a", sa.Uuid, primary_key=True), sa.Column("b", sa.Uuid, primary_key=True)
    )
    with pytest.raises(ConfigurationError, match="no primary key of one column"):
        adoption(by=pairs.c.b)
