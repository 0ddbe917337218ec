"""A middleware's options, applied: from a request's route and status to at most one use."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from usage_instrument.capture import request_transactions
from usage_instrument.capture.call_arguments import NO_MEASURES, Kept, Measures, kept_metadata
from usage_instrument.capture.context import BODIES, OPERATIONS, Holder, LoginPage, Request, holder, judge, request_of
from usage_instrument.capture.dimensions import StatedMeasures
from usage_instrument.capture.kept_uses import Release
from usage_instrument.capture.lazy_users import nobody
from usage_instrument.capture.loaded_attributes import attributes_of
from usage_instrument.capture.outcome import leads_to_login
from usage_instrument.capture.registry import Feature, Recorder, declared
from usage_instrument.capture.request_info import path_in, query_of
from usage_instrument.capture.transactions import now
from usage_instrument.capture.user_ids import is_unloaded, is_users_proxy, loaded_user, user_id_of
from usage_instrument.errors import FeatureNameError, UsageInstrumentError, UserIdError
from usage_instrument.events import NAME_LENGTH, Use, check_feature
from usage_instrument.runtime import log
from usage_instrument.runtime.call_sites import definition
from usage_instrument.runtime.processes import ALIVE, notice_fork
from usage_instrument.typing import UNSET, Metadata, Unset, UserId

from .audit_policy import AuditPolicy
from .framework_users import SESSION_USERS
from .graphql import GraphQLBodies, endpoint_path, graphql_paths
from .options import (
    OPTIONS,
    MiddlewareOptions,
    Namer,
    check_callable,
    check_key,
    check_names,
    display_names,
    is_bound,
    login_paths,
)
from .routes import Route, executes_graphql, first_line_of, is_graphql, source_of, tracked_features, unreached
from .rules import Rule, Rules

_SOURCE = "middleware"
_FIRST = 3
"""Successes without a name, after which that is logged."""
_WORD = re.compile(r"[A-Za-z_-]{0,20}")
"""A segment of a path that may be logged: an id or a token is none."""
MOST_ROUTES = 10_000
"""Routes that a middleware remembers. For an app that creates routes while it runs, it then starts over."""

Carrier: TypeAlias = Any
"""What the callables of the options get: the scope, the environ, or the framework's own request."""


class RouteFeature:
    """What the successes of one route count as."""

    __slots__ = ("audited", "error", "feature", "graphql", "marker", "mount", "name", "namer", "tracked", "unread")

    def __init__(self, marker: object = None) -> None:
        self.marker = marker
        """The object whose id is the key that this is remembered by; held here, so that the id stays its own."""
        self.name = ""
        self.mount: Route | None = None
        """A mount, whose app may have routes of its own."""
        self.feature: Feature | None = None
        self.namer: Namer | None = None
        self.tracked: frozenset[str] = frozenset()
        self.error: FeatureNameError | None = None
        self.audited: frozenset[str] | None = None
        """The names that `audit=` may know; None without a known route."""
        self.graphql = ""
        """The template of a GraphQL endpoint whose operations only an extension of the app's counts; else empty."""
        self.unread = 0
        """Its successes whose operations nothing counted. No longer counted once something has counted some."""


NO_ROUTE = RouteFeature()
"""For a request that no route matched."""


class Decision(NamedTuple):
    """What a method of a route counts as."""

    rule: Rule
    tracked: frozenset[str]
    """The features that the endpoint is decorated for."""
    counts: bool
    """Whether the middleware counts it by the rule, instead of the decorators or the operations of GraphQL."""


class PendingUse:
    """A request or task, and the use that it is as soon as its response has started."""

    __slots__ = (
        *("carrier", "feature", "is_pending", "measures", "metadata", "metadata_error", "name", "request", "user"),
    )

    def __init__(self, request: Request, carrier: Carrier) -> None:
        self.request = request
        self.carrier = carrier
        self.is_pending = False
        """Whether it is a use that is not recorded yet. Only then do the other attributes exist."""

    name: str
    feature: Feature | None
    """None for a name that a callable returned."""
    user: UserId
    metadata: Kept
    metadata_error: Exception | None
    measures: Measures | Exception

    def keep(self, release: Release) -> None:
        """Record the use if what the request has written is committed."""
        request_transactions.keep_now(self.request, release)


