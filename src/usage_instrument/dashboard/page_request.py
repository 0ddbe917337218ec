"""The request for one page: its parameters, its period, and the database that it reads."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeVar
from uuid import UUID

import sqlalchemy as sa

from usage_instrument.database.tables import Tables
from usage_instrument.events import NAME_LENGTH, STRING_ID_LENGTH
from usage_instrument.queries.display_names import display_names
from usage_instrument.queries.questions import QUESTIONS, Argument
from usage_instrument.typing import UserId

from .cache import Cache
from .errors import PageError
from .figures import Freshness
from .html import address

T = TypeVar("T")

MAX_KEY = 100
PARAMETERS = frozenset({"page", "period", "q"}).union(
    argument.parameter for question in QUESTIONS for argument in question.arguments
)
"""The parameters of the pages, without those of the audit trail."""
ROWS = 50
"""Rows on a page of a table."""
MAX_PAGE = 200
"""A table's last page; the file has more."""
_INTEGER = 2**63


@dataclass(frozen=True)
class Period:
    """A number of days, today included."""

    name: str
    """Its name in addresses."""
    days: int
    by: Literal["day", "week"]
    """The step of its charts."""

    @property
    def since(self) -> dt.timedelta:
        """Its length, as questions take it."""
        return dt.timedelta(days=self.days)

    @property
    def words(self) -> str:
        """Its length, as people read it."""
        return f"{self.days} days"


PERIODS = (Period("7d", 7, "day"), Period("28d", 28, "day"), Period("90d", 90, "day"), Period("400d", 400, "week"))
DEFAULT = PERIODS[1]


def period_of(name: str | None) -> Period:
    """The period of that name; the default without one. Raises PageError."""
    for period in PERIODS:
        if period.name == (name or DEFAULT.name):
            return period
    names = ", ".join(period.name for period in PERIODS)
    raise PageError(400, f"There is no period “{name}”", f"Choose one of {names} above.")


@dataclass(frozen=True)
class PageRequest:
    """Everything that a page needs."""

    connection: sa.Connection
    tables: Tables
    page: str
    """Its address, without parameters."""
    parameters: Mapping[str, str]
    period: Period
    freshness: Freshness
    cache: Cache
    ages: list[dt.datetime] = field(default_factory=list)
    """The times of the cached answers on this page."""
    has_trail: bool = False
    """Whether the page links to the audit trail."""

    periods: ClassVar[tuple[Period, ...]] = PERIODS

    def rows(self, statement: sa.Executable) -> list[sa.RowMapping]:
        """The rows of a statement."""
        return list(self.connection.execute(statement).mappings())

    def cached(self, key: Hashable, ask: Callable[[], T]) -> T:
        """The result of `ask`, or an earlier one if it is slow. The key names everything that it depends on, except
        the period."""
        answer, as_of = self.cache.get((key, self.period.name), self.freshness.now, ask)
        if as_of != self.freshness.now:
            self.ages.append(as_of)
        return answer

    @functools.cached_property
    def display_names(self) -> Mapping[str, str]:
        """The names of features for people, by feature."""
        return display_names(self.connection, self.tables)

    @property
    def as_of(self) -> dt.datetime | None:
        """The time of the oldest answer on the page."""
        return min((moment for moment in (self.freshness.as_of, *self.ages) if moment is not None), default=None)

    @property
    def kept(self) -> dict[str, str]:
        """The parameters that links carry on: the period, unless it is the default."""
        return {} if self.period is DEFAULT else {"period": self.period.name}

    @property
    def feature(self) -> str:
        """The feature of the page. Raises PageError."""
        name = self.parameters.get("feature", "")
        if not name:
            raise PageError(400, "Which feature?", "Choose one from the overview, or search for its name.")
        if len(name) > NAME_LENGTH:
            raise PageError(404, "There is no such feature", f"A feature's name has at most {NAME_LENGTH} characters.")
        return name

    @property
    def number(self) -> int:
        """The number of this page of a table, from 1. Raises PageError."""
        text = self.parameters.get("page") or "1"
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 0
        if not 1 <= number <= MAX_PAGE:
            raise PageError(404, "There is no such page", f"The pages of a table have the numbers 1 to {MAX_PAGE}.")
        return number

    @property
    def key(self) -> str:
        """The metadata key of the page. Raises PageError."""
        key = self.parameters.get("key", "")
        if not key or len(key) > MAX_KEY:
            raise PageError(400, "Which key?", f"A key of the metadata has 1 to {MAX_KEY} characters here.")
        return key

    @property
    def user(self) -> UserId:
        """The user of the page. Raises PageError."""
        text = self.parameters.get("user", "")
        if not text:
            raise PageError(400, "Which user?", "Search for the user's exact id.")
        return self.user_id(text)

    def user_id(self, text: str) -> UserId:
        """The user id that a text stands for. Raises PageError for a text that is no id in these tables."""
        user = parsed(text, self.tables)
        if user is None:
            kind = _ID_TYPES[self.tables.user_id_type]
            raise PageError(
                404, "This is no user id", f"In these tables a user's id is {kind}, and “{text[:60]}” is not."
            )
        return user

    def argument(self, argument: Argument) -> Any:
        """The argument of a question in this address, or its default. Raises PageError, and UsageInstrumentError."""
        text = self.parameters.get(argument.parameter)
        if not text and not argument.is_required:
            return argument.default
        if argument.name in ("feature", "key", "user_id"):
            return getattr(self, argument.parameter)
        return argument.of_text(text or "", self.tables)

    def of_a_week(self) -> PageRequest:
        """This request for a week at most: spikes are found best beside a past that is four times as long."""
        return replace(self, period=min(self.period, PERIODS[0], key=lambda period: period.days))

    def in_period(self, period: Period) -> str:
        """The address of this page for another period."""
        period_name = None if period is DEFAULT else period.name
        return address(self.page, **{**self.parameters, "period": period_name, "page": None})

    def pages(self, found: int, carried: Mapping[str, object]) -> Pages:
        """This page of a table, and the links beside it, when so many rows were found.

        The links carry these parameters. Raises PageError for a page behind the last one.
        """
        number = self.number
        first = (number - 1) * ROWS
        if first and found <= first:
            start = ("To the first page", address(self.page, **carried))
            raise PageError(404, f"This table has no page {number}", "It has fewer rows by now.", links=(start,))

        def other(page: int) -> str:
            return address(self.page, **carried, page=None if page == 1 else page)

        has_more = found > first + ROWS
        return Pages(
            first,
            min(found, first + ROWS),
            other(number - 1) if number > 1 else None,
            other(number + 1) if has_more and number < MAX_PAGE else None,
            has_more and number == MAX_PAGE,
        )


@dataclass(frozen=True)
class Pages:
    """One page of a table."""

    first: int
    """The number of rows on the pages before."""
    last: int
    """The number of rows up to the end of this page."""
    previous: str | None
    """The address of the page before."""
    next: str | None
    """The address of the page after."""
    is_cut: bool
    """Whether there are more rows, which only the file has."""


_ID_TYPES = {
    "uuid": "a UUID, such as 6f1f9c1e-2f0a-4f6e-9f0b-6a2f4c1d7e55",
    "integer": "a whole number",
    "string": f"a text of at most {STRING_ID_LENGTH} characters",
}


def parsed(text: str, tables: Tables) -> UserId:
    """The user id that a text stands for; None for a text that is no id in these tables."""
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
