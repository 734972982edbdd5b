"""The hosted connect page over HTTP: its link, its browser, its buttons, and what the embedding script may ask."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from apps.connections import flows, hosted
from apps.connections.integrations import configure
from apps.connections.links import Link, make_link
from apps.connections.models import Connection, ConnectPage, ConnectSession, Integration
from apps.toolkits.registry import catalog, parse
from apps.toolkits.spec import Toolkit
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import AuditEvent
from apps.workspaces.services import change_settings
from apps.workspaces.tokens import mint_user_token
from tests.api.shop import Shop, fails
from tests.cast import Api, connect

if TYPE_CHECKING:
    from django.test.client import _MonkeyPatchedWSGIResponse as Answer

APP = "https://app.example"
KEYED = """
slug: keyed
name: Keyed
base_url: https://keyed.example
auth:
  - {type: api_key, title: Secret key, placement: {in: header, name: Authorization, prefix: "Bearer "}}
test: {path: /bearer/the-right-key}
tools:
  - {slug: echo, name: Echo, description: Sends back what it was sent., method: GET, path: /echo}
"""


@pytest.fixture
def shop(shop: Shop) -> Shop:
    """The lab's provider gives tokens; the project allows one origin."""
    overrides = {"token_url": f"{shop.upstream.url}/token/ok", "base_url": shop.upstream.url}
    configure(shop.cast.project, "lab", SYSTEM, client_id="c", client_secret="s", overrides=overrides)
    change_settings(shop.cast.project, {"allowedOrigins": [APP, "https://other.example"]}, SYSTEM)
    return shop


@pytest.fixture
def keyed() -> Iterator[Toolkit]:
    """A toolkit of the catalog whose accounts are a key that a person types."""
    toolkit, faults = parse(yaml.safe_load(KEYED))
    assert toolkit is not None, faults
    catalog().toolkits["keyed"] = toolkit
    yield toolkit
    del catalog().toolkits["keyed"]


def make(api: Api, user: str = "u1", **body: Any) -> dict[str, Any]:
    answer = api.post("integrations/connect-sessions", {"userId": user, **body})
    assert answer.status_code == 201, answer.content
    made: dict[str, Any] = answer.json()
    return made


def path_of(made: dict[str, Any]) -> str:
    return str(urlsplit(made["url"]).path)


def opened(made: dict[str, Any], browser: Client | None = None, **form: str) -> tuple[Client, str]:
    """A browser that has claimed the link, and the page's path."""
    browser = browser or Client()
    answer = browser.post(path_of(made), form)
    assert answer.status_code == 302, answer.content
    assert answer["Location"] == f"/connect/page/{made['id']}"
    return browser, answer["Location"]


def text(answer: Answer) -> str:
    """What a page says, without its markup."""
    main = answer.content.decode().partition("<main")[2]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", main))


def begin(browser: Client, path: str, **form: str) -> str:
    """POSTs a button that leads to the provider; the state of the flow."""
    answer = browser.post(path, form)
    assert answer.status_code == 302, answer.content
    assert answer["Location"].startswith("https://lab.example/authorize?")
    return parse_qs(urlsplit(answer["Location"]).query)["state"][0]


def come_back(browser: Client, shop: Shop, state: str, **query: str) -> Answer:
    """The provider's callback, and the page after it."""
    given = query or {"code": "a-code"}
    answer = browser.get(f"/v1/{shop.cast.project.pk}/integrations/callback", {"state": state, **given})
    assert answer.status_code == 302
    return browser.get(answer["Location"])


# -- Making a link -----------------------------------------------------------------------------------------------------
def test_a_link_has_a_secret_that_is_kept_as_its_digest(shop: Shop) -> None:
    made = make(shop.api, toolkits=["lab"], redirectUrl=f"{APP}/back", allowedOrigins=[APP])
    assert set(made) == {"id", "url", "expiresAt"}
    page = ConnectPage.objects.get(pk=made["id"])
    secret = made["url"].rpartition("/")[2]
    assert len(secret) == 43
    assert page.digest == flows.digest(secret)
    assert (page.toolkits, page.redirect_url, page.allowed_origins) == (["lab"], f"{APP}/back", [APP])
    left = page.expires_at - timezone.now()
    assert timedelta(minutes=29) < left <= timedelta(minutes=30)
    assert make(shop.api)["url"] != made["url"]


