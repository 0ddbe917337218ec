"""One line for a Starlette app: `instrument(app)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from starlette.applications import Starlette

from usage_instrument.asgi import UsageMiddleware
from usage_instrument.database.engines import Database
from usage_instrument.errors import ConfigurationError
from usage_instrument.typing import Scope

from .configuration import Options, configuration_of

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

__all__ = ["instrument"]


def instrument(
    app: Starlette,
    *,
    database: Database | None = None,
    tables: Tables | None = None,
    **options: Unpack[Options[Scope]],
) -> None:
    """Count an app's requests and WebSockets from now on.

    - `database`: a URL, an Engine or an AsyncEngine, for `usage_instrument.configure`.
    - `tables`: the result of `define_tables`, if the app defines the tables.
    - All others are options of `usage_instrument.asgi.UsageMiddleware` or fields of Settings.

    Without a database or setting here or in the environment, the app calls `usage_instrument.configure`, before or
    after. Raises TypeError for an unknown option, ConfigurationError (also when the app has started, or has a
    UsageMiddleware already), and what the middleware raises for its options.
    """
    if not isinstance(app, Starlette):
        raise ConfigurationError(f"instrument() counts a Starlette or FastAPI app, and this is {type(app).__name__}")
    if any(isinstance(one.cls, type) and issubclass(one.cls, UsageMiddleware) for one in app.user_middleware):
        raise ConfigurationError(
            "this app has a UsageMiddleware already: call either instrument(app) or add_middleware, once"
        )
    if app.middleware_stack is not None:
        raise ConfigurationError(
            "this app has started, and takes no more middleware: call instrument(app) where the app is created"
        )
    configuration = configuration_of(options, database, tables)
    UsageMiddleware(app.router, **configuration.middleware)  # raises for options that cannot work
    configuration.configure()
    app.add_middleware(UsageMiddleware, **configuration.middleware)