class RequestCounter:
    """The options of a middleware, applied. It holds nothing of a single request.

    `framework_user` returns the user that the framework has loaded, `framework_login` the login pages that the
    framework names, by their paths. Raises FeatureNameError, ConfigurationError (ValueErrors), DeclarationError,
    MetadataError and TypeError.
    """

    def __init__(
        self,
        options: MiddlewareOptions[Any],
        framework_user: Callable[[Carrier], UserId | Unset],
        framework_login: Callable[[Carrier], Mapping[str, LoginPage]] = lambda carrier: {},
        *,
        session_of: Callable[[Carrier], object] = lambda carrier: None,
        knows_routes: bool = False,
    ) -> None:
        check_names(options, OPTIONS)
        tracker, user, success = options.get("tracker"), options.get("user"), options.get("success")
        metadata, audit = options.get("metadata"), options.get("audit")
        self.catalog = declared if tracker is None else tracker.catalog
        self.rules = Rules(
            options.get("features"), options.get("include"), options.get("exclude"), matches_paths=not knows_routes
        )
        self.user = None if user is None else check_callable("user=", user)
        self.session_user = options.get("session_user")
        if self.session_user is not None:
            framework_user = partial(_session_user, framework_user, session_of, check_key(self.session_user))
        self._framework_user = framework_user
        self.find_user: Callable[[Carrier], UserId | Unset] = (
            framework_user if user is None else partial(_stated_user, user, framework_user)
        )
        """The user, unless `as_user` or `identify` stated one. Raises UserIdError, and what the host's code raises."""
        self.success = None if success is None else check_callable("success=", success)
        self.not_modified = options.get("not_modified", False)
        self.is_bound = is_bound(options.get("commit"))
        """Whether a request counts only if what it wrote is committed."""
        self._display = display_names(options.get("display"))
        self.graphql = graphql_paths(options.get("graphql"))
        self._login_paths = login_paths(options.get("login_url"))
        self._framework_login = framework_login
        self.alone = (self,)
        """The middlewares of most requests."""
        self.metadata_of: Callable[[Carrier], Metadata | None] | None = None
        self.metadata: Kept = None
        if isinstance(metadata, Mapping):
            self.metadata = kept_metadata(metadata)
        elif metadata is not None:
            self.metadata_of = check_callable("metadata=", metadata)
        self.measures = StatedMeasures(options.get("dimensions"), options.get("value"))
        policy = None if audit is None else AuditPolicy(audit, self.rules, self.catalog, knows_routes=knows_routes)
        self.policy = policy if policy is not None and policy.levels else None
        self.routes: dict[object, RouteFeature] = {}
        self.check_setup: Callable[[], None] | None = None
        """Checks the app, once, when its first route is met."""
        self._reported_above: set[str] = set()
        self._unnamed = 0
        self.next_end = 0.0
        """The time of the monotonic clock at which the end of a request is to call `ended`."""
        for name in self.rules.names:
            self._declare(name)

    @property
    def recorder(self) -> Recorder:
        """The recorder of the moment: `configure` may replace it."""
        return self.catalog.recorder

    # ---- the request

    def framework_user(self, info: Carrier) -> UserId | Unset:
        """As Middleware.framework_user."""
        return self._framework_user(info)

    def _held(self, request: Request) -> Holder:
        """The request, below the `as_user` or `paused` of the moment; a leftover of another request is ignored."""
        held = holder.get()
        return held if held is not None and request_of(held) is request else request

    def subject(self, request: Request, carrier: Carrier) -> tuple[UserId | Exception, Kept | Exception]:
        """The user and the metadata of an access, or the reason why one is unknown."""
        try:
            user = self.find_user(carrier) if self.user is not None else self._held(request).known_user()
        except Exception as error:  # a refused statement, or the host's own way to find the user
            return error, None
        metadata, error_ = (self.metadata, None) if self.metadata_of is None else self._metadata_of(carrier)
        return None if user is UNSET else user, error_ or metadata

    def ended(self) -> None:
        """A request is over: a moment to revive a writer that is gone."""
        try:
            self.catalog.recorder.request_ended()
        except Exception:
            log.debug("request_ended failed", exc_info=True)

    def confirm(self, users: Collection[UserId]) -> None:
        """As Middleware.confirm."""
        try:
            self.catalog.recorder.confirm_users(users)
        except Exception:
            log.debug("confirm_users failed", exc_info=True)

    # ---- its feature

    def audited_features(
        self, route: RouteFeature, carrier: Carrier, paths: Iterable[str], method: str
    ) -> tuple[str, ...]:
        """The audited features that a request is an access to. Raises what the host's callables raise."""
        if self.policy is None:
            return ()
        if route.audited is None:
            return self.policy.at(paths, method)
        name = None if route.namer is None else route.namer(carrier)
        return self.policy.among(route.audited if name is None else (*route.audited, name))

    def feature_of(self, route: Route, method: str, marker: object = None) -> RouteFeature:
        """What a route that a framework matched counts as."""
        check, self.check_setup = self.check_setup, None
        if check is not None:
            check()
        found = RouteFeature(marker)
        found.mount = route if route.is_mount else None
        if not route.countable:
            return found
        if method == "HEAD":  # no use, but an access as a GET is
            method = "GET"
        rule, tracked, counts = self.decision(route, method)
        found.audited = rule.names | tracked
        if rule.names and not rule.explicit and route.name is not None:  # `audit` may name all methods of a route
            found.audited |= {route.name}
        if not counts:
            if not tracked and is_graphql(route.endpoint) and not self.reads(route):
                found.graphql = (route.templates or (route.local,))[-1]
            return found
        return self._fill(found, rule, tracked, route.endpoint, None if rule.explicit else route.name_for(method))

    def decision(self, route: Route, method: str) -> Decision:
        """What the options and the decorators of a route's endpoint decide for one of its methods."""
        rule, tracked = self.rules.decide(route, method), tracked_features(route.endpoint, method, self.catalog)
        is_elsewhere = tracked or is_graphql(route.endpoint) or self.reads(route)
        counts = (rule.explicit or not is_elsewhere) and not executes_graphql(route.endpoint)
        return Decision(rule, tracked, route.countable and counts)

    def reads(self, route: Route) -> bool:
        """Whether `graphql=` reads the operations of a route from its bodies."""
        return bool(self.graphql) and not self.graphql.isdisjoint(map(endpoint_path, route.templates))

    def feature_of_path(self, path: str, method: str, *, names: bool = True) -> RouteFeature:
        """What a path counts as in an app whose framework is unknown; for `names`, see Rules.decide_path."""
        rule = self.rules.decide_path(path, method, names=names)
        return self._fill(RouteFeature(), rule, frozenset(), None, None) if rule.explicit else NO_ROUTE

    def report_unnamed(self, request: Request, path: str, method: str, mount: str = "") -> None:
        """Nothing can name a success: log that once, unless `features` names other paths below the mount (a template),
        an option excludes the path, or something within counts."""
        if request.counted or self.rules.has_callables or self.rules.has_paths(mount):
            return
        if self.rules.exclusion(Route(None, (path,), path), method) is not None:
            return
        self._unnamed += 1
        if self._unnamed == _FIRST:
            first, *others = path.strip("/").split("/")  # what follows may be a name or a token
            example = f"/{first if _WORD.fullmatch(first) else '{id}'}" + "/{id}" * len(others)
            log.warning(
                ("unnamed", id(self)),
                "requests succeed and none is counted, since their framework names no route that can be read here: "
                "name them by their paths, such as UsageMiddleware(app, features={%r: 'my_feature'})",
                f"{method} {example}",
            )

    def _report_unread(self, request: Request, carrier: Carrier, route: RouteFeature) -> None:
        """Nothing counts a success: log that once for a GraphQL endpoint, unless something counts its operations."""
        if not route.graphql or route.unread >= _FIRST or request.counted:
            return
        if request.method != "POST" and "query=" not in query_of(carrier):  # GraphiQL's page
            return
        route.unread += 1
        if route.unread == _FIRST:
            path = endpoint_path(route.graphql)
            log.warning(
                ("unread", id(self), route.graphql),
                "GraphQL requests to %s succeed and none is counted, since nothing reads their operations: add the "
                "extension of usage_instrument.integrations.strawberry, .ariadne or .graphene to the schema%s",
                route.graphql,
                "" if "{" in path else f", or pass graphql={path!r} to the middleware",
            )

    def declare(self, routes: Iterable[Route]) -> None:
        """Enter the features of an app's routes in the catalogue, as their first requests would."""
        for route in routes:
            for method in route.counted_methods:
                rule, _, counts = self.decision(route, method)
                if counts and isinstance(rule.feature, str):
                    self._declare(rule.feature, route.endpoint)

    def bodies(self, request: Request, paths: Iterable[str], content_type: str, query: str) -> GraphQLBodies | None:
        """What reads the bodies of a request to one of the paths in `graphql`; None for another one.

        `paths` are the server's and the app's, which differ below a root path.
        """
        if request.judged_by is not None or self.graphql.isdisjoint(map(endpoint_path, paths)):
            return None
        return GraphQLBodies(request, self.recorder, self.failed, content_type, query)

    def _declare(self, name: str, endpoint: object = None) -> Feature:
        """A feature of the catalogue. Raises FeatureNameError."""
        return self.catalog.declare(
            name,
            display=self._display.get(name),
            fallback=first_line_of(endpoint),
            source=source_of(endpoint) or _SOURCE,
        )

    def _fill(
        self, found: RouteFeature, rule: Rule, tracked: frozenset[str], endpoint: object, name: str | None
    ) -> RouteFeature:
        found.tracked = tracked
        if callable(rule.feature):
            found.namer = rule.feature
        elif rule.feature is not None and rule.feature not in tracked:
            found.name = rule.feature
            if name is not None and len(name) > NAME_LENGTH:
                log.once(("shortened", name), "the name of the route %s is too long: it counts as %s", name, found.name)
            self._report_unreached(endpoint)
            try:
                found.feature = self._declare(rule.feature, endpoint)
            except FeatureNameError as error:
                found.error = error
        return found

    def _report_unreached(self, endpoint: object) -> None:
        """Log an endpoint that is tracked above the framework's decorator, where no request calls it."""
        for feature in unreached(endpoint, self.catalog):
            source = source_of(endpoint) or _SOURCE
            if source not in self._reported_above:
                self._reported_above.add(source)
                log.warning(
                    ("never called", source),
                    "@tracks(%r) of %s (%s) is never called: put it below the framework's route decorator",
                    feature.name, source, definition(endpoint),
                )  # fmt: skip

    def remember(self, key: object, found: RouteFeature) -> RouteFeature:
        """Keep what a route counts as, and return it; the key may hold the id of its marker."""
        if len(self.routes) >= MOST_ROUTES:
            self.routes.clear()
        self.routes[key] = found
        return found

    # ---- its success

    def succeeded(self, request: Request, carrier: Carrier, status: int, location: str) -> bool:
        """Whether the head of a response makes its request a use. Raises what `success=` raises."""
        if self.success is not None:
            return self._decides(request) and bool(self.success(status, carrier))
        if status == 304:
            return self.not_modified
        if not 200 <= status < 300 and judge(status, request.method) is not True:
            return False
        return not (location and leads_to_login(request, location, self, carrier))

    def login_page(self, location: str, info: Carrier) -> LoginPage | None:
        """As Middleware.login_page."""
        path = path_in(location)
        if path in self._login_paths:
            return "bare"
        try:
            return self._framework_login(info).get(path)
        except Exception:  # of the host's objects
            log.debug("cannot find the login page of the framework", exc_info=True)
            return None

    def _decides(self, request: Request) -> bool:
        """Whether this middleware decides on a request, and no middleware further in, which knows better."""
        other = request.judged_by
        if other is not self:
            if other is OPERATIONS or other is BODIES:
                return False
            if isinstance(other, RequestCounter) and other.catalog is self.catalog:
                return False
            request.judged_by = self
        return True

    def decide(self, use: PendingUse, route: RouteFeature) -> None:
        """Fill in the use that a successful request is, if any. Raises what the host's callables raise."""
        request = use.request
        if request.judged_by is None:
            request.judged_by = self
        elif not self._decides(request):
            route.unread = _FIRST
            return
        name, feature = route.name, route.feature
        if route.namer is not None:
            named = route.namer(use.carrier)
            if named is None or named in route.tracked:
                return
            name = check_feature(named)
        elif route.error is not None:
            raise route.error
        elif feature is None:
            self._report_unread(request, use.carrier, route)
            return
        if request.discarded or (self.catalog.key(name) if feature is None else feature.key) in request.counted:
            return
        held = holder.get()
        if held is not request:
            held = self._held(request)
            if held.silent:
                return
        user = self.find_user(use.carrier) if self.user is not None else held.user if held.ready else held.known_user()
        if user is UNSET:
            return
        use.name, use.feature, use.user = name, feature, user
        if self.metadata_of is None:
            use.metadata, use.metadata_error = self.metadata, None
        else:
            use.metadata, use.metadata_error = self._metadata_of(use.carrier)
        measures = self.measures
        use.measures = measures.constant if measures.read is None else measures.read(use.carrier)
        use.is_pending = True

    def _metadata_of(self, carrier: Carrier) -> tuple[Kept, Exception | None]:
        try:
            return kept_metadata(self.metadata_of(carrier)) if self.metadata_of is not None else None, None
        except Exception as error:  # the host's, or its value is no metadata
            return None, error

    def record(self, use: PendingUse) -> None:
        """Record a pending use whose response has started."""
        use.is_pending = False
        request, feature = use.request, use.feature
        key = self.catalog.key(use.name) if feature is None else feature.key
        if request.discarded or key in request.counted:
            return
        request.counted.add(key)
        if use.user is not request.noted:
            request.note_user(use.user)
        if not ALIVE[0]:
            notice_fork()
        by = use.measures
        if isinstance(by, Exception):
            self.recorder.lose_metadata(use.name, by)
            by = NO_MEASURES
        if self.is_bound:
            use.keep(self.recorder.hold(Use(use.name, use.user, use.metadata, 1, None, now(), *by)))
        elif use.metadata is None and by is NO_MEASURES and feature is not None:
            feature.append(use.user)
        else:
            self.recorder.record(Use(use.name, use.user, use.metadata, 1, None, None, *by))
        if use.metadata_error is not None:
            self.recorder.lose_metadata(use.name, use.metadata_error)

    # ---- its errors

    @contextlib.contextmanager
    def guarding(self) -> Iterator[None]:
        """Call `failed` for any exception inside."""
        try:
            yield
        except Exception as error:
            self.failed(error)

    def failed(self, error: Exception, route: RouteFeature | None = None) -> None:
        """Reject a use because our code, or a callable of the host's, raised; the response goes on.

        Raises what the recorder raises, which is nothing unless it is strict.
        """
        if not isinstance(error, UsageInstrumentError):  # whose message says everything
            log.warning(
                ("middleware", type(error)),
                "the middleware cannot decide the use or access of a request, and rejects it: %r",
                error,
                exc_info=True,
            )
        self.recorder.reject((route.name if route is not None else "") or "(middleware)", error)


