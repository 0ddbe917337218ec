"""Read-only views of the tables for SQLAdmin: `add_views(admin)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from sqladmin import Admin, ModelView

from .admin_models import PAGE, shown

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

__all__ = ["add_views"]

CATEGORY = "Usage"


def add_views(admin: Admin, tables: Tables | None = None) -> list[type[ModelView]]:
    """Add the most used features, the uses by user and the declared features to a panel, and return their views.

    The engine or session maker of the panel reads them; nothing can be created, changed, deleted or exported: the
    dashboard has the files, in which no cell is a formula. `tables` default to those of the configured tracker.
    """
    views: list[type[ModelView]] = []
    for each in shown(tables):

        class View(ModelView, model=each.model):
            """One of the tables."""

            name, name_plural, category = each.name, each.names, CATEGORY
            can_create = can_edit = can_delete = can_export = False
            column_list: ClassVar[list[Any]] = list(each.columns)
            column_searchable_list: ClassVar[list[Any]] = list(each.search)
            column_sortable_list: ClassVar[list[Any]] = list(each.columns)
            column_default_sort = (each.order, True)
            page_size = PAGE

        admin.add_view(View)
        views.append(View)
    return views
