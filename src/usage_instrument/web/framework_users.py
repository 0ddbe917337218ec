"""Who the framework says the user is: read only from what it has loaded already."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any
from uuid import UUID

from usage_instrument.capture.user_ids import key_of, loaded_id, own_attributes, reader_of, user_id_of
from usage_instrument.typing import UNSET, Environ, Unset, UserId

_IDS = frozenset({UUID, int, str})


def loaded_user(user: object) -> UserId | Unset:
    """The id of a framework's user object; UNSET when it is nobody, not authenticated, or not loaded.

    Raises UserIdError for an id that cannot be one.
    """
    kind: Any = type(user)
    if user is None or kind in _IDS:
        return UNSET if user is None else user_id_of(user)
    read, key, says_whether = _shape_of(kind)
    attributes = read(user)
    if "_wrapped" in attributes:  # Django's lazy user
        inside = attributes["_wrapped"]
        return UNSET if type(inside) is object else loaded_user(inside)
    found = attributes[key] if key in attributes else loaded_id(user)
    if found is UNSET or found is None:
        return UNSET
    if "_sa_instance_state" in attributes:
        pass  # an ORM's row may have to load what its property reads
    elif "is_authenticated" in attributes:
        if not attributes["is_authenticated"]:
            return UNSET
    elif says_whether:
        said: Any = user.is_authenticated  # type: ignore[attr-defined]
        if not (said() if callable(said) else said):
            return UNSET
    return user_id_of(found)


@functools.lru_cache(256)
def _shape_of(kind: Any) -> tuple[Callable[[object], dict[str, object]], str, bool]:
    """What reads a type's own attributes, which of them is the id, and whether it says who is authenticated."""
    says_whether = any("is_authenticated" in base.__dict__ for base in kind.__mro__)
    return reader_of(kind) or _nothing, key_of(kind), says_whether


def _nothing(user: object) -> dict[str, object]:
    return {}


def is_unloaded(user: object) -> bool:
    """Whether it is a lazy user that nothing has loaded yet."""
    return type(own_attributes(user).get("_wrapped")) is object


_FLASK_USER = "usage_instrument.flask_user"


def flask_user(environ: Environ) -> UserId | Unset:
    """The user that Flask-Login has loaded in a request, if it has. Raises UserIdError.

    It stays in the environ: most streamed bodies are made when Flask has left the request.
    """
    if "flask_login" not in sys.modules:
        return UNSET
    flask: Any = sys.modules.get("flask")
    if flask is None or not flask.has_request_context():
        kept: UserId | Unset = environ.get(_FLASK_USER, UNSET)
        return kept
    found = environ[_FLASK_USER] = loaded_user(flask.g.get("_login_user"))
    return found
