"""The admin shows what is used of a plan's limits, and lets superusers set them."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from apps.workspaces import quota
from apps.workspaces.audit import SYSTEM, Actor
from apps.workspaces.callers import Caller
from apps.workspaces.models import AuditEvent, Plan, User
from apps.workspaces.services import issue_key
from tests.cast import Cast


@pytest.fixture
def used(cast: Cast) -> Cast:
    """Alice's workspace has used 9 of 10 calls and all of its keys."""
    plan = Plan.objects.create(name="Team", calls_per_day=10, keys=2, concurrent_calls=4)
    cast.workspace.plan = plan
    cast.workspace.save(update_fields=["plan"])
    cast.project.workspace = cast.workspace
    caller = Caller("member", cast.project, frozenset(), Actor("user:x@example.com"))
    for _ in range(9):
        quota.take_call(caller)
    issue_key(cast.workspace, "second", SYSTEM)
    return cast


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def shown(uses: list[quota.Use]) -> list[tuple[str, int, int | None, str]]:
    return [(use.name, use.used, use.limit, use.level) for use in uses]


EXPECTED = [
    ("Calls today (UTC)", 9, 10, "warn"),
    ("Calls at the same time", 0, 4, "good"),
    ("Connections", 0, None, "good"),
    ("API keys", 2, 2, "bad"),
]


def test_a_workspaces_page_shows_the_use_of_its_plan_to_every_member(used: Cast) -> None:
    for person in (used.alice, used.bob):
        answer = signed_in(person).get(reverse("admin:workspaces_workspace_change", args=[used.workspace.pk]))
        assert shown(answer.context["usage"]) == EXPECTED
        text = answer.content.decode()
        assert 'aria-label="90 % used"' in text
        assert '<rect class="jf-use-warn" width="90" height="6"/>' in text
        assert '<rect class="jf-use-bad" width="100" height="6"/>' in text
        assert "no limit" in text


def test_nobody_sees_the_use_of_another_workspace(used: Cast) -> None:
    client = signed_in(used.charlie)
    assert client.get(reverse("admin:workspaces_workspace_change", args=[used.workspace.pk])).status_code == 404
    assert client.get(reverse("admin:index")).context["plans"] == []


def test_the_overview_shows_plans_that_have_limits(used: Cast) -> None:
    answer = signed_in(used.bob).get(reverse("admin:index"))
    assert [(row.pk, shown(uses)) for row, uses in answer.context["plans"]] == [(used.workspace.pk, EXPECTED)]
    assert "use of the plan Team" in answer.content.decode()


def test_a_superuser_sets_every_limit_of_a_plan(used: Cast) -> None:
    client = signed_in(User.objects.create_superuser("ruth@example.com", "a long enough password"))
    plan = used.workspace.plan
    values: dict[str, Any] = {"name": "Team", "connections": 1, "keys": 2, "calls_per_minute": 3, "calls_per_day": 4,
                              "concurrent_calls": 5, "concurrent_runs": "", "retention_days": 6, "audit_days": 7}  # fmt: skip
    address = reverse("admin:workspaces_plan_change", args=[plan.pk])
    assert client.post(address, values).status_code == 302
    plan.refresh_from_db()
    assert {name: getattr(plan, name) for name in values} == values | {"concurrent_runs": None}
    assert AuditEvent.objects.filter(action="plan.set", target="Team").count() == 1
    assert client.post(address, values | {"concurrent_calls": -1}).status_code == 200
    plan.refresh_from_db()
    assert plan.concurrent_calls == 5
    text = client.get(reverse("admin:workspaces_plan_changelist")).content.decode()
    assert "Calls at the same time" in text


def test_members_may_not_set_limits(used: Cast) -> None:
    address = reverse("admin:workspaces_plan_change", args=[used.workspace.plan.pk])
    assert signed_in(used.alice).post(address, {"name": "Team", "keys": 1000}).status_code in {403, 404}
    assert Plan.objects.get(name="Team").keys == 2
