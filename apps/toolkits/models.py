"""Toolkits of a project's own: the same schema as the catalog's files, as rows."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from apps.lib import ids
from apps.workspaces.models import Project


class OwnToolkit(models.Model):
    """One toolkit that a project described for itself. ``document`` is what its file would say."""

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="own_toolkits")
    slug = models.CharField(max_length=100)
    document = models.JSONField()
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "slug"], name="own_toolkit_of_project")]

    def __str__(self) -> str:
        return self.slug
