"""GitHub's tools against the emulated GitHub: made, read back, changed, deleted."""

import base64
import json
import uuid
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import pytest

from apps.toolkits import hooks
from apps.toolkits.request import BadParameters
from apps.toolkits.spec import Tool
from tests.peers.emulate import GITHUB_TOKEN, LOGIN, Emulate
from tests.toolkits.driver import Service, build_tool, load, tools_named

NOT_SERVED = {
    "create_commit_status",
    "create_gist",
    "get_combined_status",
    "list_gists",
    "list_notifications",
    "list_organization_repositories",
    "mark_notification_read",
    "star_repository",
    "unstar_repository",
}


@pytest.fixture
def github(emulate: Emulate) -> Iterator[Service]:
    """GitHub as Alice sees it, with a new repository of hers that every call is about unless it names another."""
    name = f"webapp-{uuid.uuid4().hex[:10]}"
    github = Service("github", emulate.github.url, GITHUB_TOKEN, repo=f"{LOGIN}/{name}")
    made = github("create_repository", name=name, description="Made by a test", auto_init=True)
    assert made["full_name"] == f"{LOGIN}/{name}"
    yield github
    github.answer("delete_repository")


def name_of(github: Service) -> str:
    return str(github.always["repo"]).split("/")[1]


def head_of_main(github: Service) -> str:
    return str(github("get_branch", branch="main")["commit"]["sha"])


@pytest.fixture
def pull_number(github: Service) -> int:
    """A pull request from branch feature/login into main that adds one file of two lines."""
    github("create_branch", branch="feature/login", sha=head_of_main(github))
    github("create_or_update_file", path="login.py", text="a = 1\nb = 2\n", message="Add login", branch="feature/login")
    opened = github("create_pull_request", title="Login", head="feature/login", base="main", body="Please", draft=False)
    assert (opened["state"], opened["head"]["ref"], opened["base"]["ref"]) == ("open", "feature/login", "main")
    return int(opened["number"])


# The repository's name


def test_the_seeds_create_issue_runs_as_printed() -> None:
    params = {"repo": "acme/webapp", "title": "Bug report", "body": "...", "labels": ["bug", "priority"]}
    request = build_tool("github", "create_issue", params)
    assert request.method == "POST"
    assert request.full_url == "https://api.github.com/repos/acme/webapp/issues"
    assert request.headers == {
        "Accept": "application/vnd.github+json",
        "X-GitHub-Api-Version": "2022-11-28",
        "Content-Type": "application/json",
    }
    assert json.loads(request.body or b"") == {"title": "Bug report", "body": "...", "labels": ["bug", "priority"]}


def test_the_owner_may_be_given_by_itself() -> None:
    request = build_tool("github", "create_issue", {"owner": "acme", "repo": "webapp", "title": "Bug"})
    assert request.url == "https://api.github.com/repos/acme/webapp/issues"


def test_an_owner_given_twice_must_be_the_same() -> None:
    request = build_tool("github", "get_repository", {"owner": "Acme", "repo": "acme/webapp"})
    assert request.url == "https://api.github.com/repos/acme/webapp"
    with pytest.raises(BadParameters) as caught:
        build_tool("github", "get_repository", {"owner": "bob", "repo": "acme/webapp"})
    assert caught.value.faults == {"owner": ["repo names the owner acme, owner says bob. Give one of them."]}


@pytest.mark.parametrize(
    "tool", [tool for tool in load("github").tools if "repo" in tool.parameters], ids=attrgetter("slug")
)
def test_every_tool_with_a_repository_wants_its_owner(tool: Tool) -> None:
    assert tool.hook
    with pytest.raises(BadParameters) as caught:
        hooks.find("github", tool.hook)({"repo": "webapp"})
    assert caught.value.faults == {"repo": ["Name the owner too: owner/name, or the owner in the parameter owner."]}


