"""What both middlewares share: from one request, its route and its status to at most one use."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from functools import partial
from typing import Any, TypeAlias

from usage_instrument.capture.context import (
    SCOPE_KEY,
    Holder,
    Override,
    Request,
    RequestKind,
    holder,
    judge,
    request_of,
)
from usage_instrument.capture.recording import Kept
from usage_instrument.capture.registry import Feature, Recorder, declared
from usage_instrument.capture.request_info import is_login_redirect as is_login_redirect
from usage_instrument.capture.user_ids import user_id_of
from usage_instrument.errors import FeatureNameError, UsageInstrumentError
from usage_instrument.events import Use, check_feature, keep_metadata
from usage_instrument.runtime.call_sites import definition
from usage_instrument.runtime.processes import ALIVE, notice_fork
from usage_instrument.typing import UNSET, Metadata, Unset, UserId, _Unset

from .audit_policy import Auditing, Audits
from .endpoints import first_line_of, source_of, unreached
from .routes import Route, tracked_features
from .rules import Features, Namer, Rule, Rules, check_callable

logger = logging.getLogger("usage_instrument")

_SOURCE = "middleware"
MOST_TARGETS = 10_000
"""How many routes a middleware remembers; an app that makes routes as it goes starts over."""

Carrier: TypeAlias = Any
"""The ASGI scope or the WSGI environ of a request."""


class Target:
    """What the successes of one route count as."""

    __slots__ = ("audited", "error", "feature", "marker", "name", "namer", "tracked")

    def __init__(self, marker: object = None) -> None:
        self.marker = marker
        """What the target is remembered by; its id is good while it is held here."""
        self.name = ""
        self.feature: Feature | None = None
        self.namer: Namer | None = None
        self.tracked: frozenset[str] = frozenset()
        self.error: FeatureNameError | None = None
        self.audited: frozenset[str] | None = None
        """The names that `audit=` may know; None where only the path tells."""


NOTHING = Target()
"""For a request that took no route."""


Pending: TypeAlias = tuple[str, Feature | None, UserId, "dict[str, Any] | str | None", Exception | None]
"""A use that counts as soon as its response has started: the name of its feature, the feature if it is declared, its
user, its metadata, and why there is none."""


class Counter:
    """The options of a middleware, applied. It holds nothing of any one request.

    Raises FeatureNameError, ConfigurationError (ValueErrors), DeclarationError and MetadataError (TypeErrors).
    """

    def __init__(
        self,
        tracker: Recorder | None,
        features: Features | None,
        include: Iterable[str] | None,
        exclude: Iterable[str] | None,
        user: Callable[[Carrier], object] | None,
        metadata: Metadata | Callable[[Carrier], Metadata | None] | None,
        success: Callable[[int, Carrier], object] | None,
        loaded: Callable[[Carrier], UserId | Unset],
        *,
        audit: Audits | None = None,
        knows_routes: bool = False,
    ) -> None:
        self.catalog = declared if tracker is None else tracker.catalog
        self.rules = Rules(features, include, exclude)
        self.user = None if user is None else check_callable("user=", user)
        self.find_user: Callable[[Carrier], UserId | Unset] = loaded if user is None else partial(_stated, user)
        """The user whom neither `as_user` nor `identify` stated. Raises UserIdError, and what the host's code does."""
        self.success = None if success is None else check_callable("success=", success)
        self.metadata_of: Callable[[Carrier], Metadata | None] | None = None
        self.metadata: dict[str, Any] | str | None = None
        if isinstance(metadata, Mapping):
            self.metadata = keep_metadata(metadata)
        elif metadata is not None:
            self.metadata_of = check_callable("metadata=", metadata)
        self.auditing: Auditing | None = None
        if audit is not None:
            auditing = Auditing(audit, self.rules, self.catalog, self._told, knows_routes=knows_routes)
            self.auditing = auditing if auditing.levels else None
        self.targets: dict[object, Target] = {}
        self.look: Callable[[], None] | None = None
        """What looks at the app, once, when its first route is met."""
        self._has_failed = False
        self._above: set[str] = set()
        for name in self.rules.names:
            self.catalog.declare(name, source=_SOURCE)

    @property
    def recorder(self) -> Recorder:
        """Who takes the uses at the moment: `configure` may have come since."""
        return self.catalog.recorder

    # ---- who

    def begin(
        self, kind: RequestKind, method: str, carrier: Carrier, shelf: MutableMapping[str, Any]
    ) -> tuple[Request, bool]:
        """The Request on the shelf (the scope or environ), where a middleware further out may have put it; and whether
        it is ours to end. The callables get the carrier, mostly the same."""
        shared: Any = shelf.get(SCOPE_KEY)
        is_ours = type(shared) is not Request or not shared.open
        request: Request = Request(kind, method, partial(self.find_user, carrier)) if is_ours else shared
        if not is_ours:
            look = request.add_lookup if self.user is None else request.set_lookup
            look(partial(self.find_user, carrier))
        request.info = carrier
        shelf[SCOPE_KEY] = request
        return request, is_ours

    def holder_for(self, request: Request) -> Holder:
        """What the app is to run under: the request, and over it what `as_user` or `paused` said around us."""
        outer = holder.get()
        # One that lies over some other request is a leftover of the task or thread that started this one.
        if type(outer) is Override and (outer.request is None or outer.request is request):
            return outer.over(request)
        return request

    def _held(self, request: Request) -> Holder:
        """What `as_user` or `paused` lays over a request at the moment; a leftover of some other is none of that."""
        held = holder.get()
        return held if held is not None and request_of(held) is request else request

    def _told(self, request: Request, carrier: Carrier) -> tuple[UserId | Exception, Kept | Exception]:
        """The user and the metadata of an access, or why there is none."""
        try:
            user = self.find_user(carrier) if self.user is not None else self._held(request).known_user()
        except Exception as error:  # a refused statement, or the host's own way to find the user
            return error, None
        metadata, lost = (self.metadata, None) if self.metadata_of is None else self._metadata_of(carrier)
        return None if isinstance(user, _Unset) else user, lost or metadata

    # ---- what

    def audited(self, target: Target, carrier: Carrier, paths: Iterable[str], method: str) -> tuple[str, ...]:
        """The audited features that a request is an access to. Raises what the host's callables do."""
        if self.auditing is None:
            return ()
        if target.audited is None:
            return self.auditing.at(paths, method)
        said = None if target.namer is None else target.namer(carrier)
        return self.auditing.among(target.audited if said is None else (*target.audited, said))

    def target(self, route: Route, method: str, marker: object = None) -> Target:
        """What a route that was matched counts as."""
        look, self.look = self.look, None
        if look is not None:
            look()
        target = Target(marker)
        if not route.countable:
            return target
        if method == "HEAD":  # which is no use, but an access as a GET is
            method = "GET"
        rule = self.rules.decide(route, method)
        tracked = tracked_features(route.endpoint, method, self.catalog)
        target.audited = rule.names | tracked
        if tracked and not rule.explicit:
            return target
        return self._fill(target, rule, tracked, route.endpoint)

    def target_of_path(self, path: str, method: str) -> Target:
        """What a path counts as in an app whose framework is not known."""
        return self._fill(Target(), self.rules.decide_path(path, method), frozenset(), None)

    def _fill(self, target: Target, rule: Rule, tracked: frozenset[str], endpoint: object) -> Target:
        target.tracked = tracked
        if callable(rule.feature):
            target.namer = rule.feature
        elif rule.feature is not None and rule.feature not in tracked:
            target.name = rule.feature
            self._look_above(endpoint)
            try:
                target.feature = self.catalog.declare(
                    rule.feature, fallback=first_line_of(endpoint), source=source_of(endpoint) or _SOURCE
                )
            except FeatureNameError as error:
                target.error = error
        return target

    def _look_above(self, endpoint: object) -> None:
        """Say so if the endpoint is tracked above the framework's decorator, where no request comes by."""
        for feature in unreached(endpoint, self.catalog):
            source = source_of(endpoint) or _SOURCE
            if source not in self._above:
                self._above.add(source)
                logger.warning(
                    "@tracks(%r) of %s (%s) is never called: put it below the framework's route decorator",
                    feature.name, source, definition(endpoint),
                )  # fmt: skip

    def remember(self, key: object, target: Target) -> None:
        """Keep a target; the key may hold the id of its marker."""
        if len(self.targets) >= MOST_TARGETS:
            self.targets.clear()
        self.targets[key] = target

    # ---- whether

    def succeeded(self, request: Request, carrier: Carrier, status: int) -> bool:
        """Whether the status of a response says that its request was a use. Raises what `success=` does."""
        if self.success is None:
            return 200 <= status < 300 or judge(status, request.method) is True
        return self._settles(request) and bool(self.success(status, carrier))

    def _settles(self, request: Request) -> bool:
        """Whether it is for us to decide on a request, instead of for a middleware further in, which knows better."""
        other = request.judged_by
        if other is not self:
            if isinstance(other, Counter) and other.catalog is self.catalog:
                return False
            request.judged_by = self
        return True

    def weigh(self, request: Request, carrier: Carrier, target: Target) -> Pending | None:
        """The use that a successful request is, if any. Raises what the host's callables do."""
        if request.judged_by is None:
            request.judged_by = self
        elif not self._settles(request):
            return None
        name, feature = target.name, target.feature
        if target.namer is not None:
            said = target.namer(carrier)
            if said is None or said in target.tracked:
                return None
            name = check_feature(said)
        elif target.error is not None:
            raise target.error
        elif feature is None:
            return None
        held = holder.get()
        if held is not request:
            held = self._held(request)
        if held.silent or (self.catalog.key(name) if feature is None else feature.key) in request.counted:
            return None
        user = self.find_user(carrier) if self.user is not None else held.user if held.ready else held.capture_user()
        if user is UNSET:
            return None
        metadata, lost = (self.metadata, None) if self.metadata_of is None else self._metadata_of(carrier)
        return name, feature, user, metadata, lost

    def _metadata_of(self, carrier: Carrier) -> tuple[dict[str, Any] | str | None, Exception | None]:
        try:
            return keep_metadata(self.metadata_of(carrier)) if self.metadata_of is not None else None, None
        except Exception as error:  # the host's, or its value is no metadata
            return None, error

    def count(self, request: Request, use: Pending) -> None:
        """Hand a use over, now that its response has started."""
        name, feature, user, metadata, lost = use
        key = self.catalog.key(name) if feature is None else feature.key
        if request.discarded or key in request.counted:
            return
        request.counted.add(key)
        if not ALIVE[0]:
            notice_fork()
        if metadata is None and feature is not None:
            feature.append(user)
        else:
            self.recorder.record(Use(name, user, metadata))
        if lost is not None:
            self.recorder.lose_metadata(name, lost)

    @contextlib.contextmanager
    def guarding(self) -> Iterator[None]:
        """As `failed`, for whatever fails inside."""
        try:
            yield
        except Exception as error:
            self.failed(error)

    def failed(self, error: Exception, target: Target | None = None) -> None:
        """Something of ours, or a callable of the host's, failed: the use is lost, the response is not.

        Raises what the recorder raises, which is nothing unless it is strict.
        """
        if not self._has_failed and not isinstance(error, UsageInstrumentError):  # whose words say it all
            self._has_failed = True
            logger.warning(
                "the middleware cannot tell the use or access of a request (said once; all are counted as rejected)",
                exc_info=error,
            )
        self.recorder.reject((target.name if target is not None else "") or "(middleware)", error)

    def ended(self, request: Request, carrier: Carrier) -> None:
        """The request is over: nobody is identified by it any more."""
        request.close()
        carrier.pop(SCOPE_KEY, None)  # frameworks leave scope and environ to the garbage collector
        try:
            self.catalog.recorder.request_ended()
        except Exception:
            logger.debug("request_ended failed", exc_info=True)


def _stated(user: Callable[[Carrier], object], carrier: Carrier) -> UserId:
    return user_id_of(user(carrier))
