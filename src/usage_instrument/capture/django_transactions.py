"""Follows the transactions of Django's databases, by their aliases."""

from __future__ import annotations

import sys
from typing import Any

from usage_instrument.errors import ConfigurationError, UsageInstrumentError

from .kept_uses import Outbox, Release, TransactionLostError, run


def keep(alias: str, release: Release, *, by_row: bool = True) -> bool:
    """Keep a use for the commit of the outermost `atomic()`; False outside of one.

    Unless `by_row` is False, a use for the database of the tables becomes a row at once, since Django reports no COMMIT
    before it: what rolls the block back takes the row along. Raises ConfigurationError for an unknown alias,
    UsageInstrumentError for a transaction without `atomic()`, and TransactionLostError.
    """
    django = _django()
    connection = connection_of(alias)
    if connection.in_atomic_block:
        if by_row and _insert(connection, release):
            return True
        # It belongs to the present savepoint: Django drops it when that is rolled back.
        django.transaction.on_commit(lambda: run(release), using=alias)
        return True
    if connection.connection is not None and not connection.autocommit:
        raise UsageInstrumentError(
            f"the transaction of {alias!r} was begun without atomic(), and Django reports no commit of it: use atomic()"
        )
    return False


def _insert(connection: Any, release: Any) -> bool:
    outbox: Outbox | None = getattr(release, "outbox", None)
    if outbox is None or not outbox.takes(connection) or not _takes_statements(connection):
        return False
    try:
        if not outbox.put(connection, release.uses):
            return False
    except Exception as error:
        raise TransactionLostError(error) from error
    waiting = connection.run_on_commit
    if not waiting or waiting[-1][1] != outbox.committed or waiting[-1][0] != set(connection.savepoint_ids):
        connection.on_commit(outbox.committed, robust=True)
    return True


def _takes_statements(connection: Any) -> bool:
    """Whether a statement can run in the open block, and its COMMIT is the host's."""
    if connection.needs_rollback or connection.closed_in_transaction:
        return False
    if any(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks):
        return False  # which is never committed; captureOnCommitCallbacks() runs what waits for that
    import asyncio  # Django has loaded it

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False  # where Django refuses statements


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
