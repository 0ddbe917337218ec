"""The dashboard as a WSGI app."""

from __future__ import annotations

from collections.abc import Iterable

import usage_instrument
from usage_instrument.typing import Environ, StartResponse
from usage_instrument.web.framework_users import flask_user

from .http import HTTPRequest
from .site import Site

__all__ = ["Dashboard"]


class Dashboard(Site[Environ, bool]):
    """The dashboard over a database, to be mounted:
    `app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/admin/usage": Dashboard(engine, authorize=is_admin)})`.

    The options are those of `usage_instrument.dashboard.asgi.Dashboard`, but `authorize` and `authorize_audit` take the
    environ and are ordinary functions. Raises ConfigurationError as that does, and for a coroutine function.
    """

    _can_await = False

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, as PEP 3333 says."""
        usage_instrument.discard()  # looking at the numbers does not count
        response = self._response(request_of(environ), environ, lambda: flask_user(environ))
        start_response(response.status_line, response.headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [response.body]


def request_of(environ: Environ) -> HTTPRequest:
    """The request of an environ, whose text is bytes read as Latin-1."""
    mount, path = (
        environ.get(name, "").encode("latin-1").decode("utf-8", "replace") for name in ("SCRIPT_NAME", "PATH_INFO")
    )
    fetch = environ.get("HTTP_SEC_FETCH_SITE", ""), environ.get("HTTP_SEC_FETCH_DEST", "")
    return HTTPRequest(environ["REQUEST_METHOD"], mount.rstrip("/"), path, environ.get("QUERY_STRING", ""), *fetch)
