"""What the integrations share: their options told apart, and the tracker that these configure."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypedDict, TypeVar

from sqlalchemy import Column, MetaData, Table

import usage_instrument
from usage_instrument import _default
from usage_instrument.capture.registry import Recorder
from usage_instrument.database import engines
from usage_instrument.database.users_table import kind_of
from usage_instrument.errors import ConfigurationError
from usage_instrument.settings import DATABASE_VARIABLE, ENVIRONMENT_PREFIX, SettingOptions, Settings, misspelt, said
from usage_instrument.typing import Metadata
from usage_instrument.web.audit_policy import Audits
from usage_instrument.web.rules import Features

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

logger = logging.getLogger("usage_instrument")

C = TypeVar("C")


class MiddlewareOptions(TypedDict, Generic[C], total=False):
    """The options of UsageMiddleware, whose callables get a C."""

    tracker: Recorder | None
    features: Features | None
    include: Iterable[str] | None
    exclude: Iterable[str] | None
    user: Callable[[C], object] | None
    metadata: Metadata | Callable[[C], Metadata | None] | None
    success: Callable[[int, C], object] | None
    audit: Audits | None


class Options(MiddlewareOptions[C], SettingOptions, total=False):
    """What an integration takes besides the database."""


_OF_MIDDLEWARE = frozenset(MiddlewareOptions.__annotations__)
_SETTINGS = frozenset(Settings.__dataclass_fields__)


class Plan(NamedTuple):
    """The options of an integration, told apart."""

    middleware: dict[str, Any]
    """Those of UsageMiddleware."""
    settings: dict[str, Any]
    """Those of `usage_instrument.configure`."""
    database: engines.Database | None = None
    tables: Tables | None = None

    @property
    def has_tracker(self) -> bool:
        """Whether the app brings a tracker of its own, which has its database and settings."""
        return self.middleware.get("tracker") is not None

    def over(self, config: Mapping[str, Any], place: str) -> Plan:
        """The same, with what a framework's own configuration says where the options say nothing.

        `place` is how an error calls an entry of it. Raises ConfigurationError.
        """
        for complaint in misspelt([name for name in config if isinstance(name, str)], place=place):
            logger.warning("%s", complaint)
        if self.has_tracker:
            return self
        settings = {**said(config, _SETTINGS - self.settings.keys(), place=place), **self.settings}
        database = self.database if self.database is not None else config.get(DATABASE_VARIABLE) or None
        return self._replace(settings=settings, database=database)

    def joining(self, metadata: MetaData) -> Plan:
        """The same, with the tables put into the MetaData of an app, unless it brings tables of its own.

        The type of the users' ids is that of the users table's key, unless it is given. Raises ConfigurationError.
        """
        if self.tables is not None:
            return self
        from usage_instrument.database.schema import define_tables

        settings = Settings.from_environment(**_with_id_type(self.settings, metadata))
        tables = define_tables(
            metadata, schema=settings.schema, users=settings.users, user_id_type=settings.user_id_type
        )
        # By its name: another MetaData of an equal app is no other setting.
        return self._replace(
            tables=tables,
            settings={**self.settings, "users": tables.users, "user_id_type": tables.user_id_type},
        )

    def configure(self) -> None:
        """Call `usage_instrument.configure` if there is anything to configure. Raises what that raises."""
        database, settings = self.database, self.settings
        if self.has_tracker:
            return
        if database is None and self.tables is None and not settings:
            if _default.tracker() is None and os.environ.get(DATABASE_VARIABLE):
                usage_instrument.configure()
            return
        is_test = _default.under_pytest() and not settings.get("enabled")
        if is_test and database is not None and engines.is_in_memory(database):
            logger.info("under pytest, nothing is counted in a SQLite database that is in memory")
            database, settings = None, {**settings, "enabled": False}
        usage_instrument.configure(database, tables=self.tables, **settings)


def plan(options: Mapping[str, Any], database: engines.Database | None = None, tables: Tables | None = None) -> Plan:
    """Tell options apart.

    Raises TypeError for one that neither the middleware nor Settings knows, ConfigurationError for some beside
    `tracker`.
    """
    for name in options:
        if name not in _OF_MIDDLEWARE | _SETTINGS:
            near = difflib.get_close_matches(name, _OF_MIDDLEWARE | _SETTINGS, 1)
            hint = (
                f"did you mean {near[0]!r}?"
                if near
                else f"there are {', '.join(sorted(_OF_MIDDLEWARE))}, and the settings {', '.join(sorted(_SETTINGS))}"
            )
            raise TypeError(f"{name!r} is no option; {hint}")
    middleware = {name: value for name, value in options.items() if name in _OF_MIDDLEWARE}
    for name in ("include", "exclude"):
        if not isinstance(middleware.get(name), str | None):
            middleware[name] = list(middleware[name])  # a middleware may be made more than once
    settings = {name: value for name, value in options.items() if name in _SETTINGS}
    if middleware.get("tracker") is not None and (settings or database is not None or tables is not None):
        raise ConfigurationError("tracker= has a database and settings of its own: give either that, or them, not both")
    return Plan(middleware, _with_id_type(settings, None), database, tables)


def _with_id_type(settings: dict[str, Any], metadata: MetaData | None) -> dict[str, Any]:
    """The settings, with the `user_id_type` that the users table asks for, unless something says which."""
    if "user_id_type" in settings or ENVIRONMENT_PREFIX + "USER_ID_TYPE" in os.environ:
        return settings
    key = _key_of({"users": "auto", **said(os.environ, ["users"]), **settings}["users"], metadata)
    kind = None if key is None else kind_of(key.type)
    return settings if kind is None else {**settings, "user_id_type": kind}


def _key_of(users: object, metadata: MetaData | None) -> Column[Any] | None:
    """The column that tells users apart, if it is known by now."""
    users = getattr(users, "__table__", users)  # a model
    if isinstance(users, Table):
        keys = list(users.primary_key.columns)
        return keys[0] if len(keys) == 1 else None
    if isinstance(users, str) and metadata is not None:
        place, _, name = ("users.id" if users == "auto" else users).rpartition(".")
        table = metadata.tables.get(place)
        return None if table is None else table.c.get(name)
    return users if isinstance(users, Column) else None
