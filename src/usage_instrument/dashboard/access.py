"""Decides who may look: only the host's `authorize` opens the dashboard."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable
from typing import Any, TypeVar

from usage_instrument.errors import ConfigurationError
from usage_instrument.runtime import log

F = TypeVar("F")

_ADDRESS = re.compile(r"/(?![/\\])|https?://")


def checked(authorize: F, can_await: bool) -> F:
    """The callable itself. Raises ConfigurationError for anything else, and for a coroutine function in a WSGI app."""
    if not callable(authorize):
        raise ConfigurationError(
            "the dashboard shows who used what, so it needs to know who may look: pass authorize=…, a callable from "
            f"the ASGI scope or the WSGI environ to True or False, not {authorize!r}"
        )
    if not can_await and is_async(authorize):
        raise ConfigurationError(
            "a WSGI app cannot await: make authorize an ordinary function, or mount the Dashboard of "
            "usage_instrument.dashboard.asgi"
        )
    return authorize


def checked_address(url: str | None, option: str, example: str) -> str | None:
    """An address of the app. Raises ConfigurationError for one that no browser should follow."""
    if url is None or (isinstance(url, str) and _ADDRESS.match(url)):
        return url
    raise ConfigurationError(f"{option} is a path or an http(s) address, such as {example!r}, not {url!r}")


def nobody(_: object) -> bool:
    """An `authorize` that lets nobody in."""
    return False


def is_async(authorize: object) -> bool:
    """Whether it is known to return an awaitable."""
    call = getattr(authorize, "__call__", None)  # noqa: B004 - an object whose call is a coroutine function
    return inspect.iscoroutinefunction(authorize) or inspect.iscoroutinefunction(call)


def is_granted(verdict: object) -> bool:
    """Whether `authorize` returned True. Any other value lets nobody in: a redirect to a login page is truthy too."""
    if inspect.iscoroutine(verdict):
        verdict.close()
    if verdict is not None and not isinstance(verdict, bool):
        kind = type(verdict).__name__
        log.limited(
            logging.ERROR,
            ("authorize", kind),
            "the dashboard's authorize returned a value of type %s and only True lets anybody in; return bool(…)",
            kind,
        )
    return verdict is True


def granted_by(authorize: Callable[[Any], Any], given: Any) -> bool:
    """Whether `authorize` lets this visitor in; an exception lets nobody in."""
    try:
        return is_granted(authorize(given))
    except Exception as error:
        log_failure(error)
        return False


def log_failure(error: Exception) -> None:
    """Log that `authorize` raised, once a minute for each type of exception."""
    log.limited(
        logging.ERROR,
        ("authorize", type(error).__name__),
        "the dashboard's authorize failed, so nobody gets to see it",
        exc_info=True,
    )
