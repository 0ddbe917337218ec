"""Holds the user of the current request or task, and whether its captures count.

A holder is a Request, or an Override that `as_user` or `paused` lays over it. `holder` is the context variable.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Collection
from contextvars import ContextVar, Token
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from usage_instrument.errors import DeclarationError, UserIdError, describe
from usage_instrument.events import Access
from usage_instrument.typing import UNSET, Scope, Unset, UserId

from .lazy_users import nobody
from .user_ids import is_deleted, is_unloaded, is_users_proxy, loaded_user, may_be_deleted, user_id_of

SCOPE_KEY = "usage_instrument.request"
"""The key of the Request in the ASGI scope and the WSGI environ, for a middleware further in."""
SAFE_METHODS = frozenset({"GET", "TRACE"})
"""HTTP methods whose redirect leads elsewhere instead of answering what was asked (RFC 9110 §9.2.1)."""
SILENT_METHODS = frozenset({"HEAD", "OPTIONS"})
"""HTTP methods that are never a use, whatever their view does."""

C = TypeVar("C", bound=Callable[..., Any])
RequestKind: TypeAlias = Literal["http", "websocket", "task"]
LoginPage: TypeAlias = Literal["bare", "with path"]
"""Whether a refusal may lead to the page without a parameter that names the refused path, or always has one."""
Lookup: TypeAlias = Callable[[Any], "UserId | Unset"]
"""From a request's `info` to its user."""


class Middleware(Protocol):
    """A middleware that a request has passed."""

    def login_page(self, location: str, info: Any) -> LoginPage | None:
        """Which login page of the app or the framework a location is; None if it is none."""

    def framework_user(self, info: Any) -> UserId | Unset:
        """The framework's own user, as far as it is known without a query. Raises UserIdError."""

    def confirm(self, users: Collection[UserId]) -> None:
        """A request of these users has ended with success. Raises nothing."""


OPERATIONS = object()
"""As `Request.judged_by`: the operations of the request count, each by itself, and the route does not."""
BODIES = object()
"""As OPERATIONS, but the operations are read from the bodies unless the app has an extension for them."""