@pytest.mark.parametrize("repo", ["acme/webapp/issues", "/webapp", "acme/", "", "https://github.com/acme/webapp"])
def test_a_repository_of_another_form_is_refused(repo: str) -> None:
    with pytest.raises(BadParameters) as caught:
        build_tool("github", "get_repository", {"repo": repo})
    assert "repo" in caught.value.faults


@pytest.mark.parametrize("repo", ["../webapp", "acme/..", "./webapp"])
def test_a_repository_cannot_lead_out_of_its_path(repo: str) -> None:
    with pytest.raises(BadParameters):
        build_tool("github", "get_repository", {"repo": repo})


def test_a_file_cannot_lead_out_of_its_repository() -> None:
    with pytest.raises(BadParameters):
        build_tool("github", "get_content", {"repo": "acme/webapp", "path": "docs/../../other"})


def test_a_file_is_written_as_base64_whether_given_as_text_or_not() -> None:
    common = {"repo": "acme/webapp", "path": "/docs/ünï.md", "message": "Write"}
    text = build_tool("github", "create_or_update_file", common | {"text": "Grüße"})
    assert text.url == "https://api.github.com/repos/acme/webapp/contents/docs/%C3%BCn%C3%AF.md"
    assert json.loads(text.body or b"")["content"] == base64.b64encode("Grüße".encode()).decode()
    binary = build_tool("github", "create_or_update_file", common | {"content": "AAEC"})
    assert json.loads(binary.body or b"")["content"] == "AAEC"


# People and organizations


def test_the_profile_call_tells_the_account(github: Service) -> None:
    profile = load("github").profile
    assert profile is not None
    assert github.call(profile)[profile.label.strip("/")] == LOGIN


def test_people_and_organizations_are_found(github: Service) -> None:
    me = github("get_authenticated_user")
    assert me["login"] == LOGIN
    assert github("get_user", username="bob")["name"] == "Bob Brown"
    assert "acme" in [org["login"] for org in github("list_organizations")]
    assert github("get_organization", org="acme")["login"] == "acme"
    assert LOGIN in [member["login"] for member in github("list_organization_members", org="acme")]
    teams = github("list_teams", org="acme")
    assert [member["login"] for member in github("list_team_members", org="acme", team_slug=teams[0]["slug"])] == [
        LOGIN
    ]


def test_the_users_own_profile_is_changed(github: Service) -> None:
    changed = github("update_authenticated_user", bio="Patches cables")
    assert changed["bio"] == "Patches cables"
    assert github("get_user", username=LOGIN)["bio"] == "Patches cables"
    github("update_authenticated_user", bio="")


# Repositories


def test_a_repository_is_made_changed_found_and_deleted(github: Service) -> None:
    name = name_of(github)
    assert github("update_repository", description="Changed", has_wiki=False)["description"] == "Changed"
    assert github("get_repository")["description"] == "Changed"
    assert name in [repo["name"] for repo in github("list_repositories", sort="created", per_page=100)]
    assert name in [repo["name"] for repo in github("list_user_repositories", username=LOGIN, per_page=100)]
    assert github("replace_topics", names=["telephony", "jacks"])["names"] == ["telephony", "jacks"]
    assert github("get_topics")["names"] == ["telephony", "jacks"]
    assert isinstance(github("list_languages"), dict)
    assert isinstance(github("list_contributors"), list)
    assert github("delete_repository") is None
    assert github.answer("get_repository")[0] == 404


def test_an_organizations_repository_is_made_and_listed(github: Service) -> None:
    name = f"shared-{uuid.uuid4().hex[:10]}"
    made = github("create_organization_repository", org="acme", name=name, private=True)
    assert (made["full_name"], made["private"]) == (f"acme/{name}", True)
    assert github("get_repository", repo=f"acme/{name}")["private"] is True
    github("delete_repository", repo=f"acme/{name}")


