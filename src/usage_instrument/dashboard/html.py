"""Renders the templates. Every value in them is escaped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from . import formatting
from .http import STYLESHEET

_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


_WORDS = re.compile(r"(?<=[_.:/-])(?=[^_.:/-])|(?<=[a-z])(?=[A-Z])")


EMPTY = frozenset({"group"})
"""Parameters of which the empty text is a value: without one, it is another group."""


def address(page: str, /, **parameters: object) -> str:
    """A relative address, which works under any mount. Parameters that are None or empty are left out, except those
    in `EMPTY`."""
    given = {
        name: value for name, value in parameters.items() if value not in (None, "") or (name in EMPTY and value == "")
    }
    return (page or "./") + (f"?{urlencode(given)}" if given else "")


def with_code(sentence: str) -> Markup:
    """A sentence with its commands, between backticks, as code."""
    parts = re.split(r"`([^`]+)`", sentence)
    return Markup("").join(Markup("<code>{}</code>").format(p) if n % 2 else escape(p) for n, p in enumerate(parts))


def breakable(name: str) -> Markup:
    """A name that breaks between its words, where a line is too short for it."""
    return Markup("<wbr>").join(map(escape, _WORDS.split(name)))


def render(template: str, /, **names: Any) -> str:
    """The page that a template makes of these names."""
    return _environment.get_template(template).render(names)


_FORMATS = (
    "ago",
    "change",
    "context",
    "count",
    "day",
    "decimal",
    "instant",
    "moment",
    "plural",
    "relative",
    "second",
    "share",
    "short",
    "weekday",
)
_environment.globals.update(address=address, stylesheet=STYLESHEET)
_environment.filters.update(
    {name: getattr(formatting, name) for name in _FORMATS},
    breakable=breakable,
    code=with_code,
    with_value=lambda values, name, value: {**values, name: value},
)
