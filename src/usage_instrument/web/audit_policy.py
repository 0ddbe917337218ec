"""The `audit` option of the middlewares: which requests are accesses, and which of them have to be recorded first."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias

from usage_instrument.capture.context import Request
from usage_instrument.capture.outcome import outcome_of_error
from usage_instrument.capture.recording import Kept, attempted, ended, new_access
from usage_instrument.capture.registry import Catalog
from usage_instrument.errors import AuditUnavailable, ConfigurationError, DeclarationError
from usage_instrument.events import Use, check_audit, check_feature
from usage_instrument.typing import Audit, Outcome, UserId

from .routes import Route, tracked_features
from .rules import Rules

logger = logging.getLogger("usage_instrument")

Audits: TypeAlias = Mapping[str, Audit]
"""The `audit` option: from the names of features to True or `"required"`."""
Teller: TypeAlias = Callable[[Request, Any], "tuple[UserId | Exception, Kept | Exception]"]
"""Tells the user and the metadata of a request."""


class Auditing:
    """The option, applied to the rules of a middleware.

    A request is an access to the feature that its route is named as by the rules, or that its endpoint is tracked
    for; one that no route was found for, to the feature of its path. What is required is decided by the path alone,
    before the app is called: `features` has to name it by its paths, and a path that might lead there is taken for one
    that does. With `knows_routes`, the middleware is called between the two, and the route decides.

    Raises FeatureNameError and ConfigurationError (ValueErrors), DeclarationError (a TypeError).
    """

    def __init__(
        self, audit: Audits, rules: Rules, catalog: Catalog, teller: Teller, *, knows_routes: bool = False
    ) -> None:
        if not isinstance(audit, Mapping):
            raise DeclarationError(
                f"audit= is a mapping from names of features to True or 'required', not {type(audit).__name__}"
            )
        said = {check_feature(name): check_audit(value) for name, value in audit.items()}
        self.levels: dict[str, Audit] = {name: value for name, value in said.items() if value}
        """Of each feature that is audited, how."""
        self.requires = "required" in self.levels.values()
        """Whether any has to be recorded first."""
        self._catalog = catalog
        self._teller = teller
        self._keys = {name: catalog.key(name) for name in self.levels}
        self._by_path = [
            (method, covering(template), name)
            for method, template, name in rules.templates
            if name in self.levels and template.startswith("/")
        ]
        self._unforeseen: set[str] = set()
        if not knows_routes:
            for name, level in self.levels.items():
                if level == "required":
                    _check_paths(name, [template for _, template, named in rules.templates if named == name])

    def at(self, paths: Iterable[str], method: str) -> tuple[str, ...]:
        """The features that a path may lead to; it may be told from more than one root."""
        asked = {re.sub("/+", "/", "/" + path) for path in paths}
        methods = ("", method, "GET") if method == "HEAD" else ("", method)
        return tuple(
            name for wanted, pattern, name in self._by_path if wanted in methods and any(map(pattern.fullmatch, asked))
        )

    def among(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those that are audited."""
        return tuple(name for name in names if name in self.levels)

    def unmatched(self, routes: list[Route], rules: Rules) -> list[str]:
        """The features that are no route's, as far as that can be known."""
        if rules.has_callables or any(route.opaque for route in routes):
            return []
        known = {*rules.names, *(route.name for route in routes)}
        for route in routes:
            for method in route.methods or ("GET", "POST", "PUT", "PATCH", "DELETE", "WEBSOCKET"):
                known |= tracked_features(route.endpoint, method, self._catalog)
        return [name for name in self.levels if name not in known]

    # ---- one request

    def admit(self, request: Request, carrier: Any, names: Iterable[str]) -> None:
        """Commit the attempts to what is required. Raises AuditUnavailable: then the app must not be called."""
        for use, key in self._attempts(request, carrier, names):
            self._catalog.recorder.admit(use)
            request.open_access(key, use.access)

    async def aadmit(self, request: Request, carrier: Any, names: Iterable[str]) -> None:
        """As admit, without blocking the event loop."""
        for use, key in self._attempts(request, carrier, names):
            await self._catalog.recorder.aadmit(use)
            request.open_access(key, use.access)

    def _attempts(self, request: Request, carrier: Any, names: Iterable[str]) -> Iterable[tuple[Use, object]]:
        for name in dict.fromkeys(names):
            key = self._keys[name]
            if self.levels[name] == "required" and not request.has_access(key):
                request.mark_access(key)  # also if it is refused: there is nothing else to tell of it then
                yield attempted(name, new_access("attempted"), *self._teller(request, carrier)), key

    def end(self, request: Request, carrier: Any, names: Collection[str], outcome: Outcome, began: int) -> None:
        """Hand over the outcome of what was admitted, and the accesses to `names` that nobody else has told."""
        for name, key in self._keys.items():
            opened = request.take_access(key)
            if opened is None and (name not in names or request.has_access(key)):
                continue
            request.mark_access(key)
            access = new_access(outcome)
            if opened is not None:
                access = access._replace(id=opened.id, occurred_at=opened.occurred_at)
            else:
                access = access._replace(occurred_at=began)
                self._check_foreseen(name)
            ended(self._catalog.recorder, name, access, *self._teller(request, carrier))

    def _check_foreseen(self, name: str) -> None:
        if self.levels[name] == "required" and name not in self._unforeseen:
            self._unforeseen.add(name)
            logger.error(
                "audit= requires %r, and a request came to it by a path that features= does not name: it was recorded "
                "after it had happened. Name all its paths (said once)",
                name,
            )