def test_a_repository_is_forked_into_an_organization(github: Service) -> None:
    fork = github("fork_repository", organization="acme", name=f"fork-{name_of(github)}")
    assert fork["fork"] is True
    assert fork["full_name"] in [repo["full_name"] for repo in github("list_forks")]
    github("delete_repository", repo=fork["full_name"])


def test_a_collaborator_comes_and_goes(github: Service) -> None:
    github("add_collaborator", username="bob", permission="push")
    assert "bob" in [person["login"] for person in github("list_collaborators")]
    assert github("get_collaborator_permission", username="bob")["permission"] == "push"
    github("remove_collaborator", username="bob")
    assert "bob" not in [person["login"] for person in github("list_collaborators")]


# Issues


def test_an_issue_lives_from_opening_to_closing(github: Service) -> None:
    github("create_label", name="bug", color="f29513")
    github("create_label", name="priority")
    made = github("create_issue", title="Bug report", body="...", labels=["bug", "priority"], assignees=[LOGIN])
    number = made["number"]
    assert [label["name"] for label in made["labels"]] == ["bug", "priority"]
    assert github("get_issue", issue_number=number)["title"] == "Bug report"
    changed = github("update_issue", issue_number=number, title="Bug", labels=["bug"])
    assert (changed["title"], [label["name"] for label in changed["labels"]]) == ("Bug", ["bug"])
    closed = github("close_issue", issue_number=number, state_reason="not_planned")
    assert (closed["state"], closed["state_reason"]) == ("closed", "not_planned")
    assert github("list_issues", state="open") == []
    assert [issue["number"] for issue in github("list_issues", state="closed", labels=["bug"])] == [number]
    assert "closed" in [event["event"] for event in github("list_issue_events", issue_number=number)]


def test_an_issues_labels_are_added_set_and_removed(github: Service) -> None:
    for name in ("bug", "good first issue", "later"):
        github("create_label", name=name)
    number = github("create_issue", title="Labels")["number"]

    def labels() -> set[str]:
        return {label["name"] for label in github("list_issue_labels", issue_number=number)}

    github("add_labels", issue_number=number, labels=["bug", "good first issue"])
    assert labels() == {"bug", "good first issue"}
    github("remove_label", issue_number=number, name="good first issue")
    assert labels() == {"bug"}
    github("set_labels", issue_number=number, labels=["later"])
    assert labels() == {"later"}
    github("set_labels", issue_number=number, labels=[])
    assert labels() == set()


def test_an_issue_is_assigned_and_locked(github: Service) -> None:
    number = github("create_issue", title="Whose?")["number"]
    assert [who["login"] for who in github("add_assignees", issue_number=number, assignees=[LOGIN])["assignees"]] == [
        LOGIN
    ]
    assert github("remove_assignees", issue_number=number, assignees=[LOGIN])["assignees"] == []
    github("lock_issue", issue_number=number, lock_reason="too heated")
    assert github("get_issue", issue_number=number)["locked"] is True
    github("unlock_issue", issue_number=number)
    assert github("get_issue", issue_number=number)["locked"] is False


def test_an_issue_comment_is_written_changed_and_deleted(github: Service) -> None:
    number = github("create_issue", title="Talk")["number"]
    comment = github("create_issue_comment", issue_number=number, body="First")["id"]
    assert github("update_issue_comment", comment_id=comment, body="Better")["body"] == "Better"
    assert github("get_issue_comment", comment_id=comment)["body"] == "Better"
    assert [one["id"] for one in github("list_issue_comments", issue_number=number)] == [comment]
    github("delete_issue_comment", comment_id=comment)
    assert github("list_issue_comments", issue_number=number) == []


def test_a_label_is_made_renamed_and_deleted(github: Service) -> None:
    github("create_label", name="help/wanted", color="00ff00", description="Come in")
    assert github("update_label", name="help/wanted", new_name="wanted")["name"] == "wanted"
    assert "wanted" in [label["name"] for label in github("list_labels", per_page=100)]
    github("delete_label", name="wanted")
    assert "wanted" not in [label["name"] for label in github("list_labels", per_page=100)]


