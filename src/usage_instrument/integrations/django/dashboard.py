"""The dashboard in a Django site: `path("admin/usage/", Dashboard(authorize=…).urls)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, re_path

import usage_instrument
from usage_instrument import _default
from usage_instrument.dashboard.http import HTTPRequest, Response
from usage_instrument.dashboard.page_jobs import Job
from usage_instrument.dashboard.site import Site
from usage_instrument.database.engines import Database

from .databases import database_url
from .middleware import user_in

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Dashboard"]


class Dashboard(Site[HttpRequest, bool]):
    """The dashboard for a URLconf, as `usage_instrument.dashboard.wsgi.Dashboard` is for WSGI apps.

    `path("admin/usage/", Dashboard(authorize=lambda request: request.user.is_superuser).urls)`, above the path of the
    admin site. `authorize` and `authorize_audit` get the HttpRequest; they are ordinary functions and may query.
    `database` is a URL, an Engine or an AsyncEngine; default: the one of the configured tracker, else
    `DATABASES["default"]`. `user_label` and `user_search` may query too. Raises ConfigurationError as the WSGI app
    does.
    """

    _can_await: ClassVar[bool] = False

    def __init__(
        self, database: Database | None = None, *, authorize: Callable[[HttpRequest], bool], **options: Any
    ) -> None:
        if database is None:
            tracker = _default.tracker()
            database = None if tracker is None else tracker.database
        super().__init__(database_url() if database is None else database, authorize=authorize, **options)

    @property
    def urls(self) -> tuple[list[URLPattern], str, str]:
        """What `path` takes, as `admin.site.urls` is."""
        return [re_path(r"^(?P<page>.*)$", self.view, name="page")], "usage_instrument", "usage_instrument"

    def view(self, request: HttpRequest, page: str) -> HttpResponse:
        """Answer a request for one of the pages."""
        usage_instrument.discard()  # looking at the numbers does not count
        response = self._respond(request, page)
        body = b"" if request.method == "HEAD" else response.body
        return HttpResponse(body, status=response.status, headers=dict(response.headers))

    def _made(self, request: HTTPRequest, job: Job) -> Response:
        try:
            return super()._made(request, job)
        finally:
            connections.close_all()  # those of this thread, which `user_label` has opened

    def _respond(self, request: HttpRequest, page: str) -> Response:
        asked = HTTPRequest(
            request.method or "",
            request.path.removesuffix(page).rstrip("/"),
            f"/{page}",
            request.META.get("QUERY_STRING", ""),
            request.META.get("HTTP_SEC_FETCH_SITE", ""),
            request.META.get("HTTP_SEC_FETCH_DEST", ""),
        )
        return self._response(asked, request, lambda: user_in(request))
