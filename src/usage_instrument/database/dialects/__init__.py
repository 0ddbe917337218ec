"""One folder per database. In: what the other modules want of it. Out: its DDL, its flush, its error classes."""

from __future__ import annotations

from importlib import import_module

from usage_instrument.errors import ConfigurationError

from ..driver_errors import Fault
from .base import Dialect, Flush

_MODULES = {"postgresql": "postgresql", "sqlite": "sqlite", "mysql": "mariadb", "mariadb": "mariadb"}
_loaded: dict[str, Dialect] = {}


def get(name: str) -> Dialect:
    """The dialect for SQLAlchemy's dialect name. Raises ConfigurationError for an unsupported one."""
    module = _MODULES.get(name)
    if module is None:
        raise ConfigurationError(f"{name} is not supported; {', '.join(sorted(_MODULES))} are")
    if module not in _loaded:
        _loaded[module] = import_module(f".{module}", __name__).DIALECT
    return _loaded[module]


def every() -> list[Dialect]:
    """All dialects: a table is defined once for every database."""
    return [get(name) for name in dict.fromkeys(_MODULES.values())]


__all__ = ["Dialect", "Fault", "Flush", "every", "get"]
