"""A user's id from what the host passes, without running the host's code."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable
from typing import Any, cast
from uuid import UUID

from usage_instrument.errors import UserIdError
from usage_instrument.typing import UNSET, UserId

_EXACT = frozenset({UUID, int, str, type(None)})


def user_id_of(user: object) -> UserId:
    """A user id from what the host passes: the id itself, or an object whose `id` is already loaded.

    Never runs the host's code: no property, no `__getattr__`, no lazy load, no query. Raises UserIdError.
    """
    # type() instead of __class__ and isinstance: a lazy proxy answers those by loading its object.
    kind = type(user)
    if kind in _EXACT:
        return cast(UserId, user)
    if issubclass(kind, UUID):  # asyncpg's own
        return UUID(int=user.int)  # type: ignore[attr-defined]
    if issubclass(kind, bool):
        raise UserIdError("a user id is not a bool")
    if issubclass(kind, int):
        return int.__int__(user)  # type: ignore[arg-type]
    if issubclass(kind, str):
        return str.__str__(user)
    loaded = loaded_id(user)
    if issubclass(type(loaded), UUID | int | str):  # one step: an `id` that leads elsewhere is none
        return user_id_of(loaded)
    raise UserIdError(f"a user id is a UUID, an int, a str or None; {kind.__name__} is none and has no `id` loaded")


def loaded_id(user: object) -> object:
    """The `id` that an object holds in memory; UNSET where reading it could run code."""
    if type(user) is dict:
        return user.get("id", UNSET)
    attributes = own_attributes(user)
    if "_wrapped" in attributes:  # Django's lazy user, which holds a plain object() until it is loaded
        inside = attributes["_wrapped"]
        return UNSET if type(inside) is object else loaded_id(inside)
    kind: Any = type(user)
    key = key_of(kind)
    if key in attributes:
        return attributes[key]
    if "id" in attributes:
        return attributes["id"]
    state = attributes.get("_sa_instance_state")
    if state is not None:  # an expired SQLAlchemy instance still knows its primary key
        identity: tuple[object, ...] = getattr(state, "identity", None) or ()
        return identity[0] if len(identity) == 1 and _identifies(state) else UNSET
    for base in type(user).__mro__:
        slot = base.__dict__.get("id")
        if slot is not None:
            if type(slot) is types.MemberDescriptorType or type(slot).__name__ == "_tuplegetter":
                with contextlib.suppress(AttributeError):  # a slot that nothing was assigned to
                    return slot.__get__(user, type(user))
            break
    return UNSET


def own_attributes(user: object) -> dict[str, object]:
    """The instance's dictionary, if reading it cannot run code."""
    kind: Any = type(user)
    read = reader_of(kind)
    return {} if read is None else read(user)


@functools.lru_cache(256)
def reader_of(kind: Any) -> Callable[[object], dict[str, object]] | None:
    """What reads the dictionary of a type's instances."""
    for base in kind.__mro__:
        slot = base.__dict__.get("__dict__")
        if slot is not None:
            # By its docstring one knows the descriptor that every Python class has; that of a proxy written in C,
            # such as wrapt's, would load the wrapped object.
            usual = type(slot) is types.GetSetDescriptorType and (slot.__doc__ or "").startswith("dictionary for inst")
            if usual or type(slot) is types.MemberDescriptorType:
                return cast("Callable[[object], dict[str, object]]", slot.__get__)
            break
    return None


@functools.lru_cache(256)
def key_of(kind: Any) -> str:
    """The attribute that tells a type's instances apart: a Django model's primary key, whatever its name."""
    key = getattr(getattr(vars(kind).get("_meta"), "pk", None), "attname", None)
    return key if isinstance(key, str) else "id"


def _identifies(state: Any) -> bool:
    """Whether the primary key of a SQLAlchemy instance is its `id`, or there is no other `id`."""
    mapped = state.mapper.column_attrs
    return "id" not in mapped or any(column.primary_key for column in mapped["id"].columns)
