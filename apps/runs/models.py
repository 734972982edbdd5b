"""What was done: executions of tools, runs of modules, and the questions that runs ask people."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from apps.lib import ids
from apps.lib.vault import Sealing
from apps.modules.models import Module, ModuleVersion
from apps.workspaces.models import Project, Workspace


class Execution(models.Model):
    """One tool call or raw call. Plain texts and no foreign keys but the project's: rows are written in batches."""

    class Surface(models.TextChoices):
        INTEGRATIONS = "integrations", "Integrations API"
        SHORTCUT = "shortcut", "Shortcut API"
        RAW = "raw", "Raw execute API"
        PROXY = "proxy", "Proxy"
        ADMIN = "admin", "Admin"
        RUN = "run", "Run of a module"

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


LONGEST_LEASE = timedelta(minutes=5)  # that one may still last: it is renewed all the while


class RunQuerySet(models.QuerySet["Run"]):
    def living(self) -> RunQuerySet:
        """Those that have not ended."""
        return self.filter(status__in=Run.LIVING)

    def due(self, now: datetime) -> RunQuerySet:
        """Those with something to do now that nobody carries."""
        return self.living().filter(wake_at__lte=now).free(now)

    def free(self, now: datetime) -> RunQuerySet:
        """Those without a lease, or with one that is over; one that ends too late is of a clock that was wrong."""
        return self.filter(Q(lease_until=None) | Q(lease_until__lt=now) | Q(lease_until__gt=now + LONGEST_LEASE))


class Run(Sealing, models.Model):
    """One execution of a module's version. The row is the truth; Celery only hints at it.

    Whoever carries the run holds a lease: ``lease_token`` stands in the WHERE of each of its writes, so that a late holder
    writes nothing. Whoever changes what the run waits for (an answer, an event, a child's end) adds to ``pokes`` and sets
    ``wake_at``: a carrier gives the run back only if nobody poked since it last looked.
    """

    SEALED = ("proxy",)

    class Status(models.TextChoices):
        CREATED = "created", "Created"
        RUNNING = "running", "Running"
        WAITING_FOR_INPUT = "waiting_for_input", "Waits for an answer"
        COMPLETED = "completed", "Completed"
        FATAL_ERRORED = "fatal_errored", "Failed"
        CANCELLED = "cancelled", "Cancelled"

    class Surface(models.TextChoices):
        RUNS = "runs", "Runs API"
        SESSIONS = "sessions", "Sessions API"
        HOOK = "hook", "Hook"
        FORM = "form", "Form link"
        ADMIN = "admin", "Admin"
        RUN = "run", "Another run"

    LIVING = (Status.CREATED, Status.RUNNING, Status.WAITING_FOR_INPUT)

    id = models.CharField(primary_key=True, max_length=40, default=ids.run_id, editable=False)
    session_id = models.CharField(max_length=22, unique=True, default=ids.token_22, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="runs", db_index=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="+", db_index=False)
    module = models.ForeignKey(Module, on_delete=models.CASCADE, related_name="runs", db_index=False)
    version = models.ForeignKey(ModuleVersion, on_delete=models.CASCADE, related_name="+")
    # The run whose step this one is, that step, and the run at the top: people see its tasks on one page.
    parent = models.ForeignKey("self", on_delete=models.CASCADE, related_name="children", null=True, blank=True)
    parent_key = models.CharField(max_length=500, blank=True)
    root = models.ForeignKey("self", on_delete=models.CASCADE, related_name="+", null=True, blank=True)
    depth = models.PositiveSmallIntegerField(default=0)

    surface = models.CharField(max_length=20, choices=Surface.choices)
    started_by = models.CharField(max_length=320, blank=True)
    user_id = models.CharField("end user", max_length=255, blank=True)
    parameters = models.JSONField(default=dict)
    maximum_attempts = models.PositiveSmallIntegerField(default=3)
    request_timeout = models.PositiveIntegerField("seconds that an attempt may work", default=600)
    save_trace = models.BooleanField(default=True)
    proxy = models.TextField(blank=True, editable=False)

    status = models.CharField(max_length=20, choices=Status.choices, default=Status.CREATED)
    attempt = models.PositiveSmallIntegerField(default=1)
    result = models.JSONField(null=True)
    # {type, code, category, message, retirable, details}
    error = models.JSONField(null=True)

    events_count = models.PositiveIntegerField(default=0)
    pokes = models.PositiveIntegerField(default=0)
    wake_at = models.DateTimeField(null=True, default=timezone.now)
    hinted_at = models.DateTimeField(null=True)
    lease_token = models.CharField(max_length=22, blank=True)
    lease_until = models.DateTimeField(null=True)
    worked_ms = models.PositiveBigIntegerField("worked in this attempt", default=0)

    request_id = models.CharField(max_length=128, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    objects = RunQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["project", "-created_at", "-id"], name="run_newest"),
            models.Index(fields=["module", "-created_at"], name="run_of_module"),
            models.Index(fields=["created_at"], name="run_age"),
            models.Index(
                fields=["workspace", "wake_at"],
                condition=Q(status__in=("created", "running", "waiting_for_input")),
                name="run_due",
            ),
        ]

    def __str__(self) -> str:
        return self.id

    @property
    def has_ended(self) -> bool:
        return self.status not in self.LIVING


