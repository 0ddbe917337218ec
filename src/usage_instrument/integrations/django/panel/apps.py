"""The Django app of the admin pages."""

from __future__ import annotations

from django.apps import AppConfig


class PanelConfig(AppConfig):  # type: ignore[misc]
    """Two pages of the admin site: features by their uses, and uses by user."""

    name = "usage_instrument.integrations.django.panel"
    label = "usage_instrument_panel"
    verbose_name = "Usage"
    default_auto_field = "django.db.models.AutoField"