class Request:
    """One request or task: its user, the features it counted, and whether it still counts.

    A Request is mutable. It lives in the context variable and in the ASGI scope or WSGI environ, so that a dependency
    in a thread pool and a view in a copied context share it. `ready` is the one check of the hot path: `user` is final,
    and nothing else needs a look.
    """

    # Without __slots__: what few requests have is a default of the class.
    actor: UserId | Unset = UNSET
    """The user who acts as `user`, if `identify` stated one."""
    allows_tuples = False
    """Whether a tuple may be a response, as in WSGI."""
    denied = False
    """Whether the framework has sent the user to a login page."""
    succeeded = False
    """Whether its answer is no error, so that what it wrote is committed when it has ended."""
    _users: set[UserId] | None = None
    """The users of its uses, beside `user`."""
    noted: UserId = None
    """The user that `note_user` kept last: the next use by the same one need not call it."""
    _accesses: dict[object, Access | None] | None = None
    sessions: dict[Any, bool | None] | None = None
    """The sessions of SQLAlchemy that wrote in the request, and whether their last transaction committed; None while it
    is open. Only noted for `commit="request"`."""
    inner_scope: Scope | None = None
    """The scope of the ASGI app that runs within the WSGI request, while it runs."""
    undecided: list[Callable[[], object]] | None = None
    """What decides on the uses of `commit="request"` when the app has answered."""

    def __init__(self, kind: RequestKind, method: str = "", lookup: Lookup | None = None, info: object = None) -> None:
        self.kind = kind
        self.method = method
        self.user: UserId | Unset = UNSET
        self.counted: set[object] = set()
        """The keys of the counted features (`Feature.key`)."""
        self.open = True
        self.discarded = method in SILENT_METHODS
        self.ready = False
        self.judged_by: object = None
        """The innermost middleware with a `success` rule of its own."""
        self.counters: tuple[Middleware, ...] = ()
        """The middlewares that the request has passed."""
        self.info: Any = info
        """The ASGI scope, the WSGI environ or the framework's request object; None for a task."""
        self._lookup = lookup
        self._refused: UserIdError | None = None
        self._stated: object = None
        """The user object that `identify` stated, if it may be deleted in the request."""
        self._lazy: object = None
        """The framework's own user object that `identify` stated before anything had loaded it."""

    def identify(self, user: object, actor: object = UNSET) -> None:
        """Set the user, and who acts as them; the last call wins.

        Raises UserIdError for a bad id. Captures are then rejected until the next call.
        """
        self._lazy = None
        if self.user is not UNSET:
            self.note_user(self.user)
        self.ready = False  # until the user is final: another thread of the request may capture meanwhile
        try:
            self.actor = UNSET if actor is UNSET else self.user_of(actor)
            self.user, self._lazy = _stated_user(user, self)
            self._refused, self._stated = None, user if may_be_deleted(user) else None
        except UserIdError as error:
            self.refuse(error)
            raise
        if not self.open:  # a thread that outlived the response
            self.user, self.actor, self._refused, self._stated = UNSET, UNSET, None, None
        self.ready = self.open and not self.discarded and self._stated is None and self._lazy is None

    def owns(self, user: object) -> bool:
        """Whether an object is the framework's own user of this request, which nothing has loaded yet."""
        return self.open and is_unloaded(user) and is_users_proxy(user, self.info)

    def user_of(self, user: object) -> UserId:
        """As user_id_of; the framework's own user need not be loaded. Raises UserIdError."""
        try:
            return user_id_of(user)
        except UserIdError:
            if not self.owns(user):
                raise
        return self.lazy_user(user)

    def lazy_user(self, user: object) -> UserId:
        """The user that a lazy object of the framework stands for now: the loaded one, else the one that the framework
        knows without a query, else the anonymous user if the framework would load no other.

        Raises UserIdError where only a query could tell, since a user who is signed in is never written as anonymous.
        """
        found = loaded_user(user)
        if found is UNSET and self.info is not None:
            if self.counters:
                found = self.counters[-1].framework_user(self.info)
            elif self._lookup is not None:
                found = self._lookup(self.info)
        if found is not UNSET:
            return found
        return nobody(user, self.info) if is_unloaded(user) else user_id_of(user)

    def refuse(self, error: UserIdError) -> None:
        """Reject captures from now on, because the user is not known."""
        self.user, self._refused, self.ready = UNSET, error if self.open else None, False

    def set_lookup(self, lookup: Callable[[], UserId | Unset]) -> None:
        """Replace the way to find the user that nobody stated: a middleware further in knows better."""
        self._lookup = lambda _: lookup()

    def add_lookup(self, lookup: Callable[[], UserId | Unset]) -> None:
        """Add a way to find the user, for when the present one finds none: a middleware further in sees more."""
        outer, info = self._lookup, self.info

        def look(_: object) -> UserId | Unset:
            found = UNSET if outer is None else outer(info)
            return lookup() if found is UNSET else found

        self._lookup = look

    def discard(self) -> None:
        """Count nothing more of this request; what has counted stays."""
        self.discarded, self.ready = True, False

    def deny(self) -> None:
        """Count nothing more: the framework sends the user to a login page."""
        self.denied = True
        self.discard()

    def note_user(self, user: UserId) -> None:
        """Keep the user of a use."""
        if user is None or not self.open:
            return
        self.noted = user
        if self._users is None:
            self._users = {user}
        else:
            self._users.add(user)

    @property
    def users(self) -> set[UserId]:
        """The users of its uses so far."""
        if self.user is not UNSET:
            self.note_user(self.user)
        return self._users or set()

    def open_access(self, key: object, access: Access | None) -> None:
        """Keep an access to a feature (`Feature.key`) whose attempt is recorded and whose outcome is not."""
        if self._accesses is None:
            self._accesses = {}
        self._accesses[key] = access

    def mark_access(self, key: object) -> None:
        """Mark an access to a feature as recorded by the caller."""
        if not self.has_access(key):
            self.open_access(key, None)

    def has_access(self, key: object) -> bool:
        """Whether an access to a feature is open or recorded."""
        return self._accesses is not None and key in self._accesses

    def take_access(self, key: object) -> Access | None:
        """Hand over an open access to the caller, which records its outcome."""
        if self._accesses is None or self._accesses.get(key) is None:
            return None
        access, self._accesses[key] = self._accesses[key], None
        return access

    def at_end(self, decide: Callable[[], object]) -> None:
        """Call this when the app has answered; it must not raise."""
        if self.undecided is None:
            self.undecided = []
        self.undecided.append(decide)

    def decide(self) -> None:
        """Decide on the uses that wait for the app's answer."""
        undecided, self.undecided = self.undecided or (), None
        for decide in undecided:
            decide()

    def close(self) -> None:
        """End the request. Tasks that it started keep the Request; they count, as anonymous."""
        if self.undecided is not None:
            self.decide()
        self.sessions = None
        self.open = self.ready = self.discarded = False
        self.user, self._lookup, self._refused, self.info = UNSET, None, None, None
        self.actor = UNSET
        self._stated = self._lazy = self._users = self.inner_scope = None

    def capture_user(self) -> UserId | Unset:
        """The user of a capture, or UNSET if it does not count. Raises UserIdError for a refused statement."""
        return UNSET if self.discarded else self.known_user()

    def known_user(self) -> UserId:
        """The user, also where nothing is captured. Raises UserIdError for a refused statement."""
        if self._refused is not None:
            raise self._refused
        user = self.user
        if self._stated is not None and is_deleted(self._stated):  # by the request itself
            return None
        if self._lazy is not None:
            return self.lazy_user(self._lazy)
        if user is UNSET and self._lookup is not None:
            user = self._lookup(self.info)
        return None if user is UNSET else user

    @property
    def silent(self) -> bool:
        """Whether nothing is captured here, for any user."""
        return self.discarded

    def judge(self, status: object) -> bool | None:
        """Whether a status is a success (True), a failure (False), or neither (None)."""
        if self.kind != "http" or not self.open or type(status) is not int:
            return True
        return judge(status, self.method)


