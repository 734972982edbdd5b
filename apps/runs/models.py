"""What was done: executions of tools, runs of modules, and the questions that runs ask people."""

from __future__ import annotations

from datetime import date, datetime, timedelta

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from apps.lib import ids
from apps.lib.vault import Sealing
from apps.modules.models import Module, ModuleVersion
from apps.workspaces.models import Project, Workspace
from apps.workspaces.retention import ForgetOn, day_after, days_of


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
    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="executions", db_index=False, db_constraint=False
    )
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
    forget_on = ForgetOn()

    class Meta:
        indexes = [
            models.Index(fields=["project", "-created_at", "-id"], name="execution_newest"),
            models.Index(fields=["created_at"], name="execution_age"),
            models.Index(fields=["integration_id", "created_at"], name="execution_of_integration"),
        ]

    def __str__(self) -> str:
        return f"{self.tool} {self.created_at:%Y-%m-%d %H:%M:%S}"

    def day_to_go(self) -> date:
        return day_after(self.created_at, days_of(self.project_id))


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

    SEALED = ("proxy", "sink", "runtime_auth")

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
        JOB = "job", "Job"

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
    job_run = models.ForeignKey(
        "JobRun", on_delete=models.DO_NOTHING, related_name="runs", null=True, blank=True, db_constraint=False, db_index=False
    )  # fmt: skip
    # Where its result goes, by the Runs API's names: its own, or its job run's, or what was the project's when it started.
    sink = models.TextField(blank=True, editable=False, db_default="")
    auth_session = models.CharField(max_length=255, blank=True, db_default="")
    # {id, autoRecreate, checkAttempts, createAttempts, checked: when the check before the first attempt succeeded}
    auth_options = models.JSONField(null=True)
    # Credentials that came with the run: {toolkit, type, credentials}; emptied at its end.
    runtime_auth = models.TextField(blank=True, editable=False, db_default="")

    status = models.CharField(max_length=20, choices=Status.choices, default=Status.CREATED)
    attempt = models.PositiveSmallIntegerField(default=1)
    result = models.JSONField(null=True)
    extended_payloads = models.JSONField(null=True, help_text="[{api, parameters}]: what the run adds to its job run.")
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
    # Its events and files have the same, so that they go together. Of a run that lives for long it is put off.
    forget_on = ForgetOn()

    objects = RunQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["project", "-created_at", "-id"], name="run_newest"),
            models.Index(fields=["module", "-created_at"], name="run_of_module"),
            models.Index(fields=["created_at"], name="run_age"),
            models.Index(fields=["forget_on"], name="run_to_forget"),
            models.Index(
                fields=["workspace", "wake_at"],
                condition=Q(status__in=("created", "running", "waiting_for_input")),
                name="run_due",
            ),
            models.Index(fields=["job_run", "status"], condition=Q(job_run__isnull=False), name="run_of_job_run"),
        ]

    def __str__(self) -> str:
        return self.id

    @property
    def has_ended(self) -> bool:
        return self.status not in self.LIVING

    def day_to_go(self) -> date:
        return day_after(self.created_at, days_of(self.project_id))


class RunEvent(models.Model):
    """One thing that happened in a run; all of them, in order, are its state (`apps.runs.engine`) and its trace.

    ``data`` is what the engine reads again; ``trace`` what people read: calls with their requests and answers, no secrets.
    """

    id = models.BigAutoField(primary_key=True)
    run = models.ForeignKey(
        Run, on_delete=models.CASCADE, related_name="events", db_index=False, db_constraint=False
    )  # fmt: skip
    number = models.PositiveIntegerField()
    kind = models.CharField(max_length=20)
    key = models.CharField(max_length=500, blank=True)
    data = models.JSONField(default=dict)
    trace = models.JSONField(null=True)
    at = models.DateTimeField()
    forget_on = ForgetOn()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["run", "number"], name="number_of_event")]

    def day_to_go(self) -> date:
        return day_of_run(self.run_id)


def day_of_run(run_id: str) -> date:
    """The day on which a run may go, as its row says."""
    return Run.objects.values_list("forget_on", flat=True).get(pk=run_id)


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
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+", db_constraint=False)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="files", db_constraint=False)
    name = models.CharField(max_length=255)
    content_type = models.CharField(max_length=150)
    size = models.PositiveIntegerField()
    content = models.BinaryField()
    created_at = models.DateTimeField(default=timezone.now)
    forget_on = ForgetOn()

    def day_to_go(self) -> date:
        return day_of_run(self.run_id)


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


