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
from usage_instrument.queries.questions import FEATURES, QUESTIONS, Argument
from usage_instrument.queries.windows import Window, window
from usage_instrument.typing import UserId

from .cache import Cache
from .errors import PageError
from .figures import Freshness
from .formatting import day, plural
from .html import EMPTY, address
from .menu import Menu, menu_of
from .people import PageUsers

T = TypeVar("T")

MAX_KEY = 100
_OF_EXPERIMENTS = frozenset({"control", "effect", "experiment", "goal", "guardrail", "metric", "weights"})
PARAMETERS = frozenset({"from", "group", "page", "period", "q", "to"}).union(
    _OF_EXPERIMENTS, (argument.parameter for question in QUESTIONS for argument in question.arguments)
)
"""The parameters of the pages, without those of the audit trail."""
LISTS = frozenset(
    argument.parameter for question in QUESTIONS for argument in question.arguments if argument.type is FEATURES
)
"""The parameters that an address may have several times."""
ROWS = 50
"""Rows on a page of a table."""
MAX_PAGE = 200
"""A table's last page; the file has more."""
_INTEGER = 2**63


@dataclass(frozen=True)
class Period:
    """A number of days, by default until today."""

    name: str
    """Its name in files, and in addresses if it ends today."""
    days: int
    until: dt.date | None = None
    """Its last day; None for today."""
    tz: dt.tzinfo | None = field(default=None, compare=False)
    """The time zone of its days; None for UTC."""
    first_day: dt.date | None = field(default=None, compare=False)
    """The first day of the history, where earlier ones are summed up to months; else None."""

    @property
    def since(self) -> dt.timedelta | dt.date:
        """Its first day, as questions take it."""
        return dt.timedelta(days=self.days) if self.until is None else self.first

    @property
    def first(self) -> dt.date:
        """Its first day; today's clock is that of this process."""
        return (self.until or dt.datetime.now(self.tz or dt.UTC).date()) - dt.timedelta(days=self.days - 1)

    @property
    def by(self) -> Literal["day", "week", "month"]:
        """The step of its charts."""
        return self._exact("day" if self.days <= MAX_DAYS else "week" if self.days <= MAX_WEEKS else "month")

    @property
    def step(self) -> Literal["day", "week", "month"]:
        """The step of questions that follow users over time: a fortnight or more is followed by weeks."""
        return self._exact("day" if self.days <= 14 else "week" if self.days <= 200 else "month")

    def _exact(self, unit: Literal["day", "week", "month"]) -> Literal["day", "week", "month"]:
        """The unit, or months if its first day or week is of a month without days."""
        start = self.first - dt.timedelta(days=self.first.weekday() if unit == "week" else 0)
        return unit if self.first_day is None or start >= self.first_day else "month"

    @property
    def words(self) -> str:
        """Its length, as people read it."""
        return plural(self.days, "day")

    @property
    def heading(self) -> str:
        """It as the heading of a page."""
        return f"The last {self.words}" if self.until is None else f"{day(self.first)} to {day(self.until)}"

    @property
    def parameters(self) -> dict[str, str]:
        """It in an address."""
        if self.until is None:
            return {} if self.name == DEFAULT.name else {"period": self.name}
        return {"from": str(self.first), "to": str(self.until)}

    def last(self, days: int) -> Period:
        """Its last days, or itself if it is shorter."""
        if self.days <= days:
            return self
        return (
            Period(f"{days}d", days, tz=self.tz)
            if self.until is None
            else dates(self.until - dt.timedelta(days=days - 1), self.until, self.tz)
        )


def in_months(period: Period, now: dt.datetime, first_day: dt.datetime | None) -> Period:
    """The period, where days before a first one are summed up to months: from the start of its first month on, if it
    ends today. `now` is the clock of the database; months are those of UTC."""
    if first_day is None or period.tz is not None:
        return period
    period = replace(period, first_day=first_day.date())
    if period.until is not None or period.first >= first_day.date():
        return period
    first = (now.date() - dt.timedelta(days=period.days - 1)).replace(day=1)
    return replace(period, days=(now.date() - first).days + 1)


MAX_DAYS, MAX_WEEKS = 120, 1_000
"""The longest periods whose charts have days, and weeks."""
LONGEST = 10_000
"""Days of a period at most: 27 years."""
PERIODS = tuple(Period(f"{days}d", days) for days in (7, 28, 90, 400))
DEFAULT = PERIODS[1]


def dates(first: dt.date, last: dt.date, tz: dt.tzinfo | None = None) -> Period:
    """The period from one day to another."""
    return Period(f"{first}-to-{last}", (last - first).days + 1, last, tz)


def period_of(parameters: Mapping[str, str], tz: dt.tzinfo | None = None) -> Period:
    """The period that an address names, in days of the time zone; the default without one. Raises PageError."""
    if parameters.get("from") or parameters.get("to"):
        return _dates_of(parameters.get("from", ""), parameters.get("to", ""), tz)
    name = parameters.get("period")
    for period in PERIODS:
        if period.name == (name or DEFAULT.name):
            return replace(period, tz=tz)
    names = ", ".join(period.name for period in PERIODS)
    raise PageError(400, f"There is no period “{name}”", f"Choose one of {names} above, or dates.")


def _dates_of(first_text: str, last_text: str, tz: dt.tzinfo | None) -> Period:
    try:
        first = dt.date.fromisoformat(first_text)
        last = dt.date.fromisoformat(last_text) if last_text else dt.datetime.now(tz or dt.UTC).date()
    except ValueError:
        raise PageError(
            400, "These are no days", "Write both as in 2026-01-31. Without the last, it is today."
        ) from None
    if not 0 <= (last - first).days < LONGEST:
        raise PageError(400, "This period has no days", f"The last day follows the first, {LONGEST:,} days at most.")
    return dates(first, last, tz)


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
    users: PageUsers
    """The users on this page."""
    ages: list[dt.datetime] = field(default_factory=list)
    """The times of the cached answers on this page."""
    arguments: dict[Hashable, Mapping[str, Any]] = field(default_factory=dict)
    """The arguments of the questions on this page, as results.py has found them."""
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

    @property
    def has_months(self) -> bool:
        """Whether days of the history are summed up to months."""
        return self.freshness.first_day is not None

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
        return self.period.parameters

    @property
    def menu(self) -> Menu:
        """The links to all other pages."""
        return menu_of(self.page, self.kept, has_trail=self.has_trail)

    @property
    def window(self) -> Window:
        """The period, as totals take it."""
        return window(self.period.since, self.period.until, self.period.tz)

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
        """This request for a week at most: a card of spikes is about the latest."""
        return replace(self, period=self.period.last(7))

    def in_period(self, period: Period) -> str:
        """The address of this page for another period."""
        return address(self.page, **self.others, **period.parameters)

    @property
    def others(self) -> dict[str, str]:
        """The parameters of this page beside those of the period and of the page of a table."""
        period = {"period", "from", "to", "page"}
        names = PARAMETERS - period
        return {name: value for name, value in self.parameters.items() if name in names and (value or name in EMPTY)}

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