class Override:
    """The user or the pause that `as_user` and `paused` lay over the surrounding request."""

    __slots__ = ("_lazy", "_outer", "_pauses", "_refused", "actor", "counted", "is_lifted", "ready", "request", "user")

    def __init__(
        self, outer: Holder | None, user: object = UNSET, actor: object = UNSET, *, paused: bool = False
    ) -> None:
        self._outer = outer
        self._pauses = paused
        self._refused: UserIdError | None = None
        self._lazy: object = None
        """As Request's."""
        self.is_lifted = False
        """Whether it has ended, and stands for what surrounds it."""
        self.request = request_of(outer)
        self.counted: set[object] = set()
        """As Request.counted, for captures outside of requests. Nothing reads it."""
        self.user: UserId | Unset = UNSET
        """The user stated here, not the request's."""
        self.actor: UserId | Unset = UNSET
        """The user who acts as `user`, for the audit trail."""
        if user is not UNSET:
            try:
                self.actor = UNSET if actor is UNSET else user_of(actor, self.request)
                self.user, self._lazy = _stated_user(user, self.request)
            except UserIdError as error:
                self._refused = error
        self.ready = self.request is None and self.user is not UNSET and not self.paused

    def lift(self) -> None:
        """State nothing more: from now on it is like what surrounds it, which may end as well."""
        self.is_lifted, self.ready = True, False

    def over(self, request: Request) -> Override:
        """A copy laid over a request that began inside."""
        copy, stated = Override(request, paused=self.paused), _stated(self)
        if isinstance(stated, Override):
            copy.user, copy.actor, copy._refused = stated.user, stated.actor, stated._refused
            if stated._lazy is not None:
                try:
                    copy.user = stated.known_user()
                except Exception as error:  # the host's objects
                    copy._refused = UserIdError(describe(error))
        return copy

    @property
    def paused(self) -> bool:
        """Whether `paused` holds here, inside of the request."""
        held: Holder | None = self
        while isinstance(held, Override):  # a loop, since hosts nest deeply
            if held._pauses and not held.is_lifted:
                return True
            held = held._outer
        return False

    @property
    def silent(self) -> bool:
        """As Request.silent."""
        return self.paused or (self.request is not None and self.request.discarded)

    def capture_user(self) -> UserId | Unset:
        """As Request.capture_user."""
        return UNSET if self.silent else self.known_user()

    def known_user(self) -> UserId:
        """As Request.known_user."""
        stated = _stated(self)
        if not isinstance(stated, Override):
            return None if stated is None else stated.known_user()
        if stated._refused is not None:
            raise stated._refused
        if stated._lazy is not None and stated.request is not None:
            return stated.request.lazy_user(stated._lazy)
        return None if stated.user is UNSET else stated.user


Holder: TypeAlias = Request | Override

holder: ContextVar[Holder | None] = ContextVar("usage_instrument", default=None)
"""The innermost Request or Override; None outside of any."""


def standing(held: Holder | None) -> Holder | None:
    """The innermost holder that is not lifted."""
    while isinstance(held, Override) and held.is_lifted:
        held = held._outer
    return held


def _stated(held: Holder | None) -> Holder | None:
    """The innermost holder that states a user, or the request."""
    while isinstance(held, Override) and (
        held.is_lifted or (held.user is UNSET and held._refused is None and held._lazy is None)
    ):
        held = held._outer
    return held


def request_of(held: Holder | None) -> Request | None:
    """The request that a holder is, or lies over."""
    return held.request if isinstance(held, Override) else held


def current_request() -> Request | None:
    """The open request or task of this context."""
    request = request_of(holder.get())
    return request if request is not None and request.open else None


