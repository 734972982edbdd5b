"""Toolkits switched on for projects, and the accounts people connected there."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from apps.lib import ids
from apps.lib.vault import Sealing
from apps.workspaces.models import EndUser, Project


class IntegrationQuerySet(models.QuerySet["Integration"]):
    def enabled(self) -> IntegrationQuerySet:
        return self.filter(enabled=True)

    def primary(self) -> IntegrationQuerySet:
        """The one of each toolkit that tools, connect and configure use."""
        return self.filter(is_primary=True)


class Integration(Sealing, models.Model):
    """A toolkit switched on for a project.

    A project has one primary integration of a toolkit; the Raw execute API may make further ones, and those of the toolkit
    ``custom``, which is no toolkit of the catalog: there ``settings`` says where to call and how (`access.toolkit_of`).

    ``settings`` may override what the toolkit's file says for this project: ``base_url``, ``authorization_url``,
    ``token_url``, ``refresh_url``, ``revocation_url``, and ``variables`` (a self-hosted host, a tenant).
    """

    SEALED = ("client_secret",)
    URL_SETTINGS: ClassVar[tuple[str, ...]] = (
        "base_url", "authorization_url", "token_url", "refresh_url", "revocation_url", "request_token_url",
    )  # fmt: skip

    id = models.CharField(primary_key=True, max_length=40, default=ids.integration_id, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="integrations")
    toolkit = models.CharField(max_length=100)
    display_name = models.CharField(max_length=100, blank=True)
    enabled = models.BooleanField(default=True)
    is_primary = models.BooleanField(default=True, db_default=True, editable=False)
    scopes = models.JSONField(default=list, blank=True, help_text="Asked for; empty: the toolkit's own.")
    client_id = models.CharField("OAuth client id", max_length=500, blank=True)
    client_secret = models.TextField(blank=True, editable=False)
    settings = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    objects = IntegrationQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "toolkit"], condition=Q(is_primary=True), name="primary_integration_of_toolkit"
            )
        ]

    def __str__(self) -> str:
        return self.display_name or self.toolkit


class ConnectionQuerySet(models.QuerySet["Connection"]):
    def of_user(self, project_id: str, user_id: str) -> ConnectionQuerySet:
        return self.filter(project_id=project_id, end_user__external_id=user_id)

    def free_to_refresh(self, now: datetime) -> ConnectionQuerySet:
        """Those that nobody is refreshing: no lease, or one that ran out."""
        return self.filter(Q(lease_until=None) | Q(lease_until__lt=now))


class Connection(Sealing, models.Model):
    """An end user's account at a service, or an integration's shared one (no end user).

    ``version`` counts the writes of ``credentials``: a refresh takes the lease of one version and writes only over that
    version, so that a late holder never overwrites a newer token.
    """

    SEALED = ("credentials",)

    class Status(models.TextChoices):
        ACTIVE = "active", "Active"
        INACTIVE = "inactive", "Waits for confirmation"
        EXPIRED = "expired", "Needs reconnect"

    id = models.CharField(primary_key=True, max_length=40, default=ids.connection_id, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="connections")
    integration = models.ForeignKey(Integration, on_delete=models.CASCADE, related_name="connections")
    end_user = models.ForeignKey(EndUser, on_delete=models.CASCADE, related_name="connections", null=True, blank=True)
    toolkit = models.CharField(max_length=100)
    auth_type = models.CharField(max_length=30)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.ACTIVE)
    # False for a further account of the same user (allowMultiple): the constraint below holds for the first one only.
    is_primary = models.BooleanField(default=True)

    credentials = models.TextField(editable=False)
    version = models.PositiveIntegerField(default=1, editable=False)
    expires_at = models.DateTimeField("token expires", null=True, blank=True, editable=False)
    lease_owner = models.CharField(max_length=40, blank=True, editable=False)
    lease_until = models.DateTimeField(null=True, blank=True, editable=False)
    refresh_failures = models.PositiveSmallIntegerField(default=0, editable=False)
    refresh_not_before = models.DateTimeField(null=True, blank=True, editable=False)
    error = models.CharField(max_length=300, blank=True, editable=False)

    # When the background work looks after it next: a token near its expiry, or a refresh token that dies of disuse.
    refresh_due_at = models.DateTimeField(null=True, blank=True, editable=False)

    account_id = models.CharField(max_length=255, blank=True, editable=False)
    account_label = models.CharField("account", max_length=255, blank=True, editable=False)
    account_picture = models.CharField(max_length=1000, blank=True, editable=False)
    scopes = models.JSONField(default=list, editable=False, help_text="Granted by the provider.")
    asked_scopes = models.JSONField(default=list, db_default=models.Value([], models.JSONField()), editable=False)
    variables = models.JSONField(default=dict, editable=False)
    label = models.CharField(max_length=100, blank=True)
    metadata = models.JSONField(default=dict, blank=True)

    connected_at = models.DateTimeField(default=timezone.now, editable=False)
    refreshed_at = models.DateTimeField(null=True, editable=False)
    last_used_at = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    objects = ConnectionQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["integration", "end_user"],
                condition=Q(is_primary=True, end_user__isnull=False),
                name="one_primary_account",
            ),
            models.UniqueConstraint(
                fields=["integration"], condition=Q(is_primary=True, end_user__isnull=True), name="one_shared_account"
            ),
        ]
        indexes = [
            models.Index(fields=["project", "created_at"], name="connection_newest"),
            models.Index(fields=["refresh_due_at"], name="connection_refresh_due"),
        ]

    def __str__(self) -> str:
        return f"{self.toolkit}: {self.account_label or self.id}"


class ConnectPage(models.Model):
    """A hosted connect page: what `POST connect-sessions` makes. Its link opens once, in the browser that comes first."""

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    digest = models.CharField(max_length=64, unique=True, help_text="SHA-256 of the link's secret.")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+")
    end_user = models.ForeignKey(EndUser, on_delete=models.CASCADE, related_name="+")
    toolkits = models.JSONField(default=list, help_text="Slugs; empty: every enabled toolkit.")
    redirect_url = models.CharField(max_length=2000, blank=True)
    allowed_origins = models.JSONField(default=list, help_text="Who may open it in a popup and is told how it ends.")
    binding = models.CharField(max_length=64, blank=True, help_text="Hash of the browser's cookie, once it was opened.")
    opened_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [models.Index(fields=["expires_at"], name="connect_page_age")]


class ConnectSession(Sealing, models.Model):
    """A short-lived, single-use permission to connect.

    ``binding`` is the hash of the cookie of the browser in which a flow of our own pages started; empty where the flow's
    URL was handed to an integrator.
    """

    SEALED = ("verifier",)

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    state_digest = models.CharField(max_length=64, unique=True)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+")
    integration = models.ForeignKey(Integration, on_delete=models.CASCADE, related_name="+")
    page = models.ForeignKey(ConnectPage, on_delete=models.SET_NULL, related_name="+", null=True)
    end_user = models.ForeignKey(EndUser, on_delete=models.CASCADE, related_name="+", null=True)
    connection_id = models.CharField(max_length=40, db_index=True)
    auth_type = models.CharField(max_length=30)
    redirect_url = models.CharField(max_length=2000, blank=True)
    callback_url = models.CharField(max_length=500)
    verifier = models.TextField(blank=True)
    binding = models.CharField(max_length=64, blank=True)
    scopes = models.JSONField(default=list)
    variables = models.JSONField(default=dict)
    allow_multiple = models.BooleanField(default=False)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=30, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [models.Index(fields=["expires_at"], name="connect_session_age")]


class AuthSession(models.Model):
    """A connection under the id by which the Runs API knows it, where it was made over that API.

    Other connections of the toolkit for which a project has switched auth sessions on are auth sessions by their own id.
    """

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="auth_sessions")
    name = models.CharField("id", max_length=255)
    toolkit = models.CharField(max_length=100)
    connection = models.OneToOneField(Connection, on_delete=models.CASCADE, related_name="auth_session", null=True)
    # The living run, or job run, that has it to itself, where the toolkit says that only one may.
    held_by = models.CharField(max_length=40, blank=True, editable=False)
    held_at = models.DateTimeField(null=True, editable=False)
    # When the service last refused the account, renewed or not; empty again once it takes it.
    refused_at = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "toolkit", "name"], name="auth_session_of_toolkit")]
        indexes = [models.Index(fields=["held_at"], condition=Q(held_at__isnull=False), name="auth_session_held")]

    def __str__(self) -> str:
        return self.name


class AuthOperation(Sealing, models.Model):
    """Creating, updating or validating an auth session: begun over the API, done by a worker, its result read later.

    ``inputs`` (the credentials) are emptied when it ends.
    """

    SEALED = ("inputs",)

    class Kind(models.TextChoices):
        CREATE = "create", "Create"
        UPDATE = "update", "Update"
        VALIDATE = "validate", "Validate"

    class Status(models.TextChoices):
        PENDING = "pending", "Pending"
        IN_PROGRESS = "in_progress", "In progress"
        DONE = "done", "Done"
        FAILED = "failed", "Failed"
        CANCELED = "canceled", "Cancelled"

    id = models.CharField(primary_key=True, max_length=40, default=ids.run_id, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+")
    session = models.ForeignKey(AuthSession, on_delete=models.CASCADE, related_name="operations", null=True)
    # The auth session's id as the API shows it: an AuthSession's name, or a connection's id.
    name = models.CharField(max_length=255)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.PENDING)
    inputs = models.TextField(blank=True, editable=False)
    options = models.JSONField(default=dict, help_text="{createAttempts, checkAttempts, autoRecreate, requestTimeout}")
    error = models.JSONField(null=True, help_text="{message, code, category, retirable, details}")
    started_by = models.CharField(max_length=320, blank=True)
    lease_until = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["created_at"], name="auth_operation_age"),
            models.Index(
                fields=["created_at"], condition=Q(status__in=("pending", "in_progress")), name="auth_operation_open"
            ),
        ]


class SandboxNote(models.Model):
    """A note that a person keeps in the sandbox toolkit's service."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    text = models.CharField(max_length=2000)
    tags = models.JSONField(default=list)
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return self.text[:50]