class JobQuerySet(models.QuerySet["Job"]):
    def present(self) -> JobQuerySet:
        """Those that were not deleted: their runs stay."""
        return self.filter(deleted_at=None)


class Job(Sealing, models.Model):
    """A schedule or a batch that starts runs: each firing makes a job run, whose items are its payload's.

    Kept by the Runs API's own names (`apps.runs.api.jobs`), so that what came is what is read back.
    """

    SEALED = ("sink", "proxy", "notifications")

    class State(models.TextChoices):
        ACTIVE = "ACTIVE", "Active"
        PAUSED = "PAUSED", "Paused"

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="jobs", db_index=False)
    name = models.CharField("id", max_length=200, help_text="The id by which the API knows it.")
    user_id = models.CharField("end user", max_length=255, blank=True)
    payload = models.JSONField(default=list, help_text="[{apiName, parameters, requestTimeout?, retry?}]")
    configuration = models.JSONField(
        default=dict, help_text="{retry?, maxConcurrentRequests?, requestTimeout?, maxRuns?}"
    )
    schedule = models.JSONField(null=True, blank=True, help_text="{intervals?, calendars?, jitter?, timezone?}")
    auth_session = models.JSONField(null=True, blank=True, help_text="{id, checkAttempts?, createAttempts?}")
    sink = models.TextField(blank=True, editable=False)
    proxy = models.TextField(blank=True, editable=False)  # {proxy?, configuration?}: the two places where one may stand
    notifications = models.TextField(blank=True, editable=False)  # [{type: webhook, url, headers?}]
    state = models.CharField(max_length=10, choices=State.choices, default=State.ACTIVE)
    reason = models.JSONField(null=True, blank=True, help_text="{type, message, timestamp} of a job that is paused.")
    next_run_at = models.DateTimeField(null=True, blank=True)
    last_run_at = models.DateTimeField(null=True, blank=True)
    version = models.PositiveIntegerField(default=1, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = JobQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "name"], condition=Q(deleted_at=None), name="job_in_project")
        ]
        indexes = [
            models.Index(
                fields=["next_run_at"], condition=Q(state="ACTIVE", deleted_at=None, next_run_at__isnull=False),
                name="job_due",
            )
        ]  # fmt: skip

    def __str__(self) -> str:
        return self.name


class JobRun(Sealing, models.Model):
    """One firing of a job. Its items say what is to be run; the row itself is locked by whoever starts them.

    ``wake_at`` is when it is looked after next where nobody told of a run's end; None while it is paused, and once nothing is
    left to do: of one that was terminated that is later than its end.
    """

    SEALED = ("sink", "proxy", "notifications")

    class Type(models.TextChoices):
        MANUAL = "MANUAL", "By hand"
        SCHEDULED = "SCHEDULED", "By schedule"

    class Status(models.TextChoices):
        PENDING = "PENDING", "Under way"
        PAUSING = "PAUSING", "Pausing"
        PAUSED = "PAUSED", "Paused"
        SUCCESS = "SUCCESS", "Succeeded"
        FAILURE = "FAILURE", "Failed"
        TERMINATED = "TERMINATED", "Terminated"
        CANCELED = "CANCELED", "Not begun"

    LIVING = (Status.PENDING, Status.PAUSING, Status.PAUSED)

    id = models.CharField(primary_key=True, max_length=40, default=ids.run_id, editable=False)
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="job_runs", db_index=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="job_runs", db_index=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="+", db_index=False)
    type = models.CharField(max_length=10, choices=Type.choices)
    scheduled_for = models.DateTimeField(null=True, blank=True)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING)
    snapshot = models.JSONField(default=dict, help_text="The job's configuration, auth_session and user as they were.")
    sink = models.TextField(blank=True, editable=False)
    proxy = models.TextField(blank=True, editable=False)
    notifications = models.TextField(blank=True, editable=False)
    started_by = models.CharField(max_length=320, blank=True)
    payloads = models.PositiveIntegerField(default=0)
    started_runs = models.PositiveIntegerField(default=0)
    successful_runs = models.PositiveIntegerField(default=0)
    failed_runs = models.PositiveIntegerField(default=0)
    error = models.JSONField(null=True, blank=True)
    reason = models.JSONField(null=True, blank=True)
    wake_at = models.DateTimeField(null=True, blank=True, default=timezone.now)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            # Of two schedulers that fire at once, one fires.
            models.UniqueConstraint(
                fields=["job", "scheduled_for"], condition=Q(scheduled_for__isnull=False), name="one_firing_of_a_time"
            )
        ]
        indexes = [
            models.Index(fields=["job", "-created_at", "-id"], name="job_run_newest"),
            models.Index(fields=["project", "-created_at"], name="job_run_of_project"),
            models.Index(fields=["created_at"], name="job_run_age"),
            models.Index(fields=["wake_at"], condition=Q(wake_at__isnull=False), name="job_run_to_look_at"),
            models.Index(
                fields=["job"], condition=Q(status__in=("PENDING", "PAUSING", "PAUSED")), name="job_run_living"
            ),
        ]

    def __str__(self) -> str:
        return self.id


