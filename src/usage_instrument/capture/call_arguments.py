"""Reads the user and the metadata of a use from the arguments of the tracked call."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

from usage_instrument.errors import DeclarationError, MetadataError, UserIdError
from usage_instrument.events import keep_metadata
from usage_instrument.runtime import log
from usage_instrument.typing import UNSET, Unset, UserId

from .context import user_here
from .user_ids import user_id_of

Kept: TypeAlias = "dict[str, Any] | str | None"
"""Metadata as `keep_metadata` returns it."""

Args: TypeAlias = tuple[Any, ...]
Kwargs: TypeAlias = dict[str, Any]


def log_lost_key(key: str, error: MetadataError) -> None:
    """Log that a key of metadata is left out."""
    log.warning(("metadata key", key), "the key %s of metadata is left out: %s", key, error)


def kept_metadata(metadata: object) -> Kept:
    """As keep_metadata. Logs the keys that it leaves out."""
    return keep_metadata(metadata, log_lost_key)


class Measures(NamedTuple):
    """What a use is counted by, and the number that is added up."""

    dimensions: dict[str, str] | None = None
    value: float | None = None


NO_MEASURES = Measures()
Stated: TypeAlias = tuple["UserId | Unset | Exception", "Kept | Exception", "Measures | Exception"]
"""The user, the metadata and the measures of one call, read when it begins. A bad value or a failed callable is an
Exception."""
NOTHING: Stated = (UNSET, None, NO_MEASURES)
ReadUser: TypeAlias = Callable[[Args, Kwargs], "UserId | Unset"]
ReadMetadata: TypeAlias = Callable[[Args, Kwargs], Kept]
ReadMeasures: TypeAlias = Callable[[Args, Kwargs], "Measures | Exception"]
ReadCall: TypeAlias = Callable[[Args, Kwargs], Stated]


def read_nothing(args: Args, kwargs: Kwargs) -> Stated:
    """The ReadCall of a declaration without user and metadata."""
    return NOTHING


class ReadsMeasures(Protocol):
    """The options of `tracks` for dimensions and a number."""

    def reader(self, function: object) -> ReadMeasures | None:
        """What reads them from the arguments of a function; None if there is nothing to read."""


class CallReader:
    """Makes the ReadCall of a function from the options of `tracks`.

    `user` is a callable on the call's arguments or a user id, `user_arg` the name of an argument. `metadata` is a
    mapping, names of arguments, or a callable on the call's arguments. `measures` are dimensions and a number.

    Raises DeclarationError, UserIdError and MetadataError.
    """

    def __init__(self, user: object, user_arg: object, metadata: object, measures: ReadsMeasures) -> None:
        self.user = _checked_user(user)
        self.measures = measures
        self.user_arg = None if user_arg is UNSET else _checked_name(user_arg, "user_arg")
        if self.user is not UNSET and self.user_arg is not None:
            raise DeclarationError("user= and user_arg= both set the user: pass one of them")
        self.metadata = checked_source(
            metadata, "metadata=", _constant_metadata, lambda name: _checked_name(name, "metadata=")
        )

    def reader(self, function: object) -> ReadCall | None:
        """The ReadCall of `function`; None if there is nothing to read.

        Raises DeclarationError for a name that is not an argument of the function.
        """
        read_user, read_metadata = self._user_reader(function), self._metadata_reader(function)
        read_measures = self.measures.reader(function)
        if read_user is None and read_metadata is None and read_measures is None:
            return None

        def read(args: Args, kwargs: Kwargs) -> Stated:
            user: UserId | Unset | Exception = UNSET
            metadata: Kept | Exception = None
            if read_user is not None:
                try:
                    user = read_user(args, kwargs)
                except Exception as error:
                    user = error
            if read_metadata is not None:
                try:
                    metadata = read_metadata(args, kwargs)
                except Exception as error:
                    metadata = error
            return user, metadata, NO_MEASURES if read_measures is None else read_measures(args, kwargs)

        return read

    def _user_reader(self, function: object) -> ReadUser | None:
        user, name = self.user, self.user_arg
        if name is not None:
            argument = argument_reader(parameters_of(function), name)

            def from_argument(args: Args, kwargs: Kwargs) -> UserId:
                value = argument(args, kwargs)
                if value is UNSET:
                    raise UserIdError(f"the call does not pass {name!r}, the argument that holds the user")
                return user_here(value)

            return from_argument
        if callable(user):

            def from_callable(args: Args, kwargs: Kwargs) -> UserId | Unset:
                value = user(*args, **kwargs)
                return UNSET if value is UNSET else user_here(value)

            return from_callable
        if user is UNSET:
            return None
        constant = user_id_of(user)
        return lambda args, kwargs: constant

    def _metadata_reader(self, function: object) -> ReadMetadata | None:
        metadata = self.metadata
        if isinstance(metadata, tuple):
            parameters = parameters_of(function)
            arguments = [(name, argument_reader(parameters, name)) for name in metadata]

            def from_arguments(args: Args, kwargs: Kwargs) -> Kept:
                found = {name: argument(args, kwargs) for name, argument in arguments}
                return kept_metadata({name: value for name, value in found.items() if value is not UNSET})

            return from_arguments
        if callable(metadata):
            return lambda args, kwargs: kept_metadata(metadata(*args, **kwargs))
        if metadata is None:
            return None
        constant = kept_metadata(metadata)
        return lambda args, kwargs: constant


def parameters_of(function: object) -> Mapping[str, inspect.Parameter]:
    """The parameters of a callable by name. Raises DeclarationError if they are unknown."""
    try:
        if sys.version_info >= (3, 14):
            from annotationlib import Format

            # Annotations may use names that are not imported at run time. Only the names of arguments matter here.
            return inspect.signature(function, annotation_format=Format.FORWARDREF).parameters  # type: ignore[arg-type]
        return inspect.signature(function).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise DeclarationError(f"the arguments of {function!r} have no known names: {error}") from None


def argument_reader(parameters: Mapping[str, inspect.Parameter], name: str) -> Callable[[Args, Kwargs], Any]:
    """A function that returns an argument of a call, or its default, or UNSET."""
    variadic = next((key for key, value in parameters.items() if value.kind is value.VAR_KEYWORD), None)
    parameter = parameters.get(name)
    if parameter is None:
        if variadic is None:
            raise DeclarationError(
                f"there is no argument {name!r}; the arguments are {', '.join(parameters) or 'none'}"
            )
        return lambda args, kwargs: kwargs.get(name, UNSET)
    if name == variadic:
        named = {key for key, value in parameters.items() if value.kind in _BY_KEYWORD}
        return lambda args, kwargs: {key: value for key, value in kwargs.items() if key not in named}
    index = list(parameters).index(name)
    if parameter.kind is parameter.VAR_POSITIONAL:
        return lambda args, kwargs: args[index:]
    default = UNSET if parameter.default is parameter.empty else parameter.default
    if parameter.kind is parameter.KEYWORD_ONLY:
        return lambda args, kwargs: kwargs.get(name, default)
    if parameter.kind is parameter.POSITIONAL_ONLY:
        return lambda args, kwargs: args[index] if index < len(args) else default
    return lambda args, kwargs: args[index] if index < len(args) else kwargs.get(name, default)


_BY_KEYWORD = frozenset({inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY})


def _checked_user(user: object) -> object:
    if callable(user):
        check_sync(user, "user=")
        return user
    return UNSET if user is UNSET else user_id_of(user)


def checked_source(
    given: object, option: str, constant: Callable[[Mapping[Any, Any]], Any], name: Callable[[object], str]
) -> Mapping[str, Any] | tuple[str, ...] | Callable[..., Any] | None:
    """What an option takes as a mapping, which `constant` checks, as names of arguments, each checked by `name`, or as
    a callable. Raises DeclarationError."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        return constant(given)  # type: ignore[no-any-return]
    if callable(given):
        check_sync(given, option)
        return given
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        found = f"the str {given!r}; try [{given!r}]" if isinstance(given, str) else repr(given)
        raise DeclarationError(
            f"{option} is a list of argument names, a mapping, or a callable on the arguments, not {found}"
        )
    return tuple(map(name, given)) or None


def _constant_metadata(metadata: Mapping[Any, Any]) -> dict[Any, Any]:
    kept_metadata(metadata)
    return dict(metadata)


def _checked_name(name: object, option: str) -> str:
    if not isinstance(name, str):
        raise DeclarationError(f"{option} takes names of arguments, not {name!r}")
    return name


def check_sync(function: object, option: str) -> None:
    """Raise DeclarationError for a callable that can only be awaited."""
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        raise DeclarationError(f"{option} takes a plain function, not an async one: {function!r}")
