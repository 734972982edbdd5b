"""Carrying runs: from the start to the end, step by step, with everything persisted."""

from __future__ import annotations

from typing import Any

import pytest

from apps.runs.models import Run
from apps.workspaces.models import Project
from tests.cast import Cast
from tests.peers.upstream import Upstream
from tests.runs.lab import carry, event, fresh, publish, start, told


@pytest.fixture
def project(cast: Cast, upstream: Upstream, settings: Any) -> Project:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    upstream.reset()
    return cast.project


def test_a_run_goes_from_its_start_to_its_result(project: Project, upstream: Upstream) -> None:
    module = publish(
        project,
        [
            {
                "id": "first",
                "request": {"method": "POST", "url": f"{upstream.url}/echo", "json": {"n": "{{ start.n }}"}},
            },
            {"id": "second", "request": {"url": f"{upstream.url}/echo/{{{{ steps.first.output.body.json.n }}}}"}},
        ],
        start_parameters=[{"name": "N", "api_name": "n", "type": "number"}],
        result={"path": "{{ steps.second.output.body.path }}"},
    )
    run = start(module, {"n": 7})
    assert (run.status, fresh(run).status) == ("created", "created")
    run = carry(run)
    assert (run.status, run.error, run.result) == ("completed", None, {"path": "/echo/7"})
    assert run.lease_token == ""
    assert run.lease_until is None
    assert run.wake_at is None
    assert run.ended_at is not None
    assert run.started_at is not None
    assert told(run) == ["attempt", "started first", "ended first", "started second", "ended second", "completed"]
    assert run.events_count == 6
