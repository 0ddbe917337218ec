"""Who the framework says the user is: read only from what it has loaded already."""

from __future__ import annotations

import sys
from typing import Any

from usage_instrument.capture.loaded_attributes import attributes_of
from usage_instrument.capture.user_ids import loaded_user as loaded_user
from usage_instrument.typing import UNSET, Environ, Unset, UserId


def is_unloaded(user: object) -> bool:
    """Whether it is a lazy user that nothing has loaded yet."""
    return type(attributes_of(user).get("_wrapped")) is object


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
