"""The dashboard as a WSGI app."""

from __future__ import annotations

from collections.abc import Iterable

import usage_instrument
from usage_instrument.typing import Environ, StartResponse
from usage_instrument.web.framework_users import flask_user

from .access import granted_by
from .http import HTTPRequest, Response
from .site import Site
from .trail_access import TrailAccess

__all__ = ["Dashboard"]


class Dashboard(Site[Environ, bool]):
    """The dashboard over a database, to be mounted:
    `app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/admin/usage": Dashboard(engine, authorize=is_admin)})`.

    - `database`: a URL of a sync or an async driver, an Engine or an AsyncEngine. The dashboard opens its own
      connections.
    - `authorize`: from the environ to True for visitors with permission. Any other value and any exception refuses the
      visitor.
    - `authorize_audit`: as `authorize`, for the audit trail alone, which is closed without it. Each look is recorded
      before the page is sent, with the request's user or the one that this function names by
      `usage_instrument.identify`.
    - `tracker`: records these looks; default: the one of `usage_instrument.configure`.
    - `tables`: the result of `define_tables`; default: the tables in `schema`, or in the schema of
      `$USAGE_INSTRUMENT_SCHEMA`, or in the connection's own.
    - `login_url`: where a refused visitor may sign in, a path or an address; `{next}` in it becomes the refused path.
    - `tz`: the time zone of all days, such as `Europe/Berlin`, or a tzinfo; default: UTC. It needs `history="hour"`,
      and a clock that is whole hours from UTC.
    - `user_label`: from the ids of the users on a page to a dict of their names, asked once a page, in a thread.
    - `user_search`: from a text to the ids of the users with that name.
    - `user_url`: the address of a user in the app's own admin; `{user}` in it becomes the id.
    - `user_groups`: columns of the users table, such as `["plan"]`, by which users are grouped.

    Raises ConfigurationError without `authorize`, for another time zone, for a coroutine function, and for a database
    that cannot be read.
    """

    _can_await = False

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, as PEP 3333 says."""
        usage_instrument.discard()  # looking at the numbers does not count
        response = self._respond(environ)
        start_response(response.status_line, response.headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [response.body]

    def _respond(self, environ: Environ) -> Response:
        request = request_of(environ)
        response = self._public(request)
        if response is not None:
            return response
        if self._is_of_trail(request):
            access = TrailAccess(self._tracker, environ, lambda: flask_user(environ))
            with access.context():
                may_look = granted_by(self._authorize_audit, environ)
            return self._trail(request, access, may_look)
        return self._page(request) if granted_by(self._authorize, environ) else self._refusal(request)


def request_of(environ: Environ) -> HTTPRequest:
    """The request of an environ, whose text is bytes read as Latin-1."""
    mount, path = (
        environ.get(name, "").encode("latin-1").decode("utf-8", "replace") for name in ("SCRIPT_NAME", "PATH_INFO")
    )
    fetch = environ.get("HTTP_SEC_FETCH_SITE", ""), environ.get("HTTP_SEC_FETCH_DEST", "")
    return HTTPRequest(environ["REQUEST_METHOD"], mount.rstrip("/"), path, environ.get("QUERY_STRING", ""), *fetch)
