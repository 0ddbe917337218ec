"""The site: from a request to a page. Its shells know servers, its pages know the database; errors end here."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from usage_instrument.database.engines import Database
from usage_instrument.database.tables import Tables

from .assets import asset
from .cache import Memory
from .errors import Problem
from .formatting import plural
from .freshness import freshness
from .html import render
from .http import Request, Response, into, page, redirect
from .page_jobs import Making
from .page_request import Visit
from .pages.feature import feature
from .pages.overview import overview
from .pages.search import search
from .pages.table import file, table
from .pages.trail import file as trail_file
from .pages.trail import page as trail_page
from .pages.user import user
from .period import PERIODS, period_of
from .reader import Reader
from .tables import EVERY

logger = logging.getLogger("usage_instrument")

_PAGES: dict[str, Callable[[Visit], str]] = {
    "/": overview,
    "/feature": feature,
    "/search": search,
    "/user": user,
}


_TRAIL = frozenset({"/audit", "/audit.csv"})


class Site:
    """All pages over one database; `has_trail` where somebody may look at its audit trail, by a right of their own."""

    def __init__(self, database: Database, tables: Tables | None, schema: str | None, *, has_trail: bool) -> None:
        self._reader = Reader(database, tables, schema)
        self._has_trail = has_trail
        self._memory = Memory()
        self._making = Making()

    def before(self, request: Request) -> Response | None:
        """What anybody gets, without a look at who they are or at the database; None for everything else."""
        if request.method not in ("GET", "HEAD"):
            return message(405, "Only for reading", "This dashboard changes nothing.", extra=(("Allow", "GET, HEAD"),))
        return asset(request.path)

    def answer(self, request: Request) -> Response:
        """What those get who may look: a page within a second, if only one that says to wait. Raises nothing."""
        if request.path == "":
            return redirect(into(request))
        if request.path.endswith(".csv"):  # no program that fetches a file would come back for it
            return self._answer(request)
        made = self._making.page((request.path, request.query), lambda: self._answer(request))
        return made if isinstance(made, Response) else waiting(made)

    def is_of_trail(self, request: Request) -> bool:
        """Whether it asks for the audit trail, where that can be looked at: `answer` is for all else."""
        return self._has_trail and request.path in _TRAIL

    def look(self, request: Request) -> tuple[Response, dict[str, Any]]:
        """The audit trail, for those who may look at it, and what is to be recorded of this look. Raises nothing."""
        noted: dict[str, Any] = {}

        def show(visit: Visit) -> Response:
            if request.path.endswith(".csv"):
                response, about = trail_file(visit)
            else:
                text, about = trail_page(visit)
                response = page(text)
            noted.update(about)
            return response

        return self._answer(request, show), noted

    def _answer(self, request: Request, show: Callable[[Visit], Response] | None = None) -> Response:
        try:
            return self._read(request, show or _page_of(request.path))
        except Problem as problem:
            return told(problem)
        except Exception:
            logger.exception("a page of the dashboard failed")
            return message(500, "This page failed", "That is a mistake of ours; the log of this process has the rest.")

    def _read(self, request: Request, show: Callable[[Visit], Response]) -> Response:
        parameters = request.parameters()
        if parameters is None or any("\0" in value for value in parameters.values()):
            raise Problem(400, "That address is too long, or broken", "Start again from the overview.")
        period = period_of(parameters.get("period"))

        def work(connection: Connection, tables: Tables) -> Response:
            fresh = freshness(connection, tables)
            place = request.path.removeprefix("/")
            return show(
                Visit(connection, tables, place, parameters, period, fresh, self._memory, has_trail=self._has_trail)
            )

        return self._reader.read(work)


def _page_of(path: str) -> Callable[[Visit], Response]:
    if path in _TRAIL:
        raise Problem(
            403,
            "The audit trail is closed",
            "It has its own right: the Dashboard's `authorize_audit=`, or `usage-instrument dashboard --audit-as`.",
        )
    show = _PAGES.get(path)
    if show is not None:
        return lambda visit: page(show(visit))
    name, dot, ending = path.removeprefix("/").partition(".")
    question = EVERY.get(name)
    if question is None or (dot and ending != "csv"):
        raise Problem(404, "There is no such page", "Start again from the overview.")
    if dot:
        return lambda visit: file(question, visit)
    return lambda visit: page(table(question, visit))


def waiting(seconds: float) -> Response:
    """A page that comes back for the one that is not there yet."""
    so_far = plural(math.ceil(seconds), "second")
    names = {"title": "Counting …", "advice": (f"There is much to count: {so_far} so far. The page comes by itself.",)}
    return page(render("waiting.html", **names, links=(), is_open=True, periods=PERIODS), 202)


def message(
    status: int,
    title: str,
    *advice: str,
    links: tuple[tuple[str, str], ...] = (),
    extra: tuple[tuple[str, str], ...] = (),
    is_open: bool = True,
) -> Response:
    """A page that says what is the matter; `is_open` where the visitor may look at others."""
    names = {"title": title, "advice": advice, "links": links, "is_open": is_open, "periods": PERIODS}
    return page(render("message.html", **names), status, *extra)


def told(problem: Problem) -> Response:
    """The page that says what a problem says."""
    return message(problem.status, problem.title, *problem.advice, links=problem.links)


def unrecorded() -> Response:
    """What is shown instead of the audit trail where the look at it could not be recorded."""
    return message(
        503, "This look cannot be recorded", "So nothing of the trail is shown. The log of this process has the reason."
    )


def refusal(status: int, *advice: str, extra: tuple[tuple[str, str], ...] = ()) -> Response:
    """What those get who may not look."""
    return message(status, "You may not look at this", *advice, extra=extra, is_open=False)
