"""Published modules for tests of what starts them, and their runs carried out in this very process."""

from __future__ import annotations

from typing import Any

from apps.modules.models import Module, ModuleKey, ModuleVersion
from apps.runs.carrier import carry
from apps.runs.models import Run
from apps.workspaces.models import Project

EMPLOYEE = {
    "employee_name": "John Doe",
    "employee_email": "john.doe@example.com",
    "employment_start_date": "2021-09-09",
    "employee_reference_number": 1234,
}
EMPLOYEES = [
    {"name": "Employee Name", "api_name": "employee_name", "type": "text", "required": True},
    {"name": "E-mail", "api_name": "employee_email", "type": "email"},
    {"name": "Start date", "api_name": "employment_start_date", "type": "date"},
    {"name": "Number", "api_name": "employee_reference_number", "type": "number"},
]
GREET: dict[str, Any] = {
    "steps": [{"id": "greet", "set": {"text": "Hello"}}],
    "result": {"text": "{{ steps.greet.output.text }}"},
}
FAIL: dict[str, Any] = {"steps": [{"id": "stop", "fail": {"message": "Not today"}}]}
EVENT: dict[str, Any] = {"steps": [{"id": "paid", "wait": {"event": "payment"}}], "result": "{{ steps.paid.output }}"}


def publish(project: Project, name: str = "onboard", **definition: Any) -> Module:
    """A module whose first version is published."""
    whole = {"name": name, **(definition if "steps" in definition else GREET | definition)}
    module = Module.objects.create(project=project, name=name, source="", access=whole.get("access", "api_key"))
    module.published = ModuleVersion.objects.create(module=module, number=1, definition=whole, source="")
    module.save(update_fields=["published"])
    return module


def own_key(module: Module) -> str:
    """A key of the module's own."""
    secret = ModuleKey.new_secret()
    ModuleKey.objects.create(module=module, prefix=secret[:8], digest=ModuleKey.digest_of(secret))
    return secret


def carried(run_id: str) -> Run:
    """The run after as much work as can be done now."""
    carry(run_id)
    return Run.objects.get(pk=run_id)
