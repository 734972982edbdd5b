"""/api-keys: an end user's own keys, by their token or by the session of their page."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.test import Client
from django.utils import timezone

from apps.connections.services import purge_end_user
from apps.workspaces import personal_keys
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import ApiKey, AuditEvent, Plan
from apps.workspaces.services import end_user, issue_key
from apps.workspaces.tokens import mint_user_token
from tests.api.shop import Shop
from tests.api.test_shortcut import personal, refused
from tests.cast import PASSWORD, Api

ROW = {"id", "name", "key_prefix", "scopes", "last_used_at", "expires_at", "revoked_at", "created_at"}


def token(shop: Shop, user_id: str = "u1", **options: Any) -> Api:
    """The API with the user's token."""
    return Api(shop.cast.project, mint_user_token(shop.cast.project, user_id, 600, **options)[0])


def made(api: Api, **body: Any) -> dict[str, Any]:
    answer = api.post("/api-keys", {"name": "laptop"} | body)
    assert answer.status_code == 201, answer.content
    found: dict[str, Any] = answer.json()
    assert set(found) == {"api_key", "full_key"}
    assert set(found["api_key"]) == ROW
    return found


# -- With the user's token -------------------------------------------------------------------------------------------
def test_a_key_is_shown_once_listed_and_revoked(shop: Shop) -> None:
    api = token(shop)
    assert api.get("/api-keys").json() == []
    found = made(api)
    key, secret = found["api_key"], found["full_key"]
    assert secret.startswith(key["key_prefix"])
    assert (key["name"], key["scopes"]) == ("laptop", ["*"])
    assert key["expires_at"] is key["revoked_at"] is key["last_used_at"] is None
    listed = api.get("/api-keys")
    assert listed.json() == [key]
    assert secret not in listed.content.decode()

    own = Api(shop.cast.project, secret)
    assert own.post("/v1/lab/create_item", {"params": {"title": "x"}}).status_code == 200
    gone = api.delete(f"/api-keys/{key['id']}")
    assert (gone.status_code, gone.content) == (204, b"")
    refused(own.post("/v1/lab/create_item", {"params": {"title": "x"}}), 401, "unauthorized")
    (row,) = api.get("/api-keys").json()
    assert datetime.fromisoformat(row["revoked_at"])
    assert api.delete(f"/api-keys/{key['id']}").status_code == 204
    assert [event.action for event in AuditEvent.objects.filter(actor="end-user:u1").order_by("created_at")] == [
        "key.issued",
        "key.revoked",
    ]


def test_a_key_may_be_limited_to_toolkits_and_in_time(shop: Shop) -> None:
    api = token(shop)
    found = made(api, scopes=["github", "github"], expires_in=3600)
    assert found["api_key"]["scopes"] == ["github"]
    ends = datetime.fromisoformat(found["api_key"]["expires_at"])
    assert timedelta(minutes=59) < ends - timezone.now() <= timedelta(hours=1)
    refused(Api(shop.cast.project, found["full_key"]).post("/v1/lab/create_item", {}), 403, "scope_not_allowed")
    later = timezone.now() + timedelta(days=3)
    assert datetime.fromisoformat(made(api, expires_at=later.isoformat())["api_key"]["expires_at"]) == later
    assert made(api, scopes=["*"], expires_at=None)["api_key"]["scopes"] == ["*"]


def test_a_key_acts_for_its_owner_and_administers_nothing(shop: Shop) -> None:
    found = made(token(shop))
    key = ApiKey.objects.get(pk=found["api_key"]["id"])
    assert (key.scopes, key.end_user.external_id if key.end_user else "") == (["connect", "execute"], "u1")
    assert Api(shop.cast.project, found["full_key"]).get("settings").status_code == 403


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": 7},
        {"name": "x" * 101},
        {"name": "a\x00b"},
        {"name": "x", "scopes": "github"},
        {"name": "x", "scopes": ["no-such-toolkit"]},
        {"name": "x", "scopes": [7]},
        {"name": "x", "expires_in": 0},
        {"name": "x", "expires_in": 10**12},
        {"name": "x", "expires_at": "yesterday"},
        {"name": "x", "expires_at": "2020-01-01T00:00:00Z"},
        {"name": "x", "expires_at": "2099-01-01T00:00:00Z", "expires_in": 60},
    ],
    ids=lambda body: ",".join(f"{name}={str(value)[:12]!r}" for name, value in body.items()) or "empty",
)
def test_a_body_that_is_wrong_makes_no_key(shop: Shop, body: dict[str, Any]) -> None:
    before = ApiKey.objects.count()
    refused(token(shop).post("/api-keys", body), 400, "bad_request")
    assert ApiKey.objects.count() == before


