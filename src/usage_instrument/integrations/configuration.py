"""The options of an integration, split into those of the middleware and of the tracker, which they configure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Column, MetaData, Table

import usage_instrument
from usage_instrument import _default
from usage_instrument.database import engines
from usage_instrument.database.users_table import kind_of
from usage_instrument.errors import ConfigurationError
from usage_instrument.runtime import log
from usage_instrument.settings import (
    DATABASE_VARIABLE,
    ENVIRONMENT_PREFIX,
    SettingOptions,
    Settings,
    misspelt,
    values_in,
)
from usage_instrument.web.options import OPTIONS, C, MiddlewareOptions, check_names

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables


class Options(MiddlewareOptions[C], SettingOptions, total=False):
    """The options of an integration besides the database."""


_SETTINGS = frozenset(Settings.__dataclass_fields__)


class Configuration(NamedTuple):
    """The options of an integration."""

    middleware: MiddlewareOptions[Any]
    """The options of UsageMiddleware."""
    settings: dict[str, Any]
    """The settings of `usage_instrument.configure`."""
    database: engines.Database | None = None
    tables: Tables | None = None

    @property
    def has_tracker(self) -> bool:
        """Whether the options have a tracker, which has a database and settings."""
        return self.middleware.get("tracker") is not None

    def over(self, config: Mapping[str, Any], place: str) -> Configuration:
        """These options, completed from a framework's own configuration.

        `place` is the name of that configuration in an error message. Raises ConfigurationError.
        """
        for complaint in misspelt([name for name in config if isinstance(name, str)], place=place):
            log.warning(("misspelt", complaint), "%s", complaint)
        if self.has_tracker:
            return self
        settings = {**values_in(config, _SETTINGS - self.settings.keys(), place=place), **self.settings}
        database = self.database if self.database is not None else config.get(DATABASE_VARIABLE) or None
        return self._replace(settings=settings, database=database)

    def joining(self, metadata: MetaData) -> Configuration:
        """These options, with the tables added to the MetaData of an app, unless the options have tables.

        The default type of user ids is that of the users table's key. Raises ConfigurationError.
        """
        if self.tables is not None:
            return self
        from usage_instrument.database.schema import define_tables

        settings = Settings.from_environment(**_with_id_type(self.settings, metadata))
        tables = define_tables(
            metadata, schema=settings.schema, users=settings.users, user_id_type=settings.user_id_type
        )
        # The users table by its name: settings are equal for each MetaData of an equal app.
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
        usage_instrument.configure(database, tables=self.tables, **settings)


def configuration_of(
    options: Mapping[str, Any], database: engines.Database | None = None, tables: Tables | None = None
) -> Configuration:
    """Split options into those of the middleware and the settings.

    Raises TypeError for an unknown one, ConfigurationError for settings beside `tracker`.
    """
    check_names(options, OPTIONS | _SETTINGS)
    middleware: Any = {name: value for name, value in options.items() if name in OPTIONS}
    for name in ("include", "exclude"):
        if not isinstance(middleware.get(name), str | None):
            middleware[name] = list(middleware[name])  # a middleware may be created more than once
    settings = {name: value for name, value in options.items() if name in _SETTINGS}
    if middleware.get("tracker") is not None and (settings or database is not None or tables is not None):
        raise ConfigurationError("tracker= has a database and settings of its own: give either that, or them, not both")
    return Configuration(middleware, _with_id_type(settings, None), database, tables)


def _with_id_type(settings: dict[str, Any], metadata: MetaData | None) -> dict[str, Any]:
    """The settings, with the `user_id_type` of the users table, unless one is set."""
    if "user_id_type" in settings or ENVIRONMENT_PREFIX + "USER_ID_TYPE" in os.environ:
        return settings
    key = _key_of({"users": "auto", **values_in(os.environ, ["users"]), **settings}["users"], metadata)
    kind = None if key is None else kind_of(key.type)
    return settings if kind is None else {**settings, "user_id_type": kind}


def _key_of(users: object, metadata: MetaData | None) -> Column[Any] | None:
    """The key column of the users table, if it is known by now."""
    users = getattr(users, "__table__", users)  # a model
    if isinstance(users, Table):
        keys = list(users.primary_key.columns)
        return keys[0] if len(keys) == 1 else None
    if isinstance(users, str) and metadata is not None:
        place, _, name = ("users.id" if users == "auto" else users).rpartition(".")
        table = metadata.tables.get(place)
        return None if table is None else table.c.get(name)
    return users if isinstance(users, Column) else None
