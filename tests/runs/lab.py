"""Modules and runs for tests of what carries them: made directly, and carried in the test's own thread."""

from __future__ import annotations

from typing import Any

from apps.modules.models import Module, ModuleVersion
from apps.runs import carrier, starting
from apps.runs.models import Run, RunEvent
from apps.workspaces.audit import Actor
from apps.workspaces.models import Project

ACTOR = Actor("key:test")


def publish(project: Project, steps: list[dict[str, Any]], name: str = "onboard", **more: Any) -> Module:
    """A published module of these steps; ``more`` are further members of the definition."""
    definition = {"name": name, "steps": steps, **more}
    given = {"source": "{}", "draft": definition}
    module, _ = Module.objects.update_or_create(project=project, name=name, defaults=given)
    number = module.versions.count() + 1
    module.published = ModuleVersion.objects.create(module=module, number=number, definition=definition, source="{}")
    module.save()
    return module


def start(module: Module, parameters: dict[str, Any] | None = None, **more: Any) -> Run:
    surface = more.pop("surface", Run.Surface.RUNS)
    return starting.start(module, parameters or {}, ACTOR, surface, **more)


def carry(run: Run) -> Run:
    """One task's work; the row as it is then."""
    carrier.carry(run.pk)
    return fresh(run)


def fresh(run: Run) -> Run:
    return Run.objects.select_related("project__workspace__plan", "module").get(pk=run.pk)


def told(run: Run) -> list[str]:
    """What happened, as ``kind key``."""
    rows = RunEvent.objects.filter(run=run).order_by("number").values_list("kind", "key")
    return [" ".join(filter(None, row)) for row in rows]


def calls(run: Run, key: str) -> list[dict[str, Any]]:
    """What a step that ended has sent, as its trace tells it."""
    trace = event(run, "ended", key).trace
    assert trace is not None
    found: list[dict[str, Any]] = trace["calls"]
    return found


def event(run: Run, kind: str, key: str = "") -> RunEvent:
    """The last of its kind."""
    return RunEvent.objects.filter(run=run, kind=kind, key=key).order_by("number").reverse()[0]
