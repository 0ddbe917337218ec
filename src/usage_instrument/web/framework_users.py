"""The user that a framework has loaded, or whose id its session holds: never by a query."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from usage_instrument.capture import request_info
from usage_instrument.capture.lazy_users import is_refused_session
from usage_instrument.capture.user_ids import loaded_user as loaded_user
from usage_instrument.capture.user_ids import unwrapped
from usage_instrument.runtime import log
from usage_instrument.typing import UNSET, Environ, Unset, UserId

FLASK_USER = "usage_instrument.flask_user"
"""The key of an environ, and of the scope of an app in which Flask is mounted, with the user of Flask-Login."""


def flask_user(environ: Environ, app: Any = None) -> UserId | Unset:
    """The user of Flask-Login: loaded in the request, else the id in the session, else the user who has logged out in
    the request. Raises UserIdError.

    It stays in the environ: most streamed bodies run when Flask has left the request. Before Flask has entered it, the
    session is that of the Flask app `app`.
    """
    if "flask_login" not in sys.modules:
        return UNSET
    flask: Any = sys.modules.get("flask")
    kept = environ.get(FLASK_USER)  # an object, since the request may delete its user
    if flask is None or not flask.has_request_context():
        return loaded_user(kept) if kept is not None or app is None else _cookie_user(app, environ)
    user = flask.g.get("_login_user")
    found = _session_user(flask) if user is None else loaded_user(user)
    if found is UNSET:
        return loaded_user(kept)
    environ[FLASK_USER] = found if user is None else unwrapped(user)
    return found


@log.quietly("cannot read the user who logs out")  # an id that is none, or no request
def keep_logged_out(sender: object, user: object = None, **_: object) -> None:
    """Keep the user who logs out as the user of the request; a receiver of Flask-Login's signal."""
    if loaded_user(user) is not UNSET:
        sys.modules["flask"].request.environ[FLASK_USER] = unwrapped(user)


def _session_user(flask: Any) -> UserId | Unset:
    """The id that Flask-Login would load the user by, as it checks it; UNSET where that may not be the user's key."""
    manager = getattr(flask.current_app, "login_manager", None)
    session = request_info.flask_session()
    if manager is None or not isinstance(session, dict) or not ids_are_keys():
        return UNSET
    if is_refused_session(manager, session):
        return UNSET
    config = flask.current_app.config
    user = dict.get(session, "_user_id")
    if user is None and dict.get(session, "_remember") != "clear":
        cookie = flask.request.cookies.get(config.get("REMEMBER_COOKIE_NAME", "remember_token"))
        user = None if cookie is None else sys.modules["flask_login"].utils.decode_cookie(cookie)
    return user if isinstance(user, str) else UNSET


SESSION_USERS = "usage_instrument.session_users"
"""The key of a scope or environ with the users in the session when the request began, by the session's keys."""


def note_session_user(info: Any, session: object, key: str) -> None:
    """Keep the user of a session that has just begun, since logging out may empty the session."""
    found = dict.get(session, key) if isinstance(session, dict) else None
    if found is not None and type(info) is dict:
        info.setdefault(SESSION_USERS, {})[key] = found


def flask_session(environ: Environ) -> object:
    """The session of the Flask request that runs; None without one."""
    return request_info.flask_session()


def _cookie_user(app: Any, environ: Environ) -> UserId | Unset:
    """The id in the session of a request that has not begun: where the session is a cookie, it costs no query."""
    sessions: Any = sys.modules.get("flask.sessions")
    manager, interface = getattr(app, "login_manager", None), app.session_interface
    if manager is None or type(interface) is not sessions.SecureCookieSessionInterface or not ids_are_keys():
        return UNSET
    session = interface.open_session(app, app.request_class(environ, populate_request=False))
    is_strong = app.config.get("SESSION_PROTECTION", manager.session_protection) == "strong"
    if session is None or (is_strong and not session.get("_permanent")):  # Flask-Login compares the client's address
        return UNSET
    user = session.get("_user_id")
    return user if isinstance(user, str) else UNSET


def ids_are_keys() -> bool:
    """Whether each user class of the process has the `get_id` of UserMixin, which returns `id`."""
    mixin: Any = sys.modules["flask_login"].UserMixin
    kinds = mixin.__subclasses__()
    return bool(kinds) and all(kind.get_id is mixin.get_id for kind in _with_subclasses(kinds))


def _with_subclasses(kinds: list[Any]) -> Iterator[Any]:
    for kind in kinds:
        yield kind
        yield from _with_subclasses(type.__subclasses__(kind))
