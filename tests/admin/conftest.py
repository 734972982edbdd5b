"""The cast as staff: Alice owns, Dana develops, Bob only looks; Charlie is of another workspace, Ruth a superuser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from django.db.models import Model
from django.test import Client
from django.utils import timezone

from apps.connections.models import Connection, Integration
from apps.modules import groups, services
from apps.modules.models import Group, Module
from apps.runs import jobs, starting
from apps.runs.models import Execution, HumanTask, Job, JobRun, Run, RunEvent
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import ApiKey, AuditEvent, JwtIssuer, Membership, Role, User
from apps.workspaces.services import add_member, set_issuer
from tests.cast import Cast, connect, enable

SECRETS = ("the-client-secret-of-github", "at-1-secret", "rt-1-secret", "the-shared-secret-of-an-issuer-32b")


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@dataclass
class Staff:
    """Clients of everybody, and one row of each kind in Alice's workspace."""

    cast: Cast
    alice: Client
    dana: Client
    bob: Client
    charlie: Client
    ruth: Client
    integration: Integration
    connection: Connection
    key: ApiKey
    issuer: JwtIssuer
    execution: Execution
    module: Module
    run: Run
    task: HumanTask
    group: Group
    job: Job
    job_run: JobRun

    @property
    def rows(self) -> list[Model]:
        cast = self.cast
        event = AuditEvent.objects.filter(project=cast.project).first()
        membership = Membership.objects.get(workspace=cast.workspace, user=cast.bob)
        assert event is not None
        return [
            cast.workspace, cast.project, membership, self.key, self.issuer, event,
            self.integration, self.connection, self.execution, self.module, self.run, self.task, self.group,
            self.job, self.job_run,
        ]  # fmt: skip


@pytest.fixture
def staff(cast: Cast) -> Staff:
    dana = User.objects.create_user("dana@example.com", "a long enough password", name="Dana")
    add_member(cast.workspace, dana, Role.DEVELOPER, SYSTEM)
    ruth = User.objects.create_superuser("ruth@example.com", "a long enough password")
    integration = enable(cast.project, "github", client_id="Iv1.alice", client_secret=SECRETS[0])
    connection = connect(integration, "alices-user")
    Connection.objects.filter(pk=connection.pk).update(account_label="octocat@acme.example")
    issuer = set_issuer(cast.project, SYSTEM, issuer="https://alice.example", method="HS256", secret=SECRETS[3])
    execution = Execution.objects.create(
        project=cast.project, surface="integrations", user_id="alices-user", toolkit="github",
        tool="GITHUB_GET_USER", successful=True, status=200, request='{"username": "octocat"}',
        response='{"login": "octocat"}', connection_id=connection.pk, created_at=timezone.now(),
    )  # fmt: skip
    module, run, task = make_run(cast)
    job, job_run = make_job_run(cast)
    return Staff(
        cast=cast,
        alice=signed_in(cast.alice),
        dana=signed_in(dana),
        bob=signed_in(cast.bob),
        charlie=signed_in(cast.charlie),
        ruth=signed_in(ruth),
        integration=integration,
        connection=connection,
        key=ApiKey.objects.get(project=cast.project),
        issuer=issuer,
        execution=execution,
        module=module,
        run=run,
        task=task,
        group=groups.create(cast.project, "acme-buyers", ["it@acme.example"], SYSTEM),
        job=job,
        job_run=job_run,
    )


DEFINITION = """\
name: onboard
title: Onboard somebody at Acme
start_parameters:
  - {name: Employee Name, api_name: employee_name, type: text, required: true}
steps:
  - id: details
    form: {title: "What is needed?", fields: [{name: laptop, label: Laptop, required: true}]}
result: "{{ steps.details.output.laptop }}"
"""


def make_run(cast: Cast) -> tuple[Module, Run, HumanTask]:
    """A published module of Alice's, a run of it, and the question that it asks."""
    services.put_draft(cast.project, "onboard", DEFINITION, SYSTEM)
    module = services.publish(services.find(cast.project, "onboard"), SYSTEM).module
    run = starting.start(module, {"employee_name": "alices-user"}, SYSTEM, Run.Surface.ADMIN)
    now = timezone.now()
    Run.objects.filter(pk=run.pk).update(status="waiting_for_input", events_count=2, wake_at=None)
    RunEvent.objects.create(run=run, number=0, kind="attempt", data={"number": 1}, at=now)
    RunEvent.objects.create(run=run, number=1, kind="waiting", key="details", data={"for": "task"}, at=now)
    task = HumanTask.objects.create(
        project=cast.project, run=run, root=run, key="details", kind="form", title="What is needed at Acme?",
        spec={"title": "What is needed at Acme?"}, assignees=["it@acme.example"],
    )  # fmt: skip
    run.refresh_from_db()
    return module, run, task


def make_job_run(cast: Cast) -> tuple[Job, JobRun]:
    """A job of Alice's that fires every morning, and a job run that has succeeded."""
    body = {
        "id": "acme-mornings", "payload": [{"apiName": "onboard", "parameters": {"employee_name": "alices-user"}}],
        "configuration": {}, "schedule": {"calendars": [{"hour": 9}], "timezone": "Europe/Berlin"},
    }  # fmt: skip
    job = jobs.create(cast.project, body, SYSTEM)
    job_run = JobRun.objects.create(
        job=job, project=cast.project, workspace=cast.workspace, type="MANUAL", status="SUCCESS", payloads=1,
        started_runs=1, successful_runs=1, started_by="user:alice@example.com", wake_at=None, ended_at=timezone.now(),
    )  # fmt: skip
    return job, job_run


def text_of(response: Any) -> str:
    return str(response.getvalue().decode())
