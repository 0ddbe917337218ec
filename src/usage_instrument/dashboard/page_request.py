"""One visitor's look at one page: what they ask for, and the database it is read from."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar
from uuid import UUID

import sqlalchemy as sa

from usage_instrument.database.tables import Tables
from usage_instrument.events import NAME_LENGTH, STRING_ID_LENGTH
from usage_instrument.typing import UserId

from .cache import Memory
from .errors import Problem
from .freshness import Freshness
from .html import address
from .period import DEFAULT, PERIODS, Period

T = TypeVar("T")

MAX_KEY = 100
_INTEGER = 2**63


@dataclass(frozen=True)
class Visit:
    """What a page needs to know."""

    connection: sa.Connection
    tables: Tables
    page: str
    """Its address, without parameters."""
    parameters: Mapping[str, str]
    period: Period
    freshness: Freshness
    memory: Memory
    ages: list[dt.datetime] = field(default_factory=list)
    """As of when the answers are that were not asked for just now."""
    has_trail: bool = False
    """Whether there is a way to the audit trail."""

    periods: ClassVar[tuple[Period, ...]] = PERIODS

    def rows(self, statement: sa.Executable) -> list[sa.RowMapping]:
        """The answer to a question."""
        return list(self.connection.execute(statement).mappings())

    def remembered(self, key: Hashable, ask: Callable[[], T]) -> T:
        """What `ask` returns, or returned lately if it takes long. The key says what it depends on, but the period."""
        answer, as_of = self.memory.recall((key, self.period.name), self.freshness.now, ask)
        if as_of != self.freshness.now:
            self.ages.append(as_of)
        return answer

    @property
    def as_of(self) -> dt.datetime | None:
        """As of when the page is: its oldest answer."""
        return min((moment for moment in (self.freshness.as_of, *self.ages) if moment is not None), default=None)

    @property
    def kept(self) -> dict[str, str]:
        """What links of this page carry on: the period, unless it is the usual one."""
        return {} if self.period is DEFAULT else {"period": self.period.name}

    @property
    def feature(self) -> str:
        """The feature that the page is about. Raises Problem."""
        name = self.parameters.get("feature", "")
        if not name:
            raise Problem(400, "Which feature?", "Choose one from the overview, or search for its name.")
        if len(name) > NAME_LENGTH:
            raise Problem(404, "There is no such feature", f"A feature's name has at most {NAME_LENGTH} characters.")
        return name

    @property
    def key(self) -> str:
        """The key of the metadata that the page is about. Raises Problem."""
        key = self.parameters.get("key", "")
        if not key or len(key) > MAX_KEY:
            raise Problem(400, "Which key?", f"A key of the metadata has 1 to {MAX_KEY} characters here.")
        return key

    def in_period(self, period: Period) -> str:
        """The address of this page, over another period."""
        return address(self.page, **{**self.parameters, "period": None if period is DEFAULT else period.name})

    def filled(self, sentence: str) -> str:
        """A sentence with this visit's words in its gaps."""
        return sentence.format(
            period=f"the last {self.period.words}",
            lately=f"the last {self.period.lately.words}",
            grain=self.period.by,
            key=self.parameters.get("key", ""),
        )

    @property
    def user(self) -> UserId:
        """The user that the page is about. Raises Problem."""
        text = self.parameters.get("user", "")
        if not text:
            raise Problem(400, "Which user?", "Search for the user's exact id.")
        return self.person(text)

    def person(self, text: str) -> UserId:
        """The id that a text is. Raises Problem for one that these tables cannot hold."""
        user = parsed(text, self.tables)
        if user is None:
            raise Problem(
                404,
                "This is nobody's id",
                f"In these tables a user's id is {_LOOKS[self.tables.user_id_type]}, and “{text[:60]}” is not.",
            )
        return user


_LOOKS = {
    "uuid": "a UUID, such as 6f1f9c1e-2f0a-4f6e-9f0b-6a2f4c1d7e55",
    "integer": "a whole number",
    "string": f"a text of at most {STRING_ID_LENGTH} characters",
}


def parsed(text: str, tables: Tables) -> UserId:
    """The id that a text is; None for one that these tables cannot hold."""
    kind = tables.user_id_type
    if kind == "string":
        return text if 0 < len(text) <= STRING_ID_LENGTH else None
    try:
        if kind == "uuid":
            return UUID(text.strip())
        number = int(text.strip()) if len(text) < 30 else _INTEGER
    except ValueError:
        return None
    return number if -_INTEGER <= number < _INTEGER else None
