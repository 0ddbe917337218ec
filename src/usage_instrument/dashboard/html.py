"""Pages as text: the templates, in which whatever is put is escaped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from . import formatting
from .assets import STYLESHEET

_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def address(page: str, **parameters: object) -> str:
    """A relative address, which is right wherever the dashboard is mounted. What is None or empty is left out."""
    said = {name: value for name, value in parameters.items() if value not in (None, "")}
    return (page or "./") + (f"?{urlencode(said)}" if said else "")


def with_code(sentence: str) -> Markup:
    """A sentence whose commands, between backticks, are shown as such."""
    parts = re.split(r"`([^`]+)`", sentence)
    return Markup("").join(Markup("<code>{}</code>").format(p) if n % 2 else escape(p) for n, p in enumerate(parts))


def render(template: str, /, **names: Any) -> str:
    """The page that a template makes of these names."""
    return _environment.get_template(template).render(names)


_environment.globals.update(address=address, stylesheet=STYLESHEET)
_environment.filters.update(
    ago=formatting.ago,
    change=formatting.change,
    code=with_code,
    context=formatting.context,
    count=formatting.count,
    day=formatting.day,
    instant=formatting.instant,
    moment=formatting.moment,
    plural=formatting.plural,
    share=formatting.share,
    second=formatting.second,
    short=formatting.short,
    with_value=lambda values, name, value: {**values, name: value},
)
