"""Follows the transactions of Django's databases, by their aliases."""

from __future__ import annotations

import sys
from typing import Any

from usage_instrument.errors import ConfigurationError, UsageInstrumentError

from .kept_uses import Release


def keep(alias: str, release: Release) -> bool:
    """Keep a use for the commit of the outermost `atomic()`; False outside of one.

    Raises ConfigurationError for an unknown alias, and UsageInstrumentError for a transaction without `atomic()`.
    """
    django = _django()
    connection = connection_of(alias)
    if connection.in_atomic_block:
        # It belongs to the present savepoint: Django drops it when that is rolled back.
        django.transaction.on_commit(release, using=alias)
        return True
    if connection.connection is not None and not connection.autocommit:
        raise UsageInstrumentError(
            f"the transaction of {alias!r} was begun without atomic(), and Django reports no commit of it: use atomic()"
        )
    return False


def connection_of(alias: str) -> Any:
    """Django's connection of an alias, which is not opened. Raises ConfigurationError."""
    django = _django()
    if django is None or alias not in django.connections:
        known = "" if django is None else f"; the aliases are {', '.join(map(repr, django.connections))}"
        raise ConfigurationError(
            f"commit={alias!r} is no database of Django{known}: pass an alias of DATABASES, or a Session or Connection "
            "of SQLAlchemy"
        )
    return django.connections[alias]


def is_alias(name: str) -> bool:
    """Whether Django knows a database of that name, or will: its settings may be loaded later."""
    if "django" not in sys.modules:
        return False
    django = _django()
    return django is None or name in django.connections


def is_configured() -> bool:
    """Whether Django has its settings."""
    settings: Any = sys.modules.get("django.conf")
    return settings is not None and bool(settings.settings.configured)


def _django() -> Any:
    """The module `django.db`, if it is loaded and Django is configured."""
    return sys.modules.get("django.db") if is_configured() else None