def _stated_user(user: object, request: Request | None) -> tuple[UserId | Unset, object]:
    """The id that a statement names, or UNSET and the framework's own user, which nothing has loaded yet.

    Raises UserIdError.
    """
    try:
        return user_id_of(user), None
    except UserIdError:
        if request is None or not request.owns(user):
            raise
    return UNSET, user


def user_of(user: object, request: Request | None) -> UserId:
    """As user_id_of; the framework's own user of the request need not be loaded. Raises UserIdError."""
    return user_id_of(user) if request is None else request.user_of(user)


def check_user(user: object) -> None:
    """Check what `as_user` and `identify` take in this context. Raises UserIdError."""
    _stated_user(user, current_request())


def user_here(user: object) -> UserId:
    """As user_of, in the request of this context."""
    return user_of(user, current_request())


def known_user() -> UserId:
    """The user of this context, also where nothing is captured. Raises UserIdError for a refused statement."""
    held = holder.get()
    return None if held is None else held.known_user()


def known_actor() -> UserId | Unset:
    """The user who acts as the current user, if stated."""
    held = _stated(holder.get())
    return UNSET if held is None else held.actor


def identify(user: object, actor: object = UNSET) -> bool:
    """Set the user of the current request or task, and who acts as them; False outside of one. Raises UserIdError."""
    request = current_request()
    if request is not None:
        request.identify(user, actor)
    return request is not None


class CaptureScope(contextlib.ContextDecorator):
    """A context manager that changes the captures inside, and a decorator that does so for each call.

    On a coroutine function or a generator function, it covers the body. An async generator function is refused with a
    DeclarationError.
    """

    def __init__(self, make: Callable[[Holder | None], Holder | None]) -> None:
        self._make = make
        self._entered: list[tuple[Holder | None, Token[Holder | None]]] = []

    def __enter__(self) -> None:
        inner = self._make(standing(holder.get()))
        self._entered.append((inner, holder.set(inner)))

    def __exit__(self, *error: object) -> None:
        # One object may be entered by several threads.
        held = standing(holder.get())
        entry = next((entry for entry in reversed(self._entered) if entry[0] is held), self._entered[-1])
        self._entered.remove(entry)
        inner, token = entry
        is_innermost = held is inner
        if is_innermost:
            try:
                holder.reset(token)
            except ValueError:  # a copy of the context in which it began
                holder.set(token.old_value if token.old_value is not Token.MISSING else None)
                is_innermost = False
            if (left := holder.get()) is not standing(left):
                holder.set(standing(left))
        # A generator that another context closes, or that another one overlaps: it began where it may stay innermost.
        if not is_innermost and isinstance(inner, Override):
            inner.lift()

    def __call__(self, function: C) -> C:
        """The function, each of whose calls is inside. Raises DeclarationError for an async generator function."""
        return _each_call_inside(function, lambda: CaptureScope(self._make))  # type: ignore[no-any-return]


def _each_call_inside(function: Any, scope: Callable[[], CaptureScope]) -> Any:
    inside: Callable[..., Any]
    if inspect.isasyncgenfunction(function):
        raise DeclarationError(f"{function!r} is an async generator function: use the context manager in its body")
    if inspect.iscoroutinefunction(function):

        async def inside(*args: Any, **kwargs: Any) -> Any:
            with scope():
                return await function(*args, **kwargs)
    elif inspect.isgeneratorfunction(function):

        def inside(*args: Any, **kwargs: Any) -> Any:
            with scope():
                return (yield from function(*args, **kwargs))
    else:

        def inside(*args: Any, **kwargs: Any) -> Any:
            with scope():
                return function(*args, **kwargs)

    return functools.wraps(function)(inside)


def as_user(user: object, actor: object = UNSET) -> CaptureScope:
    """The captures inside belong to this user. For a bad id, they are rejected."""
    return CaptureScope(lambda outer: Override(outer, user, actor))


def paused() -> CaptureScope:
    """Nothing inside is captured."""
    return CaptureScope(lambda outer: Override(outer, paused=True))


def carry(function: C) -> C:
    """A function that runs in any thread with the request and the user of the present context.

    The user stays known after the request has ended.
    """
    held = holder.get()
    user: UserId = None
    with contextlib.suppress(Exception):  # a refused statement stays refused
        user = None if held is None else held.known_user()
    stated = (UNSET, UNSET) if user is None else (user, known_actor())
    return _each_call_inside(function, lambda: CaptureScope(lambda outer: Override(held, *stated)))  # type: ignore[no-any-return]


def judge(status: int, method: str) -> bool | None:
    """Whether a status is a success (True), a failure (False), or neither (None), as a redirect of a safe method."""
    if 200 <= status < 300:
        return True
    if 300 <= status < 400:
        return None if method in SAFE_METHODS else True
    return False if status >= 400 else None
