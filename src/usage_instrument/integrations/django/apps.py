"""The Django app: configures the tracker when settings and models are loaded."""

from __future__ import annotations

import os
import sys
from logging import WARNING
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import models, router

from usage_instrument import _default
from usage_instrument.database.engines import FOREIGN_KEYS
from usage_instrument.runtime import log
from usage_instrument.settings import DATABASE_VARIABLE, ENVIRONMENT_PREFIX

from . import settings as own_settings
from .databases import database_url


class UsageConfig(AppConfig):  # type: ignore[misc]
    """`INSTALLED_APPS = [..., "usage_instrument.integrations.django"]`.

    `USAGE_INSTRUMENT["database"]` is an alias of DATABASES or a URL. Its default is `$USAGE_INSTRUMENT_DATABASE_URL`,
    else the alias `default`. The type of user ids is that of the user model's key. While Django's or pytest's tests
    run, nothing is written unless `enabled` is set: the settings still name the real database then. An app that has
    called `configure` stays as it is.
    """

    name = "usage_instrument.integrations.django"
    label = "usage_instrument"
    verbose_name = "Usage"

    def ready(self) -> None:
        """As AppConfig.ready. Raises ConfigurationError, and TypeError for a name that is no setting."""
        if _default.tracker() is not None:
            return
        options = own_settings.tracker_options()
        database = options.pop("database", None)
        alias = None
        if database in settings.DATABASES:
            alias = database
        elif database is None and not os.environ.get(DATABASE_VARIABLE):
            alias = "default"
            dummy = {"ENGINE": "django.db.backends.dummy"}  # as Django takes it
            if (settings.DATABASES.get("default") or dummy)["ENGINE"] == dummy["ENGINE"]:
                log.emit(WARNING, "DATABASES names no database, as in a build: nothing is counted")
                return
        if alias is not None:
            database = database_url(alias)
            if database.get_backend_name() == "sqlite":  # a row of a deleted user would make later migrations fail
                database = database.update_query_dict({FOREIGN_KEYS: "on"})
        if sys.argv[1:2] == ["test"] and f"{ENVIRONMENT_PREFIX}ENABLED" not in os.environ:
            options.setdefault("enabled", False)
        for name, value in _of_user_model(alias).items():
            if f"{ENVIRONMENT_PREFIX}{name.upper()}" not in os.environ and "tables" not in options:
                options.setdefault(name, value)
        _default.configure(database, **options)


def _of_user_model(alias: str | None) -> dict[str, Any]:
    """The type of user ids, and the column that they refer to if it is in the same database."""
    if not apps.is_installed("django.contrib.auth") and settings.AUTH_USER_MODEL == "auth.User":
        return {}  # a site without users
    model = get_user_model()
    key = model._meta.pk
    while key.remote_field is not None:  # a user model that extends another model
        key = key.target_field
    types = {"uuid": models.UUIDField, "integer": models.IntegerField, "string": models.CharField}
    kind = next((kind for kind, field in types.items() if isinstance(key, field)), None)
    if kind is None:
        return {}
    table, column = model._meta.db_table, model._meta.pk.column
    is_here = alias is not None and router.db_for_write(model) == alias
    plain = is_here and not {'"', "."} & set(table)
    return {"user_id_type": kind, "users": f"{table}.{column}" if plain else None}
