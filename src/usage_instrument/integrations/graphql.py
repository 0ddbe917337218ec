"""What the GraphQL integrations share: an operation without errors becomes a use."""

from __future__ import annotations

import logging
from typing import Any

from graphql import OperationDefinitionNode, OperationType, get_operation_ast

from usage_instrument.capture.calls import track
from usage_instrument.capture.context import OPERATIONS, current_request
from usage_instrument.capture.registry import declared
from usage_instrument.runtime import log
from usage_instrument.typing import UNSET

NAMES = 1000
"""Names of operations that a process counts. Clients choose them, and names must not grow without bound."""
_names: set[str] = set()


def count_operation(operation: OperationDefinitionNode | None, *, failed: bool) -> None:
    """Count an operation that has ended. Its HTTP request counts nothing by its route. Raises nothing unless strict.

    Subscriptions and introspection are no uses.
    """
    request = current_request()
    if request is not None:
        request.judged_by = OPERATIONS
    if failed or operation is None or operation.operation is OperationType.SUBSCRIPTION:
        return
    name = _name_of(operation)
    if name is not None:
        track(declared.recorder, name, UNSET, None, 1)


def operation_in(document: Any, name: str | None) -> OperationDefinitionNode | None:
    """The operation of a document that a request names, or its only one."""
    return None if document is None else get_operation_ast(document, name)


def _name_of(operation: OperationDefinitionNode) -> str | None:
    """`graphql:Name`; without a name `graphql:mutation addBook`, by the first field."""
    fields = [getattr(node, "name", None) for node in operation.selection_set.selections]
    names = [field.value for field in fields if field is not None and not field.value.startswith("__")]
    if not names:
        return None
    name = None if operation.name is None else f"graphql:{operation.name.value}"[:100]
    if name is not None and (name in _names or len(_names) < NAMES):
        _names.add(name)
        return name
    if name is not None:
        log.once(
            "operations",
            "clients name more than %d GraphQL operations: others count by their first field",
            NAMES,
            level=logging.WARNING,
        )
    return f"graphql:{operation.operation.value} {names[0]}"