def test_a_key_permits_no_more_than_the_token(shop: Shop) -> None:
    limited = token(shop, toolkits=["github"])
    assert made(limited)["api_key"]["scopes"] == ["github"]
    refused(limited.post("/api-keys", {"name": "x", "scopes": ["lab"]}), 403, "scope_not_allowed")
    executing = made(token(shop, scopes=["execute"]))
    assert ApiKey.objects.get(pk=executing["api_key"]["id"]).scopes == ["execute"]
    refused(token(shop, scopes=["runs"]).post("/api-keys", {"name": "x"}), 403, "scope_not_allowed")


def test_keys_are_each_persons_own(shop: Shop) -> None:
    key = made(token(shop))["api_key"]
    other = token(shop, "u2")
    assert other.get("/api-keys").json() == []
    refused(other.delete(f"/api-keys/{key['id']}"), 404, "not_found")
    project_key = ApiKey.objects.get(name="all", project=shop.cast.project)
    refused(token(shop).delete(f"/api-keys/{project_key.pk}"), 404, "not_found")
    stranger = Api(shop.cast.foreign_project, mint_user_token(shop.cast.foreign_project, "u1", 600)[0])
    assert stranger.get("/api-keys").json() == []
    refused(stranger.delete(f"/api-keys/{key['id']}"), 404, "not_found")
    assert ApiKey.objects.get(pk=key["id"]).revoked_at is None


def test_no_key_manages_keys(shop: Shop) -> None:
    for api in (personal(shop), shop.api):
        refused(api.get("/api-keys"), 403, "scope_not_allowed")
        refused(api.post("/api-keys", {"name": "x"}), 403, "scope_not_allowed")
        refused(api.delete("/api-keys/x"), 403, "scope_not_allowed")


def test_nobody_and_members_manage_no_keys(shop: Shop) -> None:
    refused(Api(shop.cast.project, "").get("/api-keys"), 401, "unauthorized")
    signed_in = shop.api.post("/api/auth/login", {"email": shop.cast.alice.email, "password": PASSWORD}).json()
    refused(Api(shop.cast.project, signed_in["token"]).get("/api-keys"), 401, "unauthorized")