def test_a_link_tells_every_allowed_origin_unless_it_names_some(shop: Shop) -> None:
    assert ConnectPage.objects.get(pk=make(shop.api)["id"]).allowed_origins == [APP, "https://other.example"]
    assert ConnectPage.objects.get(pk=make(shop.api, allowedOrigins=[])["id"]).allowed_origins == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"toolkits": ["lab", "nothing", "slack"]}, "toolkits"),
        ({"toolkits": []}, "toolkits"),
        ({"toolkits": "lab"}, "toolkits"),
        ({"toolkits": ["l\x00b"]}, "toolkits"),
        ({"redirectUrl": "https://evil.example/"}, "redirectUrl"),
        ({"redirectUrl": "javascript:alert(1)"}, "redirectUrl"),
        ({"allowedOrigins": ["https://evil.example"]}, "allowedOrigins"),
        ({"allowedOrigins": ["*"]}, "allowedOrigins"),
        ({"allowedOrigins": ["null"]}, "allowedOrigins"),
        ({"userId": ""}, "userId"),
        ({"userId": 5}, "userId"),
        ({"userId": None}, "userId"),
    ],
    ids=str,
)
def test_what_makes_no_link_is_named_at_its_field(shop: Shop, body: dict[str, Any], field: str) -> None:
    answer = shop.api.post("integrations/connect-sessions", {"userId": "u9"} | body)
    error = fails(answer, 400, "VALIDATION_INVALID_SCHEMA")
    assert any(name.startswith(field) for name in error["details"])
    assert not ConnectPage.objects.exists()


def test_toolkits_that_are_not_enabled_are_named(shop: Shop) -> None:
    answer = shop.api.post("integrations/connect-sessions", {"userId": "u1", "toolkits": ["lab", "nothing", "slack"]})
    assert fails(answer, 400, "VALIDATION_INVALID_SCHEMA")["details"]["toolkits"] == [
        "Not enabled for this project: nothing, slack."
    ]


def test_a_keys_toolkits_bound_its_links(shop: Shop) -> None:
    configure(shop.cast.project, "slack", SYSTEM, client_id="c", client_secret="s")
    narrow = shop.cast.with_key("connect", toolkits=["slack", "gmail"])
    assert ConnectPage.objects.get(pk=make(narrow)["id"]).toolkits == ["slack"]
    answer = narrow.post("integrations/connect-sessions", {"userId": "u1", "toolkits": ["lab"]})
    fails(answer, 403, "AUTH_INSUFFICIENT_PERMISSIONS")
    none = shop.cast.with_key("connect", toolkits=["gmail"])
    fails(none.post("integrations/connect-sessions", {"userId": "u1"}), 400, "VALIDATION_INVALID_SCHEMA")


def test_a_key_needs_the_scope_to_connect(shop: Shop) -> None:
    answer = shop.cast.with_key("execute").post("integrations/connect-sessions", {"userId": "u1"})
    fails(answer, 403, "AUTH_INSUFFICIENT_PERMISSIONS")


def test_a_users_token_makes_links_for_that_user_alone(shop: Shop) -> None:
    token = mint_user_token(shop.cast.project, "u7", 600)[0]
    made = make(Api(shop.cast.project, token), user="u1")
    assert ConnectPage.objects.get(pk=made["id"]).end_user.external_id == "u7"


