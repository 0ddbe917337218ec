"""The Django middleware: requests that succeed become uses of features, named as their URLs are."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.contrib.auth.signals import user_logged_out

from usage_instrument.capture.context import LoginPage, holder
from usage_instrument.capture.kept_uses import Release
from usage_instrument.capture.loaded_attributes import attributes_of
from usage_instrument.capture.responses import django_login_pages, guard_of
from usage_instrument.capture.user_ids import is_unloaded, unwrapped
from usage_instrument.errors import AuditUnavailable, UserIdError
from usage_instrument.runtime import log
from usage_instrument.typing import UNSET, Unset, UserId
from usage_instrument.web import unavailable
from usage_instrument.web.django_routes import DjangoRoutes, django_routes
from usage_instrument.web.exchange import AsyncBody, BodyExchange
from usage_instrument.web.framework_users import SESSION_USERS, loaded_user, note_session_user
from usage_instrument.web.request_counter import NO_ROUTE, RequestCounter, RouteFeature
from usage_instrument.web.setup_checks import declare_later

from . import settings
from .atomic_requests import AtomicRequest, check_atomic_requests

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

_KEY = "_usage_instrument_exchange"
"""The attribute of an HttpRequest that holds its exchange, between the two entrances of the middleware."""


_LOGGED_OUT = "_usage_instrument_user"
"""The attribute of an HttpRequest with the user who has logged out in it."""
_COOKIES = "django.contrib.sessions.backends.signed_cookies"
"""The session engine whose sessions need no query, and the salt of its cookies."""


class UsageMiddleware:
    """`MIDDLEWARE = ["usage_instrument.integrations.django.UsageMiddleware", ...]`, first, to see every response.

    It serves WSGI and ASGI, and counts as the plain middlewares do, with the options in `USAGE_INSTRUMENT`, whose
    callables get the HttpRequest. A feature is named as its URL, with namespaces (`shop:checkout`), or as the dotted
    path of a view without a name. Without `user=`, the user is the one that `as_user` or `identify` stated, else
    `request.user` if something in the request has loaded it, else anonymous. Raises as the plain middlewares do.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._counter = RequestCounter(
            settings.middleware_options(),
            user_in,
            _login_pages,
            session_of=lambda http: _session_in(vars(http).get("session")),
            knows_routes=True,
        )
        self._counter.check_setup = partial(declare_later, self._counter, django_routes)
        self._routes = DjangoRoutes()
        user_logged_out.connect(_keep_logged_out, dispatch_uid="usage_instrument")
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        if self._counter.is_bound:
            check_atomic_requests()
        if self._counter.policy is not None or self._counter.is_bound or self._counter.session_user is not None:
            self.process_view = self._admit_async if self._is_async else self._admit
            """As Django says: between the routing and the view."""

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """As Django says."""
        if self._is_async:
            return self._respond(request)
        with DjangoExchange(self._counter, self._routes, request).running() as exchange:
            return exchange.responded(self.get_response(request))

    async def _respond(self, request: HttpRequest) -> HttpResponseBase:
        with DjangoExchange(self._counter, self._routes, request).running() as exchange:
            return exchange.responded(await self.get_response(request))

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponseBase | None:
        """As Django says: an access that could not be recorded is a 503."""
        if not isinstance(exception, AuditUnavailable):
            return None
        from django.http import HttpResponse

        unavailable.report(exception)
        return HttpResponse(unavailable.BODY, status=unavailable.STATUS, headers=dict(unavailable.HEADERS))

    def _admit(self, request: HttpRequest, view: Callable[..., Any], *_: object) -> HttpResponseBase | None:
        try:
            exchange: DjangoExchange = vars(request)[_KEY]
            if self._counter.session_user is not None:
                _follow_session(request, self._counter.session_user)
            if self._counter.is_bound:
                exchange.follow(view)
            exchange.admit()
        except AuditUnavailable as error:
            return self.process_exception(request, error)
        return None

    async def _admit_async(self, request: HttpRequest, view: Callable[..., Any], *_: object) -> HttpResponseBase | None:
        try:
            exchange: DjangoExchange = vars(request)[_KEY]
            if self._counter.session_user is not None:
                _follow_session(request, self._counter.session_user)
            if self._counter.is_bound and not iscoroutinefunction(view):
                # In the thread of the view, whose connections are its own.
                await sync_to_async(exchange.follow)(view)
            await exchange.admit_async()
        except AuditUnavailable as error:
            return self.process_exception(request, error)
        return None


