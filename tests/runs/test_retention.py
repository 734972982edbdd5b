"""How long executions are kept: as the project says, else as the installation does."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone
from pytest_django import Settings

from apps.modules import services
from apps.modules.models import Module, ModuleVersion
from apps.runs.models import Execution, Run, RunEvent, RunFile
from apps.runs.tasks import forget_old
from apps.workspaces.models import Project
from tests.cast import Cast
from tests.runs.lab import ACTOR, carry, publish, start


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


def test_ended_runs_go_with_all_that_is_theirs_and_living_ones_stay(cast: Cast, settings: Settings) -> None:
    settings.JACKFIELD_EXECUTION_DAYS = 30
    module = publish(cast.project, [{"id": "one", "set": {"n": 1}}])
    runs = {name: start(module) for name in ("old", "child", "waits", "ended late", "new")}
    for name in ("old", "child", "ended late", "new"):
        carry(runs[name])
    assert RunEvent.objects.filter(run=runs["old"]).exists()
    long_ago = timezone.now() - timedelta(days=31)
    Run.objects.exclude(pk=runs["new"].pk).update(created_at=long_ago)
    Run.objects.exclude(pk__in=[runs["new"].pk, runs["ended late"].pk, runs["waits"].pk]).update(ended_at=long_ago)
    Run.objects.filter(pk=runs["child"].pk).update(parent=runs["old"].pk, root=runs["old"].pk)
    RunFile.objects.create(project=cast.project, run=runs["old"], name="a", content_type="b", size=1, content=b"c")
    assert forget_old() == 2
    left = set(Run.objects.values_list("pk", flat=True))
    assert left == {runs[name].pk for name in ("waits", "ended late", "new")}
    assert not RunEvent.objects.exclude(run__in=left).exists()
    assert not RunFile.objects.exists()


def test_drafts_tried_out_go_with_their_last_run_and_published_versions_stay(cast: Cast) -> None:
    module = publish(cast.project, [{"id": "one", "set": {"n": 1}}])
    tried = []
    for source in ("unread", "with a run", "last"):
        Module.objects.filter(pk=module.pk).update(source=source)
        module.refresh_from_db()
        tried.append(services.draft_version(module, ACTOR))
    start(module, version=tried[1])
    assert forget_old() == 0
    assert ModuleVersion.objects.filter(number=None).count() == 3  # of today
    for days, version in zip((5, 4, 3), tried, strict=True):
        ModuleVersion.objects.filter(pk=version.pk).update(created_at=timezone.now() - timedelta(days=days))
    forget_old()
    left = ModuleVersion.objects.filter(module=module)
    assert set(left.values_list("source", flat=True)) == {"with a run", "last", "{}"}


def test_a_deleted_module_goes_once_its_last_run_is_gone(cast: Cast) -> None:
    modules = {name: publish(cast.project, [{"id": "one", "set": {"n": 1}}], name) for name in "abcd"}
    start(modules["a"])
    for name in "abc":
        services.delete(modules[name], ACTOR)
    Module.objects.filter(name__in="ab").update(deleted_at=timezone.now() - timedelta(days=2))
    forget_old()
    assert set(Module.objects.values_list("name", flat=True)) == {"a", "c", "d"}
    Run.objects.all().delete()
    forget_old()
    assert set(Module.objects.values_list("name", flat=True)) == {"c", "d"}
    assert not ModuleVersion.objects.filter(module__name="a").exists()
