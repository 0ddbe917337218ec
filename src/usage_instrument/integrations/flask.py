"""The Flask extension: `UsageInstrument(app)`, or `init_app`; and `flask usage`, the command within an app."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Unpack

import click
from flask import Flask, current_app
from flask.cli import with_appcontext

from usage_instrument.database.engines import Database, url_of
from usage_instrument.errors import AuditUnavailable, ConfigurationError
from usage_instrument.settings import DATABASE_VARIABLE, ENVIRONMENT_PREFIX
from usage_instrument.typing import Environ
from usage_instrument.web import unavailable
from usage_instrument.wsgi import UsageMiddleware

from .configuration import Configuration, Options, configuration_of

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

__all__ = ["UsageInstrument"]

_KEY = "usage_instrument"


class UsageInstrument:
    """Counts the requests of Flask apps.

    - `database`: a URL, an Engine or an AsyncEngine, for `usage_instrument.configure`.
    - `db`: a Flask-SQLAlchemy object. The tables join its MetaData, where Flask-Migrate finds them, and its engine is
      the database.
    - `users`: the users table, as for `define_tables`, or its model. The default `user_id_type` is that of its key.
    - `tables`: the result of `define_tables` or `Tables.of`, if the app defines the tables.
    - All others are options of `usage_instrument.wsgi.UsageMiddleware` or fields of Settings.

    Arguments come before `app.config["USAGE_INSTRUMENT_DATABASE_URL"]` and `USAGE_INSTRUMENT_<SETTING>`, and these
    before the environment. Without any, the app calls `usage_instrument.configure`, before or after.

    Raises TypeError for an unknown option, ConfigurationError, and what the middleware raises for its options.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        database: Database | None = None,
        db: Any = None,
        tables: Tables | None = None,
        **options: Unpack[Options[Environ]],
    ) -> None:
        self._configuration = configuration_of(options, database, tables)
        if db is not None and self._configuration.has_tracker:
            raise ConfigurationError("tracker= has a database of its own: give either that or db=, not both")
        self._db = db
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Count an app's requests from now on. Call it after `db.init_app`, when `app.config` is complete."""
        if not isinstance(app, Flask):
            raise ConfigurationError(f"UsageInstrument counts a Flask app, and this is {type(app).__name__}")
        if _KEY in app.extensions:
            raise ConfigurationError(
                f"UsageInstrument counts the app {app.name!r} already: "
                "call either UsageInstrument(app) or init_app(app), once"
            )
        made = self.configuration_for(app)
        middleware = UsageMiddleware(app.wsgi_app, **made.middleware)
        made.configure()
        app.wsgi_app = middleware  # type: ignore[method-assign]
        if AuditUnavailable not in app.error_handler_spec[None][None]:  # the app's own stays
            app.register_error_handler(AuditUnavailable, _unavailable)
        app.extensions[_KEY] = self

    def configuration_for(self, app: Flask) -> Configuration:
        """The arguments, completed from the configuration of one app. Raises ConfigurationError."""
        if self._db is None:
            return self._configuration.over(app.config, "app.config: ")
        metadata = getattr(self._db, "metadata", None)
        if metadata is None:
            raise ConfigurationError(f"db= is a SQLAlchemy() of Flask-SQLAlchemy, not {type(self._db).__name__}")
        made = self._configuration
        if made.database is None:
            made = made._replace(database=self._engine(app))
        return made.over(app.config, "app.config: ").joining(metadata)

    def _engine(self, app: Flask) -> Database:
        db: Any = app.extensions.get("sqlalchemy")
        if db is not self._db:
            raise ConfigurationError(f"call db.init_app(app) before UsageInstrument counts the app {app.name!r}")
        with app.app_context():
            engine: Database = db.engine
            return engine


def _unavailable(error: AuditUnavailable) -> tuple[bytes, int, list[tuple[str, str]]]:
    unavailable.report(error)
    return unavailable.BODY, unavailable.STATUS, unavailable.HEADERS


@click.command(
    "usage",
    add_help_option=False,  # the command behind it has the help
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    short_help="Which features people use.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@with_appcontext
def command(arguments: tuple[str, ...]) -> None:
    """Run `usage-instrument` on the database of the app."""
    from usage_instrument.cli import main

    extension = current_app.extensions.get(_KEY)
    variables: dict[str, str] = {}
    if extension is not None:
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        variables = _environment(extension.configuration_for(app))
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        main(list(arguments), "flask usage")
    finally:  # tests run commands within their own process
        for name in variables:
            del os.environ[name]
        os.environ.update({name: before[name] for name in variables.keys() & before.keys()})


def _environment(configuration: Configuration) -> dict[str, str]:
    """The configuration of an app as the variables that the command line reads."""
    found = {}
    if configuration.database is not None:
        found[DATABASE_VARIABLE] = url_of(configuration.database).render_as_string(hide_password=False)
    for name in ("users", "user_id_type", "schema"):
        value = configuration.settings.get(name, "")
        if value is None or (isinstance(value, str) and value):
            found[ENVIRONMENT_PREFIX + name.upper()] = value or "none"
    return found