class DjangoExchange(BodyExchange):
    """One HttpRequest and its response."""

    __slots__ = ("atomic", "routes")

    def __init__(self, counter: RequestCounter, routes: DjangoRoutes, http: HttpRequest) -> None:
        self.atomic: AtomicRequest | None = None
        super().__init__(counter, "http", (http.method or "").upper(), http, getattr(http, "scope", http.META))
        self.routes = routes
        self.body = ()
        self.iterator = None
        if counter.policy is not None or counter.is_bound or counter.session_user is not None:
            vars(http)[_KEY] = self

    def follow(self, view: Callable[..., Any]) -> None:
        """Note whether the transactions around the view commit. Must run in the thread of the view."""
        self.atomic = AtomicRequest(view)

    def keep(self, release: Release) -> None:
        """As PendingUse.keep."""
        atomic = self.atomic
        super().keep(release if atomic is None else lambda: atomic.keep(release))

    @contextmanager
    def running(self) -> Iterator[DjangoExchange]:
        """The app runs, in the request's context."""
        token = holder.set(self.holder)
        try:
            yield self
        except BaseException as error:
            self.fail(error)
            self.end()
            raise
        finally:
            holder.reset(token)

    def responded(self, response: HttpResponseBase) -> HttpResponseBase:
        """The response; counted now, or with the first piece of a stream."""
        http = self.carrier
        if self.atomic is not None:
            self.atomic.close()
        if self.counter.graphql and not response.streaming:
            query = http.META.get("QUERY_STRING", "")
            bodies = self.counter.bodies(self.request, self.paths(), http.content_type or "", query)
            if bodies is not None:
                bodies.begin(response.status_code, response.headers.get("Content-Type", ""))
                bodies.asked(vars(http).get("_body", b""))
                bodies.answered(getattr(response, "content", b""))
                bodies.count()
        self.started(response.status_code, response.headers.items())
        # A file is the server's to send, which another iterator would prevent.
        if not response.streaming or getattr(response, "file_to_stream", None) is not None:
            self.end()
        elif response.is_async:
            response.streaming_content = AsyncBody(self, response.streaming_content)
        else:
            self.body = response.streaming_content
            response.streaming_content = self
        return response

    def end(self) -> None:
        """As Exchange.end."""
        self.carrier.__dict__.pop(_KEY, None)
        if self.atomic is not None:
            self.atomic.close()
        super().end()

    def foreseen(self) -> Collection[str]:
        """As Exchange.foreseen: by the route, which is known before the view is called."""
        return self._features()

    def paths(self) -> tuple[str, str]:
        """As Exchange.paths."""
        return self.carrier.path, self.carrier.path_info

    def route_feature(self) -> RouteFeature:
        """As Exchange.route_feature."""
        match = self.carrier.resolver_match
        if match is None:
            return NO_ROUTE
        counter, method = self.counter, self.request.method
        key = (id(match.func), match.view_name, match.route, method)
        found = counter.routes.get(key)
        if found is None:
            urlconf = getattr(self.carrier, "urlconf", None)
            found = counter.feature_of(self.routes.find(match, urlconf, method), method, match.func)
            counter.remember(key, found)
        return found


def user_in(http: HttpRequest) -> UserId | Unset:
    """The user, if something in the request has loaded it, else the id in a loaded session, else the user who has
    logged out in the request: reads no session, makes no query."""
    loaded = vars(http)
    user = loaded.get("user")
    if is_unloaded(user):  # but maybe loaded in another way, such as `await request.auser()`
        user = loaded.get("_acached_user", loaded.get("_cached_user"))
        if user is None:
            session = _session_in(loaded.get("session"))
            user = session.get("_auth_user_id") if isinstance(session, dict) else None
    found = loaded_user(user)
    return loaded_user(loaded.get(_LOGGED_OUT)) if found is UNSET else found


def _session_in(session: Any) -> object:
    """What a session holds, if it is loaded or is the cookie itself; reading it here changes no header."""
    found = attributes_of(session).get("_session_cache")
    if found is not None or type(session).__module__ != _COOKIES or not session.session_key:
        return found
    from django.core import signing

    try:
        return signing.loads(
            session.session_key, serializer=session.serializer, max_age=session.get_session_cookie_age(), salt=_COOKIES
        )
    except Exception:  # forged, or too old
        return None


@log.quietly("cannot follow the session of a request")
def _follow_session(http: HttpRequest, key: str) -> None:
    """Note the user of the session before the view, which may empty the session: now, or when something loads it."""
    session: Any = vars(http).get("session")
    found = _session_in(session)
    if found is not None or session is None:
        note_session_user(vars(http), found, key)
        return
    # Of this one session, which ends with the request; without a cycle of references.
    notes: dict[str, Any] = vars(http).setdefault(SESSION_USERS, {})
    vars(session)["load"] = partial(_load_session, weakref.ref(session), notes, key)
    if hasattr(session, "aload"):  # since Django 5.1
        vars(session)["aload"] = partial(_load_session_async, weakref.ref(session), notes, key)


def _load_session(session: Any, notes: dict[str, Any], key: str) -> Any:
    loaded = type(session()).load(session())
    return _noted(loaded, notes, key)


async def _load_session_async(session: Any, notes: dict[str, Any], key: str) -> Any:
    loaded = await type(session()).aload(session())
    return _noted(loaded, notes, key)


def _noted(loaded: Any, notes: dict[str, Any], key: str) -> Any:
    if isinstance(loaded, dict) and loaded.get(key) is not None:
        notes.setdefault(key, loaded[key])
    return loaded


def _keep_logged_out(sender: object, request: HttpRequest | None = None, user: object = None, **_: object) -> None:
    try:
        if request is not None and loaded_user(user) is not UNSET:
            request.__dict__[_LOGGED_OUT] = unwrapped(user)  # the object, since the request may delete its user
    except UserIdError:
        log.debug("cannot read the user who logs out", exc_info=True)


def _login_pages(http: HttpRequest) -> dict[str, LoginPage]:
    return django_login_pages(guard_of(getattr(http.resolver_match, "func", None)))
