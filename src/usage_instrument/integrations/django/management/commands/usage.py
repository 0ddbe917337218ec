"""`manage.py usage`: the command `usage-instrument`, for the database that the settings name."""

from __future__ import annotations

import os
from argparse import REMAINDER
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandParser

from usage_instrument import _default
from usage_instrument.cli import main
from usage_instrument.database.engines import url_of
from usage_instrument.settings import DATABASE_VARIABLE, ENVIRONMENT_PREFIX


class Command(BaseCommand):  # type: ignore[misc]
    """Hands its arguments on."""

    help = "Ask which features people use, and look after the tables: `manage.py usage --help` lists the commands."
    requires_system_checks: ClassVar[list[str]] = []

    def run_from_argv(self, argv: list[str]) -> None:
        """As BaseCommand.run_from_argv, with no argument taken away."""
        self.handle(arguments=argv[2:])

    def add_arguments(self, parser: CommandParser) -> None:
        """For `call_command`."""
        parser.add_argument("arguments", nargs=REMAINDER)

    def handle(self, *_: object, arguments: list[str], **__: Any) -> None:
        """As BaseCommand.handle. Raises SystemExit if the command fails."""
        tracker = _default.tracker()
        if tracker is not None and tracker.database is not None:
            url = url_of(tracker.database).render_as_string(hide_password=False)
            os.environ.setdefault(DATABASE_VARIABLE, url)
            for name in ("users", "user_id_type", "schema"):
                value = getattr(tracker.settings, name)
                if value is None or isinstance(value, str):
                    os.environ.setdefault(f"{ENVIRONMENT_PREFIX}{name.upper()}", value or "none")
        try:
            main(arguments, "manage.py usage")
        except SystemExit as leaving:
            if leaving.code:
                raise
