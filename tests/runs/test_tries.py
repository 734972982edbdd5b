"""The log tells how often the service was asked, also where no answer came: nobody else could add up what it saw."""

from __future__ import annotations

import pytest

from apps.lib import breaker
from apps.lib.errors import Unreachable
from apps.lib.http import Outgoing, send
from tests.api.shop import Shop
from tests.cast import enable

ANSWER = {"toolName": "LAB_ANSWER", "userId": "u1"}


def answer(shop: Shop, kind: str) -> int:
    body = ANSWER | {"params": {"kind": kind}}
    return shop.api.post("integrations/execute", body).status_code


@pytest.mark.parametrize(("kind", "status"), [("reset", 502), ("500", 422), ("echo", 200)])
def test_what_is_not_safe_to_repeat_is_tried_once(shop: Shop, kind: str, status: int) -> None:
    assert answer(shop, kind) == status
    assert shop.executions()[-1].tries == shop.upstream.count(f"/{kind}") == 1


def test_an_answer_that_did_not_come_in_time_was_asked_for_once(shop: Shop) -> None:
    body = {"toolName": "LAB_HANG", "userId": "u1"}
    assert shop.api.post("integrations/execute", body).status_code == 502
    assert shop.executions()[-1].tries == shop.upstream.count("/hang") == 1


def test_what_is_safe_to_repeat_is_tried_three_times(shop: Shop) -> None:
    path = f"/api/integrations/projects/{shop.cast.project.pk}/integrations/{shop.integration.pk}/execute"
    body = {"endpoint": "/reset", "method": "GET"}
    assert shop.api.post(path, body, x_end_user="u1").status_code == 502
    assert shop.executions()[-1].tries == shop.upstream.count("/reset") == 3


def test_a_call_with_a_newer_token_counts_both_times(shop: Shop) -> None:
    enable(shop.cast.project, "lab", shop.upstream.url, overrides={"token_url": f"{shop.upstream.url}/token/ok"})
    assert answer(shop, "bearer/access-1") == 200
    assert shop.executions()[-1].tries == shop.upstream.count("/bearer/access-1") == 2


def test_a_call_that_was_held_back_did_not_ask(shop: Shop) -> None:
    host = f"{shop.cast.project.pk} {shop.upstream.url}"
    try:
        for _ in range(breaker.THRESHOLD):
            breaker.failed(host)
        assert answer(shop, "echo") == 502
    finally:
        breaker.succeeded(host)
    assert shop.executions()[-1].tries == shop.upstream.count("/echo") == 0


def test_the_proxy_counts_too(shop: Shop) -> None:
    for path in ("echo/1", "reset", "reset"):  # the first leaves a connection open, which then breaks: asked once more
        shop.api.get(f"integrations/proxy/lab/{path}", x_end_user="u1").getvalue()
    rows = shop.executions()
    assert [row.status for row in rows] == [200, None, None]
    assert sum(row.tries for row in rows[1:]) == shop.upstream.count("/reset")
    assert rows[1].tries == 2


def test_a_failure_says_how_often_it_was_tried(shop: Shop) -> None:
    with pytest.raises(Unreachable) as caught:
        send(Outgoing("GET", f"{shop.upstream.url}/reset", safe=True))
    assert caught.value.tries == 3
