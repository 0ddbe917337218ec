"""A report of an alert: as a sentence, and as JSON."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

Event = Literal["begin", "end"]


@dataclass(frozen=True)
class Report:
    """That an alert has begun or ended."""

    alert: UUID
    event: Event
    rule: str
    question: str
    label: str | None
    """What it is about, such as a feature; None for the app as a whole, and for a user."""
    facts: Mapping[str, Any]
    """The numbers at the begin."""
    begun_at: dt.datetime
    """UTC, naive."""
    ended_at: dt.datetime | None
    user_id: str | None = None
    """The user; only at the begin, and only if the rule asks for identities."""

    @property
    def id(self) -> str:
        """The same in each delivery of this report, so that a receiver can ignore the second one."""
        return f"{self.alert}:{self.event}"

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        found: dict[str, Any] = {
            "id": self.id,
            "alert": str(self.alert),
            "event": self.event,
            "rule": self.rule,
            "question": self.question,
            "subject": self.label,
            "facts": dict(self.facts),
            "begun_at": _time(self.begun_at),
            "ended_at": None if self.ended_at is None else _time(self.ended_at),
            "text": self.text,
        }
        if self.user_id is not None:
            found["user_id"] = self.user_id
        return found

    @property
    def text(self) -> str:
        """The report as one line for people."""
        about = self.label
        if self.user_id is not None:
            about = f"user {self.user_id}" if about is None else f"{about}, user {self.user_id}"
        subject = "" if about is None else f" ({about})"
        if self.event == "end" and self.ended_at is not None:
            lasted = self.ended_at - self.begun_at
            detail = f"after {_duration(lasted)}"
        else:
            detail = ", ".join(f"{name} {_value(value)}" for name, value in self.facts.items())
        word = "Begins" if self.event == "begin" else "Ended"
        return one_line(f"{word}: {self.rule}{subject}" + (f": {detail}" if detail else ""))


def headline(reports: Sequence[Report]) -> str:
    """The number of reports in words."""
    numbers = [
        (sum(each.event == event for each in reports), word) for event, word in (("begin", "began"), ("end", "ended"))
    ]
    return ", ".join(f"{number} alert{'s' * (number != 1)} {word}" for number, word in numbers if number)


def one_line(text: str) -> str:
    """The text without control characters: names come from the app's users, and must not steer a terminal or a mail."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _time(moment: dt.datetime) -> str:
    return f"{moment.isoformat(timespec='seconds')}Z"


def _duration(span: dt.timedelta) -> str:
    minutes = max(round(span.total_seconds() / 60), 0)
    if minutes < 120:
        return f"{minutes} min"
    hours = round(minutes / 60)
    return f"{hours} h" if hours < 48 else f"{round(hours / 24)} days"