def test_a_repeated_request_with_its_key_gets_the_same_link(shop: Shop) -> None:
    headers = {"Idempotency-Key": "once"}
    answers = [shop.api.post("integrations/connect-sessions", {"userId": "u1"}, **headers) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert ConnectPage.objects.count() == 1


# -- Opening it --------------------------------------------------------------------------------------------------------
def test_looking_at_a_link_changes_nothing(shop: Shop) -> None:
    made = make(shop.api)
    before = ConnectPage.objects.values().get()
    for _ in range(3):
        answer = Client().get(path_of(made))
        assert answer.status_code == 200
        assert "jf_connect" not in answer.cookies
    assert Client().head(path_of(made)).status_code == 200
    assert ConnectPage.objects.values().get() == before
    opened(made)


def test_the_first_browser_has_the_page_and_no_other(shop: Shop) -> None:
    made = make(shop.api)
    browser, page = opened(made)
    cookie = browser.cookies["jf_connect"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
    assert cookie.value not in ConnectPage.objects.get().binding
    for _ in range(2):  # reloads, of the page and of the link
        assert "Lab" in text(browser.get(page))
        assert browser.get(path_of(made))["Location"] == page
        assert browser.post(path_of(made))["Location"] == page
    for other in (Client(), Client()):
        other.cookies["jf_connect"] = "another"
        for answer in (other.get(path_of(made)), other.post(path_of(made)), other.get(page)):
            assert answer.status_code == 400
            assert "not valid any more" in text(answer)
            assert "Lab" not in text(answer)


def test_two_browsers_at_the_same_moment_do_not_share_a_page(shop: Shop) -> None:
    make(shop.api)
    page = ConnectPage.objects.get()
    assert hosted.claim(page, "first")
    assert not hosted.claim(page, "second")  # it still holds the row as it was
    assert not hosted.is_bound_to(ConnectPage.objects.get(), "second")


def test_a_link_that_is_too_old_opens_nothing(shop: Shop) -> None:
    made = make(shop.api)
    browser, page = opened(made)
    late = make(shop.api)
    ConnectPage.objects.update(expires_at=timezone.now())
    for answer in (
        Client().get(path_of(late)),
        Client().post(path_of(late)),
        browser.get(page),
        browser.get(path_of(made)),
    ):
        assert (answer.status_code, "not valid any more" in text(answer)) == (400, True)
    for action in ("connect/lab", f"reconnect/{shop.connection.pk}", f"disconnect/{shop.connection.pk}"):
        assert browser.post(f"{page}/{action}").status_code == 400
    assert Connection.objects.filter(pk=shop.connection.pk).exists()
    assert ConnectPage.objects.exclude(binding="").count() == 1


def test_secrets_that_are_none_are_refused_as_any_other(shop: Shop) -> None:
    for path in (
        "open/x",
        "open/%00",
        "open/%ED%A0%80",
        "page/x",
        "page/%00",
        "page/x/connect/lab",
        "page/x/disconnect/%00",
    ):
        assert Client().get(f"/connect/{path}").status_code in {400, 404}, path


def test_a_refused_link_is_not_written_to_the_log(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    made = make(shop.api)
    opened(made)
    Client().get(path_of(made))
    assert made["url"].rpartition("/")[2] not in caplog.text


def test_a_form_from_elsewhere_opens_nothing(shop: Shop) -> None:
    made = make(shop.api)
    answer = Client(enforce_csrf_checks=True).post(path_of(made), headers={"Accept-Language": "de"})
    assert answer.status_code == 403
    assert "Das Formular ist zu alt" in text(answer)
    assert ConnectPage.objects.get().binding == ""


def test_old_pages_are_forgotten(shop: Shop) -> None:
    make(shop.api)
    assert hosted.forget_expired() == 0
    ConnectPage.objects.update(expires_at=timezone.now() - timedelta(days=2))
    assert hosted.forget_expired() == 1


# -- What it shows -----------------------------------------------------------------------------------------------------
def test_the_page_shows_the_toolkits_that_were_chosen(shop: Shop) -> None:
    for slug in ("slack", "gmail"):
        configure(shop.cast.project, slug, SYSTEM, client_id="c", client_secret="s")
    browser, page = opened(make(shop.api))
    assert all(name in text(browser.get(page)) for name in ("Lab", "Slack", "Gmail"))
    chosen, page = opened(make(shop.api, toolkits=["slack"]))
    assert "Slack" in text(chosen.get(page))
    assert "Lab" not in text(chosen.get(page))
    assert chosen.post(f"{page}/connect/lab").status_code == 400
    assert chosen.post(f"{page}/disconnect/{shop.connection.pk}").status_code == 302
    assert Connection.objects.filter(pk=shop.connection.pk).exists()


def test_asking_by_head_is_looking_and_begins_nothing(shop: Shop) -> None:
    browser, page = opened(make(shop.api))
    link = urlsplit(make_link(Link(shop.cast.project.pk, "u2", "lab"))).path
    lost = f"{page}/reconnect/{shop.connection.pk}", f"{page}/disconnect/{shop.connection.pk}"
    for path in (page, f"{page}/connect/lab", *lost, link):
        answer = browser.head(path)
        assert (answer.status_code, answer.content) == (200, b""), path
    assert browser.head("/connect/result?message=access_denied").status_code == 400
    assert not ConnectSession.objects.exists()
    assert Connection.objects.filter(pk=shop.connection.pk).exists()


def test_a_way_that_does_not_exist_is_told_in_the_persons_language(shop: Shop) -> None:
    browser, page = opened(make(shop.api))
    answer = browser.get(f"{page}/connect/lab?scheme=nonsense", headers={"Accept-Language": "de"})
    assert (answer.status_code, "Das sieht nicht richtig aus." in text(answer)) == (400, True)


def test_the_search_works_without_a_script(shop: Shop) -> None:
    for slug in ("slack", "gmail"):
        configure(shop.cast.project, slug, SYSTEM, client_id="c", client_secret="s")
    browser, page = opened(make(shop.api))
    found = text(browser.get(page, {"q": " SLA "}))
    assert ("Slack" in found, "Gmail" in found) == (True, False)
    assert "No service has this name" in text(browser.get(page, {"q": "zzz"}))


@pytest.mark.parametrize(
    ("status", "scopes", "says"),
    [
        ("active", [], "Connected"),
        ("active", ["read", "write"], "Connected"),
        ("active", ["read"], "Some permissions are missing"),
        ("inactive", [], "Waits for confirmation by Shop"),
        ("expired", [], "Must be connected again"),
    ],
)
def test_the_state_of_an_account_is_told(shop: Shop, status: str, scopes: list[str], says: str) -> None:
    Connection.objects.update(status=status, scopes=scopes, account_label="ann@lab.example")
    browser, page = opened(make(shop.api))
    shown = text(browser.get(page))
    assert says in shown
    assert "ann@lab.example" in shown
    assert ("Allow more" in shown) == (scopes == ["read"])


def test_a_page_of_many_toolkits_asks_the_database_no_more_often(
    shop: Shop, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    browser, page = opened(make(shop.api))
    browser.get(page)
    for slugs in ((), ("slack", "gmail", "github", "notion", "linear")):
        for slug in slugs:
            connect(configure(shop.cast.project, slug, SYSTEM, client_id="c", client_secret="s"))
        with django_assert_num_queries(4):  # the page, its toolkits, the accounts, the last result
            assert browser.get(page).status_code == 200


def test_another_persons_accounts_are_not_shown_nor_touched(shop: Shop) -> None:
    Connection.objects.update(account_label="ann@lab.example")
    browser, page = opened(make(shop.api, user="u2"))
    assert "ann@lab.example" not in text(browser.get(page))
    assert browser.post(f"{page}/reconnect/{shop.connection.pk}").status_code == 400
    browser.post(f"{page}/disconnect/{shop.connection.pk}")
    assert Connection.objects.filter(pk=shop.connection.pk).exists()


def test_a_toolkit_that_is_switched_off_can_only_be_disconnected(shop: Shop) -> None:
    Integration.objects.update(enabled=False)
    browser, page = opened(make(shop.api))
    shown = text(browser.get(page))
    assert "Disconnect" in shown
    assert "Reconnect" not in shown
    answer = browser.post(f"{page}/reconnect/{shop.connection.pk}")
    assert (answer.status_code, "cannot be connected here" in text(answer)) == (400, True)
    stranger, page = opened(make(shop.api, user="u2"))
    assert "Lab" not in text(stranger.get(page))


def test_a_toolkit_without_a_client_says_so(shop: Shop) -> None:
    Integration.objects.update(client_id="")
    browser, page = opened(make(shop.api, user="u2"))
    assert "Cannot be connected at the moment. Please tell Shop." in text(browser.get(page))
    answer = browser.post(f"{page}/connect/lab")
    assert (answer.status_code, "Please tell Shop." in text(answer)) == (400, True)


def test_a_reached_plan_limit_is_a_sentence(shop: Shop) -> None:
    plan = shop.cast.workspace.plan
    plan.connections = 1
    plan.save()
    browser, page = opened(make(shop.api, user="u2"))
    answer = browser.post(f"{page}/connect/lab")
    assert answer.status_code == 429
    assert "Shop cannot take any further accounts at the moment." in text(answer)


# -- Its buttons -------------------------------------------------------------------------------------------------------
def test_a_flow_comes_back_to_the_page_and_says_that_it_connected(shop: Shop) -> None:
    made = make(shop.api, user="u2", redirectUrl=f"{APP}/back?tab=1")
    browser, page = opened(made)
    assert f"{APP}/back?tab=1&amp;status=closed" in browser.get(page).content.decode()
    shown = come_back(browser, shop, begin(browser, f"{page}/connect/lab"))
    assert "Your Lab account is connected." in text(shown)
    connection = Connection.objects.get(end_user__external_id="u2")
    done = f"{APP}/back?tab=1&amp;status=connected&amp;toolkit=lab&amp;connectionId={connection.pk}"
    assert done in shown.content.decode()
    event = AuditEvent.objects.get(action="connection.created")
    assert event.actor == "end-user:u2"
    assert ConnectSession.objects.get().page_id == made["id"]


def test_a_flow_that_was_refused_comes_back_with_its_reason(shop: Shop) -> None:
    browser, page = opened(make(shop.api, user="u2", redirectUrl=f"{APP}/back"))
    shown = come_back(browser, shop, begin(browser, f"{page}/connect/lab"), error="access_denied")
    assert "Lab was not connected. You did not allow access" in text(shown)
    assert f"{APP}/back?status=error&amp;toolkit=lab&amp;message=access_denied" in shown.content.decode()


def test_a_flow_of_the_page_does_not_end_in_another_browser(shop: Shop) -> None:
    browser, page = opened(make(shop.api, user="u2"))
    state = begin(browser, f"{page}/connect/lab")
    answer = Client().get(f"/v1/{shop.cast.project.pk}/integrations/callback", {"state": state, "code": "a-code"})
    assert "invalid_state" in answer["Location"]
    assert not Connection.objects.filter(end_user__external_id="u2").exists()
    come_back(browser, shop, state)
    assert Connection.objects.filter(end_user__external_id="u2").exists()


def test_reconnecting_keeps_the_id_and_the_settings(shop: Shop) -> None:
    Connection.objects.update(status="expired", label="Work", metadata={"team": 1})
    browser, page = opened(make(shop.api))
    come_back(browser, shop, begin(browser, f"{page}/reconnect/{shop.connection.pk}"))
    [connection] = Connection.objects.all()
    assert (connection.pk, connection.status) == (shop.connection.pk, "active")
    assert (connection.label, connection.metadata) == ("Work", {"team": 1})


def test_a_second_account_is_added_and_renewed_by_itself(shop: Shop) -> None:
    browser, page = opened(make(shop.api))
    come_back(browser, shop, begin(browser, f"{page}/connect/lab", another="1"))
    second = Connection.objects.exclude(pk=shop.connection.pk).get()
    assert not second.is_primary
    Connection.objects.update(version=1)
    come_back(browser, shop, begin(browser, f"{page}/reconnect/{second.pk}"))
    versions = dict(Connection.objects.values_list("pk", "version"))
    assert versions == {shop.connection.pk: 1, second.pk: 2}


def test_a_reconnect_never_takes_over_another_account_when_its_own_is_gone(shop: Shop) -> None:
    second = connect(shop.integration, user_id="u1b")
    Connection.objects.filter(pk=second.pk).update(end_user=shop.connection.end_user, is_primary=False)
    browser, page = opened(make(shop.api))
    state = begin(browser, f"{page}/reconnect/{second.pk}")
    Connection.objects.filter(pk=second.pk).delete()
    come_back(browser, shop, state)
    assert Connection.objects.get(pk=shop.connection.pk).version == 1
    assert Connection.objects.get(pk=second.pk)


def test_disconnecting_asks_first(shop: Shop) -> None:
    browser, page = opened(make(shop.api))
    path = f"{page}/disconnect/{shop.connection.pk}"
    asked = browser.get(path)
    assert "Disconnect your Lab account?" in text(asked)
    assert Connection.objects.exists()
    answer = browser.post(path, follow=True)
    assert "Your Lab account is disconnected." in text(answer)
    assert not Connection.objects.exists()
    assert AuditEvent.objects.get(action="connection.deleted").actor == "end-user:u1"
    assert browser.post(path)["Location"] == page  # the second click


def test_a_key_is_entered_on_a_form_and_leads_back(shop: Shop, keyed: Toolkit) -> None:
    configure(shop.cast.project, "keyed", SYSTEM, overrides={"base_url": shop.upstream.url})
    browser, page = opened(make(shop.api, user="u2"))
    form = browser.get(f"{page}/connect/keyed")
    assert "What you enter is checked with Keyed" in form.content.decode()
    wrong = browser.post(f"{page}/connect/keyed", {"api_key": "wrong"}, headers={"Accept-Language": "de"})
    assert wrong.status_code == 400
    assert "Keyed akzeptiert diese Angaben nicht (Status 401)." in text(wrong)
    empty = browser.post(f"{page}/connect/keyed", {}, headers={"Accept-Language": "ja"})
    assert "この項目は必須です。" in text(empty)
    answer = browser.post(f"{page}/connect/keyed", {"api_key": "the-right-key"}, follow=True)
    assert "Your Keyed account is connected." in text(answer)
    first = Connection.objects.get(toolkit="keyed")
    browser.post(f"{page}/connect/keyed", {"api_key": "the-right-key", "another": "1"})
    assert Connection.objects.filter(toolkit="keyed").count() == 2
    browser.post(f"{page}/reconnect/{first.pk}", {"api_key": "the-right-key"})
    assert Connection.objects.get(pk=first.pk).version == 2


def test_a_flow_may_end_after_its_page(shop: Shop) -> None:
    browser, page = opened(make(shop.api, user="u2", redirectUrl=f"{APP}/back"))
    state = begin(browser, f"{page}/connect/lab")
    ConnectPage.objects.update(expires_at=timezone.now())
    shown = come_back(browser, shop, state)
    assert "Your Lab account is connected." in text(shown)
    assert f"{APP}/back?status=connected" in shown.content.decode()


def test_a_result_is_shown_of_the_pages_own_flows_only(shop: Shop) -> None:
    browser, page = opened(make(shop.api, user="u2"))
    come_back(browser, shop, begin(browser, f"{page}/connect/lab"))
    [session] = ConnectSession.objects.all()
    other, elsewhere = opened(make(shop.api, user="u3"))
    assert "connected." not in text(other.get(elsewhere, {"done": session.pk}))
    assert "connected." not in text(browser.get(page, {"done": "x\x00"}))


# -- Who is told -------------------------------------------------------------------------------------------------------
def test_only_an_allowed_opener_is_written_into_the_page(shop: Shop) -> None:
    made = make(shop.api, allowedOrigins=[APP])
    browser, page = opened(made, origin=APP)
    assert f'data-origin="{APP}"' in browser.get(page).content.decode()
    assert browser.cookies["jf_opener"]["path"] == page
    for origin in ("https://evil.example", "https://other.example", "*", "null", f"{APP}.evil.example", f"{APP}/"):
        browser, page = opened(make(shop.api, allowedOrigins=[APP]), origin=origin)
        assert "data-origin" not in browser.get(page).content.decode()
        browser.cookies["jf_opener"] = origin
        assert "data-origin" not in browser.get(page).content.decode()


def test_the_script_is_told_how_flows_ended_if_its_origin_is_allowed(shop: Shop) -> None:
    made = make(shop.api, user="u2", allowedOrigins=[APP])
    path = f"{path_of(made)}/outcome"
    asked = Client().get(path, headers={"Origin": APP})
    assert asked["Access-Control-Allow-Origin"] == APP
    assert "Origin" in asked["Vary"]
    assert asked.json() == {"pending": False, "results": [], "expiresAt": made["expiresAt"]}
    assert "Access-Control-Allow-Origin" not in Client().get(path, headers={"Origin": "https://other.example"})
    assert "Access-Control-Allow-Origin" not in Client().get(path, headers={"Origin": "null"})
    assert ConnectPage.objects.get().binding == ""

    browser, page = opened(made)
    begin(browser, f"{page}/connect/lab")
    assert Client().get(path).json()["pending"] is True
    come_back(browser, shop, begin(browser, f"{page}/connect/lab"), error="access_denied")
    come_back(browser, shop, begin(browser, f"{page}/connect/lab"))
    told = Client().get(path).json()
    assert told["pending"] is False  # the one that was left is older than the last that ended
    assert [(row["status"], row["toolkit"]) for row in told["results"]] == [("error", "lab"), ("connected", "lab")]
    assert told["results"][1]["connectionId"] == Connection.objects.get(end_user__external_id="u2").pk
    assert Client().get("/connect/open/none/outcome").status_code == 404


def test_pages_keep_their_tie_to_the_opener_and_are_in_no_frame(shop: Shop) -> None:
    made = make(shop.api, user="u2")
    browser, page = opened(made)
    state = begin(browser, f"{page}/connect/lab")
    callback = browser.get(f"/v1/{shop.cast.project.pk}/integrations/callback", {"state": state, "code": "a-code"})
    for answer in (Client().get(path_of(make(shop.api))), browser.get(page), browser.get(path_of(made)), callback):
        assert answer["Cross-Origin-Opener-Policy"] == "unsafe-none"
        assert answer["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in answer["Content-Security-Policy"]
    assert Client().get("/accounts/login/")["Cross-Origin-Opener-Policy"] == "same-origin"


def test_what_a_provider_calls_an_account_is_text_on_the_page(shop: Shop) -> None:
    Connection.objects.update(account_label="<script>alert(1)</script>", account_picture='https://x" onerror="alert(1)')
    browser, page = opened(make(shop.api))
    content = browser.get(page).content.decode()
    assert "<script>alert" not in content
    assert '" onerror' not in content
