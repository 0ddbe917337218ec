"""A file of rules: what to watch, and where to report it. Every mistake is named at once."""

from __future__ import annotations

import datetime as dt
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from usage_instrument.audit.anomalies import KINDS, Search, office_hours
from usage_instrument.database.schema import default_tables
from usage_instrument.errors import ConfigurationError, UserIdError
from usage_instrument.events import NAME_LENGTH
from usage_instrument.queries.questions import QUESTIONS, Argument, Question
from usage_instrument.queries.robust import checked_threshold
from usage_instrument.queries.windows import span_of, window
from usage_instrument.typing import UserIdType

from .channels import channel_of
from .delivery import Channel
from .entries import Entries, meant
from .stdout import Stdout

LOSSES, PENDING, TRAIL = "losses", "pending", "trail"
"""What is watched beside the questions."""
ROWS = "rows"
"""Instead of a column: the number of rows of the answer."""
_FINDINGS = ("spikes", "drops", "silent", "unused")
"""The questions of which each row is worth an alert."""
_SINCE = {"spikes": "1d", "drops": "2d"}
"""The windows of rules, if not those of the questions: an alert ends when its day has left the window. The last whole
day of drops is yesterday."""
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str, dt.date), "integer": (int,), "number": (int, float), "array": (list,)
}  # fmt: skip


class RulesError(ConfigurationError):
    """The file of rules has mistakes."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = tuple(mistakes)


@dataclass(frozen=True)
class Limit:
    """The numbers of a column that are worth an alert."""

    column: str
    below: float | None
    above: float | None

    def is_passed(self, value: float) -> bool:
        """Whether a number is below or above."""
        return (self.below is not None and value < self.below) or (self.above is not None and value > self.above)


@dataclass(frozen=True)
class Rule:
    """One thing to watch."""

    name: str
    question: Question | str
    """A question, or `losses`, `pending` or `trail`."""
    given: Mapping[str, Any]
    """The arguments, all of them, as they are given from outside."""
    limit: Limit | None
    """None: each row is worth an alert."""
    identities: bool
    channels: tuple[Channel, ...]

    @property
    def question_name(self) -> str:
        """The name of what is watched."""
        return self.question if isinstance(self.question, str) else self.question.name


def load(path: Path, environment: Mapping[str, str] | None) -> tuple[Rule, ...]:
    """The rules of a file. Without an environment, its variables are not looked up. Raises RulesError."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RulesError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise RulesError([f"{path}: is not UTF-8, which TOML must be"]) from None
    except tomllib.TOMLDecodeError as error:
        raise RulesError([f"{path}: is no TOML: {error}"]) from None
    mistakes: list[str] = []
    whole = Entries(str(path), content, mistakes)
    whole.finish(("channels", "rules"))
    channels = _channels(path, content.get("channels", {}), environment, mistakes)
    tables = content.get("rules")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        whole.wrong("there are no rules: begin each with a line [[rules]]")
        tables = []
    rules: list[Rule] = []
    names: set[str] = set()
    for number, table in enumerate(tables, 1):
        name = table.get("name")
        is_named = isinstance(name, str) and name != ""
        entries = Entries(f"{path}: rule {name!r}" if is_named else f"{path}: rule {number}", table, mistakes)
        found = _rule(entries, channels)
        if found is not None:
            rules.append(found)
        if is_named and name in names:
            entries.wrong("another rule has this name: the names tell alerts apart, so choose another one")
        names.add(name if is_named else "")
    if mistakes:
        raise RulesError(mistakes)
    return tuple(rules)


def _channels(
    path: Path, tables: Any, environment: Mapping[str, str] | None, mistakes: list[str]
) -> dict[str, Channel | None]:
    """The channels by name; None for one with a mistake. Without any, rules report to stdout."""
    if not isinstance(tables, dict):
        mistakes.append(f"{path}: channels must be tables: begin each with a line such as [channels.ops]")
        return {}
    if not tables:
        return {"stdout": Stdout("stdout")}
    channels: dict[str, Channel | None] = {}
    for name, table in tables.items():
        entries = Entries(f"{path}: channel {name!r}", table if isinstance(table, dict) else {}, mistakes)
        if not 0 < len(name) <= NAME_LENGTH:
            entries.wrong(f"a name has 1 to {NAME_LENGTH} characters")
        channels[name] = channel_of(name, entries, environment)
    return channels


def _rule(entries: Entries, channels: Mapping[str, Channel | None]) -> Rule | None:
    """The rule of a table; None after a mistake."""
    before = len(entries.mistakes)
    name = entries.text("name", fix="name is missing: write name = 'a few words', which the report repeats")
    if name is not None and not len(name) <= NAME_LENGTH:
        entries.wrong(f"name has more than {NAME_LENGTH} characters: shorten it")
    questions = {question.name: question for question in QUESTIONS}
    asked = entries.one_of("question", [*questions, LOSSES, PENDING, TRAIL])
    wanted = entries.texts("channels")
    for each in wanted or ():
        if each not in channels:
            entries.wrong(f"there is no channel {each!r}{meant(each, channels)}: add [channels.{each}], or correct it")
    used = tuple(channel for key, channel in channels.items() if channel and (wanted is None or key in wanted))
    identities = entries.flag("identities")
    if asked is None:
        return None
    question: Question | str = questions.get(asked, asked)
    limit = _limit(entries, question)
    given = _own(entries, question) if isinstance(question, str) else _given(entries, question)
    if not isinstance(question, str):
        if not identities and question.names_of("variant"):
            entries.wrong(f"{asked} lists values of metadata, which may identify people: write identities = true")
        if len(entries.mistakes) == before:
            _ask(entries, question, given)
    if len(entries.mistakes) > before or name is None:
        return None
    return Rule(name, question, given, limit, identities, used)


