"""The dashboard as a WSGI app."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import usage_instrument
from usage_instrument.capture.registry import Recorder
from usage_instrument.database.engines import Database
from usage_instrument.database.tables import Tables
from usage_instrument.errors import AuditUnavailable, ConfigurationError
from usage_instrument.typing import Environ, StartResponse
from usage_instrument.web.framework_users import flask_user
from usage_instrument.web.unavailable import report

from . import access
from .errors import Problem
from .http import Request, Response
from .site import Site, refusal, told, unrecorded
from .trail_access import Look, recorder_of


class Dashboard:
    """The dashboard over a database, to be mounted:
    `app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/admin/usage": Dashboard(engine, authorize=is_admin)})`.

    - `database`: a URL of a sync or an async driver, an Engine or an AsyncEngine; it is read by connections of the
      dashboard's own.
    - `authorize`: from the environ to True for those who may look. Whatever else it returns or raises, they see
      nothing.
    - `authorize_audit`: as `authorize`, for the audit trail and nothing else; without it, that is closed. Each look at
      it is recorded there before it is shown, as by the request's user, or whom this says by
      `usage_instrument.identify`. `tracker` records it; otherwise that is the one of `usage_instrument.configure`.
    - `tables`: those of `define_tables`, if the host has its own; otherwise they are looked for in `schema`, without
      which it is that of `$USAGE_INSTRUMENT_SCHEMA` or the connection's own.

    Raises ConfigurationError without `authorize`, for one that is a coroutine function, and for a database that cannot
    be read.
    """

    def __init__(
        self,
        database: Database,
        *,
        authorize: Callable[[Environ], bool],
        authorize_audit: Callable[[Environ], bool] | None = None,
        tracker: Recorder | None = None,
        tables: Tables | None = None,
        schema: str | None = None,
    ) -> None:
        self._authorize: Callable[[Environ], Any] = _checked(authorize)
        self._authorize_audit: Callable[[Environ], Any] = access.nobody
        if authorize_audit is not None:
            self._authorize_audit = _checked(authorize_audit)
        self._tracker = tracker
        self._site = Site(database, tables, schema, has_trail=authorize_audit is not None)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """As PEP 3333 says."""
        usage_instrument.discard()  # who looks at the numbers adds nothing to them
        response = self._answer(environ)
        start_response(response.status_line, response.headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [response.body]

    def _answer(self, environ: Environ) -> Response:
        request = request_of(environ)
        response = self._site.before(request)
        if response is not None:
            return response
        if self._site.is_of_trail(request):
            return self._look(environ, request)
        return self._site.answer(request) if _may_look(self._authorize, environ) else refusal(403)

    def _look(self, environ: Environ, request: Request) -> Response:
        look = Look(recorder_of(self._tracker), environ, lambda: flask_user(environ))
        with look.going_on():
            if not _may_look(self._authorize_audit, environ):
                look.denied()
                return refusal(403)
        try:
            use = look.use("success")
            response, details = self._site.look(request)
            if response.status != 200:
                look.failed()
                return response
            look.recorder.admit(use._replace(metadata=details))
        except Problem as problem:
            return told(problem)
        except AuditUnavailable as error:
            report(error)
            return unrecorded()
        return response


def _checked(authorize: Callable[[Environ], bool]) -> Callable[[Environ], Any]:
    access.checked(authorize, "environ")
    if access.is_async(authorize):
        raise ConfigurationError(
            "nobody awaits anything in a WSGI app: authorize is an ordinary function here, or the dashboard is "
            "that of usage_instrument.dashboard.asgi"
        )
    return authorize


def _may_look(authorize: Callable[[Environ], Any], environ: Environ) -> bool:
    try:
        return access.granted(authorize(environ))
    except Exception as error:
        access.failed(error)
        return False


def request_of(environ: Environ) -> Request:
    """What an environ asks for; its text is bytes read as Latin-1."""
    mount, path = (
        environ.get(name, "").encode("latin-1").decode("utf-8", "replace") for name in ("SCRIPT_NAME", "PATH_INFO")
    )
    return Request(environ["REQUEST_METHOD"], mount.rstrip("/"), path, environ.get("QUERY_STRING", ""))
