"""Who there is: people, tenants, projects, their end users, and the keys with which they call."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from datetime import date, datetime
from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from apps.lib import ids
from apps.lib.vault import Sealing

from .retention import ForgetOn, audit_days_of, day_after, days_of

KEY_PREFIX = "jf_sk_"
SCOPES = ("admin", "connect", "execute", "runs", "secrets")


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        user = self.model(email=self.normalize_email(email).lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    def get_by_natural_key(self, username: str | None) -> User:
        return self.get(email__iexact=username or "")


class User(AbstractBaseUser, PermissionsMixin):
    """A person who signs in, by e-mail."""

    email = models.EmailField(unique=True)
    name = models.CharField(max_length=150, blank=True)
    is_active = models.BooleanField(default=True)
    is_staff = models.BooleanField("may use the admin", default=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects: ClassVar[UserManager] = UserManager()

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    def __str__(self) -> str:
        return self.email

    def get_full_name(self) -> str:
        return self.name or self.email

    def get_short_name(self) -> str:
        return self.name or self.email.partition("@")[0]


class Plan(models.Model):
    """Limits of a workspace; an empty limit is none."""

    name = models.CharField(max_length=60, unique=True)
    connections = models.PositiveIntegerField("connections", null=True, blank=True)
    keys = models.PositiveIntegerField("keys", null=True, blank=True)
    calls_per_minute = models.PositiveIntegerField("calls a minute and key", null=True, blank=True)
    calls_per_day = models.PositiveIntegerField("calls a day (UTC)", null=True, blank=True)
    concurrent_calls = models.PositiveIntegerField("calls at the same time", null=True, blank=True)
    concurrent_runs = models.PositiveIntegerField("concurrent runs", null=True, blank=True)
    retention_days = models.PositiveSmallIntegerField(
        "days that logs are kept", null=True, blank=True,
        help_text="Executions, runs, traces, deliveries; a project may set fewer. Empty: as the installation does.",
    )  # fmt: skip
    audit_days = models.PositiveSmallIntegerField(
        "days that the audit log is kept", null=True, blank=True, help_text="Empty: as the installation does."
    )

    def __str__(self) -> str:
        return self.name


class Role(models.TextChoices):
    OWNER = "owner", "Owner"
    ADMIN = "admin", "Admin"
    DEVELOPER = "developer", "Developer"
    VIEWER = "viewer", "Viewer"


class WorkspaceQuerySet(models.QuerySet["Workspace"]):
    def of(self, user: Any, *roles: str) -> WorkspaceQuerySet:
        """Those the person is a member of, in one of the roles where any is named; all for a superuser."""
        if user.is_superuser:
            return self
        wanted = Q(memberships__user=user)
        if roles:
            wanted &= Q(memberships__role__in=roles)
        return self.filter(wanted)


class Workspace(models.Model):
    """A tenant."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100)
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="workspaces")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = WorkspaceQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    """A person in a workspace, in one role."""

    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=20, choices=Role.choices, default=Role.DEVELOPER)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["workspace", "user"], name="one_membership_a_workspace")]

    def __str__(self) -> str:
        return f"{self.user} ({self.role})"


class Project(models.Model):
    """One product of a workspace."""

    id = models.CharField(primary_key=True, max_length=40, default=ids.project_id, editable=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="projects")
    name = models.CharField(max_length=100, validators=[RegexValidator(r"^[^/]+$", "A name has no slash.")])
    logo_url = models.URLField("logo", blank=True, max_length=500)
    colour = models.CharField(
        max_length=7, default="#4f46e5", validators=[RegexValidator(r"^#[0-9a-fA-F]{6}$", "Like #4f46e5.")]
    )
    allowed_origins = models.JSONField(
        default=list, blank=True, help_text="Origins that return URLs may lead to: https://app.example"
    )
    confirm_connections = models.BooleanField(
        default=False, help_text="New connections stay inactive until the integrator confirms them."
    )
    settings = models.JSONField(default=dict, blank=True)
    # Counts the changes of the project's own toolkits; 0: it has never had any. It comes with the SELECT that finds out who
    # calls, so that every process notices a change.
    toolkits_version = models.PositiveIntegerField(default=0, db_default=0, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["workspace", "name"], name="project_name_in_workspace")]

    def __str__(self) -> str:
        return self.name


