"""The `audit` option of the middlewares: which requests are accesses, and which of them must be recorded first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from usage_instrument.capture.registry import Catalog
from usage_instrument.errors import ConfigurationError, DeclarationError
from usage_instrument.events import check_audit, check_feature
from usage_instrument.typing import Audit

from .options import Audits
from .routes import METHODS, WEBSOCKET, Route, tracked_features
from .rules import Key, Rules

_PATH_MAX = 8192
"""Characters. A longer path may match every required feature: no app routes one, and it is not worth the time."""


class AuditPolicy:
    """The option, applied to the rules of a middleware.

    A request is an access to the feature that the rules name its route, and to the features that its endpoint is
    tracked for. Without a known route, the path decides. Required features are decided by the path alone, before the
    app is called: `features` must name them by their paths, and a path that may be routed there counts as one that
    is. In a framework with `knows_routes` the middleware is called after the routing, and the route decides.

    Raises FeatureNameError and ConfigurationError (ValueErrors), DeclarationError (a TypeError).
    """

    def __init__(self, audit: Audits, rules: Rules, catalog: Catalog, *, knows_routes: bool = False) -> None:
        if not isinstance(audit, Mapping):
            raise DeclarationError(
                f"audit= is a mapping from names of features to True or 'required', not {type(audit).__name__}"
            )
        levels = {check_feature(name): check_audit(value) for name, value in audit.items()}
        self.levels: dict[str, Audit] = {name: value for name, value in levels.items() if value}
        """Of each audited feature, how."""
        self.required = frozenset(name for name, value in self.levels.items() if value == "required")
        self.keys = {name: catalog.key(name) for name in self.levels}
        self._catalog = catalog
        self._by_path = [key for key in rules.keys if key.value in self.levels and key.template is not None]
        if not knows_routes:
            for name in self.required:
                _check_paths(name, [key for key in rules.keys if key.value == name])

    def at(self, paths: Iterable[str], method: str) -> tuple[str, ...]:
        """The audited features that a request may lead to, by its path below each of several roots."""
        paths = list(paths)
        methods = {method, "GET"} if method == "HEAD" else {method}
        return tuple(
            str(key.value)
            for key in self._by_path
            if any(map(key.answers, methods)) and any(self._may_match(key, path) for path in paths)
        )

    def _may_match(self, key: Key, path: str) -> bool:
        if len(path) > _PATH_MAX and key.value in self.required:
            return True
        return key.template is not None and key.template.may_match(path)

    def among(self, names: Iterable[str]) -> tuple[str, ...]:
        """The audited ones of some features."""
        return tuple(name for name in names if name in self.levels)

    def unmatched(self, routes: list[Route], rules: Rules) -> list[str]:
        """The audited features that are no route's, if all routes and names are known."""
        if rules.has_callables or any(route.opaque for route in routes):
            return []
        known: set[str | None] = set(rules.names)
        for route in routes:
            for method in route.methods or (*METHODS, WEBSOCKET):
                known |= {route.name, route.name_for(method), *tracked_features(route.endpoint, method, self._catalog)}
        return [name for name in self.levels if name not in known]


def _check_paths(name: str, keys: list[Key]) -> None:
    names = [key.target for key in keys if key.template is None]
    if names or not keys:
        by = f"features= names it by {names[0]!r}" if names else "features= does not name it"
        raise ConfigurationError(
            f"audit[{name!r}] is 'required', which is decided by the path before any route is known, and {by}: "
            f"write features={{'/its/path/{{id}}': {name!r}}}, or put audit='required' on @tracks"
        )
