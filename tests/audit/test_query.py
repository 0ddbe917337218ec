"""The query of the trail, and how a row names people."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from conftest import Database
from reading import made
from usage_instrument.audit import self_access
from usage_instrument.audit.chain import Chain, erased
from usage_instrument.audit.query import accesses, metadata_of, person
from usage_instrument.events import Access, Use

ADA, BOB = uuid.UUID(int=2**64 + 1), uuid.UUID(int=2**64 + 2)


def use(user: Any, actor: Any = None, metadata: str | None = None, feature: str = "open_vault") -> Use:
    return Use(feature, user, metadata, 0, Access(uuid.uuid4(), "success", 1_700_000_000_000_000, actor))


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        ({}, [3, 2, 1]),
        ({"user": ADA}, [1]),
        ({"user": None}, [3]),
        ({"actor": ADA}, [2]),
        ({"feature": "read_report"}, [3]),
        ({"outcome": "denied"}, []),
        ({"since": dt.timedelta(days=1)}, []),
        ({"until": dt.datetime(2020, 1, 1)}, []),
        ({"unresolved": True}, []),
        ({"limit": 1}, [3]),
    ],
)
def test_filters(sqlite: Database, filters: Any, numbers: list[int]) -> None:
    tables = made(sqlite.engine())
    uses = [use(ADA), use(BOB, ADA), use(None, feature="read_report")]
    with sqlite.engine().begin() as connection:
        connection.execute(sa.insert(tables.access), Chain(None).rows(uses, "web"))
        assert [row.number for row in connection.execute(accesses(tables, **filters))] == numbers


def test_an_erased_person_has_a_pseudonym() -> None:
    (row,) = Chain(None).rows([use(ADA, BOB)], "web")
    row |= erased(row, ["user"], "0123456789abcdef")
    assert (person(row, "user"), person(row, "actor")) == ("forgotten:0123456789abcdef", BOB)


@pytest.mark.parametrize(("text", "value"), [(None, None), ('{"a":1}', {"a": 1}), ("no JSON", "no JSON")])
def test_metadata_is_values_or_the_raw_text(text: str | None, value: object) -> None:
    assert metadata_of({"metadata": text}) == value


@pytest.mark.parametrize("part", ["user", "actor"])
def test_a_self_access_is_found_by_the_user_it_searched_for(database: Database, part: str) -> None:
    tables = made(database.engine())
    search = self_access.details({part: ADA}, 3)
    metadata = f'{{"{part}":"{search[part]}","rows":3}}'
    uses = [use(BOB, BOB, metadata, self_access.SELF_ACCESS), use(BOB, BOB, metadata)]
    with database.engine().begin() as connection:
        connection.execute(sa.insert(tables.access), Chain(None).rows(uses, "web"))
        numbers = sa.select(tables.access.c.number)
        assert connection.scalars(numbers.where(self_access.searched_for(tables, ADA))).all() == [1]
        assert connection.scalars(numbers.where(self_access.searched_for(tables, BOB))).all() == []