class RunEvent(models.Model):
    """One thing that happened in a run; all of them, in order, are its state (`apps.runs.engine`) and its trace.

    ``data`` is what the engine reads again; ``trace`` what people read: calls with their requests and answers, no secrets.
    """

    id = models.BigAutoField(primary_key=True)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="events", db_index=False)
    number = models.PositiveIntegerField()
    kind = models.CharField(max_length=20)
    key = models.CharField(max_length=500, blank=True)
    data = models.JSONField(default=dict)
    trace = models.JSONField(null=True)
    at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["run", "number"], name="number_of_event")]


class RunSignal(models.Model):
    """An event that was sent to a run over the API: kept until a step waits for it. The first sent is the first used."""

    id = models.BigAutoField(primary_key=True)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="signals")
    name = models.CharField(max_length=100)
    data = models.JSONField(null=True)
    used_by = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(default=timezone.now)


class RunFile(models.Model):
    """A file that somebody uploaded in a form, or gave as a start parameter. It goes with its run."""

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+")
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="files")
    name = models.CharField(max_length=255)
    content_type = models.CharField(max_length=150)
    size = models.PositiveIntegerField()
    content = models.BinaryField()
    created_at = models.DateTimeField(default=timezone.now)


class HumanTask(models.Model):
    """A question that a run waits on: a form or an approval, who may answer, until when.

    ``spec`` is the step's form or approval with its expressions filled in. One answer counts: the UPDATE that ends the open
    task says whose.
    """

    class Kind(models.TextChoices):
        FORM = "form", "Form"
        APPROVE = "approve", "Approval"

    class Status(models.TextChoices):
        OPEN = "open", "Open"
        ANSWERED = "answered", "Answered"
        EXPIRED = "expired", "Past its deadline"
        CANCELLED = "cancelled", "Cancelled"

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="human_tasks", db_index=False)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="tasks")
    root = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="tasks_of_all")
    key = models.CharField(max_length=500)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    title = models.CharField(max_length=500)
    spec = models.JSONField(default=dict)
    assignees = models.JSONField(default=list, help_text="Empty: whoever has the link.")
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.OPEN)
    draft = models.JSONField(default=dict, help_text="Answers saved so far.")
    outcome = models.JSONField(null=True, help_text="What the step's output becomes.")
    answered_by = models.CharField(max_length=320, blank=True)
    deadline = models.DateTimeField(null=True)
    remind_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["run", "key"], condition=Q(status="open"), name="one_open_task_of_step")
        ]
        indexes = [
            models.Index(fields=["project", "-created_at", "-id"], name="task_newest"),
            models.Index(fields=["remind_at"], condition=Q(status="open"), name="task_reminder"),
        ]

    def __str__(self) -> str:
        return self.title


class TaskVote(models.Model):
    """One person's yes or no to an approval."""

    task = models.ForeignKey(HumanTask, on_delete=models.CASCADE, related_name="votes")
    voter = models.CharField(max_length=320)
    approved = models.BooleanField()
    reason = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["task", "voter"], name="one_vote_a_person")]


def poke(runs: models.QuerySet[Run], now: datetime) -> int:
    """Tells whoever carries, or will carry, these runs that something they wait for has come. Gives how many live."""
    return runs.filter(status__in=Run.LIVING).update(pokes=F("pokes") + 1, wake_at=now)
