"""Decides without a query whether a framework's lazy user certainly stands for nobody."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from usage_instrument.errors import UserIdError
from usage_instrument.typing import UNSET, UserId

from .loaded_attributes import attributes_of
from .request_info import flask_session

_DJANGO_COOKIES = "django.contrib.sessions.backends.signed_cookies"


def nobody(user: object, info: Any) -> UserId:
    """None, the anonymous user, if a proxy that nothing has loaded would load no other.

    The framework of the request with this `info` knows no id of the user without a query. Raises
    UserIdError where only a query, or code of the host's, could find one.
    """
    if not _is_nobody(user, info):
        raise UserIdError(
            f"nothing has loaded the lazy {type(user).__name__}, and only a query could find its id: pass the id, "
            "`request.user.pk` in Django or `current_user.id` with Flask-Login, which loads the user"
        )
    return None


def _is_nobody(user: object, info: Any) -> bool:
    login = sys.modules.get("flask_login")
    if login is not None and user is getattr(login, "current_user", UNSET):
        return _is_nobody_in_flask()
    make = getattr(attributes_of(user).get("_setupfunc"), "__globals__", {})
    return make.get("__name__") == "django.contrib.auth.middleware" and _is_nobody_in_django(attributes_of(info))


def _is_nobody_in_django(request: Mapping[str, Any]) -> bool:
    for name in ("_acached_user", "_cached_user"):
        if name in request:  # without an id
            return True
    session = request.get("session")
    if type(session).__module__ == _DJANGO_COOKIES:
        return True
    state = attributes_of(session)
    # Not `session_key`, which another class may define.
    return "_session_cache" in state or state.get("_SessionBase__session_key", UNSET) is None


def is_refused_session(manager: Any, session: dict[str, Any]) -> bool:
    """Whether Flask-Login takes the user of a session for nobody: with `strong` protection, one of another client."""
    mode = sys.modules["flask"].current_app.config.get("SESSION_PROTECTION", manager.session_protection)
    if not session or mode != "strong" or dict.get(session, "_permanent"):
        return False
    return bool(dict.get(session, "_id") != manager._session_identifier_generator())


def _is_nobody_in_flask() -> bool:
    flask: Any = sys.modules["flask"]
    manager, session = getattr(flask.current_app, "login_manager", None), flask_session()
    if manager is None or not isinstance(session, dict):
        return False
    if is_refused_session(manager, session):
        return True
    loaders = (getattr(manager, name, None) for name in ("_request_callback", "_header_callback"))
    if any(loader is not None for loader in loaders) or dict.get(session, "_user_id") is not None:
        return False
    cookie = flask.request.cookies.get(flask.current_app.config.get("REMEMBER_COOKIE_NAME", "remember_token"))
    if cookie is None or dict.get(session, "_remember") == "clear":
        return True
    return sys.modules["flask_login"].utils.decode_cookie(cookie) is None