class JwtIssuer(Sealing, models.Model):
    """Who may sign tokens for a project's end users, and how they are checked (RFC 7519, RFC 8725)."""

    SEALED = ("secret",)

    class Method(models.TextChoices):
        HS256 = "HS256", "Shared secret (HS256)"
        RS256 = "RS256", "Public key (RS256)"
        ES256 = "ES256", "Public key (ES256)"
        EDDSA = "EdDSA", "Public key (EdDSA)"
        JWKS = "JWKS", "JWKS URL (RS256, ES256, EdDSA)"

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="jwt_issuers")
    method = models.CharField(max_length=10, choices=Method.choices)
    issuer = models.CharField("issuer (iss)", max_length=255, help_text="Must equal the token's iss claim.")
    audience = models.CharField("audience (aud)", max_length=255, blank=True)
    secret = models.TextField(blank=True, editable=False)
    public_key = models.TextField(blank=True, help_text="PEM")
    jwks_url = models.URLField("JWKS URL", blank=True, max_length=500)
    user_claim = models.CharField(max_length=60, default="sub")
    role_claim = models.CharField(max_length=60, blank=True)
    leeway = models.PositiveIntegerField("clock leeway in seconds", default=30)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "issuer"], name="issuer_in_project")]

    def __str__(self) -> str:
        return self.issuer


class EndUser(models.Model):
    """A person of the integrator's product, known by the integrator's own id."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="end_users")
    external_id = models.CharField("id", max_length=255)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "external_id"], name="end_user_in_project")]

    def __str__(self) -> str:
        return self.external_id


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def usable(self) -> ApiKeyQuerySet:
        """Neither revoked nor expired."""
        return self.filter(revoked_at=None).filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()))


class ApiKey(models.Model):
    """An API key: only its SHA-256 is kept, so it is shown once, where it is made.

    Bound to a workspace, and where set also to a project, one of its end users, or a module.
    """

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="api_keys")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="api_keys", null=True, blank=True)
    end_user = models.ForeignKey(EndUser, on_delete=models.CASCADE, related_name="api_keys", null=True, blank=True)
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=20, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    scopes = models.JSONField(default=list)
    toolkits = models.JSONField(default=list, blank=True, help_text="Slugs; empty: every toolkit.")
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @staticmethod
    def new_secret() -> str:
        """A new key: 256 random bits after a prefix that secret scanners can know."""
        return KEY_PREFIX + secrets.token_urlsafe(32)

    @staticmethod
    def digest_of(secret: str) -> str:
        """SHA-256 suffices: the key has 256 bits of its own, so there is nothing to guess or to salt."""
        return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()

    def is_usable(self, now: datetime | None = None) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > (now or timezone.now()))


class MemberSessionQuerySet(models.QuerySet["MemberSession"]):
    def usable(self) -> MemberSessionQuerySet:
        """Neither revoked nor expired."""
        return self.filter(revoked_at=None, expires_at__gt=timezone.now())


class MemberSession(models.Model):
    """A member's sign-in over the API: its refresh token, hashed, replaced at every use."""

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_sessions")
    refresh_digest = models.CharField(max_length=64, unique=True)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = MemberSessionQuerySet.as_manager()


class AuditEvent(models.Model):
    """Who did what, on what, from where. Rows are only added."""

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    workspace = models.ForeignKey(
        Workspace, on_delete=models.CASCADE, related_name="audit_events", null=True, db_constraint=False
    )
    project = models.ForeignKey(
        Project, on_delete=models.SET_NULL, related_name="+", null=True, blank=True, db_constraint=False
    )
    actor = models.CharField(max_length=320)
    action = models.CharField(max_length=60)
    target = models.CharField(max_length=320, blank=True)
    ip = models.CharField(max_length=64, blank=True)
    request_id = models.CharField(max_length=128, blank=True)
    details = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    forget_on = ForgetOn()

    class Meta:
        indexes = [models.Index(fields=["workspace", "-created_at"], name="audit_newest")]

    def __str__(self) -> str:
        return f"{self.actor} {self.action} {self.target}"

    def day_to_go(self) -> date:
        return day_after(self.created_at, audit_days_of(self.workspace_id))


class IdempotencyRecord(models.Model):
    """The first answer to an Idempotency-Key, for 24 hours."""

    id = models.CharField(primary_key=True, max_length=64)
    body_digest = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField(null=True)
    answer = models.BinaryField(null=True)
    headers = models.JSONField(default=dict)
    created_at = models.DateTimeField(default=timezone.now, editable=False, db_index=True)


class UsageCounter(models.Model):
    """Calls counted against a plan's limit in one window (a minute, a day), over all processes."""

    id = models.CharField(primary_key=True, max_length=120)
    used = models.PositiveBigIntegerField(default=0)
    ends_at = models.DateTimeField(db_index=True)


class CallSlots(models.Model):
    """How many calls of a workspace one process may have under way at the same time, of those that its plan permits.

    A process that was killed holds them until ``expires_at``.
    """

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="+")
    holder = models.CharField(max_length=40)
    slots = models.PositiveIntegerField(default=0)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["workspace", "holder"], name="slots_of_a_process")]


