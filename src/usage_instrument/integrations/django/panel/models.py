"""Unmanaged models: Django migrates none of them."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class Feature(models.Model):  # type: ignore[misc]
    """A row of the view `feature_usage_overview`: a feature that is declared or was used."""

    feature_name = models.CharField(max_length=100, primary_key=True)
    status = models.CharField(max_length=10)
    uses = models.BigIntegerField()
    uses_28d = models.BigIntegerField("uses in 28 days")
    users = models.BigIntegerField()
    share = models.FloatField("share of all users")
    last_used = models.DateTimeField(null=True)
    declared_at = models.DateTimeField(null=True)
    description = models.TextField(null=True)

    class Meta:
        """As Django says."""

        managed = False
        db_table = "feature_usage_overview"

    def __str__(self) -> str:
        return str(self.feature_name)


class FeatureUsage(models.Model):  # type: ignore[misc]
    """A row of `feature_usage`: the uses of a feature by a user."""

    id = models.IntegerField(primary_key=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.DO_NOTHING,  # the database deletes the rows of a deleted user
        db_constraint=False,
        null=True,
        related_name="+",
    )
    feature_name = models.CharField(max_length=100, null=True)
    metadata = models.JSONField("latest context", null=True)
    usage_count = models.IntegerField("uses", null=True)
    last_used = models.DateTimeField()

    class Meta:
        """As Django says."""

        managed = False
        db_table = "feature_usage"
        verbose_name_plural = "feature usage"

    def __str__(self) -> str:
        return f"{self.feature_name}, {self.user_id}"
