"""The options that all middlewares and integrations take."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, Generic, Literal, TypeAlias, TypedDict, TypeVar

from usage_instrument.capture import request_transactions
from usage_instrument.capture.registry import Recorder
from usage_instrument.capture.request_info import path_in
from usage_instrument.errors import ConfigurationError, DeclarationError
from usage_instrument.events import check_display, check_feature
from usage_instrument.typing import Audit, Metadata

C = TypeVar("C")

Namer: TypeAlias = Callable[[Any], "str | None"]
"""From a request to the name of its feature; None counts nothing."""
Features: TypeAlias = Mapping[str, "str | Namer | None"] | Namer
"""The `features` option; see Rules."""
Audits: TypeAlias = Mapping[str, Audit]
"""The `audit` option: from the names of features to True or `"required"`."""


class MiddlewareOptions(TypedDict, Generic[C], total=False):
    """The options of UsageMiddleware. Its callables get a C: the scope, the environ or the framework's own request."""

    tracker: Recorder | None
    """A Tracker; without one, the tracker that `usage_instrument.configure` sets up, before or after."""
    features: Features | None
    """Which routes count as which features: a mapping from names, templates or patterns of routes to names, or a
    callable."""
    include: Iterable[str] | None
    """Patterns of routes; no other route counts."""
    exclude: Iterable[str] | None
    """Patterns of routes that do not count."""
    user: Callable[[C], object] | None
    """From a request to its user's id; without it, `as_user`, `identify` and the framework decide."""
    session_user: str | None
    """The key of the session (Starlette's SessionMiddleware, Flask's, Django's) that holds the user's id, where the
    framework itself knows no user."""
    metadata: Metadata | Callable[[C], Metadata | None] | None
    """The metadata of each use, or a callable that returns it."""
    dimensions: Mapping[str, object] | Callable[[C], Mapping[str, object] | None] | None
    """The values that each use is counted by, by the names of their dimensions, or a callable that returns them."""
    value: float | Decimal | Callable[[C], float | Decimal | None] | None
    """The number that is added up beside the count, or a callable that returns it."""
    success: Callable[[int, C], object] | None
    """From the status and the request to whether it is a use. Default: 2xx, and 3xx of an unsafe method."""
    graphql: str | Iterable[str] | None
    """The paths of GraphQL endpoints without an extension of ours: the operations are read from the bodies of requests
    and answers, each of up to 1 MiB."""
    login_url: str | Iterable[str] | None
    """The login pages of the app, as paths or URLs: a redirect to one is no use, and a denied access, if nobody is
    signed in or if it names the path of the request. The pages of Flask-Login, of Django's LOGIN_URL and access
    decorators, and of Starlette's `requires` are known."""
    not_modified: bool
    """Whether 304 is a use: a second look at a page that the browser has. Default: False."""
    commit: Literal["request"] | None
    """`"request"` counts a request only if what it wrote is committed: by Sessions of SQLAlchemy, or within Django's
    ATOMIC_REQUESTS."""
    display: Mapping[str, str] | None
    """Names for people, by the names of features, which the dashboard and the commands show:
    `{"calendar.export": "Export the calendar"}`."""
    audit: Audits | None
    """The features whose accesses are recorded: a mapping from their names to True or `"required"`."""


OPTIONS = frozenset(MiddlewareOptions.__annotations__)


def check_names(options: Iterable[str], known: frozenset[str]) -> None:
    """Raise TypeError for an option that is unknown, with the known one that is nearest."""
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(sorted(known))}"
            raise TypeError(f"{name!r} is no option; {hint}")


def login_paths(urls: str | Iterable[str] | None) -> frozenset[str]:
    """The paths of the login pages. Raises DeclarationError."""
    found = [urls] if isinstance(urls, str) else list(urls or ())
    for url in found:
        if not isinstance(url, str) or not path_in(url):
            raise DeclarationError(f"login_url= has {url!r}, which is no path or URL: write login_url='/login'")
    return frozenset(map(path_in, found))


def display_names(option: Mapping[str, str] | None) -> dict[str, str]:
    """The names for people, by feature. Raises DeclarationError and FeatureNameError."""
    if option is not None and not isinstance(option, Mapping):
        raise DeclarationError(f"display= maps the names of features to texts, and is no {type(option).__name__}")
    return {check_feature(name): check_display(text) for name, text in (option or {}).items()}


def check_key(value: object) -> str:
    """The key itself. Raises DeclarationError."""
    if not isinstance(value, str) or not value:
        raise DeclarationError(f"session_user= is the key of the session with the user's id, not {value!r}")
    return value


def is_bound(commit: object) -> bool:
    """Whether requests count only if they commit. Raises ConfigurationError."""
    if commit is not None and commit != request_transactions.REQUEST:
        raise ConfigurationError(
            f"commit= of a middleware is 'request', not {commit!r}: a session or a database is bound by track(commit=…)"
        )
    if commit is not None:
        request_transactions.want()
    return commit is not None


def check_callable(option: str, value: Any) -> Any:
    """The callable itself. Raises DeclarationError for a value that cannot be called, or only with `await`."""
    if not callable(value):
        raise DeclarationError(f"{option} cannot be a {type(value).__name__}")
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(type(value).__call__):
        raise DeclarationError(f"{option} is called without await, so it cannot be a coroutine function")
    return value
