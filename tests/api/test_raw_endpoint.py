"""Where a raw call goes: below the base URL, whatever is typed."""

from __future__ import annotations

import pytest

from apps.runs.endpoint import locate
from apps.runs.raw import quiet

BASE = "https://api.example/v2"
GOOD = {
    "/items": "/items",
    "items": "/items",
    "items/": "/items/",
    "": "",
    "/": "/",
    "interface parse": "/interface%20parse",
    "/größe/ü": "/gr%C3%B6%C3%9Fe/%C3%BC",
    "/users/@me": "/users/@me",
    "/files:copy": "/files:copy",
    "/projects/group%2Fname/issues": "/projects/group%2Fname/issues",
    "/100%25": "/100%25",
    "/a//b": "/a//b",
    "/...": "/...",
    "/.well-known/x": "/.well-known/x",
    "https://api.example/v2/items": "/items",
    "https://API.example:443/v2/items": "/items",
    "https://api.example/v2": "",
}
BAD = [
    "..", "../v1", "/../v1", "/./x", "/a/../../v1", "/a/..", "/%2e%2e/v1", "/%2E./v1", "/%252e%252e/v1", "/a%2f..%2fv1",
    "/..;x/v1", "/..%3Bx/v1", "/a/%2e%2e%2f%2e%2e", "\\evil", "/a\\..\\v1", "/a%5c..", "//evil.example/x", "///x",
    "@evil.example/x", ":80@evil.example", "/x\r\nX-Evil: 1",
    "/x%0d%0aX-Evil:1", "/x\x00", "/x%00", "/x\t", "/x#y", "/%", "/%zz", "/%2",
    "javascript:alert(1)", "file:///etc/passwd", "http:evil", "gopher://evil", "http://evil.example/v2/items", "https://api.example.evil/v2",
    "https://api.example@evil.example/v2/x", "https://user@api.example/v2/x", "http://api.example/v2/x",
    "https://api.example:8443/v2/x", "https://api.example/v1/x", "https://api.example/v22", "https://api.example/v2/../v1",
    "https://api.example/v2//x", "https://api.example:99999/v2/x", "https://[::1/v2", "/?a=%ff", "/" + "x" * 8000,
    "/%25252525252e%25252525252e/", "/?" + "&" * 600,
]  # fmt: skip


@pytest.mark.parametrize("endpoint", GOOD)
def test_an_endpoint_lies_below_the_base(endpoint: str) -> None:
    assert locate(BASE, endpoint) == (BASE + GOOD[endpoint], [])


@pytest.mark.parametrize("endpoint", GOOD)
def test_a_base_without_a_path_and_one_with_a_slash_at_its_end_serve_as_well(endpoint: str) -> None:
    if not endpoint.startswith("https:"):
        assert locate("https://api.example", endpoint)[0] == f"https://api.example{GOOD[endpoint]}"
    assert locate(f"{BASE}/", endpoint)[0] == BASE + GOOD[endpoint]


@pytest.mark.parametrize("endpoint", BAD, ids=[f"{index}" for index in range(len(BAD))])
def test_what_could_lead_elsewhere_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"[a-z]"):
        locate(BASE, endpoint)


def test_a_query_is_taken_apart() -> None:
    assert locate(BASE, "/items?a=1&b=x+y&a=%C3%BC&flag") == (
        f"{BASE}/items",
        [("a", "1"), ("b", "x y"), ("a", "ü"), ("flag", "")],
    )
    assert locate(BASE, "?page=2") == (BASE, [("page", "2")])


def test_the_log_keeps_no_secret_of_a_query() -> None:
    assert quiet("/items?page=2&api_key=k1&flag") == "/items?page=2&api_key=********&flag"
    assert quiet("/items") == "/items"
