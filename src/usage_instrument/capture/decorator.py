"""`@tracks`: makes a tracked callable from a callable."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, TypeAlias, TypedDict, TypeVar

from usage_instrument.errors import ConfigurationError, DeclarationError
from usage_instrument.events import check_audit, check_display, check_feature, text_of
from usage_instrument.runtime import log
from usage_instrument.typing import UNSET, Audit, Metadata, Unset, UserId, When

from . import session_transactions
from .call_arguments import CallReader, ReadCall, read_nothing
from .dimensions import MeasureReader
from .recording import AuditedCapture, BoundCapture, Capture
from .registry import Catalog, Feature, declared
from .responses import guard_of
from .transactions import BeginSpan, span_reader
from .wrappers import (
    ANY,
    Function,
    FunctionKind,
    any_coroutine,
    any_function,
    at_call,
    at_home,
    hidden_kind_of,
    kind_of,
    plain_coroutine,
    plain_function,
)

C = TypeVar("C", bound=Callable[..., Any])  # not a ParamSpec, which would lose overloads

_COUNTS: dict[When, bool | None] = {"success": True, "call": None, "failure": False}


UserOption: TypeAlias = "UserId | Callable[..., object] | Unset"
MetadataOption: TypeAlias = "Metadata | Iterable[str] | Callable[..., Metadata | None] | None"
DimensionsOption: TypeAlias = "Mapping[str, object] | Iterable[str] | Callable[..., Mapping[str, object] | None] | None"
ValueOption: TypeAlias = "str | float | Decimal | Callable[..., float | Decimal | None] | None"


class TracksOptions(TypedDict, total=False):
    """The options of `tracks`, for `Tracker.tracks`."""

    user: UserOption
    user_arg: str | Unset
    metadata: MetadataOption
    when: When
    description: str | None
    audit: Audit
    display: str | None
    commit: object
    dimensions: DimensionsOption
    value: ValueOption


def tracks(
    feature: str,
    *,
    user: UserOption = UNSET,
    user_arg: str | Unset = UNSET,
    metadata: MetadataOption = None,
    when: When = "success",
    description: str | None = None,
    audit: Audit = False,
    display: str | None = None,
    commit: object = None,
    dimensions: DimensionsOption = None,
    value: ValueOption = None,
    catalog: Catalog = declared,
) -> Tracks:
    """Count the calls of what this decorates as uses of `feature` (1 to 100 characters).

    - `user`: a callable on the call's arguments, or a user id; None is anonymous. If unset, the user is that of
      `as_user` or `identify` when the use counts.
    - `user_arg`: the name of the argument that holds the user's id, or an object with a loaded `id`.
    - `metadata`: a mapping, a list of names of arguments, or a callable on the call's arguments.
    - `when`: `"success"` counts calls that end without an exception, `"failure"` those that end with an Exception
      (a cancellation or KeyboardInterrupt is neither), `"call"` each call as it begins. In an HTTP request, the
      status of a returned response is judged too. A coroutine ends with its await, a generator when it is exhausted
      or closed. A generator that never starts counts only with `"call"`.
    - `description`: the text of the catalogue; by default the docstring's first line.
    - `display`: the feature's name for people, of 1 to 100 characters, which the dashboard and the commands show.
    - `audit`: True records each call in the audit trail as well. With `"required"`, the attempt is committed before
      the call begins; if that fails, AuditUnavailable is raised instead of the call. Not for generators.
    - `commit`: the name of the argument that holds a Session or Connection of SQLAlchemy, a callable on the call's
      arguments that returns one, a scoped session, or the alias of a database of Django. A success counts if the
      transaction commits: the last one that ended during the call, else the one that is open when the call ends.
      `"request"` is the transaction of the request.
    - `dimensions`: a list of names of arguments, a mapping, or a callable on the call's arguments: each use is counted
      by each value, for each user and day.
    - `value`: the name of an argument, a number, or a callable on the call's arguments: a number that is added up, such
      as an amount or a duration.

    Arguments are read when the call begins. A callable that raises does not reach the caller: without a user the use
    is rejected, without metadata, dimensions or value it counts. On a class, the arguments are those of `__init__`
    without `self`; put `@tracks` above `@dataclass`.

    Raises, when decorating: FeatureNameError, and ConfigurationError for `when` and `audit` (ValueErrors); UserIdError,
    MetadataError, DimensionError and DeclarationError (TypeErrors).
    """
    return Tracks(
        feature, user, user_arg, metadata, when, description, audit, display, commit, dimensions, value, catalog
    )


class Tracks:
    """The decorator that `tracks` returns, for any number of callables of one feature."""

    __slots__ = (
        "_measures",
        "_options",
        "audit",
        "catalog",
        "commit",
        "description",
        "display",
        "feature",
        "source",
        "when",
    )

    def __init__(
        self,
        feature: str,
        user: object,
        user_arg: object,
        metadata: object,
        when: When,
        description: str | None = None,
        audit: Audit = False,
        display: str | None = None,
        commit: object = None,
        dimensions: object = None,
        value: object = None,
        catalog: Catalog = declared,
    ) -> None:
        if callable(feature):
            name = getattr(feature, "__name__", "feature")
            raise DeclarationError(f'@tracks needs the name of the feature: @tracks("{name}")')
        self.feature = check_feature(feature)
        if when not in tuple(_COUNTS):
            raise ConfigurationError(f"when= is one of {', '.join(map(repr, _COUNTS))}, not {when!r}")
        self.when: When = next(name for name in _COUNTS if name == when)
        self.audit = check_audit(audit)
        self.source = CallReader(user, user_arg, metadata, MeasureReader(dimensions, value))
        self.description = None if description is None else text_of(description)
        self.display = None if display is None else check_display(display)
        if commit is not None and self.when == "failure":
            raise ConfigurationError(
                "commit= counts what is committed, and when='failure' what is not: pass one of them"
            )
        self.commit = commit
        if commit is not None:
            session_transactions.follow()  # now, before requests run
        self.catalog = catalog
        self._options = (user, user_arg, metadata)
        self._measures = (dimensions, value)

    def __repr__(self) -> str:
        return f"tracks({self.feature!r})"

    def __call__(self, target: C) -> C:
        """The same callable, tracked. Raises DeclarationError for another object, and for unknown arguments."""
        return self._track(target)  # type: ignore[no-any-return]

    def __reduce__(self) -> Any:
        if self.catalog is not declared:
            raise TypeError(f"cannot pickle {self!r}: it belongs to a Tracker of this process")
        return Tracks, (
            self.feature,
            *self._options,
            self.when,
            self.description,
            self.audit,
            self.display,
            self.commit,
            *self._measures,
        )

    def __copy__(self) -> Tracks:
        return self

    def __deepcopy__(self, memo: object) -> Tracks:
        return self

    def _track(self, target: Any) -> Any:
        # type() throughout: proxies of other libraries claim to be of their wrapped object's class.
        kind = type(target)
        if issubclass(kind, classmethod | staticmethod):
            return kind(self._track(target.__func__))
        if not callable(target):
            hint = "; put @tracks below it" if hasattr(kind, "__get__") else ""
            raise DeclarationError(f"@tracks takes a callable, not a {kind.__name__}{hint}")
        if any(base.__module__.partition(".")[0] == "celery" for base in kind.__mro__):
            log.warning(
                ("above a task", self.feature),
                "@tracks(%r) is above the decorator of a Celery task, so no worker calls it: put it below",
                self.feature,
            )
        if issubclass(kind, type):
            return self._track_class(target)
        feature = self._declare(target)
        function_kind = kind_of(target)
        is_function = kind is types.FunctionType
        call = self._wrap(
            target,
            self.source.reader(target),
            span_reader(self.commit, target),
            function_kind,
            feature,
            simple=is_function,
        )
        if is_function:
            call = at_home(call, target)
        _dress(call, target, feature)
        # With `when="call"`, only a proxy may count: the call of a coroutine or generator function runs nothing of it.
        if is_function and (self.when != "call" or function_kind == "function"):
            return call
        from .object_proxy import Tracked  # it imports wrapt, and few need it

        return Tracked(target, call, feature, self)

    def _wrap(
        self,
        function: Function,
        read: ReadCall | None,
        begin_span: BeginSpan | None,
        kind: FunctionKind,
        feature: Feature,
        *,
        simple: bool,
    ) -> Function:
        if self.audit:
            return self._wrap_audited(function, read or read_nothing, begin_span, kind, feature)
        hidden, guard = hidden_kind_of(function) if kind == "function" else kind, guard_of(function)
        if read is None and begin_span is None and self.when == "success":
            if kind == "coroutine":
                return plain_coroutine(function, feature, guard)
            if simple and hidden == "function":
                return plain_function(function, feature, guard)
        counts = _COUNTS[self.when]
        capture: Capture | BoundCapture = Capture(feature, read or read_nothing, counts, guard)
        if begin_span is not None:
            capture = BoundCapture(feature, read or read_nothing, counts, guard, begin_span)
        if self.when == "call":
            return at_call(function, capture.called)
        if kind == "function":
            return any_function(function, capture, "coroutine" if hidden == "function" else hidden)
        wrapped = ANY[kind](function, capture.begin, capture)
        if simple and function.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE:
            return types.coroutine(wrapped)
        return wrapped

    def _wrap_audited(
        self,
        function: Function,
        read: ReadCall,
        begin_span: BeginSpan | None,
        kind: FunctionKind,
        feature: Feature,
    ) -> Function:
        if kind in ("generator", "async generator"):
            raise DeclarationError(
                f"@tracks({self.feature!r}, audit={self.audit!r}) takes no {kind}, whose body may never run: "
                "audit the function that returns it"
            )
        capture = AuditedCapture(
            feature, read, _COUNTS[self.when], guard_of(function), begin_span, required=self.audit == "required"
        )
        if kind == "coroutine":
            return any_coroutine(function, capture.open, capture, capture.admit)
        return any_function(function, capture, "coroutine")

    def _track_class(self, cls: Any) -> Any:
        """The class itself. Its `__init__` counts instances of exactly this class."""
        feature = self._declare(cls)
        own = "__init__" in vars(cls)
        init = cls.__init__ if own else _inherited_init(cls)
        read = self.source.reader(functools.partial(init, None) if own else cls)
        without_self: ReadCall | None = None if read is None else lambda args, kwargs: read(args[1:], kwargs)
        begin = span_reader(self.commit, functools.partial(init, None) if own else cls)
        begin_span: BeginSpan | None = None if begin is None else lambda args, kwargs: begin(args[1:], kwargs)
        counting = self._wrap(init, without_self, begin_span, "function", feature, simple=True)

        def tracked(self: Any, /, *args: Any, **kwargs: Any) -> None:
            made = type(self)
            # The second check finds the new class that @dataclass(slots=True) makes.
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
            self.feature, description=self.description, display=self.display, fallback=fallback or None, source=source
        )
        feature.decorates = source
        return feature


def _dress(function: Any, target: Any, feature: Feature) -> None:
    """Make a function look like its original, and show its feature to `registry.features_of`."""
    # Frameworks read attributes of functions; those of an instance are its state.
    updated = ("__dict__",) if type(target) is types.FunctionType else ()
    functools.update_wrapper(function, target, updated=updated)
    function._usage_feature = feature


def _inherited_init(cls: Any) -> Any:
    """An `__init__` for a class without one. It calls the next `__init__` in the order of the instance's class."""

    def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        init = super(cls, self).__init__
        if getattr(init, "__objclass__", None) is object and not _is_objects_new(type(self).__new__):
            init()  # the arguments are those of __new__
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
