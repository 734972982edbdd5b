"""Definitions in short, for tests of the engine."""

from __future__ import annotations

from typing import Any

from apps.modules.definition import Definition


def module(*steps: dict[str, Any], result: Any = None) -> Definition:
    return Definition.model_validate({"name": "m", "steps": list(steps), "result": result})


def request(step_id: str, url: str = "", method: str = "POST", **more: Any) -> dict[str, Any]:
    """A step that is performed outside; unsafe, as POST is."""
    asked = {"method": method, "url": url or f"https://x.example/{step_id}", **more.pop("request", {})}
    return {"id": step_id, "request": asked, **more}


def put(step_id: str, **more: Any) -> dict[str, Any]:
    return request(step_id, method="PUT", **more)


def value(step_id: str, given: Any = 1, **more: Any) -> dict[str, Any]:
    return {"id": step_id, "set": {"v": given}, **more}