class RequestAudit:
    """The accesses that one request is, told once: by what its response says, or by how it fails before that."""

    __slots__ = ("_auditing", "_began", "_carrier", "_find", "_foresee", "_is_told", "_names", "_outcome", "_request")

    def __init__(
        self,
        auditing: Auditing,
        request: Request,
        carrier: Any,
        foresee: Callable[[], Collection[str]],
        find: Callable[[], Collection[str]],
    ) -> None:
        """`foresee` tells the names of features before the call, `find` once there is a response, or none."""
        self._auditing = auditing
        self._request = request
        self._carrier = carrier
        self._foresee = foresee
        self._find = find
        self._names: Collection[str] | None = None
        self._outcome: Outcome = "failed"
        self._is_told = False
        self._began = time.time_ns() // 1000

    def admit(self) -> None:
        """Commit what is required, before the app is called. Raises AuditUnavailable: then it must not be."""
        self._auditing.admit(self._request, self._carrier, self._foreseen())

    async def aadmit(self) -> None:
        """As admit, without blocking the event loop."""
        await self._auditing.aadmit(self._request, self._carrier, self._foreseen())

    def _foreseen(self) -> Collection[str]:
        if not self._auditing.requires:
            return ()
        try:
            return self._foresee()
        except Exception as error:  # of a callable of the host's that names features
            words = f"{type(error).__name__} raised"
            raise AuditUnavailable(f"whether the request has to be recorded first cannot be told: {words}") from error

    def answered(self, outcome: Outcome) -> None:
        """A response begins: its route is known, if ever. Raises what comes of looking for it."""
        self._outcome = outcome
        self._names = self._find()

    def failed(self, error: BaseException) -> None:
        """The app failed. Raises as end."""
        if not self._is_told:
            self._outcome = outcome_of_error(error)
            self.end()

    def end(self) -> None:
        """What was to be said has been said. Raises what the host's own callables do, and the recorder if strict."""
        if not self._is_told:
            self._is_told = True
            names = self._find() if self._names is None else self._names
            carrier, self._carrier = self._carrier, None  # it may refer to this, and so may those who find
            self._find = self._foresee = tuple
            self._auditing.end(self._request, carrier, names, self._outcome, self._began)


_PARAMETER = re.compile(r"<(?:([A-Za-z_]\w*)(?:\([^)]*\))?:)?[A-Za-z_]\w*>|\{[A-Za-z_]\w*(?::([^{}]*))?\}")
_ONE_SEGMENT = frozenset({None, "str", "string", "default", "int", "float", "uuid", "slug"})
"""The converters, in any framework's spelling, of which it is certain that they take no slash."""


def covering(template: str) -> re.Pattern[str]:
    """What the paths of a template may look like, slashes merged: all that a framework may take for one of them.

    A slash more at the end may be ignored, and so may a line feed, by a pattern that ends in `$`.
    """
    pieces, last = [], 0
    template = re.sub("/+", "/", template).rstrip("/")
    for found in _PARAMETER.finditer(template):
        one = (found[1] or found[2]) in _ONE_SEGMENT
        pieces += [re.escape(template[last : found.start()]), "[^/]+" if one else ".*"]
        last = found.end()
    return re.compile("".join([*pieces, re.escape(template[last:]), r"/?\n?"]), re.DOTALL)


def _check_paths(name: str, templates: list[str]) -> None:
    unfit = [template for template in templates if not template.startswith("/")]
    if unfit or not templates:
        by = f"features= names it by {unfit[0]!r}" if unfit else "features= does not name it"
        raise ConfigurationError(
            f"audit[{name!r}] is 'required', which is decided by the path before any route is known, and {by}: "
            f"say features={{'/its/path/{{id}}': {name!r}}}, or put audit='required' on @tracks"
        )
