"""Who may look: what the host's `authorize` says, and nothing else, opens the dashboard."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from usage_instrument.errors import ConfigurationError

logger = logging.getLogger("usage_instrument")

Authorize: TypeAlias = "Callable[[Any], Any]"
F = TypeVar("F")


def checked(authorize: F, given: str) -> F:
    """The callable itself. Raises ConfigurationError when there is none: a dashboard is closed by default.

    `given` is what it is called with: the scope or the environ.
    """
    if not callable(authorize):
        raise ConfigurationError(
            "the dashboard shows who used what, so it needs to know who may look: "
            f"pass authorize=…, a callable from the {given} to True or False, not {authorize!r}"
        )
    return authorize


def nobody(_: object) -> bool:
    """What lets nobody in."""
    return False


def is_async(authorize: object) -> bool:
    """Whether its answer has to be awaited, as far as that can be seen."""
    call = getattr(authorize, "__call__", None)  # noqa: B004 - an object whose call is a coroutine function
    return inspect.iscoroutinefunction(authorize) or inspect.iscoroutinefunction(call)


def granted(answer: object) -> bool:
    """Whether that is a yes: only True is. A redirect to a login page, say, is as truthy as anything."""
    if inspect.iscoroutine(answer):
        answer.close()
    if answer is not None and not isinstance(answer, bool):
        logger.error(
            "the dashboard's authorize returned a value of type %s and only True lets anybody in; return bool(…)",
            type(answer).__name__,
        )
    return answer is True


def failed(error: Exception) -> None:
    """Say that `authorize` raised, which lets nobody in."""
    logger.error("the dashboard's authorize failed, so nobody gets to see it", exc_info=error)
