"""The ASGI middleware: requests and WebSockets that succeed become uses of features."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from functools import partial

from .capture.context import Request, holder
from .capture.outcome import outcome_of_response
from .capture.registry import Recorder
from .errors import AuditUnavailable
from .typing import ASGIApp, Message, Metadata, Outcome, Receive, Scope, Send, Unset, UserId
from .web import unavailable
from .web.audit_policy import Auditing, Audits, RequestAudit
from .web.framework_users import loaded_user
from .web.request_counter import NOTHING, Counter, Target, is_login_redirect
from .web.routes import WEBSOCKET, RouteTree, marker_of, mount_depth, visible_routes
from .web.rules import Features
from .web.setup_checks import ASGI, check_protocol, look_below

logger = logging.getLogger("usage_instrument")


class UsageMiddleware:
    """Counts what its app answers; see Rules for `features`, `include` and `exclude`.

    - `tracker`: a Tracker; without one, whatever `usage_instrument.configure` sets up, before or after.
    - `user`: from the scope to the user's id; otherwise it is who `as_user` or `identify` said, else
      `scope["user"]`, else nobody.
    - `metadata`: a mapping, or a callable from the scope to one.
    - `success`: from status and scope to whether the response is a use; otherwise 2xx is, and 3xx for an unsafe
      method. A WebSocket is a use when it is accepted.
    - `audit`: from names of features to True or `"required"`; see Auditing.

    Answers go through untouched; an AuditUnavailable becomes a 503. When the lifespan ends, pending counts are written;
    an app without a lifespan is given one. Raises FeatureNameError and ConfigurationError (ValueErrors),
    DeclarationError and MetadataError (TypeErrors) for options that cannot work; at run time it raises nothing of its
    own unless the tracker is strict.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tracker: Recorder | None = None,
        features: Features | None = None,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
        user: Callable[[Scope], object] | None = None,
        metadata: Metadata | Callable[[Scope], Metadata | None] | None = None,
        success: Callable[[int, Scope], object] | None = None,
        audit: Audits | None = None,
    ) -> None:
        check_protocol(app, ASGI)
        self.app = app
        self._counter = Counter(tracker, features, include, exclude, user, metadata, success, _user_in, audit=audit)
        self._counter.look = partial(look_below, app, self._counter, visible_routes)
        self._tree = RouteTree()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As the ASGI specification says."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._live(scope, receive, send)
            return
        if kind not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        counter = self._counter
        request, is_ours = counter.begin(kind, scope["method"] if kind == "http" else "", scope, scope)
        depth = mount_depth(scope) if "app_root_path" in scope else 0
        begins = "http.response.start" if kind == "http" else "websocket.accept"
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == begins:
                has_begun = True
                self._begun(request, scope, message, depth)
            await send(message)

        token = holder.set(counter.holder_for(request))
        try:
            if counter.auditing is None:
                await self.app(scope, receive, watched)
            else:
                await self._audited(counter.auditing, request, depth, scope, receive, watched)
        except AuditUnavailable as error:
            if has_begun:
                raise
            unavailable.say(error)
            await _refuse(kind, send)
        finally:
            try:
                holder.reset(token)
            except ValueError:  # somebody moved the request to another context
                pass
            if is_ours:
                counter.ended(request, scope)

    async def _audited(
        self, auditing: Auditing, request: Request, depth: int, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Call the app, once what is required is recorded, and record what becomes of it."""
        counter, method = self._counter, request.method or WEBSOCKET
        roots = ("", scope.get("root_path", ""), scope.get("app_root_path", ""))
        paths = [scope["path"].removeprefix(root) for root in roots]

        def find() -> Collection[str]:
            return counter.audited(self._target(request, scope, depth), scope, paths, method)

        audit = RequestAudit(auditing, request, scope, partial(auditing.at, paths, method), find)

        async def heard(message: Message) -> None:
            outcome = _outcome(request, message)
            if outcome is not None:
                with counter.guarding():
                    audit.answered(outcome)
                    audit.end()
            await send(message)

        try:
            await audit.aadmit()
            await self.app(scope, receive, heard)
        except BaseException as error:
            with counter.guarding():
                audit.failed(error)
            raise
        with counter.guarding():
            audit.end()

    def _begun(self, request: Request, scope: Scope, message: Message, depth: int) -> None:
        """The response starts: the one border that no error of ours crosses."""
        if request.discarded:
            return
        counter, target = self._counter, None
        try:
            if request.kind == "http":
                status = message["status"]
                is_plain = counter.success is None and 200 <= status < 300
                if not is_plain and not self._succeeded(request, scope, message, status):
                    return
            target = self._target(request, scope, depth)
            use = counter.weigh(request, scope, target)
            if use is not None:
                counter.count(request, use)
        except Exception as error:
            counter.failed(error, target)

    def _succeeded(self, request: Request, scope: Scope, message: Message, status: int) -> bool:
        if not self._counter.succeeded(request, scope, status):
            return False
        if 300 <= status < 400 and self._counter.success is None:
            for name, value in message.get("headers", ()):
                if name.lower() == b"location":
                    return not is_login_redirect(value.decode("latin-1"), scope["path"])
        return True

    def _target(self, request: Request, scope: Scope, depth: int) -> Target:
        counter = self._counter
        method = request.method or WEBSOCKET
        marker = marker_of(scope)
        if marker is None:
            # A known router that matched nothing leaves nothing to count.
            return NOTHING if "router" in scope else counter.target_of_path(scope["path"], method)
        key = (id(marker), method, depth)
        target = counter.targets.get(key)
        if target is None:
            if depth > 0:
                counter.look = None  # the options may say what only the app around this one knows
            route, is_certain = self._tree.find(scope, marker, depth)
            target = counter.target(route, method, marker)
            if is_certain:
                counter.remember(key, target)
        return target

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the lifespan on, and write what is pending at its end; live it ourselves for an app that does not."""
        has_begun = has_ended = False

        async def watched_receive() -> Message:
            nonlocal has_begun
            has_begun = True
            return await receive()

        async def watched_send(message: Message) -> None:
            nonlocal has_begun, has_ended
            has_begun = True
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                has_ended = True
                await self._flush()
            await send(message)

        try:
            await self.app(scope, watched_receive, watched_send)
        except Exception as error:
            # A failure of its own: an app without a lifespan does not get that far, and a framework that has put itself
            # into the scope has one.
            if has_begun or "app" in scope:
                if not has_ended:
                    await self._flush()
                raise
            logger.debug("the app has no lifespan: %r", error)
        if has_begun:
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._flush()
        await send({"type": "lifespan.shutdown.complete"})

    async def _flush(self) -> None:
        try:
            await self._counter.recorder.ashutdown()
        except Exception:
            logger.warning("could not write what was pending at the end of the lifespan", exc_info=True)


async def _refuse(kind: str, send: Send) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": unavailable.TRY_AGAIN})
        return
    headers = [(name.lower().encode(), value.encode()) for name, value in unavailable.HEADERS]
    await send({"type": "http.response.start", "status": unavailable.STATUS, "headers": headers})
    await send({"type": "http.response.body", "body": unavailable.BODY})


def _outcome(request: Request, message: Message) -> Outcome | None:
    """What a message of an app says of the access; None where it says nothing."""
    kind = message["type"]
    if kind == "websocket.accept":
        return "success"
    if kind == "websocket.close":
        return "denied"  # unless it was accepted before, which is told already: so servers answer with a 403
    if kind not in ("http.response.start", "websocket.http.response.start"):
        return None
    headers = message.get("headers", ())
    location = next((value for name, value in headers if name.lower() == b"location"), b"")
    return outcome_of_response(request, message["status"], location.decode("latin-1"))


def _user_in(scope: Scope) -> UserId | Unset:
    return loaded_user(scope.get("user"))
