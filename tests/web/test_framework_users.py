"""Who the framework says the user is, without a query or a lazy load."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from usage_instrument.errors import UserIdError
from usage_instrument.typing import UNSET
from usage_instrument.web.framework_users import loaded_user


class Plain:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Guest(Plain):
    is_authenticated = False


class Old(Plain):
    def is_authenticated(self) -> bool:
        return bool(self.__dict__.get("member"))


class Computed:
    @property
    def id(self) -> int:
        return 5


class Unloaded:
    """As Django's LazyObject before it is looked at."""

    def __init__(self, wrapped: object) -> None:
        self.__dict__["_wrapped"] = wrapped

    def __getattr__(self, name: str) -> object:
        raise AttributeError(name) if name.startswith("__") else AssertionError("a query")


@pytest.mark.parametrize(
    ("user", "found"),
    [
        (None, UNSET),
        (5, 5),
        ("ada", "ada"),
        (UUID(int=1), UUID(int=1)),
        ({"id": 5}, 5),
        ({}, UNSET),
        (Plain(id=5), 5),
        (Plain(id=None), UNSET),
        (Plain(), UNSET),
        (Plain(id=5, is_authenticated=False), UNSET),
        (Guest(id=5), UNSET),
        (Old(id=5), UNSET),
        (Old(id=5, member=True), 5),
        (Computed(), 5),
        (Unloaded(object()), UNSET),
        (Unloaded(Plain(id=5)), 5),
    ],
)
def test_the_id_that_is_loaded(user: object, found: object) -> None:
    assert loaded_user(user) == found


def test_a_wrong_id_is_not_nobody() -> None:
    with pytest.raises(UserIdError):
        loaded_user(Plain(id=1.5))


class Base(DeclarativeBase):
    pass


class Member(Base):
    __tablename__ = "members"
    id: Mapped[int] = mapped_column(primary_key=True)
    is_active: Mapped[bool]

    @property
    def is_authenticated(self) -> bool:
        return self.is_active


def test_an_expired_row_is_not_loaded_again() -> None:
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        member = Member(id=3, is_active=True)
        session.add(member)
        session.commit()
        statements: list[str] = []
        sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
        assert loaded_user(member) == 3
        assert statements == []
    engine.dispose()
