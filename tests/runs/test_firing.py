"""The thread of each worker process that fires jobs: whatever happens, it looks again."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import OperationalError

from apps.runs import firing, jobs


@pytest.mark.parametrize("fault", [OperationalError("away"), ValueError("ours")], ids=["database", "ours"])
def test_a_look_that_fails_is_followed_by_others(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    looks = 0
    stopping = threading.Event()

    def fire_due(now: Any) -> int:
        nonlocal looks
        looks += 1
        if looks == 3:
            stopping.set()
        raise fault

    monkeypatch.setattr(jobs, "fire_due", fire_due)
    monkeypatch.setattr(firing, "_stopping", stopping)
    monkeypatch.setattr(firing, "LOOK", 0.01)
    monkeypatch.setattr(firing, "LOOK_AGAIN", 0.01)
    thread = threading.Thread(target=firing._run, daemon=True)
    thread.start()
    thread.join(5)
    assert looks == 3
