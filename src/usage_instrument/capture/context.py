"""Who the current request's or task's user is, and whether its captures count at all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar, Token
from typing import Literal, TypeAlias

from usage_instrument.errors import UserIdError
from usage_instrument.events import Access
from usage_instrument.typing import UNSET, Unset, UserId, _Unset

from .user_ids import user_id_of

SCOPE_KEY = "usage_instrument.request"
"""Where the ASGI scope and the WSGI environ hold the Request, for a middleware further in."""
SAFE_METHODS = frozenset({"GET", "TRACE"})
"""HTTP methods whose redirect leads elsewhere instead of answering what was asked (RFC 9110 §9.2.1)."""
SILENT_METHODS = frozenset({"HEAD", "OPTIONS"})
"""HTTP methods that never are a use, whatever their view does."""

Kind: TypeAlias = Literal["http", "websocket", "task"]
Lookup: TypeAlias = Callable[[], "UserId | Unset"]


class Request:
    """One request or task: who is behind it, what it counted already, whether it still counts.

    It is mutable and lives in the ASGI scope or WSGI environ as well as in the context variable, so that a
    dependency in a thread pool and a view in a copied context speak of the same one. `ready` says that `user` is
    final and nothing else needs a look: the one check of the hot path.
    """

    __slots__ = (
        "__weakref__",
        "_accesses",
        "_lookup",
        "_refused",
        "actor",
        "carrier",
        "counted",
        "discarded",
        "kind",
        "method",
        "open",
        "ready",
        "settled",
        "tuples",
        "user",
    )

    def __init__(self, kind: Kind, method: str = "", lookup: Lookup | None = None) -> None:
        self.kind = kind
        self.method = method
        self.user: UserId | Unset = UNSET
        self.actor: UserId | Unset = UNSET
        """Who acts as the user, where `identify` said."""
        self.counted: set[object] = set()
        """The keys of features (`Feature.key`)."""
        self.open = True
        self.discarded = method in SILENT_METHODS
        self.ready = False
        self.tuples = False
        """Whether a tuple may be a response, as it may in WSGI."""
        self.settled: object = None
        """The innermost middleware that knew what a success of this request is."""
        self.carrier: object = None
        """The ASGI scope, the WSGI environ or the framework's own object that the request came in; None for a task."""
        self._accesses: dict[object, Access | None] | None = None
        self._lookup = lookup
        self._refused: UserIdError | None = None

    def identify(self, user: object, actor: object = UNSET) -> None:
        """State who this is, and who acts as them; the last statement wins. Raises UserIdError for what is no user id:
        until the next statement, captures are then rejected instead of credited to somebody else."""
        try:
            self.actor = UNSET if isinstance(actor, _Unset) else user_id_of(actor)
            self.user, self._refused = user_id_of(user), None
        except UserIdError as error:
            self.refuse(error)
            raise
        if not self.open:  # a thread that outlived the response
            self.user, self.actor, self._refused = UNSET, UNSET, None
        self.ready = self.open and not self.discarded

    def refuse(self, error: UserIdError) -> None:
        """State that who this is cannot be told, and why."""
        self.user, self._refused, self.ready = UNSET, error if self.open else None, False

    def look_up(self, lookup: Lookup) -> None:
        """Find the user in this way, if nobody states one: a middleware further in knows better."""
        self._lookup = lookup

    def look_further(self, lookup: Lookup) -> None:
        """Find the user in this way, if the present one finds nobody: a middleware further in sees more."""
        outer = self._lookup

        def look() -> UserId | Unset:
            found = UNSET if outer is None else outer()
            return lookup() if found is UNSET else found

        self._lookup = look

    def discard(self) -> None:
        """This request is no use: nothing more of it counts; what has counted stands."""
        self.discarded, self.ready = True, False

    def open_access(self, key: object, access: Access | None) -> None:
        """The request is an access to a feature (`Feature.key`), whose attempt is recorded, and its outcome is not."""
        if self._accesses is None:
            self._accesses = {}
        self._accesses[key] = access

    def tell_access(self, key: object) -> None:
        """That it is an access to a feature is told, or will be by whoever calls this."""
        if not self.has_told(key):
            self.open_access(key, None)

    def has_told(self, key: object) -> bool:
        """Whether it is known as an access to a feature."""
        return self._accesses is not None and key in self._accesses

    def take_access(self, key: object) -> Access | None:
        """The access whose outcome is not recorded; it is up to whoever calls this."""
        if self._accesses is None or self._accesses.get(key) is None:
            return None
        access, self._accesses[key] = self._accesses[key], None
        return access

    def close(self) -> None:
        """The response ended: whoever still holds this request, such as a task that it started, is nobody in particular
        from now on, and counts."""
        self.open = self.ready = self.discarded = False
        self.user, self._lookup, self._refused, self.carrier = UNSET, None, None, None
        self.actor = UNSET

    def who(self) -> UserId | Unset:
        """The user of a capture, or UNSET when it does not count. Raises UserIdError when the statement was refused."""
        return UNSET if self.discarded else self.known()

    def known(self) -> UserId:
        """The user, also where nothing is captured. Raises UserIdError when the statement was refused."""
        if self._refused is not None:
            raise self._refused
        user = self.user
        if user is UNSET and self._lookup is not None:
            user = self._lookup()
        return None if user is UNSET else user

    @property
    def silent(self) -> bool:
        """Whether nothing is captured here, whoever the user is."""
        return self.discarded

    def judges(self, status: object) -> bool | None:
        """Whether a status means success (True), failure (False), or neither of them (None)."""
        if self.kind != "http" or not self.open or type(status) is not int:
            return True
        return judge(status, self.method)


