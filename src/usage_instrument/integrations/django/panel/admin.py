"""The pages of the admin site: nothing can be added, changed or deleted."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from usage_instrument.integrations.django.settings import tracker_options

from .models import Feature, FeatureUsage


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[misc]
    """A page to look at, of the database that `USAGE_INSTRUMENT` names."""

    actions = None
    show_full_result_count = False
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest) -> bool:
        """As ModelAdmin says."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """As ModelAdmin says."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """As ModelAdmin says."""
        return False

    def get_queryset(self, request: HttpRequest) -> Any:
        """As ModelAdmin says."""
        alias = tracker_options().get("database")
        rows = super().get_queryset(request)
        return rows.using(alias) if alias in settings.DATABASES else rows

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """As ModelAdmin.changelist_view; a missing table or view is explained."""
        try:
            response = super().changelist_view(request, extra_context)
            return response.render() if hasattr(response, "render") else response
        except DatabaseError as error:
            command = "manage.py usage db views" if self.model is Feature else "manage.py usage db create"
            name = self.model._meta.db_table
            messages.error(
                request, f"{name} cannot be read ({type(error).__name__}); if it does not exist, run `{command}`"
            )
            return HttpResponseRedirect(reverse("admin:index"))


@admin.register(Feature)
class FeatureAdmin(ReadOnlyAdmin):
    """Features, the most used first."""

    list_display = ("feature_name", "uses", "uses_28d", "users", "status", "last_used")
    list_filter = ("status",)
    search_fields = ("feature_name", "description")
    ordering = ("-uses",)


@admin.register(FeatureUsage)
class FeatureUsageAdmin(ReadOnlyAdmin):
    """Uses by user and feature, the latest first."""

    list_display = ("feature_name", "user_id", "usage_count", "last_used")
    list_select_related = ()
    search_fields = ("feature_name",)
    ordering = ("-last_used",)
    raw_id_fields = ("user",)
