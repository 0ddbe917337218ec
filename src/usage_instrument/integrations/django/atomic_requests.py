"""Follows the transactions that Django's ATOMIC_REQUESTS begins around the view of one request."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from django.db import connections, transaction

from usage_instrument.capture.kept_uses import Release, run
from usage_instrument.errors import ConfigurationError


def check_atomic_requests() -> None:
    """Raise ConfigurationError if no database has ATOMIC_REQUESTS."""
    if not any(settings["ATOMIC_REQUESTS"] for settings in connections.settings.values()):
        raise ConfigurationError(
            "USAGE_INSTRUMENT['commit'] is 'request', and no database has ATOMIC_REQUESTS: set it in DATABASES, or put "
            "@tracks(commit='default') below transaction.atomic"
        )


class AtomicRequest:
    """The transactions of one request. The first query in each registers for its commit."""

    def __init__(self, view: Callable[..., Any]) -> None:
        self._begun: set[str] = set()
        self._committed: set[str] = set()
        self._waiting: list[Release] = []
        self._wrappers = ExitStack()
        excluded = getattr(view, "_non_atomic_requests", ())
        for alias, settings in connections.settings.items():
            if settings["ATOMIC_REQUESTS"] and alias not in excluded:
                connection = connections[alias]
                # Within another atomic(), as that of a TestCase, the view's is a savepoint of that.
                depth = len(connection.savepoint_ids) if connection.in_atomic_block else -1
                self._wrappers.enter_context(connection.execute_wrapper(partial(self._note, alias, depth)))

    def _note(self, alias: str, depth: int, execute: Callable[..., Any], *query: Any) -> Any:
        connection = connections[alias]
        if alias not in self._begun and connection.in_atomic_block and len(connection.savepoint_ids) > depth:
            self._begun.add(alias)
            transaction.on_commit(partial(self._commit, alias), using=alias)
        return execute(*query)

    def _commit(self, alias: str) -> None:
        self._committed.add(alias)
        self._release()

    def _release(self) -> None:
        if self._begun == self._committed:
            waiting, self._waiting = self._waiting, []
            for release in waiting:
                run(release)

    def keep(self, release: Release) -> None:
        """Record a use if all that was begun is committed. Tests commit later, by captureOnCommitCallbacks."""
        self._waiting.append(release)
        self._release()

    def close(self) -> None:
        """Follow no further queries."""
        self._wrappers.close()
