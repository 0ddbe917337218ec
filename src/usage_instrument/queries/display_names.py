"""The names of features for people, from the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, exc, func, select

from usage_instrument.database.tables import Tables


def display_names(connection: Connection, tables: Tables) -> dict[str, str]:
    """The names for people, by feature; the alphabetically last one where services differ.

    Empty with a catalogue of an earlier release, which has none.
    """
    catalog = tables.catalog
    name = func.max(catalog.c.display_name)
    stated = select(catalog.c.feature_name, name).where(catalog.c.display_name.is_not(None))
    try:
        with connection.begin_nested():  # a whole rollback would undo the timeout of the transaction
            return {row[0]: row[1] for row in connection.execute(stated.group_by(catalog.c.feature_name))}
    except exc.DBAPIError:
        return {}


def with_display_names(
    names: Iterable[str], rows: Sequence[Mapping[Any, Any]], displays: Mapping[str, str]
) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns and rows of an answer; after `feature_name` comes `display_name`, if code declares any."""
    names = list(names)
    if displays and "feature_name" in names:
        names.insert(names.index("feature_name") + 1, "display_name")
        rows = [{**row, "display_name": displays.get(row["feature_name"])} for row in rows]
    return names, [{name: row[name] for name in names} for row in rows]
