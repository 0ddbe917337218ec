"""The configured tracker, for the module-level functions.

What only a tracker needs is imported with it: to import what is decorated, as a command line or a test does, is quick.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from .capture import calls, context, registry
from .errors import ConfigurationError
from .runtime.call_sites import caller
from .stats import Stats  # now: imported any later, the module would take the function's name in the package
from .typing import UNSET, Audit, Metadata

if TYPE_CHECKING:
    from .capture.context import CaptureScope
    from .database import engines
    from .database.tables import Tables
    from .pipeline.read_your_writes import FeatureUse
    from .privacy.api import Privacy
    from .privacy.erasure import Receipt
    from .settings import SettingOptions, Settings
    from .tracker import Tracker

C = TypeVar("C", bound=Callable[..., Any])

logger = logging.getLogger("usage_instrument")

_tracker: Tracker | None = None
_line = "nowhere"  # that configured it
_former: list[Tracker] = []  # replaced, but maybe still writing: the exit waits for them


def configure(
    database: engines.Database | None = None, *, tables: Tables | None = None, **settings: Unpack[SettingOptions]
) -> Tracker:
    """Record every `tracks` and `track` in this database from now on, and return the tracker that does.

    `database` is a URL of a sync or an async driver, an Engine, an AsyncEngine, or nothing for
    `$USAGE_INSTRUMENT_DATABASE_URL`; `tables` are those of `define_tables`; `settings` are the fields of Settings,
    each also `$USAGE_INSTRUMENT_<NAME>`. Opens no connection yet. Equal values twice give the same tracker; others
    replace it, with a warning. Under pytest, a tracker that only the environment configures writes nothing unless
    `enabled` is set. Raises ConfigurationError, and TypeError for a name that is no setting.
    """
    from .database import engines
    from .settings import DATABASE_VARIABLE, ENVIRONMENT_PREFIX, Settings, misspelt
    from .tracker import Tracker

    global _tracker, _line
    line = caller()
    settled = Settings.from_environment(**settings)
    for complaint in misspelt(os.environ):
        logger.warning("%s", complaint)
    if database is None:
        database = os.environ.get(DATABASE_VARIABLE) or None
        asked = "enabled" in settings or ENVIRONMENT_PREFIX + "ENABLED" in os.environ
        if under_pytest() and not asked:
            logger.info("under pytest, nothing is counted without configure(database) or enabled=True")
            settings["enabled"] = False
            settled = Settings.from_environment(**settings)
    if database is None and settled.enabled:
        raise ConfigurationError(f"no database: pass its URL or an Engine to configure(), or set ${DATABASE_VARIABLE}")
    database = None if database is None else engines.parse(database)
    old = _tracker
    if old is not None:
        if (old.database, old.settings, old.tables_given) == (database, settled, tables):
            return old
        logger.log(
            logging.INFO if _is_alike(old, database, settled, tables) else logging.WARNING,
            "usage-instrument is configured again with other values at %s, after %s; the new ones hold from now on: "
            "configure it once",
            line, _line,
        )  # fmt: skip
    _tracker, _line = Tracker(database, settled, tables, catalog=registry.declared), line
    if old is not None:
        _former.append(old)
        # Its last batch is written behind our back; the exit waits for it.
        old.begin_exit(time.monotonic() + old.settings.shutdown_timeout)
    return _tracker


def _is_alike(old: Tracker, database: engines.Database | None, settings: Settings, tables: Tables | None) -> bool:
    """Whether it differs only in objects that were made anew, as by a factory of apps that is called once more."""
    from .database import engines

    def told(database: engines.Database | None, settings: Settings, tables: Tables | None) -> object:
        return None if database is None else engines.url_of(database), settings, repr(tables)

    return told(old.database, old.settings, old.tables_given) == told(database, settings, tables)


def tracker() -> Tracker | None:
    """The configured tracker, if there is one."""
    return _tracker


def reset() -> None:
    """Shut the configured tracker down and forget it, as if `configure` had never been called."""
    global _tracker
    old, _tracker = _tracker, None
    registry.declared.attach(registry.Unconfigured(registry.declared))
    if old is not None:
        old.shutdown()


def track(
    feature: str, *, user: object = UNSET, metadata: Metadata | None = None, count: int = 1, audit: Audit = False
) -> None:
    """Record that `user` used `feature` `count` times.

    Without `user`, it is who `as_user` or `identify` said, else anonymous; `user=None` is anonymous. Never raises and
    never waits for the database; with `strict`, a mistake raises FeatureNameError, UserIdError, MetadataError or
    ValueError.

    With `audit=True` the audit trail holds it as well, with the next flush. With `audit="required"` it does so when
    this returns: that waits for the database, and raises AuditUnavailable if the access cannot be recorded.
    """
    calls.track(registry.declared.recorder, feature, user, metadata, count, audit)


async def atrack(
    feature: str, *, user: object = UNSET, metadata: Metadata | None = None, count: int = 1, audit: Audit = False
) -> None:
    """As track, without blocking the event loop: for `audit="required"`."""
    await calls.atrack(registry.declared.recorder, feature, user, metadata, count, audit)


def identify(user: object, *, actor: object = UNSET) -> None:
    """State who the current request's or task's user is, and for the audit trail who acts as them, if somebody does.
    Outside of a request or task it is ignored, and said once."""
    calls.identify(registry.declared.recorder, user, actor)


def as_user(user: object, *, actor: object = UNSET) -> CaptureScope:
    """The captures inside are this user's, anywhere; a bad id makes them rejected (with `strict`, it raises). `actor`
    is who acts as them, for the audit trail."""
    return _tracker.as_user(user, actor=actor) if _tracker is not None else context.as_user(user, actor)


def paused() -> CaptureScope:
    """Nothing inside is captured."""
    return context.paused()


def carry(function: C) -> C:
    """The same function, to run in a thread of an executor: its captures keep the user and the request of now.

        loop.run_in_executor(None, usage.carry(export), report)

    `asyncio.to_thread` needs no help.
    """
    return context.carry(function)


def discard() -> None:
    """The current request is no use: stops the middleware's count and later ones; earlier ones stand."""
    calls.discard()