def test_a_milestone_is_made_closed_and_deleted(github: Service) -> None:
    number = github("create_milestone", title="v1", due_on="2030-01-31T00:00:00Z")["number"]
    assert github("create_issue", title="For v1", milestone=number)["milestone"]["title"] == "v1"
    assert github("update_milestone", milestone_number=number, state="closed")["state"] == "closed"
    assert [one["number"] for one in github("list_milestones", state="closed")] == [number]
    github("delete_milestone", milestone_number=number)
    assert github("list_milestones", state="all") == []


# Pull requests


def test_a_pull_request_is_changed_and_merged(github: Service, pull_number: int) -> None:
    assert [one["number"] for one in github("list_pull_requests", base="main")] == [pull_number]
    assert github("update_pull_request", pull_number=pull_number, title="Sign-in")["title"] == "Sign-in"
    assert github("list_pull_request_files", pull_number=pull_number) == []  # the emulated GitHub counts none
    commits = github("list_pull_request_commits", pull_number=pull_number)
    assert "Add login" in [one["commit"]["message"] for one in commits]
    merged = github("merge_pull_request", pull_number=pull_number, merge_method="squash", commit_title="Sign in")
    assert merged["merged"] is True
    assert github("get_pull_request", pull_number=pull_number)["merged"] is True
    assert github("get_file_text", path="login.py") == b"a = 1\nb = 2\n"


def test_a_pull_requests_branch_is_brought_up_to_date(github: Service, pull_number: int) -> None:
    head = github("get_pull_request", pull_number=pull_number)["head"]["sha"]
    refused, _ = github.answer("update_pull_request_branch", pull_number=pull_number, expected_head_sha="0" * 40)
    assert refused == 422
    github("update_pull_request_branch", pull_number=pull_number, expected_head_sha=head)
    merge = github("get_commit", ref="feature/login")
    assert merge["commit"]["message"] == "Merge branch 'main' into feature/login"
    assert merge["parents"][0]["sha"] == head


def test_reviewers_are_asked_and_released(github: Service, pull_number: int) -> None:
    github("add_collaborator", username="bob", permission="push")
    asked = github("request_reviewers", pull_number=pull_number, reviewers=["bob"])
    assert [one["login"] for one in asked["requested_reviewers"]] == ["bob"]
    released = github("remove_requested_reviewers", pull_number=pull_number, reviewers=["bob"])
    assert released["requested_reviewers"] == []


def test_a_review_is_begun_submitted_and_dismissed(github: Service, pull_number: int) -> None:
    pending = github("create_review", pull_number=pull_number, body="Hm")
    assert pending["state"] == "PENDING"
    submitted = github("submit_review", pull_number=pull_number, review_id=pending["id"], event="COMMENT", body="Fine")
    assert submitted["state"] == "COMMENTED"
    assert [one["state"] for one in github("list_pull_request_reviews", pull_number=pull_number)] == ["COMMENTED"]
    dismissed = github("dismiss_review", pull_number=pull_number, review_id=pending["id"], message="Old")
    assert dismissed["state"] == "DISMISSED"


def test_a_line_of_a_pull_request_is_commented_on(github: Service, pull_number: int) -> None:
    head = github("get_pull_request", pull_number=pull_number)["head"]["sha"]
    comment = github(
        "create_review_comment",
        pull_number=pull_number,
        body="Why 1?",
        commit_id=head,
        path="login.py",
        line=1,
        side="RIGHT",
    )
    assert (comment["path"], comment["body"]) == ("login.py", "Why 1?")
    assert [one["id"] for one in github("list_review_comments", pull_number=pull_number)] == [comment["id"]]
    github("delete_review_comment", comment_id=comment["id"])
    assert github("list_review_comments", pull_number=pull_number) == []


# Files, branches and commits


