"""How long executions are kept: as the project says, else as the installation does."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone
from pytest_django import Settings

from apps.runs.models import Execution
from apps.runs.tasks import forget_old
from apps.workspaces.models import Project
from tests.cast import Cast


def old(project: Project, days: float) -> Execution:
    return Execution.objects.create(
        project=project, surface="integrations", toolkit="t", tool="T", successful=True,
        created_at=timezone.now() - timedelta(days=days),
    )  # fmt: skip


@pytest.mark.parametrize(("own", "kept"), [(None, {1, 5}), (3, {1}), (60, {1, 5, 40})])
def test_executions_go_after_their_days(cast: Cast, settings: Settings, own: int | None, kept: set[int]) -> None:
    settings.JACKFIELD_EXECUTION_DAYS = 30
    assert cast.api.patch("settings", {"retention": own}).json()["retention"] == own
    rows = {days: old(cast.project, days) for days in (1, 5, 40)}
    elsewhere = {days: old(cast.foreign_project, days) for days in (5, 40)}
    forget_old()
    assert {days for days, row in rows.items() if Execution.objects.filter(pk=row.pk).exists()} == kept
    assert Execution.objects.filter(pk=elsewhere[5].pk).exists()
    assert not Execution.objects.filter(pk=elsewhere[40].pk).exists()


@pytest.mark.parametrize("days", [0, -1, 4000, "soon", 1.5])
def test_an_odd_retention_is_refused(cast: Cast, days: object) -> None:
    answer = cast.api.patch("settings", {"retention": days})
    assert (answer.status_code, list(answer.json()["error"]["details"])) == (400, ["retention"])
