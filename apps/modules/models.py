"""Modules: what was written, what was published, and the keys that start it."""

from __future__ import annotations

import hashlib
import secrets

from django.db import models
from django.db.models import Q
from django.utils import timezone

from apps.lib import ids
from apps.lib.vault import Sealing
from apps.workspaces.models import Project


class ModuleQuerySet(models.QuerySet["Module"]):
    def living(self) -> ModuleQuerySet:
        """Those that were not deleted: a deleted one stays, nameless to the API, for as long as it has runs."""
        return self.filter(deleted_at=None)

    def published(self) -> ModuleQuerySet:
        return self.living().filter(published__isnull=False)


class Module(Sealing, models.Model):
    """An automation of a project: a draft that changes, and the version that is published.

    ``source`` is the draft as it was written (YAML or JSON), ``draft`` the same as data. ``hook_secret`` is what senders of
    its hook sign with.
    """

    SEALED = ("hook_secret",)

    class Access(models.TextChoices):
        PUBLIC = "public", "Public link"
        SIGNED_IN = "signed_in", "Signed-in users"
        API_KEY = "api_key", "Only accessible via an API key"
        OFF = "off", "Off"

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="modules")
    name = models.CharField(max_length=150)
    title = models.CharField(max_length=150, blank=True)
    # Of the published version, or of the draft where there is none.
    access = models.CharField(max_length=10, choices=Access.choices, default=Access.API_KEY)
    source = models.TextField()
    draft = models.JSONField(default=dict)
    draft_changed_at = models.DateTimeField(default=timezone.now)
    draft_changed_by = models.CharField(max_length=320, blank=True)
    published = models.ForeignKey(
        "ModuleVersion", on_delete=models.SET_NULL, related_name="+", null=True, blank=True, editable=False
    )
    public_id = models.CharField(
        "published module's id", max_length=22, unique=True, editable=False, default=ids.token_22
    )
    hook_token = models.CharField(max_length=43, unique=True, editable=False, default=ids.token_43)
    hook_secret = models.TextField(blank=True, editable=False)
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    objects = ModuleQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "name"], condition=Q(deleted_at=None), name="module_name_in_project"
            )
        ]

    def __str__(self) -> str:
        return self.title or self.name


class ModuleVersion(models.Model):
    """A definition as it was published, never changed again; without a number, a draft as it was tried out."""

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    module = models.ForeignKey(Module, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField(null=True)
    definition = models.JSONField()
    source = models.TextField()
    note = models.CharField(max_length=500, blank=True)
    created_by = models.CharField(max_length=320, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["module", "number"], name="number_of_version")]

    def __str__(self) -> str:
        return f"{self.module} {self.number}" if self.number else f"{self.module} (draft)"


class ModuleKeyQuerySet(models.QuerySet["ModuleKey"]):
    def usable(self) -> ModuleKeyQuerySet:
        return self.filter(revoked_at=None).filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()))


class ModuleKey(models.Model):
    """A module's own key: 43 characters, of which only the SHA-256 is kept. It starts and reads runs of that module alone."""

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    module = models.ForeignKey(Module, on_delete=models.CASCADE, related_name="keys")
    prefix = models.CharField(max_length=8, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    created_by = models.CharField(max_length=320, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = ModuleKeyQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.prefix}…"

    @staticmethod
    def new_secret() -> str:
        """256 random bits as 43 characters of base64url."""
        return secrets.token_urlsafe(32)

    @staticmethod
    def digest_of(secret: str) -> str:
        return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()


class Group(models.Model):
    """People who may answer for one another: ``group:buyers`` among the assignees of a form or an approval."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="groups")
    name = models.CharField(max_length=60)
    members = models.JSONField(default=list, help_text="E-mail addresses.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "name"], name="group_name_in_project")]

    def __str__(self) -> str:
        return self.name