def _session_user(
    framework_user: Callable[[Carrier], UserId | Unset],
    session_of: Callable[[Carrier], object],
    key: str,
    carrier: Carrier,
) -> UserId | Unset:
    found = framework_user(carrier)
    if found is not UNSET:
        return found
    session = session_of(carrier)
    # Not the session's own `get`, which may note an access and change the Vary header.
    found = loaded_user(dict.get(session, key)) if isinstance(session, dict) else UNSET
    noted = carrier if type(carrier) is dict else attributes_of(carrier)
    if found is UNSET and SESSION_USERS in noted:  # who has logged out
        found = loaded_user(noted[SESSION_USERS].get(key))
    return found


def _stated_user(
    user: Callable[[Carrier], object], framework_user: Callable[[Carrier], UserId | Unset], carrier: Carrier
) -> UserId:
    stated = user(carrier)
    try:
        found: UserId | Unset = user_id_of(stated)
    except UserIdError:
        if not (is_unloaded(stated) and is_users_proxy(stated, carrier)):
            raise
        found = framework_user(carrier)
        if found is UNSET and is_unloaded(stated):  # the framework may have had to load it
            return nobody(stated, carrier)
    if found is None and stated is not None and is_users_proxy(stated, carrier):  # who may have logged out
        found = framework_user(carrier)
    return None if found is UNSET else found