def test_the_plans_limit_of_keys_and_a_persons_own(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(personal_keys, "KEYS_A_PERSON", 1)
    key = made(token(shop))["api_key"]
    refused(token(shop).post("/api-keys", {"name": "x"}), 403, "plan_limit_reached")
    token(shop).delete(f"/api-keys/{key['id']}")
    made(token(shop))
    shop.cast.workspace.plan = Plan.objects.create(name="few", keys=2)
    shop.cast.workspace.save()
    refused(token(shop, "u2").post("/api-keys", {"name": "x"}), 403, "plan_limit_reached")


# -- The page's link and session -------------------------------------------------------------------------------------
def link(api: Api, **headers: str) -> str:
    answer = api.post("/api-keys/links", {}, **headers)
    assert answer.status_code == 201, answer.content
    assert set(answer.json()) == {"url", "expires_at"}
    return str(urlsplit(answer.json()["url"]).path)


def entered(shop: Shop, user_id: str = "u1", api: Api | None = None) -> Client:
    """A browser with the session; forms and JSON alike must show that they come from the page."""
    client = Client(enforce_csrf_checks=True)
    path = link(api or token(shop, user_id))
    client.get(path)
    answer = client.post(path, {"csrfmiddlewaretoken": client.cookies["csrftoken"].value})
    assert (answer.status_code, answer["Location"]) == (302, "/me/keys")
    cookie = client.cookies["jf_person"]
    assert (cookie["httponly"], cookie["samesite"], cookie["max-age"]) == (True, "Lax", 4 * 3600)
    return client


def test_a_link_is_for_one_person_and_opens_once(shop: Shop) -> None:
    path = link(shop.cast.with_key("connect"), **{"X-End-User": "u1"})
    client = Client()
    for _ in range(2):  # looking at it changes nothing
        page = client.get(path)
        assert (page.status_code, b"u1" in page.content) == (200, True)
        assert "jf_person" not in client.cookies
    assert client.post(path).status_code == 302
    assert client.get("/me/keys").status_code == 200
    for again in (Client().get(path), Client().post(path)):
        assert again.status_code == 400
        assert b"already used" in again.content


def test_a_link_is_good_for_ten_minutes_and_a_session_for_four_hours(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, client = link(token(shop)), entered(shop)
    monkeypatch.setattr(personal_keys, "LINK_SECONDS", -1)
    monkeypatch.setattr(personal_keys, "SESSION_SECONDS", -1)
    assert Client().get(path).status_code == 400
    assert client.get("/me/keys").status_code == 401
    refused(client.get("/api-keys"), 401, "unauthorized")


def test_who_may_have_a_link_made(shop: Shop) -> None:
    refused(personal(shop).post("/api-keys/links", {}), 403, "scope_not_allowed")
    refused(shop.cast.with_key("connect").post("/api-keys/links", {}), 400, "bad_request")
    refused(shop.cast.with_key("execute").post("/api-keys/links", {}, **{"X-End-User": "u1"}), 403, "scope_not_allowed")
    refused(Api(shop.cast.project, "").post("/api-keys/links", {}), 401, "unauthorized")


@pytest.mark.parametrize("text", ["x", "x:y:z", "a.b.c", "\x00"])
def test_what_is_no_link_and_no_session_opens_nothing(shop: Shop, text: str) -> None:
    client = Client()
    client.cookies["jf_person"] = text.replace("\x00", "")
    assert client.get(f"/me/enter/{text}").status_code in {400, 404}
    assert client.get("/me/keys").status_code == 401
    refused(client.get("/api-keys"), 401, "unauthorized")


def test_a_link_is_no_session(shop: Shop) -> None:
    client = Client()
    client.cookies["jf_person"] = link(token(shop)).rpartition("/")[2]
    assert client.get("/me/keys").status_code == 401


def test_the_session_serves_the_api_but_only_to_its_own_page(shop: Shop) -> None:
    client = entered(shop)
    assert client.get("/api-keys").json() == []
    body = {"name": "x"}
    refused(client.post("/api-keys", body, content_type="application/json"), 403, "scope_not_allowed")
    sent = {"X-CSRFToken": client.cookies["csrftoken"].value}
    foreign = {"Origin": "https://evil.example"}
    refused(client.post("/api-keys", body, content_type="application/json", headers=sent | foreign), 403,
            "scope_not_allowed")  # fmt: skip
    assert ApiKey.objects.filter(end_user__external_id="u1").count() == 0
    answer = client.post("/api-keys", body, content_type="application/json", headers=sent)
    assert answer.status_code == 201
    row = answer.json()["api_key"]
    refused(client.delete(f"/api-keys/{row['id']}"), 403, "scope_not_allowed")
    assert client.delete(f"/api-keys/{row['id']}", headers=sent).status_code == 204


def test_a_key_in_the_header_goes_before_the_session(shop: Shop) -> None:
    client = entered(shop)
    refused(client.get("/api-keys", headers={"Authorization": "Bearer jf_sk_wrong"}), 401, "unauthorized")
    refused(client.get("/api-keys", headers={"Authorization": f"Bearer {shop.cast.key}"}), 403, "scope_not_allowed")


def test_the_pages_forms_need_the_pages_token_and_a_person(shop: Shop) -> None:
    client = entered(shop)
    assert client.post("/me/keys", {"name": "x"}).status_code == 403
    key = issue_key(shop.cast.workspace, "mine", SYSTEM, project=shop.cast.project,
                    end_user=end_user(shop.cast.project, "u1"))[0]  # fmt: skip
    assert client.post(f"/me/keys/{key.pk}/revoke").status_code == 403
    assert client.get(f"/me/keys/{key.pk}/revoke").status_code == 405
    anybody = Client()
    assert anybody.post(f"/me/keys/{key.pk}/revoke").status_code == 401
    assert anybody.post("/me/keys", {"name": "x"}).status_code == 401
    key.refresh_from_db()
    assert key.revoked_at is None


def test_the_page_makes_and_revokes_only_ones_own(shop: Shop) -> None:
    client, other = entered(shop), entered(shop, "u2")
    form = {
        "csrfmiddlewaretoken": client.cookies["csrftoken"].value,
        "reach": "some",
        "toolkits": ["lab"],
        "days": "30",
    }
    page = client.post("/me/keys", form | {"name": "<b>laptop</b>"})
    assert page.status_code == 200
    assert "no-store" in page["Cache-Control"]
    assert b"<b>laptop" not in page.content
    key = ApiKey.objects.get(end_user__external_id="u1")
    assert (key.toolkits, key.expires_at is not None) == (["lab"], True)
    assert key.prefix.encode() in page.content
    theirs = {"csrfmiddlewaretoken": other.cookies["csrftoken"].value}
    assert key.prefix.encode() not in other.get("/me/keys").content
    assert other.post(f"/me/keys/{key.pk}/revoke", theirs).status_code == 302
    key.refresh_from_db()
    assert key.revoked_at is None
    assert client.post(f"/me/keys/{key.pk}/revoke", form).status_code == 302
    key.refresh_from_db()
    assert key.revoked_at is not None


@pytest.mark.parametrize(
    "form",
    [
        {"name": ""},
        {"name": "x", "reach": "some"},
        {"name": "x", "reach": "some", "toolkits": "github"},
        {"name": "x", "days": "7"},
        {"name": "x", "reach": "more"},
        {"name": "a\x00b"},
    ],
    ids=["no name", "none chosen", "not offered", "no such time", "no such reach", "NUL"],
)
def test_a_form_that_is_wrong_is_shown_again(shop: Shop, form: dict[str, str]) -> None:
    client = entered(shop)
    sent = {"csrfmiddlewaretoken": client.cookies["csrftoken"].value, "reach": "all", "days": ""}
    page = client.post("/me/keys", sent | form)
    assert (page.status_code, b'role="alert"' in page.content) == (400, True)
    assert not ApiKey.objects.filter(end_user__external_id="u1").exists()


def test_a_limited_link_makes_limited_keys(shop: Shop) -> None:
    client = entered(shop, api=token(shop, toolkits=["github"], scopes=["execute", "connect"]))
    page = client.get("/me/keys")
    assert b'value="lab"' not in page.content
    client.post("/me/keys", {"csrfmiddlewaretoken": client.cookies["csrftoken"].value, "name": "x", "reach": "all",
                             "days": ""})  # fmt: skip
    assert ApiKey.objects.get(end_user__external_id="u1").toolkits == ["github"]


def test_a_purged_persons_link_and_session_are_over(shop: Shop) -> None:
    client, path = entered(shop), link(token(shop))
    purge_end_user(shop.cast.project, "u1", SYSTEM)
    assert client.get("/me/keys").status_code == 401
    assert Client().post(path).status_code == 400
    end_user(shop.cast.project, "u1")  # somebody new of the same name
    assert client.get("/me/keys").status_code == 401


def test_leaving_ends_the_session_of_a_copied_cookie_too(shop: Shop) -> None:
    client, other = entered(shop), entered(shop)
    copy = Client()
    copy.cookies["jf_person"] = client.cookies["jf_person"].value
    assert (copy.get("/me/keys").status_code, copy.get("/api-keys").status_code) == (200, 200)
    page = client.post("/me/leave", {"csrfmiddlewaretoken": client.cookies["csrftoken"].value})
    assert page.status_code == 200
    assert client.get("/me/keys").status_code == 401
    assert (copy.get("/me/keys").status_code, copy.get("/api-keys").status_code) == (401, 401)
    assert other.get("/me/keys").status_code == 200  # a session of the same person in another browser


@pytest.mark.parametrize(
    ("language", "heading", "name"),
    [("de", "Ihre API-Schlüssel", "Name"), ("fr", "Vos clés d’API", "Nom"), ("pt-BR", "Suas chaves de API", "Nome")],
    ids=["de", "fr", "pt"],
)
def test_the_page_is_in_the_browsers_language(shop: Shop, language: str, heading: str, name: str) -> None:
    client = entered(shop)
    page = client.get("/me/keys", headers={"Accept-Language": language})
    assert page["Content-Language"] == language[:2]
    assert "Accept-Language" in page["Vary"]
    text = page.content.decode()
    assert f'<html lang="{language[:2]}" dir="ltr">' in text
    assert f'<h1 id="keys">{heading}</h1>' in text
    assert f">{name}</label>" in text


def test_a_refused_form_and_a_reached_limit_are_told_in_the_browsers_language(shop: Shop) -> None:
    client, german = entered(shop), {"Accept-Language": "de"}
    refused = Client(enforce_csrf_checks=True).post("/me/leave", headers=german)
    assert (refused.status_code, "Das Formular ist zu alt" in refused.content.decode()) == (403, True)
    shop.cast.workspace.plan = Plan.objects.create(name="none", keys=0)
    shop.cast.workspace.save()
    form = {"csrfmiddlewaretoken": client.cookies["csrftoken"].value, "name": "x", "reach": "all", "days": ""}
    page = client.post("/me/keys", form, headers=german)
    assert page.status_code == 400
    assert "Zurzeit kann kein weiterer Schlüssel erstellt werden." in page.content.decode()