def flush(timeout: float = 5.0) -> bool:
    """Write at once; True when nothing that was captured before the call is pending any more (as Tracker.flush)."""
    return True if _tracker is None else _tracker.flush(timeout)


async def aflush(timeout: float = 5.0) -> bool:
    """As flush, without blocking the event loop."""
    return True if _tracker is None else await _tracker.aflush(timeout)


def shutdown(timeout: float | None = None) -> bool:
    """Write what is pending and end the threads; the next capture starts anew (as Tracker.shutdown)."""
    return True if _tracker is None else _tracker.shutdown(timeout)


async def ashutdown(timeout: float | None = None) -> bool:
    """As shutdown, without blocking the event loop."""
    return True if _tracker is None else await _tracker.ashutdown(timeout)


def count(user: object, feature: str) -> int:
    """How often `user` has used `feature`, of all time, with what this process has not written yet (as Tracker.count);
    0 when nothing is configured."""
    return 0 if _tracker is None else _tracker.count(user, feature)


async def acount(user: object, feature: str) -> int:
    """As count, without blocking the event loop."""
    return 0 if _tracker is None else await _tracker.acount(user, feature)


def user_features(user: object) -> list[FeatureUse]:
    """What `user` has used, of all time and the latest first, with what this process has not written yet (as
    Tracker.user_features); nothing when nothing is configured."""
    return [] if _tracker is None else _tracker.user_features(user)


async def auser_features(user: object) -> list[FeatureUse]:
    """As user_features, without blocking the event loop."""
    return [] if _tracker is None else await _tracker.auser_features(user)


def forget(user: object, *, actor: object = None, keep_audit: bool = False, force: bool = False) -> Receipt:
    """Erase a user from every table, buffer and journal, and see to it that nobody brings them back (as
    Privacy.forget). Takes seconds. Raises ConfigurationError when nothing is configured, or no `privacy_key`."""
    return _privacy().forget(user, actor=actor, keep_audit=keep_audit, force=force)


async def aforget(user: object, *, actor: object = None, keep_audit: bool = False, force: bool = False) -> Receipt:
    """As forget, without blocking the event loop."""
    return await _privacy().aforget(user, actor=actor, keep_audit=keep_audit, force=force)


def export(user: object) -> dict[str, Any]:
    """All that the tables tell of a user, as JSON can carry it (as Privacy.export)."""
    return _privacy().export(user)


async def aexport(user: object) -> dict[str, Any]:
    """As export, without blocking the event loop."""
    return await _privacy().aexport(user)


def opt_out(user: object) -> None:
    """Count nothing of this user any more, in any process, from its next flush on (as Privacy.opt_out)."""
    _privacy().opt_out(user)


async def aopt_out(user: object) -> None:
    """As opt_out, without blocking the event loop."""
    await _privacy().aopt_out(user)


def opt_in(user: object) -> None:
    """Count this user again, also one who was forgotten (as Privacy.opt_in)."""
    _privacy().opt_in(user)


async def aopt_in(user: object) -> None:
    """As opt_in, without blocking the event loop."""
    await _privacy().aopt_in(user)


def _privacy() -> Privacy:
    if _tracker is None:
        raise ConfigurationError("nothing is configured: call usage_instrument.configure() first")
    return _tracker.privacy


def stats() -> Stats:
    """The configured tracker's figures in this process; all zero without one."""
    return Stats() if _tracker is None else _tracker.stats()


def under_pytest() -> bool:
    """Whether this process is a run of pytest."""
    # The variable alone is inherited by servers that a test starts, the module alone may be imported by an app.
    return "pytest" in sys.modules and "PYTEST_VERSION" in os.environ
