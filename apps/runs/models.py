"""What was done: executions of tools. Runs of modules come to stand here too."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from apps.lib import ids
from apps.workspaces.models import Project


class Execution(models.Model):
    """One tool call or raw call. Plain texts and no foreign keys but the project's: rows are written in batches."""

    class Surface(models.TextChoices):
        INTEGRATIONS = "integrations", "Integrations API"
        SHORTCUT = "shortcut", "Shortcut API"
        RAW = "raw", "Raw execute API"
        PROXY = "proxy", "Proxy"
        ADMIN = "admin", "Admin"

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="executions", db_index=False)
    surface = models.CharField(max_length=20, choices=Surface.choices)
    caller = models.CharField(max_length=320, blank=True)
    user_id = models.CharField("end user", max_length=255, blank=True)
    connection_id = models.CharField(max_length=40, blank=True)
    integration_id = models.CharField(max_length=40, blank=True, db_default="")
    toolkit = models.CharField(max_length=100)
    tool = models.CharField(max_length=200)
    successful = models.BooleanField()
    status = models.PositiveSmallIntegerField("provider's status", null=True)
    error = models.CharField(max_length=60, blank=True)
    message = models.CharField(max_length=500, blank=True)
    method = models.CharField(max_length=10, blank=True)
    url = models.CharField(max_length=2000, blank=True)
    request = models.TextField(blank=True)
    response = models.TextField(blank=True)
    duration_ms = models.PositiveIntegerField(default=0)
    upstream_ms = models.PositiveIntegerField(default=0)
    tries = models.PositiveSmallIntegerField(default=0)
    request_id = models.CharField(max_length=128, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [
            models.Index(fields=["project", "-created_at", "-id"], name="execution_newest"),
            models.Index(fields=["created_at"], name="execution_age"),
            models.Index(fields=["integration_id", "created_at"], name="execution_of_integration"),
        ]

    def __str__(self) -> str:
        return f"{self.tool} {self.created_at:%Y-%m-%d %H:%M:%S}"
