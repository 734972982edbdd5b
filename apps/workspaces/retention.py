"""For how long logs are kept: a project's days within its plan's, else the installation's (`JACKFIELD_EXECUTION_DAYS`).

A row of a log says when it is written on which day it may go: a day counts from midnight UTC, and a row stays through all of
its days. What was written under other days goes at the earlier of the two: its own, or the one that counts now.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, models, transaction
from django.db.models import Q
from django.db.models.signals import post_delete, post_save
from django.utils import timezone

from apps.lib import partitions
from apps.lib.partitions import UNKNOWN

FRESH = 60.0  # seconds for which a process relies on what it read of a project and its plan
AHEAD = 7  # days for which partitions are made beforehand
LATE = 7  # days after its own at which a row goes by itself where its partition holds later days, too
CHUNK = 500  # projects asked for in one statement
BATCH = 2000  # rows deleted by one statement
MOST = 10_000  # projects and workspaces known at a time

Days = tuple[int | None, int | None]

_projects: dict[Any, tuple[float, Days]] = {}
_audits: dict[Any, tuple[float, int | None]] = {}


# -- Days ------------------------------------------------------------------------------------------------------------
def days_of(project_id: str) -> int:
    """For how many days the project's executions, runs, traces and deliveries are kept. No query within a minute."""
    own, planned = _known(_projects, project_id, _read_project)
    return allowed(own, planned)


def allowed(own: int | None, planned: int | None) -> int:
    """What a project has set counts within what its plan allows; the plan's, where it has set nothing."""
    if own and planned:
        return min(own, planned)
    return own or planned or int(settings.JACKFIELD_EXECUTION_DAYS)


def audit_days_of(workspace_id: Any) -> int:
    """For how many days a workspace's audit log is kept; with None, the installation's own."""
    planned = _known(_audits, workspace_id, _read_workspace) if workspace_id else None
    return planned or int(settings.JACKFIELD_AUDIT_DAYS)


def _known(memory: dict[Any, Any], key: Any, read: Callable[[Any], Any]) -> Any:
    now = time.monotonic()
    at, found = memory.get(key) or (-FRESH, None)
    if now - at >= FRESH:
        found = read(key)
        if len(memory) >= MOST:
            memory.clear()
        memory[key] = (now, found)
    return found


def _read_project(project_id: str) -> Days:
    from .models import Project

    rows = Project.objects.filter(pk=project_id)
    settings_, planned = rows.values_list("settings", "workspace__plan__retention_days").first() or ({}, None)
    return settings_.get("retention"), planned


def _read_workspace(workspace_id: Any) -> int | None:
    from .models import Workspace

    return Workspace.objects.filter(pk=workspace_id).values_list("plan__audit_days", flat=True).first()


def forget_memory(**kwargs: Any) -> None:
    """Whatever was changed in this process counts at once in it."""
    _projects.clear()
    _audits.clear()


def connect() -> None:
    """For the app's start."""
    for name in ("Plan", "Workspace", "Project"):
        for signal in (post_save, post_delete):
            signal.connect(forget_memory, sender=f"workspaces.{name}", dispatch_uid=f"retention {name}")


def day_after(at: datetime, days: int) -> date:
    """The day on which a row of that moment may go."""
    try:
        return at.astimezone(UTC).date() + timedelta(days=days + 1)
    except OverflowError:
        return date.max


def kept_since(days: int, today: date) -> datetime:
    """What was before is past its days."""
    return datetime.combine(today - timedelta(days=days), datetime.min.time(), UTC)


def today() -> date:
    return timezone.now().astimezone(UTC).date()


class ForgetOn(models.DateField):  # type: ignore[type-arg]
    """On which day a row may go: filled in where it is added, by the model's ``day_to_go``. To migrations a date."""

    def __init__(self, *args: Any, **options: Any) -> None:
        for name, value in (("default", UNKNOWN), ("db_default", UNKNOWN), ("editable", False)):
            options.setdefault(name, value)
        super().__init__(*args, **options)

    def deconstruct(self) -> Any:
        name, _, args, options = super().deconstruct()
        return name, "django.db.models.DateField", args, options

    def pre_save(self, model_instance: Any, add: bool) -> Any:
        value = getattr(model_instance, self.attname)
        if add and value == UNKNOWN:
            value = model_instance.day_to_go()
            setattr(model_instance, self.attname, value)
        return value


# -- Forgetting ------------------------------------------------------------------------------------------------------
def projects_by_days() -> dict[int, list[str]]:
    """All projects, by the days for which theirs is kept."""
    from .models import Project

    found = defaultdict(list)
    rows = Project.objects.values_list("pk", "settings", "workspace__plan__retention_days")
    for pk, own, planned in rows.iterator():
        found[allowed(own.get("retention"), planned)].append(pk)
    return found


