"""Read-only views of the tables for Flask-Admin: `add_views(admin, db)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask_admin import Admin
from flask_admin.contrib.sqla import ModelView

from .admin_models import PAGE, Shown, shown

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

__all__ = ["UsageView", "add_views"]

CATEGORY = "Usage"


class UsageView(ModelView):  # type: ignore[misc]
    """One of the tables, read-only. A subclass restricts access by `is_accessible`."""

    can_create = can_edit = can_delete = can_export = False
    page_size = PAGE

    def __init__(self, each: Shown, db: Any) -> None:
        self.column_list = list(each.columns)
        self.column_searchable_list = list(each.search)
        self.column_default_sort = (each.order, True)
        super().__init__(each.model, db, name=each.names, category=CATEGORY, endpoint=each.model.__name__.lower())


def add_views(
    admin: Admin, db: Any, tables: Tables | None = None, *, view: type[UsageView] = UsageView
) -> list[UsageView]:
    """Add the most used features, the uses by user and the declared features to a panel, and return their views.

    `db` is the SQLAlchemy object of Flask-SQLAlchemy, as for other ModelViews. Nothing can be created, changed, deleted
    or exported: the dashboard has the files, in which no cell is a formula. `tables` default to those of the configured
    tracker. `view` is a subclass of UsageView, for example with the `is_accessible` of your other views.
    """
    views = [view(each, db) for each in shown(tables)]
    for one in views:
        admin.add_view(one)
    return views
