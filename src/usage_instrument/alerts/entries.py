"""Reads the entries of one TOML table, and collects every mistake with its place and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
_WORDS: dict[type, str] = {str: "a text", bool: "true or false", list: "a list of texts"}


@dataclass
class Entries:
    """One table of the file."""

    place: str
    """The file and the rule or channel, as messages name it."""
    given: Mapping[str, Any]
    mistakes: list[str]
    """Those of the whole file."""
    known: set[str] = field(default_factory=set)

    def wrong(self, message: str) -> None:
        """Add a mistake."""
        self.mistakes.append(f"{self.place}: {message}")

    def text(self, key: str, *, fix: str | None = None) -> str | None:
        """A text that is not empty; `fix` says what to write if it is required."""
        return self._value(key, str, fix)

    def flag(self, key: str) -> bool:
        """True or false; false if absent."""
        return bool(self._value(key, bool, None))

    def texts(self, key: str, *, fix: str | None = None) -> tuple[str, ...] | None:
        """A list of texts, which one text stands for, too."""
        self.known.add(key)
        value = self.given.get(key)
        if isinstance(value, str):
            value = [value]
        if value is None and fix is None:
            return None
        if not isinstance(value, list) or not value or not all(isinstance(each, str) and each for each in value):
            self.wrong(fix if value is None and fix is not None else f'{key} must be a list of texts: {key} = ["…"]')
            return None
        return tuple(value)

    def number(self, key: str) -> float | None:
        """A number."""
        self.known.add(key)
        value = self.given.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            self.wrong(f"{key} must be a number, not {value!r}")
            return None
        return value

    def one_of(self, key: str, choices: Iterable[str], default: str | None = None) -> str | None:
        """One of these texts."""
        choices = list(choices)
        fix = f"{key} is missing: write {key} = {' or '.join(map(repr, choices))}" if default is None else None
        value = self.text(key, fix=fix)
        if value is None:
            return default
        if value not in choices:
            self.wrong(
                f"{key} must be {', '.join(choices[:-1])} or {choices[-1]}, not {value!r}{meant(value, choices)}"
            )
            return None
        return value

    def finish(self, others: Iterable[str] = ()) -> None:
        """Report the keys that nothing has read; `others` are known, too."""
        names = sorted({*self.known, *others})
        for key in self.given:
            if key not in names:
                self.wrong(f"there is no key {key!r}{meant(key, names)}; the keys are {', '.join(names)}")

    def _value(self, key: str, kind: type[T], fix: str | None) -> T | None:
        self.known.add(key)
        value = self.given.get(key)
        if isinstance(value, kind) and value != "":
            return value
        if key not in self.given:
            if fix is not None:
                self.wrong(fix)
            return None
        self.wrong(f"{key} must be {_WORDS[kind]}, not {value!r}")
        return None


def meant(name: str, names: Iterable[str]) -> str:
    """The end of a message: the name that resembles a wrong one."""
    close = difflib.get_close_matches(name, list(names), 1, 0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
