"""The Django middleware: requests that succeed become uses of features, named as their URLs are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction

from usage_instrument.capture.context import holder
from usage_instrument.capture.outcome import outcome_of_response
from usage_instrument.errors import AuditUnavailable
from usage_instrument.typing import Unset, UserId
from usage_instrument.web import unavailable
from usage_instrument.web.audit_policy import RequestAudit
from usage_instrument.web.framework_users import is_unloaded, loaded_user
from usage_instrument.web.request_counter import NOTHING, Counter, Target, is_login_redirect
from usage_instrument.web.response_body import AsyncBody, Body, Exchange
from usage_instrument.web.routes import Route, plain_template

from . import options

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

_STATIC = frozenset({"django.views.static", "django.contrib.staticfiles.views"})


class UsageMiddleware:
    """`MIDDLEWARE = ["usage_instrument.integrations.django.UsageMiddleware", ...]`: the first, to see what leaves.

    It serves WSGI and ASGI, and counts as the plain middlewares do, with the options of theirs that
    `USAGE_INSTRUMENT` holds; the callables get the HttpRequest. A feature is named as its URL, with its namespaces
    (`shop:checkout`), a view without a name by its dotted path. The user is who `as_user` or `identify` said, else
    `request.user` if something in the request has loaded it, else nobody. Raises as the plain middlewares do.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        said = {
            **dict.fromkeys(("features", "include", "exclude", "user", "metadata", "success", "audit")),
            **options.of_middleware(),
        }
        self._counter = Counter(None, **said, loaded=_user_in, knows_routes=True)
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        if self._counter.auditing is not None:
            self.process_view = self._aadmit if self._is_async else self._admit
            """As Django says: between the routing and the view."""

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """As Django says."""
        if self._is_async:
            return self._respond(request)
        exchange = Conversation(self._counter, request)
        token = holder.set(exchange.holder)
        try:
            return exchange.begun(self.get_response(request))
        except BaseException as error:
            exchange.fail(error)
            exchange.end()
            raise
        finally:
            holder.reset(token)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponseBase | None:
        """As Django says: an access that could not be recorded is a 503."""
        if not isinstance(exception, AuditUnavailable):
            return None
        from django.http import HttpResponse

        unavailable.say(exception)
        return HttpResponse(unavailable.BODY, status=unavailable.STATUS, headers=dict(unavailable.HEADERS))

    def _admit(self, request: HttpRequest, *_: object) -> HttpResponseBase | None:
        try:
            vars(request)[_KEY].admit()
        except AuditUnavailable as error:
            return self.process_exception(request, error)
        return None

    async def _aadmit(self, request: HttpRequest, *_: object) -> HttpResponseBase | None:
        try:
            await vars(request)[_KEY].aadmit()
        except AuditUnavailable as error:
            return self.process_exception(request, error)
        return None

    async def _respond(self, request: HttpRequest) -> HttpResponseBase:
        exchange = Conversation(self._counter, request)
        token = holder.set(exchange.holder)
        try:
            return exchange.begun(await self.get_response(request))
        except BaseException as error:
            exchange.fail(error)
            exchange.end()
            raise
        finally:
            holder.reset(token)


_KEY = "_usage_instrument_audit"
"""What an HttpRequest keeps between the middleware's two entrances, where its accesses are audited."""


class Conversation(Exchange):
    """One HttpRequest and its response."""

    __slots__ = ("_http",)

    def __init__(self, counter: Counter, http: HttpRequest) -> None:
        shelf = getattr(http, "scope", http.META)
        request, is_ours = counter.begin("http", http.method or "", http, shelf)
        super().__init__(counter, request, is_ours, shelf)
        self._http = http
        if counter.auditing is not None:
            self.audit = RequestAudit(counter.auditing, request, http, self._audited, self._audited)
            vars(http)[_KEY] = self.audit

    def begun(self, response: HttpResponseBase) -> HttpResponseBase:
        """The response, counted, or made to count with its first piece."""
        self._weigh(response)
        # A file is the server's to send; to touch it would stop that.
        if not response.streaming or getattr(response, "file_to_stream", None) is not None:
            self.end()
            return response
        kind: type[Body | AsyncBody] = AsyncBody if response.is_async else Body
        body = kind(self._counter, self._request, self._is_ours, self._carrier, response.streaming_content)
        body.holder, body.pending, body.audit = self.holder, self.pending, self.audit
        response.streaming_content = body
        return response

    def _weigh(self, response: HttpResponseBase) -> None:
        target = None
        request, http, counter = self._request, self._http, self._counter
        if self.audit is not None:
            with counter.guarding():
                outcome = outcome_of_response(request, response.status_code, response.headers.get("Location", ""))
                self.audit.answered(outcome)
        if request.discarded:
            return
        try:
            status = response.status_code
            if not counter.succeeded(request, http, status):
                return
            location = response.headers.get("Location", "") if counter.success is None else ""
            if 300 <= status < 400 and is_login_redirect(location, http.path):
                return
            target = self._target()
            self.pending = counter.weigh(request, http, target)
        except Exception as error:
            counter.failed(error, target)

    def _audited(self) -> Collection[str]:
        http = self._http
        return self._counter.audited(self._target(), http, (http.path, http.path_info), self._request.method)

    def _target(self) -> Target:
        match = self._http.resolver_match
        if match is None:
            return NOTHING
        counter, method = self._counter, self._request.method
        key = (id(match.func), match.view_name, match.route, method)
        target = counter.targets.get(key)
        if target is None:
            target = counter.target(_route(match), method, match.func)
            counter.remember(key, target)
        return target


def _route(match: Any) -> Route:
    view = match.func
    template = "/" + plain_template(match.route or "")
    is_static = getattr(view, "__module__", None) in _STATIC
    return Route(match.view_name, (template,), template, view, not is_static)


def _user_in(http: HttpRequest) -> UserId | Unset:
    """The user, if something in the request has loaded it: no session is read, no query made."""
    loaded = vars(http)
    user = loaded.get("user")
    if is_unloaded(user):  # but asked for in another way, such as `await request.auser()`
        user = loaded.get("_acached_user", loaded.get("_cached_user"))
    return loaded_user(user)
