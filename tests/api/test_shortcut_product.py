"""The Shortcut API of the real product, as an agent meets it: the seed's example at the emulated GitHub, over HTTP."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest
import requests

from tests.acceptance.journey import come_back, configure
from tests.peers.emulate import GITHUB_TOKEN, Emulate
from tests.product import Product

SEED = {
    "params": {
        "repo": "acme/webapp",
        "title": "Bug report",
        "body": "Steps to reproduce...",
        "labels": ["bug", "priority"],
    }
}


class Agent:
    """Calls with one key."""

    def __init__(self, product: Product, key: str) -> None:
        self.url = product.url
        self.headers = {"Authorization": f"Bearer {key}"}

    def get(self, path: str) -> Any:
        answer = requests.get(self.url + path, headers=self.headers, timeout=20)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any, **headers: str) -> requests.Response:
        return requests.post(self.url + path, json=body, headers=self.headers | headers, timeout=20)


@pytest.fixture
def github(product: Product, emulate: Emulate) -> Emulate:
    """GitHub is enabled; the repository of the seed's example is there."""
    service = emulate.github
    configure(product, "github", service.client_id, service.client_secret, base_url=service.url,
              authorization_url=service.authorization_url, token_url=service.token_url)  # fmt: skip
    emulate.allow(f"{product.url}/v1/{product.facts['project_id']}/integrations/callback")
    made = requests.post(f"{service.url}/orgs/acme/repos", json={"name": "webapp", "auto_init": True},
                         headers={"Authorization": f"Bearer {GITHUB_TOKEN}"}, timeout=10)  # fmt: skip
    assert made.status_code in {201, 422}, made.text
    return emulate


def agent(product: Product) -> Agent:
    """Somebody's agent: its key is made by the person's own token."""
    token = product.call("POST", "user-tokens", json={"userId": f"person-{uuid.uuid4().hex[:8]}"}).json()["token"]
    made = requests.post(f"{product.url}/api-keys", json={"name": "agent"}, timeout=20,
                         headers={"Authorization": f"Bearer {token}"})  # fmt: skip
    assert made.status_code == 201, made.text
    return Agent(product, made.json()["full_key"])


def test_the_seeds_example_runs_as_printed_from_connecting_to_the_issue(product: Product, github: Emulate) -> None:
    ours = agent(product)
    (skill,) = [row for row in ours.get("/v1/skills")["integrations"] if row["slug"] == "github"]
    assert (skill["connected"], "create_issue" in skill["endpoints"]) == (False, True)

    refused = ours.post("/v1/github/create_issue", SEED)
    assert refused.status_code == 403
    assert refused.json()["error"] == "integration_not_connected"
    assert requests.get(refused.json()["action_url"], timeout=10).status_code == 200

    flow = ours.post("/v1/connect", {"integration": "github"}).json()
    assert ours.get(f"/v1/connect/{flow['connection_id']}") == {"status": "pending", "integration": "github"}
    come_back(github.approve(flow["oauth_url"]))
    assert ours.get(f"/v1/connect/{flow['connection_id']}") == {"status": "connected", "integration": "github"}

    answer = ours.post("/v1/github/create_issue", SEED)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (set(body), body["status"]) == ({"status", "data"}, 201)  # GitHub's own: created
    issue = body["data"]
    assert (issue["title"], issue["state"]) == ("Bug report", "open")
    assert [label["name"] for label in issue["labels"]] == ["bug", "priority"]
    there = requests.get(f"{github.github.url}/repos/acme/webapp/issues/{issue['number']}", timeout=10,
                         headers={"Authorization": f"Bearer {GITHUB_TOKEN}"})  # fmt: skip
    assert there.json()["title"] == "Bug report"

    apart = {"params": {"owner": "acme", "repo": "webapp", "title": "Owner apart"}}
    assert ours.post("/v1/github/create_issue", apart).json()["data"]["title"] == "Owner apart"


def test_the_services_own_refusal_keeps_its_status(product: Product, github: Emulate) -> None:
    ours = agent(product)
    flow = ours.post("/v1/connect", {"integration": "github"}).json()
    come_back(github.approve(flow["oauth_url"]))
    answer = ours.post("/v1/github/create_issue", {"params": {"repo": "acme/no-such-repository", "title": "x"}})
    assert answer.status_code == 404
    assert (answer.json()["status"], set(answer.json())) == (404, {"status", "error"})
    assert answer.headers["X-Request-Id"]


def test_one_idempotency_key_makes_one_issue(product: Product, github: Emulate) -> None:
    ours = agent(product)
    come_back(github.approve(ours.post("/v1/connect", {"integration": "github"}).json()["oauth_url"]))
    key = {"Idempotency-Key": uuid.uuid4().hex}
    numbers = {ours.post("/v1/github/create_issue", SEED, **key).json()["data"]["number"] for _ in range(3)}
    assert len(numbers) == 1


def test_the_files_for_agents_come_whole_and_quickly(product: Product) -> None:
    ours = agent(product)
    begun = time.monotonic()
    files = {file["file_path"]: file["content"] for file in ours.get("/v1/github/download")["files"]}
    assert time.monotonic() - begun < 5
    assert product.url in files["SKILL.md"]
    assert "acme/webapp" in files["endpoints/create_issue.md"]


@pytest.mark.parametrize("path", ["/v1/skills/a/b/c", "/v1/github/create_issue/more", "/api-keys/a/b"])
def test_what_is_no_path_is_json(product: Product, path: str) -> None:
    answer = requests.get(product.url + path, timeout=10)
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/json")