def workspaces_by_days() -> dict[int, list[Any]]:
    """The same of audit logs; None is the installation's own."""
    from .models import Workspace

    found: dict[int, list[Any]] = defaultdict(list)
    found[audit_days_of(None)].append(None)
    for pk, planned in Workspace.objects.values_list("pk", "plan__audit_days").iterator():
        found[planned or audit_days_of(None)].append(pk)
    return found


def chunks(of: dict[int, list[Any]]) -> Iterator[tuple[int, list[Any]]]:
    for days, keys in of.items():
        for start in range(0, len(keys), CHUNK):
            yield days, keys[start : start + CHUNK]


def prepare(model: type[models.Model], days: Iterable[int]) -> int:
    """Makes the log's partitions for what is written in the days to come. Gives how many it made."""
    table = model._meta.db_table
    if not partitions.is_partitioned(table):
        return 0
    return partitions.cover(table, _ahead(days), today())


def _ahead(days: Iterable[int]) -> list[date]:
    """The days on which may go what is written today and soon."""
    begin = today()
    return [begin + timedelta(days=number + 1 + ahead) for number in set(days) for ahead in range(AHEAD + 1)]


def days_ahead() -> list[date]:
    """The same by the installation's days, for migrations."""
    return _ahead([int(settings.JACKFIELD_EXECUTION_DAYS)])


def audit_days_ahead() -> list[date]:
    return _ahead([int(settings.JACKFIELD_AUDIT_DAYS)])


def drop(model: type[models.Model]) -> int:
    """Drops the log's partitions whose days are past, and deletes rows past theirs that lie elsewhere.

    Gives how many rows it deleted one by one. Does nothing where the log has no partitions.
    """
    table = model._meta.db_table
    if not partitions.is_partitioned(table):
        return 0
    now = today()
    partitions.drop_past(table, now)
    late = now - timedelta(days=LATE)
    total = partitions.delete_rest(table, now, BATCH)
    for part in partitions.parts(table):
        if part.first <= late < part.end:
            rows = model._default_manager.filter(forget_on__gte=part.first, forget_on__lte=late)
            total += delete(rows)
    return total


def forget_old(of: dict[int, list[str]]) -> int:
    """The audit log and the webhooks' deliveries past their time. Gives how many rows went one by one."""
    from .models import AuditEvent, WebhookDelivery, WebhookEndpoint

    audits = workspaces_by_days()
    prepare(AuditEvent, audits)
    prepare(WebhookDelivery, of)
    put_off_pending(WebhookDelivery)
    total = drop(AuditEvent) + drop(WebhookDelivery)
    for days, workspaces in chunks(audits):
        mine = Q(workspace__in=[pk for pk in workspaces if pk])
        if None in workspaces:
            mine |= Q(workspace=None)
        total += delete(past(AuditEvent.objects.filter(mine), days))
    for days, projects in chunks(of):
        endpoints = WebhookEndpoint.objects.filter(project__in=projects)
        ended = WebhookDelivery.objects.filter(endpoint__in=endpoints).exclude(status=WebhookDelivery.Status.PENDING)
        total += delete(past(ended, days))
    return total


def put_off_pending(model: Any) -> None:
    """Deliveries that are still tried stay until they are not."""
    soon = today() + timedelta(days=1)
    near = model.objects.filter(status=model.Status.PENDING, forget_on__gt=UNKNOWN, forget_on__lte=soon)
    near.update(forget_on=soon + timedelta(days=AHEAD))


def past(rows: models.QuerySet[Any], days: int) -> models.QuerySet[Any]:
    """Of rows that are kept for so many days, those past them that do not go with their partition."""
    now = today()
    rows = rows.filter(created_at__lt=kept_since(days, now))
    if partitions.is_partitioned(rows.model._meta.db_table):
        rows = rows.filter(Q(forget_on=UNKNOWN) | Q(forget_on__gt=now))
    return rows


def delete(rows: models.QuerySet[Any]) -> int:
    """Deletes rows in batches, each by one statement and a transaction of its own. Gives how many.

    Nothing that refers to them is looked for. Of two who do this at the same time each takes others, on PostgreSQL.
    """
    total = 0
    while taken := _delete_some(rows):
        total += taken
    return total


def _delete_some(rows: models.QuerySet[Any]) -> int:
    manager = rows.model._base_manager
    with transaction.atomic():
        if connection.features.has_select_for_update_skip_locked:
            rows = rows.select_for_update(skip_locked=True, of=("self",))
        keys = list(rows.order_by().values_list("pk", "forget_on")[:BATCH])
        found = manager.filter(pk__in=[pk for pk, _ in keys], forget_on__in={day for _, day in keys})
        return int(found._raw_delete(rows.db)) if keys else 0
