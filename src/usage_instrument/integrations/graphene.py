"""Graphene: `GraphQLView.as_view(schema=schema, execution_context_class=UsageExecutionContext)` of graphene-django, or
the same argument of `schema.execute` and `schema.execute_async`."""

from __future__ import annotations

from typing import Any

from graphql import ExecutionContext

from usage_instrument.web.graphql import count_operation

__all__ = ["UsageExecutionContext"]


class UsageExecutionContext(ExecutionContext):  # type: ignore[misc]
    """Counts the queries and mutations that end without an error, each by the name of its operation."""

    def build_response(self, data: Any, *errors: Any) -> Any:
        """As graphql-core 3.2 says, whose later releases pass the errors: the end of an execution."""
        if not self.is_awaitable(data):
            count_operation(self.operation, failed=bool(errors[0] if errors else self.errors))
        return super().build_response(data, *errors)
