"""Suppressions: erased and opted-out users by their keyed hashes, and this process's copy."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa

from conftest import Database
from reading import made
from usage_instrument.database.suppressions import (
    FORGOTTEN,
    OPTED_IN,
    OPTED_OUT,
    Key,
    Suppressions,
    any_suppressed,
    mark,
    state_of,
    suppress,
)
from usage_instrument.errors import ConfigurationError

SECRET = "a long secret of the host's"
ANN, BOB = uuid.UUID(int=2**64 + 1), uuid.UUID(int=2**64 + 2)


def test_erasure_stays_and_opting_in_leaves_no_trace(database: Database) -> None:
    engine = database.engine()
    tables, key = made(engine), Key(SECRET)
    with engine.begin() as connection:
        suppress(connection, tables, key, BOB, OPTED_IN)
        assert state_of(connection, tables, key, BOB) is None
        states = []
        for state in (OPTED_OUT, OPTED_IN, FORGOTTEN, OPTED_OUT):
            suppress(connection, tables, key, ANN, state)
            states.append(state_of(connection, tables, key, ANN))
        assert states == [OPTED_OUT, OPTED_IN, FORGOTTEN, FORGOTTEN]


def test_the_first_row_of_all_may_appear_between_two_looks(
    postgresql: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = postgresql.engine()
    tables, key = made(engine), Key(SECRET)
    with engine.connect() as connection:
        look, looks = connection.scalar, 0

        def look_and_be_overtaken(statement: sa.Select[int]) -> object:
            nonlocal looks
            found, looks = look(statement), looks + 1
            if looks == 1:
                with engine.begin() as another:
                    suppress(another, tables, key, ANN, FORGOTTEN)
            return found

        monkeypatch.setattr(connection, "scalar", look_and_be_overtaken)
        assert any_suppressed(connection, tables, key, [ANN])


def test_the_copy_reads_what_is_new(sqlite: Database) -> None:
    engine = sqlite.engine()
    tables, key = made(engine), Key(SECRET)
    copy = Suppressions(tables, SECRET)
    with engine.begin() as connection:
        assert not copy.read(connection)
        assert not copy
        suppress(connection, tables, key, ANN, FORGOTTEN)
        suppress(connection, tables, key, BOB, OPTED_OUT)
        assert copy.read(connection)
        assert not copy.read(connection), "nothing is new"
        assert [copy.suppresses(user) for user in (ANN, str(ANN), BOB, None, "nonsense")] == [
            True, True, True, False, False,
        ]  # fmt: skip
        assert [copy.erases(user) for user in (ANN, BOB)] == [True, False]
        assert (copy.pseudonym(ANN), copy.pseudonym(BOB)) == (key.pseudonym_of(ANN), None)
        suppress(connection, tables, key, BOB, OPTED_IN)
        assert copy.read(connection)
        assert not copy.suppresses(BOB)


@pytest.mark.parametrize(("secret", "reason"), [(None, "is not set"), ("another secret", "is not the one")])
def test_another_key_is_refused(sqlite: Database, secret: str | None, reason: str) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    with engine.begin() as connection:
        suppress(connection, tables, Key(SECRET), ANN, OPTED_OUT)
        with pytest.raises(ConfigurationError, match=f"privacy_key {reason}"):
            Suppressions(tables, secret).read(connection)


def test_the_mark_of_a_key_stops_another_key_but_no_process_without_one(sqlite: Database) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    with engine.begin() as connection:
        mark(connection, tables, Key(SECRET))
        assert not Suppressions(tables, None).read(connection)
        with pytest.raises(ConfigurationError, match="privacy_key is not the one"):
            Suppressions(tables, "another secret").read(connection)


def test_ids_of_different_types_are_different_users() -> None:
    key = Key(SECRET)
    assert len({key.hash_of(user) for user in (7, "7", uuid.UUID(int=7), "bob", "BOB", "bob ")}) == 6
