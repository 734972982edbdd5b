"""Notifications of the running product: from a run that fails to the mail and the webhook, whatever dies in between."""

from __future__ import annotations

import email
import os
import signal
from collections.abc import Iterator
from email import policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.acceptance.test_webhooks import listen, wait_until, workers
from tests.product import Product
from tests.workspaces.receiver import Receiver, receiving

pytestmark = pytest.mark.acceptance
PUBLISH = """
from apps.modules import services
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import Project
project = Project.objects.get(pk={project!r})
source = "name: broken\\nsteps:\\n  - id: stop\\n    fail: {{message: There is no laptop left.}}\\n"
services.put_draft(project, "broken", source, SYSTEM)
services.publish(services.find(project, "broken"), SYSTEM)
"""
RULE = """
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import Project, WebhookEndpoint
from apps.workspaces.notifications import create_rule
project = Project.objects.get(pk={project!r})
endpoint = WebhookEndpoint.objects.get(pk={webhook!r})
create_rule(project, SYSTEM, emails=["ada@example.com"], webhook=endpoint, every_minutes={every})
"""
NOTE = """
from django.db import transaction
from apps.lib import broker
from apps.workspaces.models import Project
from apps.workspaces.notifications import notify
broker.hand = lambda *given, **options: False
project = Project.objects.get(pk={project!r})
for number in range({count}):
    notify(project, "run.failed", str(number), {{"title": f"Run {{number}} failed"}})
"""


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


@pytest.fixture
def own(tmp_path: Path, outbox: Path) -> Iterator[Product]:
    running = Product(tmp_path / "home", JACKFIELD_EGRESS_ALLOW="127.0.0.0/8", EMAIL_URL=f"filemail:///{outbox}")
    try:
        yield running.start()
    finally:
        running.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def make_rule(product: Product, receiver: Receiver, every: int = 0) -> None:
    webhook = listen(product, receiver, events=["connection.deleted"])
    product.run(RULE.format(project=product.facts["project_id"], webhook=webhook, every=every))


def mails(outbox: Path) -> list[EmailMessage]:
    found = [file for file in sorted(outbox.glob("*")) if file.stat().st_size]
    return [email.message_from_bytes(file.read_bytes(), policy=policy.default) for file in found]


def test_a_run_that_fails_comes_by_mail_and_webhook(own: Product, receiver: Receiver, outbox: Path) -> None:
    make_rule(own, receiver)
    own.run(PUBLISH.format(project=own.facts["project_id"]))
    address = f"/{own.facts['workspace_id']}/projects/{own.facts['project_name']}/run/start"
    started = own.call("POST", address, json={"api": "broken", "parameters": {}})
    assert started.status_code == 200, started.text
    wait_until(lambda: len(mails(outbox)) == 1 and len(receiver.received) == 1, "mail and event")
    (mail,) = mails(outbox)
    assert mail["To"] == "ada@example.com"
    assert "1 failure · A run of broken failed" in mail["Subject"]
    body = mail.get_body(("plain",))
    assert body is not None
    assert "There is no laptop left." in body.get_content()
    event = receiver.received[0].event
    assert event is not None, "the signature does not verify"
    assert (event["type"], event["data"]["notices"][0]["subject"]) == ("notification", started.json()["runId"])


def test_without_a_hint_and_with_a_killed_worker_all_is_told_once_and_together(
    own: Product, receiver: Receiver, outbox: Path
) -> None:
    make_rule(own, receiver, every=60)
    for pid in workers(own):
        os.kill(pid, signal.SIGKILL)
    own.run(NOTE.format(project=own.facts["project_id"], count=5))
    wait_until(lambda: len(mails(outbox)) == 1 and len(receiver.received) == 1, "mail and event", 60)
    assert "5 failures" in mails(outbox)[0]["Subject"]
    event = receiver.received[0].event
    assert event is not None
    assert [notice["subject"] for notice in event["data"]["notices"]] == ["0", "1", "2", "3", "4"]
