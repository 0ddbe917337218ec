"""Ariadne: `GraphQL(schema, extensions=[UsageExtension])`, or `extensions=` of `graphql` and `graphql_sync`."""

from __future__ import annotations

from typing import Any

from ariadne.types import Extension

from usage_instrument.web.graphql import count_operation

__all__ = ["UsageExtension"]


class UsageExtension(Extension):  # type: ignore[misc]
    """Counts the queries and mutations that end without an error, each by the name of its operation."""

    def __init__(self) -> None:
        self._operation: Any = None
        self._failed = False

    def resolve(self, next_: Any, obj: Any, info: Any, **arguments: Any) -> Any:
        """As Ariadne says: around each field."""
        if info.path.prev is None:
            self._operation = info.operation
        return next_(obj, info, **arguments)

    def has_errors(self, errors: Any, context: Any) -> None:
        """As Ariadne says: after an execution with errors."""
        self._failed = True

    def request_finished(self, context: Any) -> None:
        """As Ariadne says: at the end of an execution."""
        count_operation(self._operation, failed=self._failed)