def test_a_file_is_written_read_replaced_and_deleted(github: Service) -> None:
    made = github("create_or_update_file", path="docs/a b.md", text="Grüße", message="Write")
    assert made["commit"]["message"] == "Write"
    assert github("get_file_text", path="docs/a b.md").decode() == "Grüße"
    github("create_or_update_file", path="docs/a b.md", text="Two", message="Again", sha=made["content"]["sha"])
    got = github("get_content", path="docs/a b.md")
    assert base64.b64decode(got["content"]) == b"Two"
    assert [entry["name"] for entry in github("get_content", path="docs")] == ["a b.md"]
    assert "docs" in [entry["name"] for entry in github("list_root_contents")]
    assert github("delete_file", path="docs/a b.md", message="Remove", sha=got["sha"])["content"] is None
    assert github.answer("get_content", path="docs/a b.md")[0] == 404


def test_the_readme_and_the_tree_are_read(github: Service) -> None:
    readme = github("get_readme")
    assert readme["encoding"] == "base64"
    tree = github("get_tree", tree_sha=head_of_main(github), recursive="1")
    assert readme["path"] in [entry["path"] for entry in tree["tree"]]


def test_a_branch_is_made_listed_and_deleted(github: Service) -> None:
    made = github("create_branch", branch="feature/ünï", sha=head_of_main(github))
    assert made["ref"] == "refs/heads/feature/ünï"
    assert {"main", "feature/ünï"} == {branch["name"] for branch in github("list_branches")}
    assert github("get_branch", branch="feature/ünï")["name"] == "feature/ünï"
    github("delete_branch", branch="feature/ünï")
    assert [branch["name"] for branch in github("list_branches")] == ["main"]


def test_commits_are_listed_read_compared_and_commented_on(github: Service, pull_number: int) -> None:
    assert len(github("list_commits", sha="feature/login", path="login.py")) == 1
    commit = github("get_commit", ref="feature/login")
    assert [file["filename"] for file in commit["files"]] == ["login.py"]
    compared = github("compare_commits", base="main", head="feature/login")
    assert (compared["status"], compared["ahead_by"]) == ("ahead", 1)
    assert github("create_commit_comment", commit_sha=commit["sha"], body="Nice")["body"] == "Nice"
    assert github("list_check_runs", ref="feature/login") == {"total_count": 0, "check_runs": []}


# Releases, workflows and webhooks


def test_a_release_is_drafted_published_and_deleted(github: Service) -> None:
    made = github("create_release", tag_name="v1.0.0", target_commitish="main", name="One", draft=True)
    assert made["draft"] is True
    release = made["id"]
    assert github("update_release", release_id=release, draft=False, body="Notes")["draft"] is False
    assert github("get_release", release_id=release)["body"] == "Notes"
    assert github("get_latest_release")["id"] == release
    assert github("get_release_by_tag", tag="v1.0.0")["id"] == release
    assert "name" in github("generate_release_notes", tag_name="v1.0.1")
    assert [one["id"] for one in github("list_releases")] == [release]
    assert isinstance(github("list_tags"), list)
    github("delete_release", release_id=release)
    assert github("list_releases") == []


def test_a_repository_without_workflows_has_no_runs(github: Service) -> None:
    """The emulated GitHub makes workflows and runs from nothing that a client can send."""
    assert github("list_workflows") == {"total_count": 0, "workflows": []}
    assert github("list_workflow_runs", status="success") == {"total_count": 0, "workflow_runs": []}
    assert github.answer("get_workflow_run", run_id=1)[0] == 404
    assert github.answer("list_workflow_jobs", run_id=1)[0] == 404
    assert github.answer("rerun_workflow", run_id=1)[0] == 404
    assert github.answer("cancel_workflow_run", run_id=1)[0] == 404
    assert github.answer("dispatch_workflow", workflow_id="ci.yml", ref="main")[0] == 404


