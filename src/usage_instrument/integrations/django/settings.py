"""The setting `USAGE_INSTRUMENT`: one dictionary for the tracker and the middleware."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string

from usage_instrument.errors import ConfigurationError
from usage_instrument.web.options import OPTIONS, MiddlewareOptions

_MIDDLEWARE = OPTIONS - {"tracker"}
_CALLABLE = frozenset({"user", "success", "before_track"})


def middleware_options() -> MiddlewareOptions[Any]:
    """The options of the middleware. Raises ConfigurationError."""
    found: Any = {name: value for name, value in _options().items() if name in _MIDDLEWARE}
    options: MiddlewareOptions[Any] = found
    return options


def tracker_options() -> dict[str, Any]:
    """The arguments of `configure`. Raises ConfigurationError."""
    return {name: value for name, value in _options().items() if name not in _MIDDLEWARE}


def _options() -> dict[str, Any]:
    options = getattr(settings, "USAGE_INSTRUMENT", None) or {}
    if not isinstance(options, dict):
        raise ConfigurationError(f"USAGE_INSTRUMENT is a dict of options, not {type(options).__name__}")
    return {name: _resolved(name, value) for name, value in options.items()}


def _resolved(name: str, value: Any) -> Any:
    """The value, imported if it is the dotted path of a callable, as in other settings."""
    if name in _CALLABLE and isinstance(value, str):
        try:
            return import_string(value)
        except ImportError as error:
            raise ConfigurationError(f"USAGE_INSTRUMENT[{name!r}]: {error}") from None
    return value
