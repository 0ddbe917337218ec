"""`@tracks`: from a callable to the same callable, tracked."""

from __future__ import annotations

import functools
import inspect
import logging
import types
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypedDict, TypeVar, get_args

from usage_instrument.errors import ConfigurationError, DeclarationError
from usage_instrument.events import check_audit, check_feature
from usage_instrument.typing import UNSET, Audit, Metadata, Unset, UserId, When

from .audited_wrappers import AuditedCapture, audited_coroutine, audited_function
from .call_arguments import Read, Source
from .outcome import Capture
from .registry import Catalog, Feature, declared
from .wrappers import (
    ANY,
    Function,
    Kind,
    any_function,
    at_call,
    at_home,
    hidden_kind_of,
    kind_of,
    plain_coroutine,
    plain_function,
    says_nothing,
)

C = TypeVar("C", bound=Callable[..., Any])  # not a ParamSpec, which would lose overloads

logger = logging.getLogger("usage_instrument")

_COUNTS: dict[When, bool | None] = {"success": True, "call": None, "failure": False}


UserOption: TypeAlias = "UserId | Callable[..., object] | Unset"
MetadataOption: TypeAlias = "Metadata | Iterable[str] | Callable[..., Metadata | None] | None"


class TracksOptions(TypedDict, total=False):
    """The options of `tracks`, for `Tracker.tracks`."""

    user: UserOption
    user_arg: str | Unset
    metadata: MetadataOption
    when: When
    description: str | None
    audit: Audit


def tracks(
    feature: str,
    *,
    user: UserOption = UNSET,
    user_arg: str | Unset = UNSET,
    metadata: MetadataOption = None,
    when: When = "success",
    description: str | None = None,
    audit: Audit = False,
    catalog: Catalog = declared,
) -> Tracks:
    """Count the calls of what this decorates as uses of `feature` (1 to 100 characters).

    - `user`: who, as a callable on the call's own arguments, or a user id; None is anonymous. Unset, it is
      who `as_user` or `identify` says when the use counts.
    - `user_arg`: the name of the argument that holds the user's id, or an object with its `id` loaded.
    - `metadata`: a mapping, a list of names of arguments, or a callable on the call's own arguments.
    - `when`: `"success"` counts calls that end without an exception, `"failure"` those that end with an
      Exception (a cancellation or KeyboardInterrupt is neither), `"call"` each call as it begins. In an HTTP
      request, the status of a response that the call returns decides as well. A coroutine ends with its
      await, a generator when it is exhausted or closed; one that never started is no use, but for `"call"`.
    - `description`: what the feature is, for the catalogue; otherwise the docstring's first line.
    - `audit`: True records each call in the audit trail as well, however it ends; with `"required"`, that it is
      attempted is committed before it begins, or AuditUnavailable is raised and it does not. Not for generators.

    Arguments are read when the body begins, so they are what the caller passed. A callable that raises costs
    the host nothing: without a user the use is rejected, without metadata it counts all the same. On a class,
    the arguments are those of `__init__` without `self`; put it above `@dataclass`.

    Raises, when decorating: FeatureNameError, and ConfigurationError for `when` (ValueErrors); UserIdError,
    MetadataError and DeclarationError (TypeErrors).
    """
    return Tracks(feature, user, user_arg, metadata, when, description, audit, catalog)


