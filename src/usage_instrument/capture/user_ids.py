"""Turns what the host passes as a user into a user id, without a query or a lazy load."""

from __future__ import annotations

import functools
import numbers
import operator
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from usage_instrument.errors import UserIdError, describe
from usage_instrument.typing import UNSET, Unset, UserId

from .loaded_attributes import attributes_of, attributes_reader, loaded_attribute
from .loaded_rows import read_loaded

_IDS = frozenset({UUID, int, str})
_EXACT = _IDS | {type(None)}
_OF_PROXIES = frozenset({"__class__", "__getattribute__"})
"""What a class defines that stands for another object."""


def user_id_of(user: object) -> UserId:
    """The id of a user: the id itself, or the loaded id of a user object; None for an anonymous user object.

    An `id` that is a property runs, unless its class is mapped by SQLAlchemy or Django, and without a query.

    Raises UserIdError for a wrong type, and for an object whose id is not loaded.
    """
    try:
        if type(user) in _EXACT:
            return cast(UserId, user)
    except TypeError as error:
        raise _no_hash(user) from error
    found = _find_id(user, None)
    if found is UNSET:
        if is_unloaded(user):
            raise UserIdError(
                f"nothing has loaded the lazy {type(user).__name__}, and it is not the user of the request that runs "
                "here: pass the user's id"
            )
        raise UserIdError(
            f"a user id is a UUID, an int, a str or None; {type(user).__name__} is another type, without a loaded `id`"
        )
    return found


def loaded_user(user: object) -> UserId | Unset:
    """The id of a framework's user object; UNSET if it is anonymous or not loaded. Raises UserIdError."""
    return UNSET if user is None else _find_id(user, UNSET)


def _find_id(user: Any, anonymous: Unset | None) -> UserId | Unset:
    """The id; `anonymous` for an anonymous user, UNSET if no id is loaded. Raises UserIdError for a wrong type."""
    # Few calls and look-ups: this runs for each request with a user.
    kind: Any = type(user)
    try:
        shape = _shape_of(kind)
    except TypeError as error:
        raise _no_hash(user) from error
    attributes = shape.read_attributes(user)
    if shape.look_inside is not None or "_wrapped" in attributes:
        user = unwrapped(user)
        shape = _shape(user)
        attributes = shape.read_attributes(user)
    if shape.convert is not None:
        id_ = shape.convert(user)
        return anonymous if id_ is None else id_
    has_answer = shape.has_is_authenticated or "is_authenticated" in attributes
    if has_answer and attributes.get("is_authenticated") is not True and _is_anonymous(user, attributes):
        return anonymous
    if shape.is_mapped and _was_deleted(attributes.get("_sa_instance_state")):
        return anonymous
    key = shape.key
    found: Any = attributes[key] if key in attributes else _loaded_id(user, shape, attributes)
    if type(found) in _IDS:
        return cast(UserId, found)
    if found is UNSET or found is None:
        return UNSET
    convert = _shape(found).convert
    if convert is None:  # one step: an `id` that is another object with an `id` is no user id
        raise UserIdError(f"the `id` of a user is a UUID, an int or a str, not {type(found).__name__}")
    return convert(found)


def _no_hash(user: object) -> UserIdError:
    return UserIdError(f"the class {type(user).__name__} of the user has no hash; pass the user's id")


def is_deleted(user: object) -> bool:
    """Whether a user object of SQLAlchemy or Django, which had an id, has been deleted since."""
    user = unwrapped(user)
    attributes = attributes_of(user)
    shape = _shape(user)
    if shape.is_mapped:
        return _was_deleted(attributes.get("_sa_instance_state"))
    return "_state" in attributes and shape.key in attributes and attributes[shape.key] is None


def may_be_deleted(user: object) -> bool:
    """Whether `is_deleted` may become true of an object."""
    attributes = attributes_of(unwrapped(user))
    return "_sa_instance_state" in attributes or "_state" in attributes


def _was_deleted(state: Any) -> bool:
    try:
        return bool(state is not None and (state.deleted or state.was_deleted))
    except Exception:  # another library's state
        return False


def unwrapped(user: Any) -> Any:
    """The object behind a proxy; UNSET if the proxy has not loaded it yet."""
    while user is not UNSET:
        attributes = attributes_of(user)
        if "_wrapped" in attributes:  # Django's lazy user: a plain object() until the user is loaded
            inside = attributes["_wrapped"]
            user = UNSET if type(inside) is object else inside
        else:
            look_inside = _shape(user).look_inside
            inside = user if look_inside is None else look_inside(user)
            if inside is user:
                break
            user = inside
    return user


def is_unloaded(user: object) -> bool:
    """Whether an object is a proxy that has not loaded its object yet."""
    try:
        return user is not UNSET and unwrapped(user) is UNSET
    except TypeError:  # its class has no hash
        return False


def is_users_proxy(user: object, info: Any) -> bool:
    """Whether a proxy stands for the framework's own user of the request: Flask-Login's `current_user`, or what the
    request's `info` holds as `user`, as Django's does."""
    login, flask = sys.modules.get("flask_login"), sys.modules.get("flask")
    if login is not None and flask is not None and user is getattr(login, "current_user", UNSET):
        return bool(flask.has_request_context())
    return (info if type(info) is dict else attributes_of(info)).get("user", UNSET) is user


def _inside_wrapt(proxy: object) -> object:
    kind: Any = type(proxy)
    if any("__wrapped_factory__" in base.__dict__ for base in kind.__mro__):  # LazyObjectProxy
        return UNSET
    slot = next(base.__dict__["__wrapped__"] for base in kind.__mro__ if "__wrapped__" in base.__dict__)
    try:
        return slot.__get__(proxy, kind)
    except Exception:  # not initialised
        return UNSET


