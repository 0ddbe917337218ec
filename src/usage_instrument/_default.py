"""The configured tracker, for the module-level functions.

The modules of a tracker are imported when one is configured. Importing decorated code stays quick without one.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from .capture import calls, context, registry
from .errors import ConfigurationError
from .runtime import log
from .runtime.call_sites import caller
from .runtime.waiting import without_blocking
from .stats import Stats  # here: a later import would replace the function of this name in the package by the module
from .typing import UNSET, Audit, Metadata

if TYPE_CHECKING:
    from .capture.context import CaptureScope
    from .database import engines
    from .database.tables import Tables
    from .pipeline.read_your_writes import FeatureUse
    from .privacy.api import Privacy
    from .privacy.erasure import Receipt
    from .privacy.merge import MergeReceipt
    from .settings import SettingOptions, Settings
    from .tracker import Tracker

C = TypeVar("C", bound=Callable[..., Any])

_tracker: Tracker | None = None
_line = "nowhere"  # the line of that configure()
_former: list[Tracker] = []  # replaced, and maybe still writing: the exit waits for them
_FLUSH_TIMEOUT, _MARGIN = 5.0, 0.25  # seconds
SILENT_UNDER_PYTEST = (
    "under pytest, nothing is written to the database. To write, pass enabled=True to configure, or set "
    "USAGE_INSTRUMENT_ENABLED=1 (0 hides this line). To assert uses, take the fixture captured_usage"
)
NO_DATABASE = "the tracker has no database, which this needs: pass its URL to configure()"
is_silent_under_pytest = False
"""Whether `configure` was called without a database because pytest runs. The pytest plugin reports it."""


def configure(
    database: engines.Database | None = None, *, tables: Tables | None = None, **settings: Unpack[SettingOptions]
) -> Tracker:
    """Record all uses in this database from now on. Returns the tracker.

    `database` is a URL of a sync or async driver, an Engine or an AsyncEngine; by default
    `$USAGE_INSTRUMENT_DATABASE_URL`. `tables` are those of `define_tables`. `settings` are the fields of Settings, each
    also `$USAGE_INSTRUMENT_<NAME>`. Opens no connection yet. A second call with equal values returns the same tracker;
    other values replace it, with a warning. Under pytest, the tracker has no database and writes nothing, unless
    `enabled` is set here or in the environment. Raises ConfigurationError, and TypeError for an unknown setting.
    """
    from .database import engines
    from .settings import DATABASE_VARIABLE, ENVIRONMENT_PREFIX, Settings, misspelt
    from .tracker import Tracker

    global _tracker, _line, is_silent_under_pytest
    line = caller()
    settled = Settings.from_environment(**settings)
    for complaint in misspelt(os.environ):
        log.warning(("setting", complaint), "%s", complaint)
    is_test = under_pytest()
    if is_test and "enabled" not in settings and ENVIRONMENT_PREFIX + "ENABLED" not in os.environ:
        log.once("under pytest", SILENT_UNDER_PYTEST, level=logging.INFO)
        is_silent_under_pytest = True
        if database is not None and not engines.is_in_memory(database):
            engines.parse(database)  # an invalid URL raises in the tests too
        database, settled = None, replace(settled, enabled=False)
    elif database is None:
        database = os.environ.get(DATABASE_VARIABLE) or None
    if database is None and settled.enabled and settled.writer != "collector":
        raise ConfigurationError(f"no database: pass its URL or an Engine to configure(), or set ${DATABASE_VARIABLE}")
    database = None if database is None else engines.parse(database)
    old = _tracker
    if old is not None:
        if (old.database, old.settings, old.tables_given) == (database, settled, tables):
            return old
        log.emit(
            logging.INFO if is_test or _is_alike(old, database, settled, tables) else logging.WARNING,
            "usage-instrument is configured again with other values at %s, after %s; the new values apply from now on: "
            "configure it once",
            line, _line,
        )  # fmt: skip
    _tracker, _line = Tracker(database, settled, tables, catalog=registry.declared), line
    if old is not None:
        _former.append(old)
        # It writes its last batch in the background; the exit waits for it.
        old.begin_exit(time.monotonic() + old.settings.shutdown_timeout)
    return _tracker


def _is_alike(old: Tracker, database: engines.Database | None, settings: Settings, tables: Tables | None) -> bool:
    """Whether only the objects are new, not the values, as in a second call of an app factory."""
    from .database import engines

    def values(database: engines.Database | None, settings: Settings, tables: Tables | None) -> object:
        return None if database is None else engines.url_of(database), settings, repr(tables)

    return values(old.database, old.settings, old.tables_given) == values(database, settings, tables)


def tracker() -> Tracker | None:
    """The configured tracker, if there is one."""
    return _tracker


def reset() -> None:
    """Shut down and forget the configured tracker."""
    global _tracker
    old, _tracker = _tracker, None
    registry.declared.attach(registry.Unconfigured(registry.declared))
    if old is not None:
        old.shutdown()


def track(
    feature: str,
    *,
    user: object = UNSET,
    metadata: Metadata | None = None,
    count: int = 1,
    audit: Audit = False,
    commit: object = None,
    dimensions: Mapping[str, object] | None = None,
    value: float | Decimal | None = None,
) -> None:
    """Record that `user` used `feature` `count` times.

    Without `user`, the user is that of `as_user`, `identify` or the framework, else anonymous; None is anonymous. Never
    raises and never waits for the database. With `strict`, a mistake raises FeatureNameError, UserIdError,
    MetadataError or ValueError.

    With `audit=True`, the next flush also writes the audit trail. With `audit="required"`, the call waits until the
    trail is written, and raises AuditUnavailable if that fails.

    With `commit`, the use counts if and only if the open transaction commits: that of a Session or Connection of
    SQLAlchemy (also async or scoped), of a database of Django by its alias, or of the `"request"`. A savepoint that is
    rolled back takes its uses along. User, metadata and time are those of the call. Without an open transaction the use
    counts at once, which the log reports once a feature, and which raises with `strict`. Raises TypeError for another
    object, and ValueError for an unknown alias.

    `dimensions` maps up to a few names to values, such as `{"format": "csv"}`: each use is counted by each value, for
    each user and day. `value` is a number, such as an amount or a duration, of which sum, squares, least and greatest
    are kept beside the count; with `count`, each use has it. With `strict`, a wrong one raises DimensionError;
    otherwise the use counts without them.
    """
    calls.track(registry.declared.recorder, feature, user, metadata, count, audit, commit, (dimensions, value))


async def atrack(
    feature: str,
    *,
    user: object = UNSET,
    metadata: Metadata | None = None,
    count: int = 1,
    audit: Audit = False,
    commit: object = None,
    dimensions: Mapping[str, object] | None = None,
    value: float | Decimal | None = None,
) -> None:
    """As track, without blocking the event loop: for `audit="required"`."""
    await calls.atrack(registry.declared.recorder, feature, user, metadata, count, audit, commit, (dimensions, value))


def identify(user: object, *, actor: object = UNSET) -> None:
    """Set the user of the current request or task. `actor` is the user who acts as them, for the audit trail.

    Outside of a request or task, it has no effect, and the log says so once.
    """
    calls.identify(registry.declared.recorder, user, actor)


def as_user(user: object, *, actor: object = UNSET) -> CaptureScope:
    """The captures inside belong to this user. A context manager, and a decorator.

    `actor` is the user who acts as them, for the audit trail. With a bad id, the captures are rejected; with `strict`,
    it raises UserIdError.
    """
    return _tracker.as_user(user, actor=actor) if _tracker is not None else context.as_user(user, actor)


def paused() -> CaptureScope:
    """Nothing inside is captured. A context manager, and a decorator."""
    return context.paused()


def carry(function: C) -> C:
    """The same function for an executor's thread: its captures keep the present user and request::

        loop.run_in_executor(None, usage.carry(export), report)

    `asyncio.to_thread` needs no help.
    """
    return context.carry(function)


def discard() -> None:
    """Do not count the current request, nor later captures in it. Earlier ones stay counted."""
    calls.discard()


def flush(timeout: float = 5.0) -> bool:
    """Write at once; True if no use captured before the call is pending (as Tracker.flush)."""
    return True if _tracker is None else _tracker.flush(timeout)


async def aflush(timeout: float = 5.0) -> bool:
    """As flush, without blocking the event loop."""
    return True if _tracker is None else await _tracker.aflush(timeout)


def flush_after(handler: C) -> C:
    """A handler of a serverless function that writes what is pending before it returns, also if it raises.

    Such a platform freezes the process between two calls, and ends it without notice. What the database does not take
    within 5 seconds stays pending for the next call. If the second argument is the context of AWS Lambda, the writing
    ends 0.25 seconds before the time of the call is over. A coroutine function is awaited.
    """
    flushing: Callable[..., Any]
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004

        async def flushing(*args: Any, **kwargs: Any) -> Any:
            try:
                return await handler(*args, **kwargs)
            finally:
                await aflush(_time_to_flush(args))

    else:

        def flushing(*args: Any, **kwargs: Any) -> Any:
            try:
                return handler(*args, **kwargs)
            finally:
                flush(_time_to_flush(args))

    return functools.wraps(handler)(flushing)  # type: ignore[return-value]


def _time_to_flush(args: tuple[Any, ...]) -> float:
    """Seconds that a call of a function may take to write: a call that is out of time loses its answer."""
    left = getattr(args[1], "get_remaining_time_in_millis", None) if len(args) > 1 else None
    return _FLUSH_TIMEOUT if left is None else min(max(left() / 1000 - _MARGIN, 0.0), _FLUSH_TIMEOUT)


def shutdown(timeout: float | None = None) -> bool:
    """Write the pending uses and end the threads. The next capture starts them again (as Tracker.shutdown)."""
    return True if _tracker is None else _tracker.shutdown(timeout)


async def ashutdown(timeout: float | None = None) -> bool:
    """As shutdown, without blocking the event loop."""
    return True if _tracker is None else await _tracker.ashutdown(timeout)


def count(user: object, feature: str) -> int:
    """The number of uses of `feature` by `user`, with the unwritten uses of this process (as Tracker.count).

    0 if nothing is configured.
    """
    return 0 if _tracker is None else _tracker.count(user, feature)


acount = without_blocking(count)


def user_features(user: object) -> list[FeatureUse]:
    """The features `user` has used, the latest first, with the unwritten uses of this process.

    As Tracker.user_features; empty if nothing is configured.
    """
    return [] if _tracker is None else _tracker.user_features(user)


auser_features = without_blocking(user_features)


def forget(user: object, *, actor: object = None, keep_audit: bool = False, force: bool = False) -> Receipt:
    """Erase a user from all tables, buffers and journals, permanently (as Privacy.forget).

    Takes seconds. Raises ConfigurationError without a configured tracker or a `privacy_key`.
    """
    return _privacy().forget(user, actor=actor, keep_audit=keep_audit, force=force)


aforget = without_blocking(forget)


def export(user: object) -> dict[str, Any]:
    """All data of a user in the tables, as values of JSON (as Privacy.export)."""
    return _privacy().export(user)


aexport = without_blocking(export)


def opt_out(user: object) -> None:
    """Count this user no more, in each process from its next flush on (as Privacy.opt_out)."""
    _privacy().opt_out(user)


aopt_out = without_blocking(opt_out)


def opt_in(user: object) -> None:
    """Count this user again, also after `forget` (as Privacy.opt_in)."""
    _privacy().opt_in(user)


aopt_in = without_blocking(opt_in)


def merge(*, guest: object, user: object, force: bool = False) -> MergeReceipt:
    """Move the counts, history and exposures of a guest to a user (as Privacy.merge), for example at a login.

    Returns an empty receipt if nothing is configured or enabled.
    """
    if _tracker is None:
        from .privacy.merge import MergeReceipt

        return MergeReceipt()
    return _tracker.merge(guest=guest, user=user, force=force)


amerge = without_blocking(merge)


def _privacy() -> Privacy:
    if _tracker is None:
        raise ConfigurationError("nothing is configured: call usage_instrument.configure() first")
    if _tracker.database is None:
        raise ConfigurationError(SILENT_UNDER_PYTEST if is_silent_under_pytest else NO_DATABASE)
    return _tracker.privacy


def stats() -> Stats:
    """The figures of the configured tracker in this process; zeros without one."""
    return Stats() if _tracker is None else _tracker.stats()


def under_pytest() -> bool:
    """Whether pytest runs in this process."""
    # A server that a test starts inherits the variables, and an app may import the module: it takes both. Before 8.2,
    # pytest sets only the second variable, during a test.
    return "pytest" in sys.modules and not {"PYTEST_VERSION", "PYTEST_CURRENT_TEST"}.isdisjoint(os.environ)
