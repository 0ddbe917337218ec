"""Lets a property of the host's read rows of an ORM without a query: what is not loaded raises instead."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from usage_instrument.errors import UserIdError
from usage_instrument.typing import UNSET

from .loaded_attributes import attributes_of


def read_loaded(read: Callable[[Any], Any], instance: object, attributes: Mapping[str, Any]) -> Any:
    """What a function reads of an object with these attributes, without a query.

    Raises UserIdError where only a query could tell, and what the host's code raises.
    """
    # Few steps: this runs for each request with a user of Flask-Login's.
    kind: Any = type(instance)
    seen: Any = instance
    if _slots_of(kind) or not (attributes and _PLAIN.issuperset(map(type, attributes.values()))):
        seen = _as_loaded(instance, attributes)
    return read(seen) if "django.db" not in sys.modules else _read_without_queries(read, seen)


_PLAIN = frozenset({str, int, float, bool, bytes, type(None), UUID, dt.datetime, dt.date})


def _as_loaded(instance: object, attributes: Mapping[str, Any]) -> Any:
    """The object itself, or a copy for properties to read if it holds rows of SQLAlchemy that may load something."""
    kind: Any = type(instance)
    held = [(slot, value) for slot in _slots_of(kind) if (value := _held(slot, instance, kind)) is not UNSET]
    if not any(map(_may_load, [*attributes.values(), *(value for _, value in held)])):
        return instance
    copy: Any = object.__new__(kind)
    for name, value in attributes.items():
        object.__setattr__(copy, name, _seen(value))
    for slot, value in held:
        slot.__set__(copy, _seen(value))
    return copy


def _read_without_queries(read: Callable[[Any], Any], seen: object) -> Any:
    conf: Any = sys.modules["django.conf"]
    with contextlib.ExitStack() as stack:
        if conf.settings.configured:
            for connection in sys.modules["django.db"].connections.all(initialized_only=True):
                stack.enter_context(connection.execute_wrapper(_refuse))
        return read(seen)


def _refuse(*_: object) -> None:
    raise UserIdError("it needs a query")


@functools.lru_cache(512)
def _slots_of(kind: Any) -> list[Any]:
    found = (slot for base in kind.__mro__ for slot in vars(base).values())
    return [slot for slot in found if type(slot) is types.MemberDescriptorType]


def _held(slot: Any, instance: object, kind: Any) -> Any:
    try:
        return slot.__get__(instance, kind)
    except AttributeError:  # without a value
        return UNSET


def _may_load(value: object) -> bool:
    state = attributes_of(value).get("_sa_instance_state")
    return state is not None and bool(getattr(state, "unloaded", None))


def _seen(value: object) -> object:
    return _Row(value) if _may_load(value) else value


class _Row:
    """Stands for a row of SQLAlchemy, with what is loaded of it and its primary key."""

    __slots__ = ("__row",)

    def __init__(self, row: object) -> None:
        self.__row = row

    def __getattr__(self, name: str) -> Any:
        row = self.__row
        attributes = attributes_of(row)
        if name in attributes:
            return _seen(attributes[name])
        state = attributes["_sa_instance_state"]
        mapper = state.mapper
        if name in mapper.all_orm_descriptors and name in mapper.attrs:
            keys = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
            if name in keys and state.identity is not None:
                return state.identity[keys.index(name)]
            raise UserIdError(f"{name!r} of a row is not loaded")
        found = next((vars(base)[name] for base in type(row).__mro__ if name in vars(base)), UNSET)
        if found is UNSET:
            raise AttributeError(name)
        get = getattr(type(found), "__get__", None)
        return found if get is None else get(found, self, type(row))
