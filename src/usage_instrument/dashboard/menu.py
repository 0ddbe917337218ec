"""The menu: every question about the whole app, by topic, and the pages that stand beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from usage_instrument.queries.questions import QUESTIONS, Topic

from .html import address

_OWN_PAGES: dict[Topic, tuple[tuple[str, str], ...]] = {"Anomalies": (("All on one page", "anomalies"),)}
"""Pages of a topic that are no question: title and address."""


@dataclass(frozen=True)
class Link:
    """A page in the menu."""

    title: str
    address: str
    is_here: bool


@dataclass(frozen=True)
class Menu:
    """The topics with their pages, and the pages without a topic."""

    first: Link
    topics: tuple[tuple[str, tuple[Link, ...]], ...]
    last: tuple[Link, ...]


def menu_of(page: str, kept: Mapping[str, str], *, has_trail: bool) -> Menu:
    """The menu of a page. Its links carry the parameters that are kept: the period."""

    def link(title: str, other: str, carried: Mapping[str, str] = kept) -> Link:
        return Link(title, address(other, **carried), other == page)

    topics = []
    for topic in get_args(Topic):
        pages = [*_OWN_PAGES.get(topic, ()), *((each.title, each.page) for each in QUESTIONS if each.topic == topic)]
        topics.append((topic, tuple(link(title, other) for title, other in pages)))
    last = [link("Experiments", "experiments", {}), *([link("Audit trail", "audit", {})] if has_trail else [])]
    return Menu(link("Overview", ""), tuple(topics), tuple(last))
