"""`manage.py flush`: Django's command, which also empties the counts of the users that it deletes."""

from __future__ import annotations

from typing import Any

from django.core.management.commands import flush
from django.db import connections

from usage_instrument import _default
from usage_instrument.database.schema import default_tables


class Command(flush.Command):  # type: ignore[misc]
    """PostgreSQL truncates no users table alone to which the counts refer. MySQL does, and a later user would inherit
    the counts of a deleted one with the same id."""

    help = flush.Command.help + (
        " Empties the tables of usage-instrument too, except feature_usage_access and _trail, the audit trail, and "
        "feature_usage_writers, by which running processes write exactly once."
    )

    def handle(self, **options: Any) -> None:
        """As BaseCommand.handle. Raises CommandError if the database refuses."""
        connection = connections[options["database"]]
        introspection = connection.introspection
        theirs = introspection.django_table_names

        def names(*arguments: Any, **choices: Any) -> list[str]:
            return [*theirs(*arguments, **choices), *_tables_of(connection)]

        introspection.django_table_names = names
        try:
            super().handle(**options)
        finally:
            del introspection.django_table_names


def _tables_of(connection: Any) -> list[str]:
    """The names of the tables that are in this database, quoted if they are in a schema of their own."""
    tracker = _default.tracker()
    schema = None if tracker is None or connection.vendor == "sqlite" else tracker.settings.schema
    tables = default_tables()
    names = [table.name for table in tables if table not in (tables.access, tables.trail, tables.writers)]
    with connection.cursor() as cursor:
        if schema is None:
            found = set(connection.introspection.table_names(cursor))
            return [name for name in names if name in found]
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = %s", [schema])
        found = {name for (name,) in cursor.fetchall()}
    quote = connection.ops.quote_name
    return [f"{quote(schema)}.{quote(name)}" for name in names if name in found]