def _inside_current_user(proxy: object) -> object:
    """Flask-Login's user. Other proxies of Werkzeug run a function of the host's."""
    login, flask = sys.modules.get("flask_login"), sys.modules.get("flask")
    if login is None or flask is None or proxy is not login.current_user:
        return UNSET
    return flask.g.get("_login_user", UNSET) if flask.has_request_context() else None


def _is_anonymous(user: Any, attributes: Mapping[str, Any]) -> bool:
    """Whether a user object with `is_authenticated` says that nobody is logged in."""
    if "_sa_instance_state" in attributes:
        return False  # an ORM's row may have to load what its property reads
    try:
        in_memory = attributes.get("is_authenticated", UNSET)
        return not (read_loaded(_read_answer, user, attributes) if in_memory is UNSET else _called(in_memory))
    except Exception as error:  # the host's property
        raise UserIdError(f"`is_authenticated` of the user failed: {describe(error)}") from error


def _read_answer(user: Any) -> Any:
    return _called(user.is_authenticated)


def _called(answer: Any) -> Any:
    return answer() if callable(answer) else answer


_read_id = functools.partial(loaded_attribute, name="id", run_property=True)


def _loaded_id(user: object, shape: _Shape, attributes: Mapping[str, Any]) -> object:
    """The `id` that an object holds in memory; UNSET if there is none."""
    if shape.read_row is not None:
        return shape.read_row(user)
    state = attributes.get("_sa_instance_state")
    if state is not None and "id" not in attributes:  # an expired SQLAlchemy instance still knows its primary key
        identity: tuple[object, ...] = getattr(state, "identity", None) or ()
        return identity[0] if len(identity) == 1 and _identifies(state) else UNSET
    try:
        if not shape.runs_property:
            return loaded_attribute(user, "id")
        return read_loaded(_read_id, user, attributes)
    except Exception as error:  # the host's property
        raise UserIdError(f"`id` of the user failed: {describe(error)}") from error


def _shape(value: object) -> _Shape:
    kind: Any = type(value)
    return _shape_of(kind)


@dataclass(slots=True)  # whose attributes are read faster than those of a tuple
class _Shape:
    """How the instances of one type tell a user id."""

    read_attributes: Callable[[Any], Mapping[str, Any]]
    """As attributes_of."""
    convert: Callable[[Any], UserId] | None = None
    """For ids: the same value as exactly one of the id types. Raises UserIdError."""
    look_inside: Callable[[object], object] | None = None
    """For proxies: the object behind one, or UNSET."""
    read_row: Callable[[Any], object] | None = None
    """For mappings and rows: the `id`, or UNSET."""
    key: str = "id"
    """For objects: the attribute that holds the id."""
    has_is_authenticated: bool = False
    is_mapped: bool = False
    """Whether SQLAlchemy maps the type."""
    runs_property: bool = False
    """Whether an `id` that is a property may run: not of an ORM, where it may load, nor of a proxy."""


@functools.lru_cache(512)
def _shape_of(kind: Any) -> _Shape:
    read = attributes_reader(kind)
    for base, convert in _CONVERT.items():
        if issubclass(kind, base):
            return _Shape(read, convert)
    if kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_"):  # which has no base of Python's
        return _Shape(read, _refuse_bool)
    if kind is dict:
        return _Shape(read, read_row=lambda row: row.get("id", UNSET))
    wrapt, row = sys.modules.get("wrapt"), sys.modules.get("sqlalchemy.engine.row")
    if wrapt is not None and issubclass(kind, getattr(wrapt, "BaseObjectProxy", wrapt.ObjectProxy)):
        return _Shape(read, look_inside=_inside_wrapt)
    if kind.__name__ == "LocalProxy":
        return _Shape(read, look_inside=_inside_current_user)
    if row is not None and issubclass(kind, row.Row | row.RowMapping):
        return _Shape(read, read_row=_id_in_row)
    key = getattr(getattr(vars(kind).get("_meta"), "pk", None), "attname", None)  # of a Django model
    has_answer = any("is_authenticated" in base.__dict__ for base in kind.__mro__)
    mapped = any("_sa_class_manager" in base.__dict__ for base in kind.__mro__)
    own = {name for base in kind.__mro__ if base is not object for name in base.__dict__}
    return _Shape(
        read,
        key=key if isinstance(key, str) else "id",
        has_is_authenticated=has_answer,
        is_mapped=mapped,
        runs_property=not mapped and key is None and own.isdisjoint(_OF_PROXIES),
    )


def _refuse_bool(value: bool) -> UserId:
    raise UserIdError("a user id is not a bool")


_CONVERT: dict[type, Callable[[Any], UserId]] = {
    type(None): lambda value: None,
    bool: _refuse_bool,
    int: int.__int__,
    str: str.__str__,
    UUID: lambda value: UUID(int=value.int),  # asyncpg's own is a subclass
    numbers.Integral: operator.index,  # numpy's
}


def _id_in_row(row: Any) -> object:
    try:
        return getattr(row, "_mapping", row).get("id", UNSET)
    except Exception:  # several columns of the name
        return UNSET


def _identifies(state: Any) -> bool:
    """Whether the primary key of a SQLAlchemy instance is its `id`, or there is no other `id`."""
    mapped = state.mapper.column_attrs
    return "id" not in mapped or any(column.primary_key for column in mapped["id"].columns)