def test_a_webhook_is_made_and_deleted(github: Service) -> None:
    made = github(
        "create_webhook", url="http://127.0.0.1:9/hook", content_type="json", events=["push"], insecure_ssl=False
    )
    assert made["config"]["url"] == "http://127.0.0.1:9/hook"
    assert [one["id"] for one in github("list_webhooks")] == [made["id"]]
    github("delete_webhook", hook_id=made["id"])
    assert github("list_webhooks") == []


# Search


def test_everything_is_found_by_search(github: Service) -> None:
    repo = github.always["repo"]
    github("create_issue", title="Flickering lamp")
    github("create_or_update_file", path="lamp.py", text="flicker = 1", message="Describe flicker")
    assert [one["full_name"] for one in github("search_repositories", q=name_of(github))["items"]] == [repo]
    assert [one["title"] for one in github("search_issues", q=f"repo:{repo} is:issue flickering")["items"]] == [
        "Flickering lamp"
    ]
    assert [one["path"] for one in github("search_code", q=f"repo:{repo} flicker")["items"]] == ["lamp.py"]
    found = github("search_commits", q=f"repo:{repo} flicker")["items"]
    assert [one["commit"]["message"] for one in found] == ["Describe flicker"]
    assert [one["login"] for one in github("search_users", q="bob")["items"]] == ["bob"]


# What the emulated GitHub lacks


def test_every_tool_is_run_here_or_listed_as_not_served() -> None:
    served = tools_named(__file__, "github")
    assert served & NOT_SERVED == set()
    assert served | NOT_SERVED == set(load("github").tools_by_slug)


EXAMPLES: dict[str, dict[str, Any]] = {
    "create_commit_status": {"sha": "0" * 40, "state": "success"},
    "create_gist": {"files": {"a.txt": {"content": "x"}}},
    "get_combined_status": {"ref": "main"},
    "list_organization_repositories": {"org": "acme"},
    "mark_notification_read": {"thread_id": 1},
}


@pytest.mark.parametrize("tool_slug", sorted(NOT_SERVED))
def test_the_emulated_github_does_not_serve(github: Service, tool_slug: str) -> None:
    assert github.answer(tool_slug, **EXAMPLES.get(tool_slug, {}))[0] == 404


@pytest.mark.parametrize(
    ("tool_slug", "params", "method", "url", "body"),
    [
        (
            "create_commit_status",
            {"repo": "acme/webapp", "sha": "abc", "state": "success", "context": "ci/build"},
            "POST",
            "/repos/acme/webapp/statuses/abc",
            {"state": "success", "context": "ci/build"},
        ),
        (
            "create_gist",
            {"files": {"a.py": {"content": "x"}}, "public": False},
            "POST",
            "/gists",
            {"files": {"a.py": {"content": "x"}}, "public": False},
        ),
        (
            "get_combined_status",
            {"repo": "acme/webapp", "ref": "v/1"},
            "GET",
            "/repos/acme/webapp/commits/v/1/status",
            None,
        ),
        ("list_gists", {"per_page": 5}, "GET", "/gists?per_page=5", None),
        ("list_notifications", {"all": True}, "GET", "/notifications?all=true", None),
        (
            "list_organization_repositories",
            {"org": "acme", "type": "forks"},
            "GET",
            "/orgs/acme/repos?type=forks",
            None,
        ),
        ("mark_notification_read", {"thread_id": 7}, "PATCH", "/notifications/threads/7", None),
        ("star_repository", {"repo": "acme/webapp"}, "PUT", "/user/starred/acme/webapp", None),
        ("unstar_repository", {"repo": "acme/webapp"}, "DELETE", "/user/starred/acme/webapp", None),
    ],
)
def test_what_is_not_served_is_built_as_github_documents_it(
    tool_slug: str, params: dict[str, Any], method: str, url: str, body: Any
) -> None:
    request = build_tool("github", tool_slug, params)
    assert (request.method, request.full_url) == (method, f"https://api.github.com{url}")
    assert (json.loads(request.body) if request.body else None) == body