class Tracks:
    """What `tracks` returns: a decorator for any number of callables of one feature."""

    __slots__ = ("_options", "audit", "catalog", "description", "feature", "source", "when")

    def __init__(
        self,
        feature: str,
        user: object,
        user_arg: object,
        metadata: object,
        when: When,
        description: str | None = None,
        audit: Audit = False,
        catalog: Catalog = declared,
    ) -> None:
        if callable(feature):
            name = getattr(feature, "__name__", "feature")
            raise DeclarationError(f'@tracks needs the name of the feature: @tracks("{name}")')
        self.feature = check_feature(feature)
        if when not in get_args(When):
            raise ConfigurationError(f"when= is one of {', '.join(map(repr, get_args(When)))}, not {when!r}")
        self.when = when
        self.audit = check_audit(audit)
        self.source = Source(user, user_arg, metadata)
        self.description = description
        self.catalog = catalog
        self._options = (user, user_arg, metadata)

    def __repr__(self) -> str:
        return f"tracks({self.feature!r})"

    def __call__(self, target: C) -> C:
        """The same callable, tracked. Raises DeclarationError for what is none, and for unknown arguments."""
        return self._track(target)  # type: ignore[no-any-return]

    def __reduce__(self) -> Any:
        if self.catalog is not declared:
            raise TypeError(f"cannot pickle {self!r}: it belongs to a Tracker of this process")
        return Tracks, (self.feature, *self._options, self.when, self.description, self.audit)

    def __copy__(self) -> Tracks:
        return self

    def __deepcopy__(self, memo: object) -> Tracks:
        return self

    def _track(self, target: Any) -> Any:
        # type() throughout: a proxy of some other library claims to be the class of what it wraps.
        kind = type(target)
        if issubclass(kind, classmethod | staticmethod):
            return kind(self._track(target.__func__))
        if not callable(target):
            hint = "; put @tracks below it" if hasattr(kind, "__get__") else ""
            raise DeclarationError(f"@tracks takes what can be called, not a {kind.__name__}{hint}")
        if any(base.__module__.partition(".")[0] == "celery" for base in kind.__mro__):
            logger.warning(
                "@tracks(%r) is above the decorator that makes the Celery task, so no worker calls it: put it below",
                self.feature,
            )
        if issubclass(kind, type):
            return self._track_class(target)
        feature = self._declare(target)
        sort = kind_of(target)
        is_function = kind is types.FunctionType
        call = self._wrap(target, self.source.reader(target), sort, feature, simple=is_function)
        if is_function:
            call = at_home(call, target)
        _dress(call, target, feature)
        # Calling a coroutine function or generator function runs nothing of it; only a proxy counts there.
        if is_function and (self.when != "call" or sort == "function"):
            return call
        from .object_proxy import Tracked  # few need it, and it needs wrapt

        return Tracked(target, call, feature, self)

    def _wrap(self, function: Function, read: Read | None, kind: Kind, feature: Feature, *, simple: bool) -> Function:
        hidden = hidden_kind_of(function) if kind == "function" else kind
        if self.audit:
            return self._wrap_audited(function, read or says_nothing, kind, feature)
        if read is None and self.when == "success":
            if kind == "coroutine":
                return plain_coroutine(function, feature)
            if simple and hidden == "function":
                return plain_function(function, feature)
        capture = Capture(feature, _COUNTS[self.when])
        read = read or says_nothing
        if self.when == "call":
            return at_call(function, read, capture)
        if kind == "function":
            return any_function(function, read, capture, "coroutine" if hidden == "function" else hidden)
        wrapped = ANY[kind](function, read, capture)
        if simple and function.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE:
            return types.coroutine(wrapped)
        return wrapped

    def _wrap_audited(self, function: Function, read: Read, kind: Kind, feature: Feature) -> Function:
        if kind in ("generator", "async generator"):
            raise DeclarationError(
                f"@tracks({self.feature!r}, audit={self.audit!r}) takes no {kind}, whose body runs piece by piece and "
                "maybe never: audit the function that hands it out"
            )
        capture = AuditedCapture(feature, _COUNTS[self.when], required=self.audit == "required")
        return (audited_coroutine if kind == "coroutine" else audited_function)(function, read, capture)

    def _track_class(self, cls: Any) -> Any:
        """The class itself; its `__init__` counts when it makes an instance of exactly this class."""
        feature = self._declare(cls)
        own = "__init__" in vars(cls)
        init = cls.__init__ if own else _inherited_init(cls)
        read = self.source.reader(functools.partial(init, None) if own else cls)
        without_self: Read | None = None if read is None else lambda args, kwargs: read(args[1:], kwargs)
        counting = self._wrap(init, without_self, "function", feature, simple=True)

        def tracked(self: Any, /, *args: Any, **kwargs: Any) -> None:
            made = type(self)
            # The second look finds the class that @dataclass(slots=True) makes anew.
            exactly = made is cls or vars(made).get("__init__") is tracked
            (counting if exactly else init)(self, *args, **kwargs)

        _dress(tracked, init, feature)
        try:
            cls.__init__ = tracked
        except (AttributeError, TypeError) as error:
            raise DeclarationError(f"@tracks cannot wrap the __init__ of {cls!r}: {error}") from None
        return cls

    def _declare(self, target: Any) -> Feature:
        name = getattr(target, "__qualname__", None) or type(target).__qualname__
        module = getattr(target, "__module__", None) or type(target).__module__
        text = getattr(target, "__doc__", None)
        fallback = inspect.cleandoc(text).partition("\n")[0] if isinstance(text, str) else None
        source = f"{module}:{name}"
        feature = self.catalog.declare(
            self.feature, description=self.description, fallback=fallback or None, source=source
        )
        feature.decorates = source
        return feature


def _dress(function: Any, target: Any, feature: Feature) -> None:
    """Make a function look like what it stands for, and show its feature to `catalog.features_of`."""
    # The attributes of a function say how to use it (Flask reads some); those of an instance are its state.
    updated = ("__dict__",) if type(target) is types.FunctionType else ()
    functools.update_wrapper(function, target, updated=updated)
    function._usage_feature = feature


def _inherited_init(cls: Any) -> Any:
    """An `__init__` for a class without one: it calls the next one in the order of whatever class is made."""

    def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        init = super(cls, self).__init__
        if getattr(init, "__objclass__", None) is object and not _is_objects_new(type(self).__new__):
            init()  # the arguments were for __new__
        else:
            init(*args, **kwargs)

    if cls.__init__ is not object.__init__:
        return functools.update_wrapper(__init__, cls.__init__)
    if not _is_objects_new(cls.__new__):
        __init__.__wrapped__ = cls.__new__  # type: ignore[attr-defined]
    else:
        itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        __init__.__signature__ = inspect.Signature([itself])  # type: ignore[attr-defined]
    __init__.__qualname__ = f"{cls.__qualname__}.__init__"
    __init__.__module__ = cls.__module__
    return __init__


def _is_objects_new(new: object) -> bool:
    return new is object.__new__
