"""The dashboard as an ASGI app."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import cached_property, partial
from typing import Any

from anyio import CapacityLimiter, to_thread

import usage_instrument
from usage_instrument.typing import Receive, Scope, Send
from usage_instrument.web.framework_users import loaded_user

from .access import is_async, is_granted, log_failure
from .http import HTTPRequest, Response
from .site import Site
from .trail_access import TrailAccess

__all__ = ["Dashboard"]

THREADS = 4
"""Pages of a process that are waited for at the same time, in threads that the host does not need."""


class Dashboard(Site[Scope, bool | Awaitable[bool]]):
    """The dashboard over a database, to be mounted: `app.mount("/admin/usage", Dashboard(engine, authorize=is_admin))`.

    - `database`: a URL of a sync or an async driver, an Engine or an AsyncEngine. The dashboard opens its own
      connections in threads, so the event loop never waits.
    - `authorize`: from the scope to True for visitors with permission; a function, which runs in a thread, or a
      coroutine function. Any other value and any exception refuses the visitor.
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

    Raises ConfigurationError without `authorize`, for another time zone, and for a database that cannot be read.
    """

    @cached_property
    def _limiter(self) -> CapacityLimiter:
        return CapacityLimiter(THREADS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as the ASGI specification says."""
        if scope["type"] == "http":
            usage_instrument.discard()  # looking at the numbers does not count
            await respond(await self._respond(scope), scope, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] == "lifespan":
            for stage in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{stage}.complete"})

    async def _respond(self, scope: Scope) -> Response:
        request = request_of(scope)
        response = self._public(request)
        if response is not None:
            return response
        if self._is_of_trail(request):
            access = TrailAccess(self._tracker, scope, lambda: loaded_user(scope.get("user")))
            with access.context():
                may_look = await _granted(self._authorize_audit, scope)
            work = partial(self._trail, request, access, may_look)
        elif await _granted(self._authorize, scope):
            work = partial(self._page, request)
        else:
            return self._refusal(request)
        return await to_thread.run_sync(work, limiter=self._limiter)


async def _granted(authorize: Callable[[Scope], Any], scope: Scope) -> bool:
    try:
        verdict = authorize(scope) if is_async(authorize) else await to_thread.run_sync(authorize, scope)
        return is_granted(await verdict if inspect.isawaitable(verdict) else verdict)
    except Exception as error:
        log_failure(error)
        return False


async def respond(response: Response, scope: Scope, send: Send) -> None:
    """Send a response."""
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response.body})


def request_of(scope: Scope) -> HTTPRequest:
    """The request of a scope. Some servers and frameworks leave the mount in its path, and some do not."""
    path, mount = scope["path"], scope.get("root_path", "").rstrip("/")
    if mount and (path == mount or path.startswith(f"{mount}/")):
        path = path[len(mount) :]
    headers = {name: value.decode("latin-1") for name, value in scope["headers"] if name.startswith(b"sec-fetch-")}
    fetch = headers.get(b"sec-fetch-site", ""), headers.get(b"sec-fetch-dest", "")
    return HTTPRequest(scope["method"], mount, path, scope.get("query_string", b"").decode("latin-1"), *fetch)
