"""`DATABASES` as SQLAlchemy URLs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db.utils import load_backend
from sqlalchemy import URL

from usage_instrument.errors import ConfigurationError

_KINDS = {
    "postgresql": "postgresql", "postgresql_psycopg2": "postgresql", "postgis": "postgresql",
    "mysql": "mysql", "sqlite3": "sqlite", "spatialite": "sqlite",
}  # fmt: skip
"""By the last part of ENGINE, which wrappers such as django_prometheus keep; others are loaded to ask."""
_DRIVERS = {
    "postgresql": {"psycopg": "psycopg", "psycopg2": "psycopg2"},
    "mysql": {"pymysql": "pymysql", "MySQLdb": "mysqldb"},
}
_SERVER_OPTIONS = {
    "postgresql": {
        *(
            "application_name",
            "channel_binding",
            "connect_timeout",
            "gssencmode",
            "keepalives",
            "krbsrvname",
            "options",
        ),
        *("passfile", "service", "sslcert", "sslcrl", "sslkey", "sslmode", "sslpassword", "sslrootcert"),
        *("target_session_attrs", "tcp_user_timeout"),
    },
    "mysql": {"charset", "connect_timeout", "read_default_file", "read_default_group", "unix_socket"},
}
"""The OPTIONS for the server; the others are Django's own."""


def database_url(alias: str = "default") -> URL:
    """The URL of `DATABASES[alias]`: PostgreSQL, MySQL, MariaDB or SQLite. Raises ConfigurationError.

    Only `url.render_as_string(hide_password=False)` shows its password.
    """
    if alias not in settings.DATABASES:
        raise ConfigurationError(f"DATABASES has no {alias!r}")
    database: Mapping[str, Any] = settings.DATABASES[alias]
    engine = database.get("ENGINE", "")
    kind = _KINDS.get(engine.rpartition(".")[2]) or _vendor(engine)
    if kind is None:
        raise ConfigurationError(
            f"DATABASES[{alias!r}] has the engine {engine!r}, which is not supported: set USAGE_INSTRUMENT['database'] "
            "to the alias or the SQLAlchemy URL of a PostgreSQL, MySQL or SQLite database"
        )
    name = os.fspath(database.get("NAME") or "")
    if kind == "sqlite":
        return URL.create("sqlite", database=name)
    options = database.get("OPTIONS") or {}
    query = {key: str(value) for key, value in options.items() if key in _SERVER_OPTIONS[kind]}
    host = str(database.get("HOST") or "") or None
    if kind == "postgresql" and options.get("assume_role"):
        # As Django's SET ROLE, from the first moment of a connection on. A backslash escapes what divides options.
        role = re.sub(r"([\\\s])", r"\\\1", str(options["assume_role"]))
        query["options"] = f"{query.get('options', '')} -c role={role}".strip()
    if kind == "mysql":
        query |= {f"ssl_{key}": str(value) for key, value in (options.get("ssl") or {}).items()}
    if host is not None and host.startswith("/"):  # a socket
        query["unix_socket" if kind == "mysql" else "host"] = host
        host = None
    return URL.create(
        f"{kind}+{_driver(kind)}",
        str(database["USER"]) if database.get("USER") else None,
        str(database["PASSWORD"]) if database.get("PASSWORD") else None,
        host,
        int(database["PORT"]) if database.get("PORT") else None,
        name or None,
        query,
    )


def _vendor(engine: str) -> str | None:
    """The kind of a third party's engine; None for one that is not supported, or cannot be loaded."""
    try:
        vendor = load_backend(engine).DatabaseWrapper.vendor if engine else None
    except (ImproperlyConfigured, ImportError):
        return None
    return vendor if vendor in _KINDS.values() else None


def _driver(kind: str) -> str:
    drivers = _DRIVERS[kind]
    return next((driver for module, driver in drivers.items() if find_spec(module)), next(iter(drivers.values())))
