"""The site: from a request to a page. Errors of pages end here."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import Connection

from usage_instrument.capture.registry import Recorder
from usage_instrument.database.engines import Database
from usage_instrument.database.tables import Tables
from usage_instrument.errors import AuditUnavailable
from usage_instrument.runtime import log

from .access import checked, nobody
from .cache import Cache
from .errors import PageError
from .figures import freshness
from .formatting import plural
from .html import render
from .http import HTTPRequest, Response, asset, into, page, redirect
from .page_jobs import PageJobs
from .page_request import PERIODS, PageRequest, period_of
from .pages.feature import feature
from .pages.overview import overview
from .pages.search import search
from .pages.table import file, table
from .pages.trail import file as trail_file
from .pages.trail import page as trail_page
from .pages.user import user
from .reader import Reader
from .results import BY_PAGE
from .trail_access import TrailAccess

Given = TypeVar("Given")
Verdict = TypeVar("Verdict")

_PAGES: dict[str, Callable[[PageRequest], str]] = {
    "/": overview,
    "/feature": feature,
    "/search": search,
    "/user": user,
}
_TRAIL = frozenset({"/audit", "/audit.csv"})


class Site(Generic[Given, Verdict]):
    """All pages over one database. The ASGI and the WSGI app are this, with a way to call `authorize`."""

    _can_await: ClassVar[bool] = True

    def __init__(
        self,
        database: Database,
        *,
        authorize: Callable[[Given], Verdict],
        authorize_audit: Callable[[Given], Verdict] | None = None,
        tracker: Recorder | None = None,
        tables: Tables | None = None,
        schema: str | None = None,
    ) -> None:
        self._authorize: Callable[[Given], Any] = checked(authorize, self._can_await)
        self._authorize_audit: Callable[[Given], Any] = nobody
        if authorize_audit is not None:
            self._authorize_audit = checked(authorize_audit, self._can_await)
        self._has_trail = authorize_audit is not None
        self._tracker = tracker
        self._reader = Reader(database, tables, schema)
        self._cache = Cache()
        self._jobs = PageJobs()

    def _public(self, request: HTTPRequest) -> Response | None:
        """The response that needs no permission and no database; None for everything else."""
        if request.method not in ("GET", "HEAD"):
            return message(405, "Only for reading", "This dashboard changes nothing.", extra=(("Allow", "GET, HEAD"),))
        return asset(request.path)

    def _page(self, request: HTTPRequest) -> Response:
        """The page for a visitor with permission, or within a second a page that waits for it. Raises nothing."""
        if request.path == "":
            return redirect(into(request))
        if request.path.endswith(".csv"):  # a program that fetches a file would not come back for it
            return self._answer(request)
        made = self._jobs.page((request.path, request.query), lambda: self._answer(request))
        return made if isinstance(made, Response) else waiting(made)

    def _is_of_trail(self, request: HTTPRequest) -> bool:
        """Whether it asks for the audit trail of a site that shows one."""
        return self._has_trail and request.path in _TRAIL

    def _trail(self, request: HTTPRequest, access: TrailAccess, is_granted: bool) -> Response:
        """The page of the audit trail. Its access is recorded first. Raises nothing."""
        if not is_granted:
            access.record_denied()
            return refusal(403)
        details: dict[str, Any] = {}

        def show(request_: PageRequest) -> Response:
            if request.path.endswith(".csv"):
                response, found = trail_file(request_)
            else:
                text, found = trail_page(request_)
                response = page(text)
            details.update(found)
            return response

        try:
            use = access.use("success")
            response = self._answer(request, show)
            if response.status != 200:
                access.record_failed()
                return response
            access.recorder.admit(use._replace(metadata=details))
        except PageError as error:
            return error_page(error)
        except AuditUnavailable as error:
            log.limited(logging.ERROR, "trail access", "%s", error)
            return message(
                503,
                "This look cannot be recorded",
                "So nothing of the trail is shown. The log of this process has the reason.",
            )
        return response

    def _answer(self, request: HTTPRequest, show: Callable[[PageRequest], Response] | None = None) -> Response:
        try:
            return self._read(request, show or _page_of(request.path))
        except PageError as error:
            return error_page(error)
        except Exception:
            log.limited(logging.ERROR, "page", "a page of the dashboard failed", exc_info=True)
            return message(500, "This page failed", "This is a bug of ours; the log of this process has the details.")

    def _read(self, request: HTTPRequest, show: Callable[[PageRequest], Response]) -> Response:
        parameters = request.parameters()
        if parameters is None or any("\0" in value for value in parameters.values()):
            raise PageError(400, "This address is too long, or broken", "Start again from the overview.")
        period = period_of(parameters.get("period"))

        def work(connection: Connection, tables: Tables) -> Response:
            name, fresh = request.path.removeprefix("/"), freshness(connection, tables)
            return show(
                PageRequest(connection, tables, name, parameters, period, fresh, self._cache, has_trail=self._has_trail)
            )

        return self._reader.read(work)


def _page_of(path: str) -> Callable[[PageRequest], Response]:
    if path in _TRAIL:
        raise PageError(
            403,
            "The audit trail is closed",
            "It needs its own permission: the Dashboard's `authorize_audit=` or the option `--audit-as`.",
        )
    show = _PAGES.get(path)
    if show is not None:
        return lambda request: page(show(request))
    name, dot, ending = path.removeprefix("/").partition(".")
    question = BY_PAGE.get(name)
    if question is None or (dot and ending != "csv"):
        raise PageError(404, "There is no such page", "Start again from the overview.")
    return (lambda request: file(question, request)) if dot else (lambda request: page(table(question, request)))


def waiting(seconds: float) -> Response:
    """A page that reloads itself until the requested one is ready."""
    so_far = plural(math.ceil(seconds), "second")
    advice = (f"There is much to count: {so_far} so far. The page appears when it is ready.",)
    return page(render("waiting.html", title="Counting …", advice=advice, links=(), is_open=True, periods=PERIODS), 202)


def message(
    status: int,
    title: str,
    *advice: str,
    links: tuple[tuple[str, str], ...] = (),
    extra: tuple[tuple[str, str], ...] = (),
    is_open: bool = True,
) -> Response:
    """A page with a message; `is_open` for a visitor who may look at other pages."""
    names = {"title": title, "advice": advice, "links": links, "is_open": is_open, "periods": PERIODS}
    return page(render("message.html", **names), status, *extra)


def error_page(error: PageError) -> Response:
    """The page that shows an error."""
    return message(error.status, error.title, *error.advice, links=error.links)


def refusal(status: int, *advice: str, extra: tuple[tuple[str, str], ...] = ()) -> Response:
    """The page for a visitor without permission."""
    return message(status, "You may not look at this", *advice, extra=extra, is_open=False)
