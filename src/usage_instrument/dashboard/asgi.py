"""The dashboard as an ASGI app."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from anyio import CapacityLimiter, to_thread

import usage_instrument
from usage_instrument.capture.registry import Recorder
from usage_instrument.database.engines import Database
from usage_instrument.database.tables import Tables
from usage_instrument.errors import AuditUnavailable
from usage_instrument.typing import Receive, Scope, Send
from usage_instrument.web.framework_users import loaded_user
from usage_instrument.web.unavailable import report

from . import access
from .errors import Problem
from .http import Request, Response
from .site import Site, refusal, told, unrecorded
from .trail_access import Look, recorder_of

VISITORS = 4
"""How many pages of a process are read at the same time. The others wait, in no thread that the host could need."""


class Dashboard:
    """The dashboard over a database, to be mounted: `app.mount("/admin/usage", Dashboard(engine, authorize=is_admin))`.

    - `database`: a URL of a sync or an async driver, an Engine or an AsyncEngine. It is read by connections of the
      dashboard's own, in a thread, so the event loop waits for nothing.
    - `authorize`: from the scope to True for those who may look; a function or a coroutine function. A function runs
      in a thread. Whatever else it returns or raises, they see nothing.
    - `authorize_audit`: as `authorize`, for the audit trail and nothing else; without it, that is closed. Each look at
      it is recorded there before it is shown, as by the request's user, or whom this says by
      `usage_instrument.identify`. `tracker` records it; otherwise that is the one of `usage_instrument.configure`.
    - `tables`: those of `define_tables`, if the host has its own; otherwise they are looked for in `schema`, without
      which it is that of `$USAGE_INSTRUMENT_SCHEMA` or the connection's own.

    Raises ConfigurationError without `authorize` and for a database that cannot be read.
    """

    def __init__(
        self,
        database: Database,
        *,
        authorize: Callable[[Scope], bool | Awaitable[bool]],
        authorize_audit: Callable[[Scope], bool | Awaitable[bool]] | None = None,
        tracker: Recorder | None = None,
        tables: Tables | None = None,
        schema: str | None = None,
    ) -> None:
        self._authorize: Callable[[Scope], Any] = access.checked(authorize, "scope")
        self._authorize_audit: Callable[[Scope], Any] = access.nobody
        if authorize_audit is not None:
            self._authorize_audit = access.checked(authorize_audit, "scope")
        self._tracker = tracker
        self._site = Site(database, tables, schema, has_trail=authorize_audit is not None)
        self._turns = CapacityLimiter(VISITORS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As the ASGI specification says."""
        if scope["type"] == "http":
            usage_instrument.discard()  # who looks at the numbers adds nothing to them
            await respond(await self._answer(scope), scope, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] == "lifespan":
            for stage in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{stage}.complete"})

    async def _answer(self, scope: Scope) -> Response:
        request = request_of(scope)
        response = self._site.before(request)
        if response is not None:
            return response
        if self._site.is_of_trail(request):
            return await self._look(scope, request)
        if not await _may_look(self._authorize, scope):
            return refusal(403)
        return await to_thread.run_sync(self._site.answer, request, limiter=self._turns)

    async def _look(self, scope: Scope, request: Request) -> Response:
        look = Look(recorder_of(self._tracker), scope, lambda: loaded_user(scope.get("user")))
        with look.going_on():
            if not await _may_look(self._authorize_audit, scope):
                look.denied()
                return refusal(403)
        try:
            use = look.use("success")
            response, details = await to_thread.run_sync(self._site.look, request, limiter=self._turns)
            if response.status != 200:
                look.failed()
                return response
            await look.recorder.aadmit(use._replace(metadata=details))
        except Problem as problem:
            return told(problem)
        except AuditUnavailable as error:
            report(error)
            return unrecorded()
        return response


async def _may_look(authorize: Callable[[Scope], Any], scope: Scope) -> bool:
    try:
        if access.is_async(authorize):
            return access.granted(await authorize(scope))
        answer = await to_thread.run_sync(authorize, scope)
        return access.granted(await answer if inspect.isawaitable(answer) else answer)
    except Exception as error:
        access.failed(error)
        return False


async def respond(response: Response, scope: Scope, send: Send) -> None:
    """Send a response."""
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response.body})


def request_of(scope: Scope) -> Request:
    """What a scope asks for. Some servers and frameworks leave the mount in its path and some do not."""
    path, mount = scope["path"], scope.get("root_path", "").rstrip("/")
    if mount and (path == mount or path.startswith(f"{mount}/")):
        path = path[len(mount) :]
    return Request(scope["method"], mount, path, scope.get("query_string", b"").decode("latin-1"))