class WebhookEndpoint(Sealing, models.Model):
    """An address of the integrator that is told of a project's events.

    After a rotation both secrets sign for a day, so that the receiver can change over in between.
    """

    SEALED = ("secret", "previous_secret")

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="webhooks")
    url = models.CharField("URL", max_length=2000)
    description = models.CharField(max_length=200, blank=True)
    events = models.JSONField(default=list, blank=True, help_text="Types of events; empty: all.")
    secret = models.TextField(editable=False)
    previous_secret = models.TextField(blank=True, editable=False)
    previous_secret_until = models.DateTimeField(null=True, blank=True, editable=False)
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return self.url


class WebhookDeliveryQuerySet(models.QuerySet["WebhookDelivery"]):
    def due(self, now: datetime) -> WebhookDeliveryQuerySet:
        """Those to be tried: their time has come, nobody carries them, and they are not past their end."""
        return self.filter(status=WebhookDelivery.Status.PENDING, next_try_at__lte=now, ends_at__gt=now)


class WebhookDelivery(models.Model):
    """One event on its way to one endpoint, with its tries.

    ``event_id`` is the webhook-id of the Standard Webhooks scheme: the same for every try, and for a redelivery.
    """

    class Status(models.TextChoices):
        PENDING = "pending", "Pending"
        DELIVERED = "delivered", "Delivered"
        DEAD = "dead", "Dead"

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+", db_constraint=False)
    endpoint = models.ForeignKey(
        WebhookEndpoint, on_delete=models.CASCADE, related_name="deliveries", db_constraint=False
    )  # fmt: skip
    event_id = models.CharField(max_length=60)
    event_type = models.CharField(max_length=60)
    body = models.TextField()
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING)
    tries = models.JSONField(default=list)
    try_count = models.PositiveIntegerField(default=0)
    next_try_at = models.DateTimeField(null=True)
    lease_until = models.DateTimeField(null=True)
    ends_at = models.DateTimeField(help_text="From then on it is dead.")
    delivered_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now)
    forget_on = ForgetOn()

    objects = WebhookDeliveryQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "webhook deliveries"
        indexes = [
            models.Index(fields=["status", "next_try_at"], name="delivery_due"),
            models.Index(fields=["endpoint", "created_at"], name="delivery_newest"),
        ]

    def __str__(self) -> str:
        return f"{self.event_type} {self.created_at:%Y-%m-%d %H:%M:%S}"

    def day_to_go(self) -> date:
        return day_after(max(self.created_at, self.ends_at), days_of(self.project_id))


class NotificationRule(models.Model):
    """Who is told of what goes wrong in a project, and how often at most."""

    class Event(models.TextChoices):
        RUN_FAILED = "run.failed", "A run failed"
        JOB_RUN_FAILED = "job_run.failed", "A job run failed"
        CONNECTION_FAILED = "connection.failed", "A connection needs its person"

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="notification_rules")
    events = models.JSONField(default=list, help_text="Of which kinds; empty: of all.")
    emails = models.JSONField(default=list, blank=True, help_text="Addresses that get a mail.")
    webhook = models.ForeignKey(
        WebhookEndpoint, on_delete=models.SET_NULL, related_name="notification_rules", null=True, blank=True
    )
    every_minutes = models.PositiveIntegerField(
        "minutes between two messages", default=0,
        help_text="0: each failure by itself. Else those in between come together in the next message.",
    )  # fmt: skip
    enabled = models.BooleanField(default=True)
    last_sent_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        known = {str(value): label for value, label in self.Event.choices}
        return ", ".join(known.get(name, name) for name in self.events) or "Whatever fails"


class Notice(models.Model):
    """One failure that a rule is still to tell of; ``sent_at`` is when it went into a message."""

    id = models.BigAutoField(primary_key=True)
    rule = models.ForeignKey(NotificationRule, on_delete=models.CASCADE, related_name="notices")
    event = models.CharField(max_length=40)
    subject = models.CharField(max_length=320, help_text="The id of what failed.")
    data = models.JSONField(default=dict, help_text="{title, message, url, at}")
    sent_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [models.Index(fields=["rule", "created_at"], condition=Q(sent_at=None), name="notice_to_send")]


class NoticeMail(models.Model):
    """One e-mail of a rule, to all its addresses. ``next_try_at`` of a pending one is when a worker may next take it."""

    class Status(models.TextChoices):
        PENDING = "pending", "On its way"
        SENT = "sent", "Sent"
        FAILED = "failed", "Given up"

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    rule = models.ForeignKey(NotificationRule, on_delete=models.CASCADE, related_name="mails")
    addresses = models.JSONField(default=list)
    data = models.JSONField(default=dict, help_text="{total, notices: the first of them, test}")
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING)
    try_count = models.PositiveIntegerField(default=0)
    error = models.CharField(max_length=200, blank=True)
    next_try_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [models.Index(fields=["next_try_at"], condition=Q(status="pending"), name="notice_mail_due")]
