"""The site: from a request to a page. Errors of pages end here."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection

from usage_instrument.capture.registry import Recorder
from usage_instrument.database.engines import Database
from usage_instrument.database.tables import Tables
from usage_instrument.errors import AuditUnavailable
from usage_instrument.queries.windows import window
from usage_instrument.queries.zones import TimeZone, checked_zone
from usage_instrument.runtime import log
from usage_instrument.typing import Unset, UserId

from .access import checked, checked_address, granted_by, nobody
from .cache import Cache
from .errors import PageError
from .figures import freshness
from .formatting import plural
from .html import render
from .http import HTTPRequest, Response, asset, into, page, redirect
from .page_jobs import Job, PageJobs, TooManyJobsError
from .page_request import DEFAULT, LISTS, PARAMETERS, PERIODS, PageRequest, in_months, period_of
from .pages import trail, trail_anomalies
from .pages.anomalies import anomalies
from .pages.experiment import experiment, experiment_file
from .pages.experiments import experiments, experiments_file
from .pages.feature import feature
from .pages.groups import group, group_file, groups, groups_file
from .pages.overview import overview
from .pages.search import search
from .pages.table import file, table
from .pages.user import user
from .people import PageUsers, People, UserLabel, UserSearch
from .reader import Reader
from .results import BY_PAGE
from .trail_access import TrailAccess

Given = TypeVar("Given")
Verdict = TypeVar("Verdict")

_PAGES: dict[str, Callable[[PageRequest], str]] = {
    "/": overview,
    "/anomalies": anomalies,
    "/experiment": experiment,
    "/experiments": experiments,
    "/feature": feature,
    "/group": group,
    "/groups": groups,
    "/search": search,
    "/user": user,
}
_FILES: dict[str, Callable[[PageRequest], Response]] = {
    "/experiment.csv": experiment_file,
    "/experiments.csv": experiments_file,
    "/group.csv": group_file,
    "/groups.csv": groups_file,
}
_TRAIL = {
    "/audit": trail,
    "/audit.csv": trail,
    "/audit-anomalies": trail_anomalies,
    "/audit-anomalies.csv": trail_anomalies,
}
"""The pages and files of the audit trail: each by the module that makes it."""


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
        login_url: str | None = None,
        tz: TimeZone = None,
        user_label: UserLabel | None = None,
        user_search: UserSearch | None = None,
        user_url: str | None = None,
        user_groups: Sequence[Any] = (),
    ) -> None:
        self._authorize: Callable[[Given], Any] = checked(authorize, self._can_await)
        self._authorize_audit: Callable[[Given], Any] = nobody
        if authorize_audit is not None:
            self._authorize_audit = checked(authorize_audit, self._can_await)
        self._has_trail = authorize_audit is not None
        self._tracker = tracker
        self._tz = checked_zone(tz)
        _ = window(DEFAULT.since, None, self._tz).zone  # raises for a zone that no page could show
        self._login_url = checked_address(login_url, "login_url", "/login?next={next}")
        self._reader = Reader(database, tables, schema)
        self._people = People(user_label, user_search, user_url, user_groups)
        self._cache = Cache()
        self._jobs = PageJobs()

    def _public(self, request: HTTPRequest) -> Response | None:
        """The response that needs no permission and no database; None for everything else."""
        if request.method not in ("GET", "HEAD"):
            return message(405, "Only for reading", "This dashboard changes nothing.", extra=(("Allow", "GET, HEAD"),))
        return asset(request.path) or (foreign(request) if request.is_foreign else None)

    def _response(self, request: HTTPRequest, given: Any, framework_user: Callable[[], UserId | Unset]) -> Response:
        """The response of an app that cannot await, which gives `authorize` what it is called with. Raises nothing."""
        response = self._public(request)
        if response is not None:
            return response
        if self._is_of_trail(request):
            access = TrailAccess(self._tracker, given, framework_user)
            with access.context():
                may_look = granted_by(self._authorize_audit, given)
            return self._trail(request, access, may_look)
        return self._page(request) if granted_by(self._authorize, given) else self._refusal(request)

    def _page(self, request: HTTPRequest) -> Response:
        """The page for a visitor with permission, or within a second a page that waits for it. Raises nothing."""
        if request.path == "":
            return redirect(into(request))
        if request.path.endswith(".csv"):  # a program that fetches a file would not come back for it
            return self._answer(request)
        parameters = request.parameters(LISTS) or {}
        # Other parameters change nothing: they must not make another page.
        key = (request.path, tuple(sorted((name, parameters[name]) for name in PARAMETERS & parameters.keys())))
        try:
            made = self._jobs.page(key, lambda job: self._made(request, job))
        except TooManyJobsError:
            return waiting("This dashboard is busy", "It makes many other pages. This page appears after them.", 503)
        if isinstance(made, Response):
            return made
        so_far = plural(math.ceil(made), "second")
        return waiting("Counting …", f"There is much to count: {so_far} so far. The page appears by itself.", 202)

    def _made(self, request: HTTPRequest, job: Job) -> Response:
        """The page, in a thread of its own, which ends afterwards. Raises nothing."""
        return self._answer(request, job=job)

    def _is_of_trail(self, request: HTTPRequest) -> bool:
        """Whether it asks for the audit trail of a site that shows one."""
        return self._has_trail and request.path in _TRAIL

    def _trail(self, request: HTTPRequest, access: TrailAccess, is_granted: bool) -> Response:
        """The page of the audit trail. Its access is recorded first. Raises nothing."""
        if not is_granted:
            access.record_denied()
            return self._refusal(request)
        details: dict[str, Any] = {}

        def show(request_: PageRequest) -> Response:
            module = _TRAIL[request.path]
            response: Response
            if request.path.endswith(".csv"):
                response, found = module.file(request_)
            else:
                text, found = module.page(request_)
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

    def _refusal(self, request: HTTPRequest) -> Response:
        """The page for a visitor without permission, who may sign in."""
        if self._login_url is None:
            return refusal(403)
        # One slash: two would be the address of another host.
        here = "/" + quote((request.mount + request.path).lstrip("/"), errors="replace")
        here = quote(here + (f"?{request.query}" if request.query else ""), safe="", errors="replace")
        return refusal(403, login=self._login_url.replace("{next}", here))

    def _answer(
        self,
        request: HTTPRequest,
        show: Callable[[PageRequest], Response] | None = None,
        job: Job | None = None,
    ) -> Response:
        try:
            return self._read(request, show or _page_of(request.path), job)
        except PageError as error:
            return error_page(error)
        except Exception:
            log.limited(logging.ERROR, "page", "a page of the dashboard failed", exc_info=True)
            return message(500, "This page failed", "This is a bug of ours; the log of this process has the details.")

    def _read(self, request: HTTPRequest, show: Callable[[PageRequest], Response], job: Job | None) -> Response:
        parameters = request.parameters(LISTS)
        if parameters is None or any("\0" in value for value in parameters.values()):
            raise PageError(400, "This address is too long, or broken", "Start again from the overview.")
        period = (
            replace(DEFAULT, tz=self._tz) if self._is_of_trail(request) else period_of(parameters, self._tz)
        )  # the trail has dates of its own

        def work(connection: Connection, tables: Tables) -> Response:
            name, fresh = request.path.removeprefix("/"), freshness(connection, tables)
            return show(
                PageRequest(
                    connection,
                    tables,
                    name,
                    parameters,
                    in_months(period, fresh.now, fresh.first_day),
                    fresh,
                    self._cache,
                    PageUsers(self._people),
                    has_trail=self._has_trail,
                )
            )

        return self._reader.read(work, job)


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
    if path in _FILES:
        return _FILES[path]
    name, dot, ending = path.removeprefix("/").partition(".")
    question = BY_PAGE.get(name)
    if question is None or (dot and ending != "csv"):
        raise PageError(404, "There is no such page", "Start again from the overview.")
    return (lambda request: file(question, request)) if dot else (lambda request: page(table(question, request)))


def waiting(title: str, advice: str, status: int) -> Response:
    """A page that reloads itself until the requested one is ready."""
    text = render("waiting.html", title=title, advice=(advice,), links=(), is_open=True, periods=PERIODS)
    return page(text, status, *([("Retry-After", "2")] if status == 503 else []))


def message(
    status: int,
    title: str,
    *advice: str,
    links: tuple[tuple[str, str], ...] = (),
    links_title: str = "Did you mean",
    extra: tuple[tuple[str, str], ...] = (),
    is_open: bool = True,
    login: str | None = None,
) -> Response:
    """A page with a message; `is_open` for a visitor who may look at other pages, `login` where others may sign in."""
    text = render(
        "message.html",
        title=title,
        advice=advice,
        links=links,
        links_title=links_title,
        is_open=is_open,
        login=login,
        periods=PERIODS,
    )
    return page(text, status, *extra)


def error_page(error: PageError) -> Response:
    """The page that shows an error."""
    return message(error.status, error.title, *error.advice, links=error.links)


def foreign(request: HTTPRequest) -> Response:
    """The page for a request that another site made. Its link makes the same request from this page."""
    name = request.path.rpartition("/")[2] if request.path else request.mount.rpartition("/")[2]
    here = f"./{quote(name, errors='replace')}" + (f"?{request.query}" if request.query else "")
    return message(
        403,
        "Another site asks for this page",
        "A link on another site leads here, or a page there embeds this one.",
        links=(("Open the page", here),),
        links_title="If you followed a link:",
        is_open=False,
    )


def refusal(status: int, *advice: str, extra: tuple[tuple[str, str], ...] = (), login: str | None = None) -> Response:
    """The page for a visitor without permission; `login` is the address where one may sign in."""
    return message(status, "You may not look at this", *advice, extra=extra, is_open=False, login=login)