class Override:
    """What `as_user` and `paused` lay over the surrounding request, for the captures inside."""

    __slots__ = ("_refused", "actor", "counted", "paused", "ready", "request", "user")

    def __init__(
        self, outer: Holder | None, user: object = UNSET, actor: object = UNSET, *, paused: bool = False
    ) -> None:
        self.request = request_of(outer)
        self.paused: bool = paused or (isinstance(outer, Override) and outer.paused)
        self.ready = False
        self.counted: set[object] = set()
        """As Request.counted, which is another one: outside of requests, nobody looks at it."""
        self._refused: UserIdError | None = None
        self.user: UserId | Unset = UNSET
        """The user stated here; not the request's."""
        self.actor: UserId | Unset = UNSET
        """Who acts as that user."""
        if not isinstance(user, _Unset):
            try:
                self.actor = UNSET if isinstance(actor, _Unset) else user_id_of(actor)
                self.user = user_id_of(user)
            except UserIdError as error:
                self._refused = error
        elif isinstance(outer, Override):
            self.user, self.actor, self._refused = outer.user, outer.actor, outer._refused
        self.ready = self.request is None and self.user is not UNSET and not self.paused

    def over(self, request: Request) -> Override:
        """The same, laid over a request that began inside."""
        copy = Override(request, paused=self.paused)
        copy.user, copy.actor, copy._refused = self.user, self.actor, self._refused
        return copy

    @property
    def silent(self) -> bool:
        """Whether nothing is captured here, whoever the user is."""
        return self.paused or (self.request is not None and self.request.discarded)

    @property
    def refused(self) -> UserIdError | None:
        """Why the stated user is none."""
        return self._refused

    def who(self) -> UserId | Unset:
        """As Request.who."""
        return UNSET if self.silent else self.known()

    def known(self) -> UserId:
        """As Request.known."""
        if self._refused is not None:
            raise self._refused
        if self.user is not UNSET:
            return self.user
        return self.request.known() if self.request is not None else None


Holder: TypeAlias = Request | Override

holder: ContextVar[Holder | None] = ContextVar("usage_instrument", default=None)
"""The innermost Request or Override; None outside of any."""


def request_of(held: Holder | None) -> Request | None:
    """The request that a holder is, or lies over."""
    return held.request if isinstance(held, Override) else held


def current_request() -> Request | None:
    """The request or task that is still open here."""
    request = request_of(holder.get())
    return request if request is not None and request.open else None


def current_user() -> UserId | Unset:
    """The user of a capture made here; UNSET when nothing is captured. Raises UserIdError if the user was refused."""
    held = holder.get()
    return None if held is None else held.who()


def known_user() -> UserId:
    """The user here, also where nothing is captured. Raises UserIdError if the user was refused."""
    held = holder.get()
    return None if held is None else held.known()


def known_actor() -> UserId | Unset:
    """Who acts as the user here, where somebody said."""
    held = holder.get()
    if isinstance(held, Override) and held.user is UNSET:
        held = held.request
    return UNSET if held is None else held.actor


def identify(user: object, actor: object = UNSET) -> bool:
    """State who the current request's or task's user is, and who acts as them; False outside of one. Raises
    UserIdError."""
    request = current_request()
    if request is not None:
        request.identify(user, actor)
    return request is not None


@contextlib.contextmanager
def as_user(user: object, actor: object = UNSET) -> Iterator[Override]:
    """The captures inside are this user's; a bad id makes them rejected (`Override.refused` tells)."""
    override = Override(holder.get(), user, actor)
    token = holder.set(override)
    try:
        yield override
    finally:
        _reset(token)


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Nothing inside is captured."""
    token = holder.set(Override(holder.get(), paused=True))
    try:
        yield
    finally:
        _reset(token)


def _reset(token: Token[Holder | None]) -> None:
    # A generator that a framework runs piece by piece ends in another context than it began in, which nobody sees.
    with contextlib.suppress(ValueError):
        holder.reset(token)


def judge(status: int, method: str) -> bool | None:
    """Whether a status is a success, a failure (False), or neither, as a redirect away from a page is (None)."""
    if 200 <= status < 300:
        return True
    if 300 <= status < 400:
        return None if method in SAFE_METHODS else True
    return False if status >= 400 else None
