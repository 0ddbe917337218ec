"""Django: the middleware, the app that configures the tracker from the settings, and `manage.py usage`."""

from __future__ import annotations

from .databases import database_url
from .middleware import UsageMiddleware

__all__ = ["UsageMiddleware", "database_url"]