def _limit(entries: Entries, question: Question | str) -> Limit | None:
    below, above = entries.number("below"), entries.number("above")
    column = None if isinstance(question, str) else entries.text("column")
    if question == TRAIL:
        if {"below", "above"} & entries.given.keys():
            entries.wrong("each finding in the trail is an alert: write threshold = 5, the least score of denials")
        return None
    if isinstance(question, str):
        if below is not None:
            entries.wrong(f"{question} are watched from above: write above = 0")
        if question == PENDING and above is None:
            entries.wrong("above is missing: write above = 1000, the number of uses that may wait")
        return Limit("uses", None, above if above is not None else 0)
    numbers = [each.name for each in question.columns if each.is_number]
    if column is None:
        if below is not None or above is not None:
            entries.wrong(f"column is missing: write column = {' or '.join(map(repr, [*numbers, ROWS]))}")
        elif question.name not in _FINDINGS:
            entries.wrong(
                f"a row of {question.name} is no alert: write column = {' or '.join(map(repr, [*numbers, ROWS]))} and "
                "below or above"
            )
        return None
    if not {"below", "above"} & entries.given.keys():
        entries.wrong("below and above are missing: write at least one of them, such as below = 10")
    if column not in (*numbers, ROWS):
        entries.wrong(
            f"{question.name} has no number {column!r}{meant(column, numbers)}: it has {', '.join([*numbers, ROWS])}"
        )
    return Limit(column, below, above)


def _own(entries: Entries, asked: str) -> dict[str, Any]:
    """The arguments of what is no question."""
    given: dict[str, Any] = {}
    if asked == LOSSES:
        since = entries.text("since") or "1d"
        span = span_of(since)
        if span is None or not dt.timedelta() < span <= dt.timedelta(days=400):
            entries.wrong(f"since must be a number of days such as 1d or 7d, not {since!r}")
        given = {"since": span, "reason": entries.text("reason"), "service": entries.text("service")}
    elif asked == TRAIL:
        threshold = entries.number("threshold")
        given = {
            "since": entries.text("since") or "2d",  # an attempt without an outcome shows after an hour
            "tz": entries.text("tz"),
            "hours": entries.text("hours") or "7-19",
            "threshold": 5.0 if threshold is None else threshold,
            "what": entries.one_of("what", KINDS, "") or None,
        }
        try:
            search_of(given)
        except ConfigurationError as error:
            entries.wrong(str(error))
    else:
        given = {"journal": entries.text("journal")}
    entries.finish()
    return given


def search_of(given: Mapping[str, Any]) -> Search:
    """The days to search of a rule about the audit trail. Raises ConfigurationError."""
    asked = window(given["since"], None, given["tz"])
    first, after = asked.bounds()
    hours, threshold = office_hours(given["hours"]), checked_threshold(given["threshold"])
    return Search(first or dt.date.min, after, asked.tz or dt.UTC, *hours, threshold)


def _given(entries: Entries, question: Question) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for argument in question.arguments:
        if argument.name not in entries.given:
            if argument.is_required:
                entries.wrong(f"{argument.name} is missing: {question.name} needs it. {argument.help}")
            default = _SINCE.get(question.name) if argument.name == "since" else None
            given[argument.name] = default or argument.written_default
        else:
            given[argument.name] = _value(entries, argument)
    entries.finish(argument.name for argument in question.arguments)
    return given


def _value(entries: Entries, argument: Argument) -> Any:
    value, schema = entries.given[argument.name], argument.type.schema
    if isinstance(value, bool) or not isinstance(value, _TYPES[schema["type"]]):
        kind = {"string": "a text", "array": "a list of texts"}.get(schema["type"], "a number")
        entries.wrong(f"{argument.name} must be {kind}, not {value!r}. {argument.help}")
        return None
    if isinstance(value, dt.date):
        return value.isoformat()
    if value not in schema.get("enum", (value,)):
        choices = schema["enum"]
        entries.wrong(f"{argument.name} must be {' or '.join(choices)}, not {value!r}{meant(str(value), choices)}")
    if isinstance(value, list) and not all(isinstance(each, str) for each in value):
        entries.wrong(f"{argument.name} must be a list of texts. {argument.help}")
    return value


def _ask(entries: Entries, question: Question, given: Mapping[str, Any]) -> None:
    """Find the mistakes that only the question knows. Without a database, its user ids may be of any type, and its
    users table may have any column."""
    open_ = {argument.name for argument in question.open_arguments}
    given = {name: value if name in open_ else None for name, value in given.items()}
    reasons: list[str] = []
    for kind in get_args(UserIdType):
        try:
            question.query(given, default_tables(None, kind))
        except UserIdError as error:
            reasons.append(str(error))
        except ConfigurationError as error:
            entries.wrong(str(error))
            return
        else:
            return
    entries.wrong(reasons[0])
