"""Reads an attribute that an object already holds in memory, without a lazy load, a query or `__getattr__`."""

from __future__ import annotations

import collections
import contextlib
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any

from usage_instrument.typing import UNSET

Reader = Callable[[Any], Any]

_NO_ATTRIBUTES: Mapping[str, Any] = types.MappingProxyType({})
_TUPLE_FIELD: type = type(vars(collections.namedtuple("_Example", "field"))["field"])
_MEMBERS = (types.MemberDescriptorType, _TUPLE_FIELD)
_PROPERTIES = (property, functools.cached_property)


def attributes_of(instance: object) -> Mapping[str, Any]:
    """The dictionary of an instance; empty if reading the dictionary could run code, as for most proxies."""
    kind: Any = type(instance)
    try:
        read = _cached_dictionary_reader(kind)
    except TypeError:  # its metaclass has no hash
        read = _dictionary_reader(kind)
    return _NO_ATTRIBUTES if read is None else read(instance)


def attributes_reader(kind: Any) -> Callable[[Any], Mapping[str, Any]]:
    """What `attributes_of` does for the instances of a type."""
    return _dictionary_reader(kind) or (lambda instance: _NO_ATTRIBUTES)


def loaded_attribute(instance: object, name: str, *, run_property: bool = False) -> Any:
    """The value of an attribute; UNSET if there is none in memory.

    Reads the instance's dictionary, slots, fields of named tuples and plain class attributes. Properties run only with
    `run_property`, and may raise.
    """
    # type() instead of `__class__` and isinstance: a lazy proxy answers those by loading its object.
    kind: Any = type(instance)
    try:
        read = _cached_reader(kind, name, run_property)
    except TypeError:  # its metaclass has no hash
        read = _reader(kind, name, run_property)
    return read(instance)


def _reader(kind: Any, name: str, run_property: bool) -> Reader:
    read_dictionary, read_class = _dictionary_reader(kind), _class_reader(kind, name, run_property)
    if read_dictionary is None:
        return read_class

    def read(instance: object) -> Any:
        attributes = read_dictionary(instance)
        return attributes[name] if name in attributes else read_class(instance)

    return read


def _dictionary_reader(kind: Any) -> Reader | None:
    for base in kind.__mro__:
        slot = base.__dict__.get("__dict__")
        if slot is not None:
            # A proxy written in C, such as wrapt's, replaces `__class__` and `__dict__` by those of its wrapped object.
            is_proxy = type(base.__dict__.get("__class__")) is types.GetSetDescriptorType and base is not object
            usual = (types.GetSetDescriptorType, types.MemberDescriptorType)
            return None if is_proxy or type(slot) not in usual else slot.__get__
    return None


_cached_reader, _cached_dictionary_reader = (
    functools.lru_cache(512)(_reader),
    functools.lru_cache(512)(_dictionary_reader),
)


def _class_reader(kind: Any, name: str, run_property: bool) -> Reader:
    for base in kind.__mro__:
        found = base.__dict__.get(name, UNSET)
        if found is UNSET:
            continue
        if isinstance(found, _MEMBERS):
            return functools.partial(_read_member, found)
        if run_property and isinstance(found, _PROPERTIES):
            return lambda instance: found.__get__(instance, kind)
        return lambda instance: UNSET if hasattr(type(found), "__get__") else found
    return lambda instance: UNSET


def _read_member(member: Any, instance: object) -> Any:
    with contextlib.suppress(AttributeError):  # a slot without a value
        return member.__get__(instance, type(instance))
    return UNSET
