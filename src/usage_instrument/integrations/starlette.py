"""One line for a Starlette app: `instrument(app)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from starlette.applications import Starlette

from usage_instrument.asgi import UsageMiddleware
from usage_instrument.database.engines import Database
from usage_instrument.errors import ConfigurationError
from usage_instrument.typing import Scope

from .options import Options, plan

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables


def instrument(
    app: Starlette,
    *,
    database: Database | None = None,
    tables: Tables | None = None,
    **options: Unpack[Options[Scope]],
) -> None:
    """Count an app's requests and WebSockets from now on.

    - `database`: a URL, an Engine or an AsyncEngine, for `usage_instrument.configure`; so are `tables`, those of
      `define_tables`, if the app has its own.
    - All else is an option of `usage_instrument.asgi.UsageMiddleware` or a field of Settings.

    If nothing of that is said, here or in the environment, it is for `usage_instrument.configure`, called before or
    after. Raises TypeError for an option that is none, ConfigurationError (also when the app has started, or is counted
    already), and what the middleware raises for its options.
    """
    if not isinstance(app, Starlette):
        raise ConfigurationError(f"instrument() counts a Starlette or FastAPI app, and this is {type(app).__name__}")
    if any(isinstance(one.cls, type) and issubclass(one.cls, UsageMiddleware) for one in app.user_middleware):
        raise ConfigurationError(
            "this app has a UsageMiddleware already: say either instrument(app) or add_middleware, and once"
        )
    if app.middleware_stack is not None:
        raise ConfigurationError(
            "this app has started, and takes no more middleware: call instrument(app) where the app is made"
        )
    made = plan(options, database, tables)
    UsageMiddleware(app.router, **made.middleware)  # options that cannot work are told here, not by the first request
    made.configure()
    app.add_middleware(UsageMiddleware, **made.middleware)
