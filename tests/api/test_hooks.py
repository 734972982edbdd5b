"""Hooks: who may send, what becomes of what is sent, answers at once and with the result, repetitions."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client

from apps.modules.models import Module
from apps.runs import hooks as service
from apps.runs import starting
from apps.runs.carrier import carry
from apps.runs.models import Run
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import Plan
from tests.api.automations import FAIL, publish
from tests.api.shop import error_of
from tests.cast import Cast

SECRET = "whsec-of-the-sender"
NUMBER = [
    {"name": "Number", "api_name": "number", "type": "number"},
    {"name": "Text", "api_name": "text", "type": "text"},
]
EVENT = {"action": "opened", "number": 7, "id": "evt_1", "event_id": "Ev1", "issue": {"title": "Broken"}}


def hook(project: Any, name: str = "onboard", secret: str = "", **definition: Any) -> Module:
    module = publish(project, name, start_parameters=NUMBER, **definition)
    if secret:
        module.seal("hook_secret", secret)
        module.save(update_fields=["hook_secret"])
    return module


def send(
    module: Module | str, body: Any = None, kind: str = "application/json", query: str = "", **headers: str
) -> Any:
    token = module if isinstance(module, str) else module.hook_token
    content = body if isinstance(body, bytes) else json.dumps(EVENT if body is None else body).encode()
    return Client().generic("POST", f"/hooks/{token}{query}", content, content_type=kind, headers=headers)


def accepted(answer: Any) -> Run:
    assert answer.status_code == 202, answer.content
    run = Run.objects.get(pk=answer.json()["runId"])
    assert answer.json() == {"runId": run.pk, "sessionId": run.session_id, "status": "created"}
    return run


# -- What is sent ----------------------------------------------------------------------------------------------------
def test_members_of_the_bodys_become_start_parameters_of_their_names(cast: Cast) -> None:
    run = accepted(send(hook(cast.project)))
    assert run.parameters["number"] == 7
    assert (run.surface, run.started_by, run.user_id) == ("hook", "hook:onboard", "")


def test_the_hook_maps_what_was_sent(cast: Cast) -> None:
    mapping = {
        "parameters": {
            "number": "{{ body.number }}",
            "text": "{{ body.issue.title }}/{{ headers['x-kind'] }}/{{ query.q }}",
        },
        "user": "{{ body.action }}",
    }
    module = hook(cast.project, hook=mapping)
    run = accepted(send(module, query="?q=1", **{"X-Kind": "issue"}))
    assert (run.parameters, run.user_id) == ({"number": 7, "text": "Broken/issue/1"}, "opened")
    answer = send(module, {"number": 7}, query="?q=1", **{"X-Kind": "issue"})
    assert answer.status_code == 400
    assert list(error_of(answer)["details"]) == ["hook.parameters"]
    assert Run.objects.count() == 1


def test_what_is_not_wanted_starts_nothing(cast: Cast) -> None:
    module = hook(cast.project, hook={"when": "{{ body.action == 'closed' }}"})
    answer = send(module)
    assert (answer.status_code, answer.json()) == (202, {"status": "ignored"})
    assert not Run.objects.exists()
    accepted(send(module, EVENT | {"action": "closed"}))


FORMS: dict[str, tuple[bytes, str, str]] = {
    "a form": (
        urlencode({"number": "7", "text": "ü"}).encode(),
        "application/x-www-form-urlencoded",
        "{{ body.text }}",
    ),
    "a form twice": (b"text=a&text=b", "application/x-www-form-urlencoded", "{{ body.text[1] }}"),
    "a text": ("Grüße".encode(), "text/plain; charset=utf-8", "{{ body }}"),
    "JSON as text": (b'{"text": "x"}', "text/plain", "{{ body.text }}"),
    "JSON of no kind": (b'{"text": "x"}', "", "{{ body.text }}"),
    "a kind of JSON": (b'{"text": "x"}', "application/cloudevents+json", "{{ body.text }}"),
    "a list": (b'["a", "b"]', "application/json", "{{ body[1] }}"),
    "bytes": (b"\xff\x00", "application/octet-stream", "{{ body.base64 }}"),
    "nothing": (b"", "application/json", "empty"),
}


@pytest.mark.parametrize("what", FORMS)
def test_a_body_of_any_kind_is_read(cast: Cast, what: str) -> None:
    content, kind, expression = FORMS[what]
    module = hook(cast.project, hook={"parameters": {"text": expression}})
    run = accepted(send(module, content, kind))
    expected = {"a form": "ü", "a form twice": "b", "a text": "Grüße", "a list": "b", "nothing": "empty",
                "bytes": base64.b64encode(content).decode()}.get(what, "x")  # fmt: skip
    assert run.parameters["text"] == expected


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{", "application/json"),
        (b'{"a": "\\ud800"}', "application/json"),
        (b"[" * 200 + b"]" * 200, "application/json"),
        (b'{"text": "a\\u0000b"}', "application/json"),
        (b"text=a%00b", "application/x-www-form-urlencoded"),
        (b"text=%ff", "application/x-www-form-urlencoded"),
        (b"&".join(b"a=1" for _ in range(2000)), "application/x-www-form-urlencoded"),
        (b'{"number": "many"}', "application/json"),
    ],
    ids=["half", "surrogate", "deep", "NUL", "NUL in a form", "no UTF-8", "many fields", "wrong type"],
)
def test_a_bad_body_is_400_and_starts_nothing(cast: Cast, content: bytes, kind: str) -> None:
    answer = send(hook(cast.project), content, kind)
    assert answer.status_code == 400, answer.content
    assert error_of(answer)["code"] == "VALIDATION_INVALID_SCHEMA"
    assert not Run.objects.exists()


def test_more_than_a_megabyte_is_413(cast: Cast) -> None:
    assert send(hook(cast.project), {"x": "y" * 1_100_000}).status_code == 413


# -- Who sent it -----------------------------------------------------------------------------------------------------
def mac(content: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()


def signed(kind: str, content: bytes, at: float | None = None, secret: str = SECRET) -> dict[str, str]:
    """The headers with which each of the senders signs."""
    now = str(int(time.time() if at is None else at))
    if kind == "stripe":
        return {"Stripe-Signature": f"t={now},v1={'0' * 64},v1={mac(f'{now}.'.encode() + content, secret)},v0=x"}
    if kind == "slack":
        signature = mac(f"v0:{now}:".encode() + content, secret)
        return {"X-Slack-Request-Timestamp": now, "X-Slack-Signature": f"v0={signature}"}
    return {"X-Hub-Signature-256": f"sha256={mac(content, secret)}"} if kind == "github" else {"X-Hook-Secret": secret}


KINDS = ["secret", "github", "stripe", "slack"]
CONTENT = json.dumps(EVENT).encode()


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_the_sender_has_signed_is_taken(cast: Cast, kind: str) -> None:
    module = hook(cast.project, secret=SECRET, hook={"verify": {"kind": kind}})
    bad: list[dict[str, str]] = [{}, signed(kind, CONTENT, secret="another"), dict.fromkeys(signed(kind, CONTENT), "")]
    if kind != "secret":
        bad += [signed(kind, CONTENT + b" "), dict.fromkeys(signed(kind, CONTENT), "t=x,v1=é")]
    if kind in {"stripe", "slack"}:
        bad += [signed(kind, CONTENT, at=time.time() + off) for off in (-320, 320)]
    for headers in bad:
        answer = send(module, CONTENT, **headers)
        assert (answer.status_code, error_of(answer)["code"]) == (401, "AUTH_REQUIRED"), headers
    assert not Run.objects.exists()
    accepted(send(module, CONTENT, **signed(kind, CONTENT)))


def test_without_a_secret_nothing_is_taken(cast: Cast) -> None:
    module = hook(cast.project, hook={"verify": {"kind": "secret"}})
    assert send(module, **{"X-Hook-Secret": ""}).status_code == 401


def test_a_secrets_header_may_have_another_name(cast: Cast) -> None:
    module = hook(cast.project, secret=SECRET, hook={"verify": {"kind": "secret", "header": "X-Gitlab-Token"}})
    assert send(module, **{"X-Hook-Secret": SECRET}).status_code == 401
    accepted(send(module, **{"X-Gitlab-Token": SECRET}))


def test_slacks_challenge_is_answered_to_slack_alone(cast: Cast) -> None:
    module = hook(cast.project, secret=SECRET, hook={"verify": {"kind": "slack"}})
    body = b'{"type": "url_verification", "token": "x", "challenge": "3eZbrw1aB10"}'
    assert send(module, body).status_code == 401
    answer = send(module, body, **signed("slack", body))
    assert (answer.status_code, answer.json()) == (200, {"challenge": "3eZbrw1aB10"})
    assert not Run.objects.exists()


@pytest.mark.parametrize("change", ["unknown", "off", "unpublished", "deleted", "no hook"])
def test_what_has_no_hook_is_404_and_always_the_same(cast: Cast, change: str) -> None:
    module = hook(cast.project, hook=False if change == "no hook" else None)
    if change == "off":
        Module.objects.update(access="off")
    elif change == "unpublished":
        Module.objects.update(published=None)
    elif change == "deleted":
        Module.objects.update(deleted_at=module.created_at)
    answer = send("x" * 43 if change == "unknown" else module)
    assert answer.status_code == 404
    assert answer.content == send("nonsense").content
    assert not Run.objects.exists()


def test_nothing_but_post_is_taken(cast: Cast) -> None:
    module = hook(cast.project)
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        for token in (module.hook_token, "unknown"):
            answer = Client().generic(method, f"/hooks/{token}")
            assert (answer.status_code, answer["Allow"]) == (405, "POST")
            assert answer["Content-Type"] == "application/json"
    assert Client().post("/hooks").status_code == 404
    assert error_of(Client().post("/hooks/a/b"))["code"] == "RESOURCE_NOT_FOUND"


# -- Repetitions -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "name"),
    [("github", "X-GitHub-Delivery"), ("secret", "Idempotency-Key"), ("", "webhook-id"), ("stripe", ""), ("slack", "")],
    ids=["github", "key", "standard webhooks", "stripe", "slack"],
)
def test_a_delivery_that_is_sent_again_starts_once(cast: Cast, kind: str, name: str) -> None:
    module = hook(cast.project, secret=SECRET, hook={"verify": {"kind": kind}} if kind else None)
    answers = []
    for tries in (1, 2):  # a sender may count its tries in the body
        content = json.dumps(EVENT | {"tries": tries}).encode()
        headers = (signed(kind, content) if kind else {}) | ({name: "d-1"} if name else {})
        answers.append(send(module, content, **headers))
    assert {answer.status_code for answer in answers} == {202}
    assert answers[0].content == answers[1].content
    assert answers[1]["Idempotency-Replayed"] == "true"
    assert Run.objects.count() == 1
    other = json.dumps(EVENT | {"id": "evt_2", "event_id": "Ev2"}).encode()
    accepted(send(module, other, **((signed(kind, other) if kind else {}) | ({name: "d-2"} if name else {}))))


def test_deliveries_of_two_modules_have_nothing_to_do_with_each_other(cast: Cast) -> None:
    first, second = hook(cast.project), hook(cast.project, "other")
    for module in (first, second):
        accepted(send(module, **{"X-GitHub-Delivery": "d-1"}))


def test_what_was_refused_may_be_sent_again(cast: Cast) -> None:
    module = hook(cast.project)
    assert send(module, {"number": "many"}, **{"X-GitHub-Delivery": "d-1"}).status_code == 400
    accepted(send(module, **{"X-GitHub-Delivery": "d-1"}))


def test_what_the_plan_does_not_permit_is_429(cast: Cast) -> None:
    cast.workspace.plan = Plan.objects.create(name="Small", calls_per_minute=1)
    cast.workspace.save(update_fields=["plan"])
    module = hook(cast.project)
    accepted(send(module))
    answer = send(module)
    assert (answer.status_code, int(answer["Retry-After"]) >= 1) == (429, True)


# -- With the result -------------------------------------------------------------------------------------------------
@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Run], object]], None]:
    """Lets something happen to the run while the hook waits for it."""

    def arrange(act: Callable[[Run], object]) -> None:
        pauses = iter(range(1000))

        def sleep(seconds: float) -> None:
            if next(pauses) == 1:
                act(Run.objects.get())

        monkeypatch.setattr("apps.runs.api.hooks.time.sleep", sleep)

    return arrange


def test_a_hook_may_answer_with_the_result(cast: Cast, meanwhile: Any) -> None:
    meanwhile(lambda run: carry(run.pk))
    answer = send(hook(cast.project, hook={"answer": "result"}))
    run = Run.objects.get()
    assert answer.status_code == 200
    assert answer.json() == {
        "runId": run.pk,
        "sessionId": run.session_id,
        "status": "completed",
        "result": {"text": "Hello"},
    }


@pytest.mark.parametrize("end", ["failed", "was cancelled"])
def test_a_run_that_fails_is_told_once(cast: Cast, meanwhile: Any, end: str) -> None:
    meanwhile(lambda run: carry(run.pk) if end == "failed" else starting.cancel(run, SYSTEM))
    module = hook(cast.project, hook={"answer": "result"}, **FAIL)
    answers = [send(module, **{"X-GitHub-Delivery": "d-1"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [500, 500]
    error = error_of(answers[0])
    assert (error["code"], error["details"]["runId"]) == ("INTEGRATIONS_EXECUTION_FAILED", Run.objects.get().pk)
    assert error["message"].startswith(f"The run {end}")
    assert answers[0].content == answers[1].content


def test_a_result_that_takes_too_long_is_not_waited_for(cast: Cast) -> None:
    began = time.monotonic()
    accepted(send(hook(cast.project, hook={"answer": "result", "timeout": "300ms"})))
    assert 0.3 <= time.monotonic() - began < 5


def test_only_so_many_hooks_wait_at_a_time(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.runs.api.hooks._places", threading.BoundedSemaphore(1))
    waiting: list[Any] = []
    module = hook(cast.project, hook={"answer": "result", "timeout": 20})

    def wait_for(run: Run, seconds: float) -> Run:
        waiting.append(send(module))  # another one comes
        return run

    monkeypatch.setattr("apps.runs.api.hooks.wait_for", wait_for)
    accepted(send(module))
    assert [answer.status_code for answer in waiting] == [202]


def test_no_hook_waits_longer_than_a_minute(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "LONGEST_WAIT", 0.1)
    began = time.monotonic()
    accepted(send(hook(cast.project, hook={"answer": "result", "timeout": "10m"})))
    assert time.monotonic() - began < 5