class JobItem(models.Model):
    """One payload item of a job run: what it starts, and how that ended. ``number`` counts from 0, in the payload's order."""

    class Status(models.TextChoices):
        PENDING = "pending", "Waits"
        STARTED = "started", "Under way"
        SUCCEEDED = "succeeded", "Succeeded"
        FAILED = "failed", "Failed"
        CANCELLED = "cancelled", "Cancelled"

    id = models.BigAutoField(primary_key=True)
    job_run = models.ForeignKey(JobRun, on_delete=models.CASCADE, related_name="items", db_index=False)
    number = models.PositiveIntegerField()
    api = models.CharField(max_length=150)
    parameters = models.JSONField(default=dict)
    request_timeout = models.PositiveIntegerField(null=True)
    maximum_attempts = models.PositiveSmallIntegerField(null=True)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING)
    run_id = models.CharField(max_length=40, blank=True)
    # Of an item that could not even be started: {code, message, details}.
    error = models.JSONField(null=True)
    added_by = models.CharField("the run that added it", max_length=40, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["job_run", "number"], name="number_of_item")]
        indexes = [
            models.Index(
                fields=["job_run", "number"], condition=Q(status__in=("pending", "started")), name="item_to_do"
            ),
            models.Index(fields=["job_run", "number"], condition=Q(status="failed"), name="item_failed"),
        ]


class SinkSettings(Sealing, models.Model):
    """A project's default sink, and the secret that signs what webhook sinks are sent.

    After a rotation both secrets sign for a day.
    """

    SEALED = ("default", "secret", "previous_secret")

    project = models.OneToOneField(Project, on_delete=models.CASCADE, primary_key=True, related_name="sink_settings")
    default = models.TextField(blank=True, editable=False)
    secret = models.TextField(blank=True, editable=False)
    previous_secret = models.TextField(blank=True, editable=False)
    previous_secret_until = models.DateTimeField(null=True, blank=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = verbose_name_plural = "where results go"


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def due(self, now: datetime) -> DeliveryQuerySet:
        """Those to be tried: their time has come, nobody carries them, and they are not past their end."""
        return self.filter(status=Delivery.Status.PENDING, next_try_at__lte=now, ends_at__gt=now)


class Delivery(Sealing, models.Model):
    """One run's result on its way to one sink, with its tries. Written in the transaction that ends the run."""

    SEALED = ("sink",)

    class Kind(models.TextChoices):
        WEBHOOK = "webhook", "Webhook"
        S3 = "s3", "S3"

    class Status(models.TextChoices):
        PENDING = "pending", "Pending"
        DELIVERED = "delivered", "Delivered"
        DEAD = "dead", "Dead"

    id = models.CharField(primary_key=True, max_length=40, default=ids.row_id, editable=False)
    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="deliveries", db_index=False, db_constraint=False
    )
    run_id = models.CharField("run", max_length=40)
    job_run_id = models.CharField("job run", max_length=40, blank=True)
    api = models.CharField("module", max_length=150)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    target = models.CharField(max_length=2100, help_text="The URL without secrets, or s3://bucket/key.")
    host = models.CharField(max_length=255, help_text="Who receives it: deliveries to one host share its room.")
    sink = models.TextField(editable=False)
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

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "deliveries"
        indexes = [
            # Of those alone that have something to do: both are empty once it is delivered or dead.
            models.Index(fields=["next_try_at"], condition=Q(next_try_at__isnull=False), name="sink_delivery_waiting"),
            models.Index(
                fields=["project", "host", "next_try_at"],
                condition=Q(next_try_at__isnull=False),
                name="sink_delivery_receiver",
            ),
            models.Index(fields=["project"], condition=Q(lease_until__isnull=False), name="sink_delivery_carried"),
            models.Index(fields=["project", "-created_at", "-id"], name="sink_delivery_newest"),
            models.Index(fields=["run_id"], name="sink_delivery_of_run"),
        ]

    def __str__(self) -> str:
        return f"{self.target} {self.created_at:%Y-%m-%d %H:%M:%S}"

    def day_to_go(self) -> date:
        return day_after(max(self.created_at, self.ends_at), days_of(self.project_id))
