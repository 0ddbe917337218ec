"""Strawberry: `strawberry.Schema(query=Query, extensions=[UsageExtension])`."""

from __future__ import annotations

from collections.abc import Iterator

from strawberry.extensions import SchemaExtension

from usage_instrument.web.graphql import count_operation, operation_in

__all__ = ["UsageExtension"]


class UsageExtension(SchemaExtension):  # type: ignore[misc]
    """Counts the queries and mutations that end without an error, each by the name of its operation."""

    def on_operation(self) -> Iterator[None]:
        """As Strawberry says: around parsing, validation and execution."""
        yield
        context = self.execution_context
        result = context.result
        operation = operation_in(context.graphql_document, context.operation_name)
        count_operation(operation, failed=result is None or bool(getattr(result, "errors", None)))
