"""Bad bodies, paths, methods, hosts: always the envelope, never a page, never a 500."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client

from apps.runs.models import Execution
from tests.api.shop import Shop, error_of, fails
from tests.cast import Api, Cast, enable

ROUTES = [("POST", "integrations/configure"), ("POST", "integrations/connect"), ("POST", "integrations/execute"),
          ("POST", "user-tokens"), ("PATCH", "settings")]  # fmt: skip
BAD = {
    "no JSON": b"toolkit=github",
    "a list": b"[]",
    "a list of objects": b'[{"toolkit":"github"}]',
    "a number": b"5",
    "a text": b'"x"',
    "null": b"null",
    "true": b"true",
    "half": b'{"toolkit":',
    "two": b"{}{}",
    "NaN": b'{"toolkit": NaN}',
    "infinity": b'{"toolkit": -Infinity}',
    "a number beyond a float": b'{"toolkit": 1e999}',
    "an endless integer": b'{"toolkit": ' + b"1" * 5000 + b"}",
    "not UTF-8": b'{"toolkit": "\xff\xfe"}',
    "UTF-16": '{"toolkit": "github"}'.encode("utf-16"),
    "half a surrogate pair": b'{"toolkit": "\\ud800"}',
    "half a surrogate pair as a name": b'{"\\udc00": 1, "toolkit": "x"}',
    "deep lists": b'{"toolkit":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "101 levels": b'{"toolkit":' + b"[" * 100 + b"]" * 100 + b"}",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a NUL": b"{\x00}",
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_body_that_is_no_json_object_is_400(cast: Cast, method: str, path: str, what: str) -> None:
    error = fails(cast.api.call(method, path, BAD[what]), 400, "VALIDATION_INVALID_SCHEMA")
    assert error["details"]


@pytest.mark.parametrize("what", BAD)
def test_signing_in_takes_no_bad_body_either(db: None, what: str) -> None:
    for path in ("login", "refresh", "logout"):
        answer = Client().post(f"/api/auth/{path}", BAD[what], content_type="application/json")
        fails(answer, 400, "VALIDATION_INVALID_SCHEMA")


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_an_empty_body_is_an_empty_object(cast: Cast, method: str, path: str) -> None:
    for body in (b"", b"  \n"):
        answer = cast.api.call(method, path, body)
        assert answer.status_code == (200 if path == "settings" else 400)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_body_of_more_than_one_mebibyte_is_413(cast: Cast, method: str, path: str) -> None:
    large = json.dumps({"toolkit": "x" * (5 * 1024 * 1024)})
    fails(cast.api.call(method, path, large), 413, "PAYLOAD_TOO_LARGE")
    fits = json.dumps({"toolkit": "x" * (1024 * 1024 - 100)})
    fails(cast.api.call(method, path, fits), 400, "VALIDATION_INVALID_SCHEMA")


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded",
        "text/plain",
        "multipart/form-data",
        "",
        "x",
        "application/json; charset=latin-1",
    ],
)
def test_json_is_read_whatever_the_content_type_says(cast: Cast, kind: str) -> None:
    headers = {"Authorization": f"Bearer {cast.key}"}
    path = f"/v1/{cast.project.pk}/integrations/configure"
    answer = Client().generic("POST", path, '{"toolkit": "github"}', content_type=kind, headers=headers)
    assert answer.status_code == 200


def test_of_a_name_given_twice_the_last_counts(cast: Cast) -> None:
    assert (
        cast.api.post("integrations/configure", '{"toolkit": "slack", "toolkit": "github"}').json()["toolkit_slug"]
        == "github"
    )


def test_ninety_levels_are_no_depth(shop: Shop) -> None:
    deep: Any = {}
    for _ in range(90):
        deep = {"a": deep}
    body = {"toolName": "LAB_CREATE_ITEM", "params": {"title": "x", "data": deep}, "userId": "u1"}
    assert shop.api.post("integrations/execute", body).json()["data"]["json"]["inner"]["data"] == deep
    assert shop.executions()[0].successful


@pytest.mark.parametrize("number", [10**18, -(10**30), 10**4000, 1.7e308, 0.1, -0.0])
def test_any_number_of_json_is_passed_on_or_named(shop: Shop, number: Any) -> None:
    body = {"toolName": "LAB_CREATE_ITEM", "params": {"title": "x", "data": [number], "count": number}, "userId": "u1"}
    answer = shop.api.post("integrations/execute", body)
    assert answer.status_code in {200, 400}
    if answer.status_code == 200:
        assert answer.json()["data"]["json"]["inner"]["data"] == [number]


# -- NUL: PostgreSQL's text takes none -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "path",
    ["integrations/connections/%00", "integrations/connections/ca%00/confirm", "integrations/configure/%00", "executions/%00",
     "end-users/%00", "%00", "integrations/callback%00"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_nul_in_the_path_is_404(cast: Cast, method: str, path: str) -> None:
    fails(cast.api.call(method, path), 404, "RESOURCE_NOT_FOUND")


@pytest.mark.parametrize(
    "path", ["connections", "connections/ca_1", "available", "config", "tools", "configure/github"]
)
@pytest.mark.parametrize("name", ["userId", "toolkit", "search", "cursor", "limit", "%00"])
def test_a_nul_in_the_query_is_400(cast: Cast, path: str, name: str) -> None:
    method = "DELETE" if path.startswith("configure") else "GET"
    fails(cast.api.call(method, f"integrations/{path}?{name}=a%00b"), 400, "VALIDATION_INVALID_SCHEMA")


@pytest.mark.parametrize(
    "text", ["%ff", "%ED%A0%80", "%C3%A4", "%F0%9F%99%82", "%0d%0aX:y", "'; DROP TABLE x; --", "%25", "x" * 3000]
)
def test_odd_texts_in_paths_and_queries_are_only_not_found(cast: Cast, text: str) -> None:
    fails(cast.api.get(f"integrations/connections/{text}"), 404, "RESOURCE_NOT_FOUND")
    fails(cast.api.get(f"executions/{text}"), 404, "RESOURCE_NOT_FOUND")
    assert cast.api.get(f"integrations/connections?userId={text}&toolkit={text}").json()["connections"] == []
    assert cast.api.get(f"executions?userId={text}&tool={text}").json()["executions"] == []
    assert cast.api.delete(f"integrations/configure/{text}").status_code == 204
    assert cast.api.delete(f"end-users/{text}").status_code == (404 if "%0a" in text else 204)


def test_a_nul_in_a_tools_parameters_reaches_the_log_harmlessly(shop: Shop) -> None:
    body = {"toolName": "LAB_CREATE_ITEM", "params": {"title": "a\u0000b"}, "userId": "u1"}
    assert shop.api.post("integrations/execute", body).status_code == 200
    shop.api.post("integrations/execute", body | {"toolName": "NO\u0000SUCH"})
    shop.api.post("integrations/execute", body | {"params": {"a\u0000": "x"}})
    rows = shop.executions()
    assert [row.successful for row in rows] == [True, False]
    assert all("\x00" not in row.request + row.response + row.message for row in rows)


def test_a_nul_in_the_path_of_a_page_is_404(db: None) -> None:
    for path in ("/connect/%00", "/connect/theme/%00.css", "/accounts/%00", "/%00"):
        assert Client().get(path).status_code == 404
    assert Client().get("/connect/result?project=%00").status_code == 400


# -- paths, methods, hosts -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/", "/v1/x", "/v1/{p}", "/v1/{p}/", "/v1/{p}/nonsense", "/v1/{p}/integrations", "/v1/{p}/integrations/tools/",
     "/v1/{p}/nonsense/callback", "/v1/{p}/callback", "/v1//integrations/tools", "/v1/integrations/callback/", "/api", "/api/",
     "/api/auth", "/api/auth/nonsense", "/v1/{p}/integrations/configure/a/b", "/v1/../v1/x"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_an_unknown_path_is_a_json_404(cast: Cast, method: str, path: str) -> None:
    for key in ("", cast.key):
        fails(Api(cast.project, key).call(method, path.format(p=cast.project.pk)), 404, "RESOURCE_NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "integrations/available", "GET, HEAD"),
        ("DELETE", "integrations/config", "GET, HEAD"),
        ("GET", "integrations/configure", "POST"),
        ("GET", "integrations/configure/github", "DELETE"),
        ("PUT", "integrations/connect", "POST"),
        ("PATCH", "integrations/connections", "GET, HEAD"),
        ("PUT", "integrations/connections/x", "GET, HEAD, PATCH, DELETE"),
        ("GET", "integrations/connections/x/confirm", "POST"),
        ("POST", "integrations/tools", "GET, HEAD"),
        ("GET", "integrations/execute", "POST"),
        ("OPTIONS", "integrations/execute", "POST"),
        ("TRACE", "integrations/execute", "POST"),
        ("BREW", "integrations/execute", "POST"),
        ("GET", "user-tokens", "POST"),
        ("POST", "settings", "GET, HEAD, PATCH"),
        ("POST", "end-users", "GET, HEAD"),
        ("GET", "end-users/u1", "DELETE"),
        ("DELETE", "executions", "GET, HEAD"),
        ("POST", "integrations/callback", "GET"),
        ("GET", "/api/auth/login", "POST"),
        ("DELETE", "/v1/integrations/callback", "GET"),
    ],
)
def test_a_wrong_method_is_a_json_405_with_the_right_ones(cast: Cast, method: str, path: str, allowed: str) -> None:
    answer = cast.api.call(method, path, b"")
    fails(answer, 405, "METHOD_NOT_ALLOWED")
    assert set(answer["Allow"].split(", ")) - {"HEAD"} == set(allowed.split(", ")) - {"HEAD"}


def test_a_toolkit_may_be_called_callback(cast: Cast) -> None:
    assert cast.api.delete("integrations/configure/callback").status_code == 204
    fails(cast.api.get("integrations/connections/callback"), 404, "RESOURCE_NOT_FOUND")


@pytest.mark.parametrize("host", ["evil.example", "a b", "[::1", "", "127.0.0.1:99999x"])
def test_a_host_that_is_not_ours_gets_json(cast: Cast, host: str) -> None:
    answer = Client().get(
        f"/v1/{cast.project.pk}/settings", headers={"Authorization": f"Bearer {cast.key}", "Host": host}
    )
    fails(answer, 400, "VALIDATION_INVALID_SCHEMA")


# -- request ids -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("given", ["abc", "a" * 128, "0af7651916cd43dd8448eb211c80319c", "x.y:z/1+2=@_-"])
def test_the_callers_request_id_is_echoed_and_logged(shop: Shop, given: str) -> None:
    body = {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u1"}
    assert shop.api.post("integrations/execute", body, **{"X-Request-Id": given})["X-Request-Id"] == given
    assert [row.request_id for row in shop.executions()] == [given]


@pytest.mark.parametrize("given", ["", "a b", "a" * 129, "ä", 'a"b', "a\tb", "<script>"])
def test_a_request_id_that_is_not_sane_is_replaced(shop: Shop, given: str) -> None:
    body = {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u1"}
    made = shop.api.post("integrations/execute", body, **{"X-Request-Id": given})["X-Request-Id"]
    assert made.startswith("req_")
    assert Execution.objects.count() == 0  # not yet written
    assert [row.request_id for row in shop.executions()] == [made]


def test_every_answer_has_a_request_id_faults_too(cast: Cast) -> None:
    for path in ("/v1/x", f"/v1/{cast.project.pk}/settings", "/healthz", "/docs/errors", "/nothing"):
        assert Client().get(path)["X-Request-Id"].startswith("req_")


# -- faults of ours --------------------------------------------------------------------------------------------------
def test_a_fault_of_ours_is_json_without_its_text(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    enable(cast.project, "github")
    from apps.connections import flows

    def broken(*args: Any, **options: Any) -> None:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr(flows, "start_connect", broken)
    answer = cast.api.post("integrations/connect", {"toolkit": "github", "userId": "u"})
    error = fails(answer, 500, "INTERNAL_ERROR")
    assert "hunter2" not in json.dumps(error)
    assert answer["X-Request-Id"]


def test_health_is_told_without_a_credential(db: None, settings: Any) -> None:
    assert Client().get("/healthz").json() == {"status": "ok"}
    ready = Client().get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ok")
    assert set(ready.json()["checks"]) == {"database", "broker", "migrations"}
    settings.CELERY_BROKER_URL = "redis://127.0.0.1:1/0"
    gone = Client().get("/readyz")
    assert (gone.status_code, gone.json()["checks"]["broker"]) == (503, "failed")


def test_a_page_that_an_api_client_never_sees_stays_a_page(db: None) -> None:
    assert Client().get("/nothing")["Content-Type"].startswith("text/html")
    answer = Client().get("/v1/integrations/callback")
    assert answer.status_code == 302


def test_the_envelope_helper_of_these_tests_can_fail() -> None:
    class Fake:
        def json(self) -> dict[str, str]:
            return {"detail": "no"}

    with pytest.raises(AssertionError):
        error_of(Fake())
