"""The WSGI middleware: requests that succeed become uses of features."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from .context import SCOPE_KEY, Request, current_request, holder
from .loaded import flask_user
from .middleware import NOTHING, Counter, Pending, Target, is_login_redirect
from .misuse import WSGI, check_protocol, look_below
from .routes import flask_route, flask_routes
from .rules import Features
from .typing import Environ, Metadata, Recorder, StartResponse, WSGIApp


class UsageMiddleware:
    """Counts what its app answers; see Rules for `features`, `include` and `exclude`.

    - `tracker`: a Tracker; without one, whatever `usage_instrument.configure` sets up, before or after.
    - `user`: from the environ to the user's id; otherwise it is who `as_user` or `identify` said, else the user that
      Flask-Login has loaded, else nobody.
    - `metadata`: a mapping, or a callable from the environ to one.
    - `success`: from status and environ to whether the response is a use; otherwise 2xx is, and 3xx for an unsafe
      method.

    The callables run when the app calls `start_response`. Answers go through untouched: lists, files and all else
    that servers treat specially are returned as they are. Raises FeatureNameError and ConfigurationError
    (ValueErrors), DeclarationError and MetadataError (TypeErrors) for options that cannot work; at run time it raises
    nothing of its own unless the tracker is strict.
    """

    def __init__(
        self,
        app: WSGIApp,
        *,
        tracker: Recorder | None = None,
        features: Features | None = None,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
        user: Callable[[Environ], object] | None = None,
        metadata: Metadata | Callable[[Environ], Metadata | None] | None = None,
        success: Callable[[int, Environ], object] | None = None,
    ) -> None:
        check_protocol(app, WSGI)
        self.app = app
        self._counter = Counter(tracker, features, include, exclude, user, metadata, success, flask_user)
        self._counter.look = partial(look_below, app, self._counter, flask_routes)
        self._hears_flask_login = False

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """As PEP 3333 says."""
        if not self._hears_flask_login and "flask_login" in sys.modules:
            self._hears_flask_login = True
            _hear_flask_login()
        counter = self._counter
        shared: Any = environ.get(SCOPE_KEY)  # by a middleware further out
        is_ours = shared is None or type(shared) is not Request or not shared.open
        method = environ.get("REQUEST_METHOD", "")
        request: Request = Request("http", method, partial(counter.find_user, environ)) if is_ours else shared
        request.tuples = True
        if not is_ours and counter.user is not None:
            request.look_up(partial(counter.find_user, environ))
        environ[SCOPE_KEY] = request
        exchange = Exchange(counter, request, is_ours, environ, start_response)
        token = holder.set(exchange.holder)
        try:
            body = self.app(environ, exchange.start)
        except BaseException:
            exchange.pending = None
            exchange.end()
            raise
        finally:
            holder.reset(token)
        if _is_untouchable(body, environ):
            exchange.end()
            return body
        exchange.body = body
        return exchange


class Exchange:
    """One request and its response, which it hands on piece by piece; the pieces are made in the request's context."""

    __slots__ = (
        "_counter",
        "_environ",
        "_is_ours",
        "_iterator",
        "_request",
        "_script",
        "_start_response",
        "body",
        "holder",
        "pending",
    )

    def __init__(
        self,
        counter: Counter,
        request: Request,
        is_ours: bool,
        environ: Environ,
        start_response: StartResponse,
    ) -> None:
        self._counter = counter
        self._request = request
        self._is_ours = is_ours
        self._environ = environ
        self._start_response = start_response
        self._script: str = environ.get("SCRIPT_NAME", "")
        self._iterator: Iterator[bytes] | None = None
        self.body: Iterable[bytes] = ()
        self.holder = counter.holder_for(request)
        self.pending: Pending | None = None
        """The use that this is, unless the app fails before its first piece, or starts another response instead."""

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        """The `start_response` that the app gets. Only here does Flask know the route and the user."""
        self._weigh(status, headers)
        if exc_info is None:
            return self._start_response(status, headers)
        try:
            return self._start_response(status, headers, exc_info)
        finally:
            exc_info = None  # it refers to this frame

    def __iter__(self) -> Exchange:
        return self

    def __next__(self) -> bytes:
        token = holder.set(self.holder)
        try:
            if self._iterator is None:
                self._iterator = iter(self.body)
            piece = next(self._iterator)
        except StopIteration:
            self._count()
            raise
        except BaseException:
            self.pending = None
            raise
        finally:
            self.holder = holder.get() or self.holder  # a generator may be in the middle of its `with as_user(...)`
            holder.reset(token)
        if self.pending is not None:
            self._count()
        return piece

    def close(self) -> None:
        """Close the body as its server does, maybe before reading any of it."""
        token = holder.set(self.holder)
        try:
            # Let go of what the server would have let go of by now: app, body and this one may refer to each other.
            self._iterator = None
            close = getattr(self.body, "close", None)
            if close is None:
                self.body = ()
            else:
                close()
        finally:
            holder.reset(token)
            self.end()

    def end(self) -> None:
        """The response is complete."""
        self._count()
        if self._is_ours:
            self._counter.ended(self._request, self._environ)

    def _weigh(self, status: str, headers: list[tuple[str, str]]) -> None:
        self.pending = target = None
        request, environ, counter = self._request, self._environ, self._counter
        if request.discarded:
            return
        try:
            code = int(status[:3])
            if not counter.succeeded(request, environ, code):
                return
            if 300 <= code < 400 and counter.success is None:
                path = (environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1").decode()
                if any(is_login_redirect(value, path) for name, value in headers if name.lower() == "location"):
                    return
            target = self._target()
            self.pending = counter.weigh(request, environ, target)
        except Exception as error:
            counter.failed(error, target)

    def _target(self) -> Target:
        counter, environ, method = self._counter, self._environ, self._request.method
        handled: Any = environ.get("werkzeug.request")
        if not hasattr(handled, "url_rule"):
            return counter.target_of_path(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""), method)
        rule = handled.url_rule
        if rule is None:
            return NOTHING
        prefix = environ.get("SCRIPT_NAME", "").removeprefix(self._script)
        key = (id(rule), method, prefix)
        target = counter.targets.get(key)
        if target is None:
            target = counter.target(flask_route(rule, prefix), method, rule)
            counter.remember(key, target)
        return target

    def _count(self) -> None:
        pending, self.pending = self.pending, None
        if pending is not None:
            try:
                self._counter.count(self._request, pending)
            except Exception as error:
                self._counter.failed(error)


def _is_untouchable(body: object, environ: Environ) -> bool:
    """Whether a server looks at more of a body than its pieces: at its length, or at the file that it is."""
    if hasattr(type(body), "__len__") or hasattr(body, "fileno"):
        return True
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)


def _hear_flask_login() -> None:
    """Learn of the redirects that Flask-Login makes, also of those that keep `next` in the session."""
    signals: Any = sys.modules["flask_login"]
    signals.user_unauthorized.connect(_was_sent_to_log_in)
    signals.user_needs_refresh.connect(_was_sent_to_log_in)


def _was_sent_to_log_in(sender: object, **_: object) -> None:
    request = current_request()
    if request is not None:
        request.discard()
