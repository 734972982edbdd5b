"""End users' tokens: each way to sign them, and every refusal."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from django.test import RequestFactory
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from apps.lib.errors import Failure, InvalidInput, InvalidUserToken, UserTokenExpired
from apps.workspaces import signing_keys
from apps.workspaces.audit import SYSTEM
from apps.workspaces.callers import identify
from apps.workspaces.models import AuditEvent, JwtIssuer, Project
from apps.workspaces.services import remove_issuer, set_issuer
from apps.workspaces.signing_keys import key_sets
from apps.workspaces.tokens import mint_member_token, mint_user_token, verify_user_token
from tests.cast import Cast

ISS = "https://issuer.example"
SECRET = "a secret of more than thirty-two bytes"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
WEAK_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()


def pem(key: Any) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return str(key.public_key().public_bytes(serialization.Encoding.PEM, form).decode())


def sign(key: Any, algorithm: str, headers: dict[str, Any] | None = None, **claims: Any) -> str:
    body = {"iss": ISS, "sub": "u1", "exp": time.time() + 60} | claims
    body = {name: value for name, value in body.items() if value is not None}
    return jwt.encode(body, key, algorithm=algorithm, headers=headers)


def by_hand(header: dict[str, Any], claims: Any, signature: str = "") -> str:
    """A token that no library would make."""
    parts = (json.dumps(part).encode() for part in (header, claims))
    return ".".join([*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), signature])


@pytest.fixture
def project(cast: Cast) -> Project:
    return cast.project


@pytest.fixture
def shared(project: Project) -> JwtIssuer:
    return set_issuer(project, SYSTEM, issuer=ISS, method="HS256", secret=SECRET)


def refused(project: Project, token: str) -> type[Failure]:
    with pytest.raises(Failure) as caught:
        verify_user_token(project, token)
    assert caught.value.status == 401
    return type(caught.value)


# -- Each way to sign ------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("shared")
def test_a_shared_secret_signs_for_an_end_user(project: Project) -> None:
    assert verify_user_token(project, sign(SECRET, "HS256")).user_id == "u1"


@pytest.mark.parametrize(("method", "key"), [("RS256", RSA), ("ES256", P256), ("EdDSA", ED25519)])
def test_a_public_key_checks_tokens_of_its_method(project: Project, method: str, key: Any) -> None:
    set_issuer(project, SYSTEM, issuer=ISS, method=method, public_key=pem(key))
    assert verify_user_token(project, sign(key, method)).user_id == "u1"


def test_a_minted_token_speaks_for_its_user_in_its_project_alone(cast: Cast) -> None:
    token, _ = mint_user_token(cast.project, "u7", 60)
    assert verify_user_token(cast.project, token).user_id == "u7"
    assert refused(cast.foreign_project, token) is InvalidUserToken


def test_a_minted_token_expires(project: Project) -> None:
    token, _ = mint_user_token(project, "u7", -1)
    assert refused(project, token) is UserTokenExpired


def test_a_members_token_is_no_end_users_token(cast: Cast) -> None:
    token, _ = mint_member_token(cast.alice, "session")
    assert refused(cast.project, token) is InvalidUserToken


@pytest.mark.usefixtures("shared")
def test_the_caller_of_a_token_is_its_user_and_never_administers(cast: Cast) -> None:
    request = RequestFactory().get("/", HTTP_AUTHORIZATION=f"Bearer {sign(SECRET, 'HS256')}")
    caller = identify(request, cast.project.pk)
    assert (caller.kind, caller.user_id, caller.role) == ("end_user", "u1", "")
    assert caller.may("execute")
    assert not caller.may("admin")
    assert not caller.may("secrets")


@pytest.mark.usefixtures("shared")
def test_a_bad_token_is_not_made_good_by_a_key(cast: Cast) -> None:
    request = RequestFactory().get("/", HTTP_AUTHORIZATION=f"Bearer {sign('x' * 40, 'HS256')}", HTTP_X_API_KEY=cast.key)
    with pytest.raises(InvalidUserToken):
        identify(request, cast.project.pk)


# -- Signature and algorithm -----------------------------------------------------------------------------------------
@pytest.mark.usefixtures("shared")
def test_a_token_of_another_secret_is_refused(project: Project) -> None:
    assert refused(project, sign("another secret of thirty-two bytes", "HS256")) is InvalidUserToken


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("alg", ["none", "None", "NONE", ""])
def test_alg_none_is_refused(project: Project, alg: str) -> None:
    token = by_hand({"alg": alg, "typ": "JWT"}, {"iss": ISS, "sub": "u1", "exp": time.time() + 60})
    assert refused(project, token) is InvalidUserToken


def test_a_public_key_is_never_taken_for_a_shared_secret(project: Project) -> None:
    set_issuer(project, SYSTEM, issuer=ISS, method="RS256", public_key=pem(RSA))
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').decode().rstrip("=")
    claims = {"iss": ISS, "sub": "u1", "exp": time.time() + 60}
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    for secret in (pem(RSA), pem(RSA).strip()):
        made = hmac.digest(secret.encode(), f"{header}.{body}".encode(), hashlib.sha256)
        signature = base64.urlsafe_b64encode(made).decode().rstrip("=")
        assert refused(project, f"{header}.{body}.{signature}") is InvalidUserToken


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_another_algorithm_of_the_same_family_is_refused(project: Project, algorithm: str) -> None:
    assert refused(project, sign(SECRET * 3, algorithm)) is InvalidUserToken


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize(
    "token",
    [
        "a.b.c",
        "..",
        "é.b.c",
        "eyJhbGciOiJIUzI1NiJ9.e30.",
        by_hand({"alg": "HS256"}, ["a", "list"], "c2ln"),
        by_hand({"alg": "HS256", "kid": 5}, {"iss": ISS}, "c2ln"),
        by_hand({"alg": "HS256"}, {"iss": {"a": 1}}, "c2ln"),
        by_hand({"alg": "HS256"}, {"iss": "nul \x00"}, "c2ln"),
        by_hand({"alg": "HS256"}, {"iss": "\ud800"}, "c2ln"),
        by_hand({"alg": "HS256", "crit": ["exp"]}, {"iss": ISS, "exp": 9e9}, "c2ln"),
    ],
)
def test_a_malformed_token_is_refused(project: Project, token: str) -> None:
    assert refused(project, token) is InvalidUserToken


# -- Claims ----------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("iss", [None, "https://issuer.example/", "https://other.example", ""])
def test_the_issuer_must_be_equal(project: Project, iss: str | None) -> None:
    assert refused(project, sign(SECRET, "HS256", iss=iss)) is InvalidUserToken


@pytest.mark.usefixtures("shared")
def test_an_issuer_of_one_project_says_nothing_in_another(cast: Cast) -> None:
    assert refused(cast.foreign_project, sign(SECRET, "HS256")) is InvalidUserToken


def test_a_set_audience_must_be_among_the_tokens(project: Project) -> None:
    set_issuer(project, SYSTEM, issuer=ISS, method="HS256", secret=SECRET, audience="jackfield")
    for right in ("jackfield", ["other", "jackfield"]):
        assert verify_user_token(project, sign(SECRET, "HS256", aud=right)).user_id == "u1"
    for wrong in (None, "other", ["other"], []):
        assert refused(project, sign(SECRET, "HS256", aud=wrong)) is InvalidUserToken


@pytest.mark.usefixtures("shared")
def test_any_audience_is_taken_where_none_is_set(project: Project) -> None:
    assert verify_user_token(project, sign(SECRET, "HS256", aud="whatever")).user_id == "u1"


@pytest.mark.usefixtures("shared")
def test_an_expired_token_is_told_apart(project: Project) -> None:
    assert refused(project, sign(SECRET, "HS256", exp=time.time() - 31)) is UserTokenExpired


def test_an_expired_token_is_only_expired_when_all_else_is_right(project: Project) -> None:
    set_issuer(project, SYSTEM, issuer=ISS, method="HS256", secret=SECRET, audience="jackfield")
    old = time.time() - 3600
    assert refused(project, sign(SECRET, "HS256", exp=old, aud="other")) is InvalidUserToken
    assert refused(project, sign("wrong" * 10, "HS256", exp=old, aud="jackfield")) is InvalidUserToken
    assert refused(project, sign(SECRET, "HS256", exp=old, aud="jackfield")) is UserTokenExpired


@pytest.mark.usefixtures("shared")
def test_clocks_may_differ_by_the_leeway(project: Project) -> None:
    now = time.time()
    assert verify_user_token(project, sign(SECRET, "HS256", exp=now - 20, nbf=now + 20)).user_id == "u1"
    assert refused(project, sign(SECRET, "HS256", nbf=now + 60)) is InvalidUserToken
    assert refused(project, sign(SECRET, "HS256", iat=now + 60)) is InvalidUserToken


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("exp", [None, "tomorrow", "9999999999", True, float("inf"), float("nan"), 1e300, [1], {}])
def test_exp_must_be_there_and_a_time(project: Project, exp: Any) -> None:
    claims = {"iss": ISS, "sub": "u1"} | ({} if exp is None else {"exp": exp})
    body = json.dumps(claims).encode()
    token = jwt.api_jws.encode(body, SECRET, algorithm="HS256")
    assert refused(project, token) is InvalidUserToken


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("sub", [None, 42, "", ["u1"], "x" * 256, "a\x00b", "line\nbreak", True])
def test_the_user_claim_must_be_a_user_id(project: Project, sub: Any) -> None:
    claims = {"iss": ISS, "exp": time.time() + 60} | ({} if sub is None else {"sub": sub})
    token = jwt.api_jws.encode(json.dumps(claims).encode(), SECRET, algorithm="HS256")
    assert refused(project, token) is InvalidUserToken


def test_the_user_may_stand_in_another_claim(project: Project) -> None:
    set_issuer(project, SYSTEM, issuer=ISS, method="HS256", secret=SECRET, user_claim="email")
    assert verify_user_token(project, sign(SECRET, "HS256", email="ada@example.com")).user_id == "ada@example.com"
    assert refused(project, sign(SECRET, "HS256")) is InvalidUserToken


def test_a_role_counts_only_where_it_is_mapped(project: Project) -> None:
    set_issuer(project, SYSTEM, issuer=ISS, method="HS256", secret=SECRET)
    assert verify_user_token(project, sign(SECRET, "HS256", role="approver")).role == ""
    set_issuer(project, SYSTEM, issuer=ISS, method="HS256", secret=SECRET, role_claim="role")
    assert verify_user_token(project, sign(SECRET, "HS256", role="approver")).role == "approver"
    assert verify_user_token(project, sign(SECRET, "HS256", role=["admin"])).role == ""


# -- Key sets --------------------------------------------------------------------------------------------------------
class KeySetServer:
    """A URL with keys; counts what it is asked, and answers what it is told."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.raw: bytes | None = None
        self.status = 200
        self.asked = 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked += 1
                body = owner.raw if owner.raw is not None else json.dumps({"keys": owner.keys}).encode()
                self.send_response(owner.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks"

    def add(self, kid: str, key: Any, **members: Any) -> None:
        kinds: dict[Any, Any] = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
        maker = next((made for kind, made in kinds.items() if isinstance(key, kind)), OKPAlgorithm)
        self.keys.append({**maker.to_jwk(key.public_key(), as_dict=True), "kid": kid} | members)


@pytest.fixture
def key_set(settings: Any) -> Iterator[KeySetServer]:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    key_sets.clear()
    server = KeySetServer()
    yield server
    server.server.shutdown()
    server.server.server_close()
    key_sets.clear()


@pytest.fixture
def by_set(project: Project, key_set: KeySetServer) -> KeySetServer:
    set_issuer(project, SYSTEM, issuer=ISS, method="JWKS", jwks_url=key_set.url)
    return key_set


class Clock:
    """Moves the monotonic clock that the cache reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        real = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: real() + self.ahead)


@pytest.mark.parametrize(("algorithm", "key"), [("RS256", RSA), ("ES256", P256), ("EdDSA", ED25519)])
def test_a_key_set_holds_keys_of_several_kinds(
    project: Project, by_set: KeySetServer, algorithm: str, key: Any
) -> None:
    for kid, one in (("r", RSA), ("e", P256), ("o", ED25519)):
        by_set.add(kid, one)
    kid = {"RS256": "r", "ES256": "e", "EdDSA": "o"}[algorithm]
    assert verify_user_token(project, sign(key, algorithm, {"kid": kid})).user_id == "u1"


def test_a_key_set_is_fetched_once(project: Project, by_set: KeySetServer) -> None:
    by_set.add("a", RSA)
    for _ in range(5):
        verify_user_token(project, sign(RSA, "RS256", {"kid": "a"}))
    assert by_set.asked == 1


def test_many_threads_make_one_fetch(key_set: KeySetServer) -> None:
    key_set.add("a", RSA)
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(key_sets.find(key_set.url, "a", "RS256"))) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert all(key is not None for key in found)
    assert key_set.asked == 1


def test_a_rotated_key_is_picked_up(project: Project, by_set: KeySetServer, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    by_set.add("old", RSA)
    verify_user_token(project, sign(RSA, "RS256", {"kid": "old"}))
    by_set.keys.clear()
    by_set.add("new", OTHER_RSA)
    clock.ahead += signing_keys.PAUSE + 1
    assert verify_user_token(project, sign(OTHER_RSA, "RS256", {"kid": "new"})).user_id == "u1"
    assert refused(project, sign(RSA, "RS256", {"kid": "old"})) is InvalidUserToken


def test_unknown_keys_cause_at_most_one_fetch_every_ten_seconds(project: Project, by_set: KeySetServer) -> None:
    by_set.add("a", RSA)
    for number in range(10):
        assert refused(project, sign(OTHER_RSA, "RS256", {"kid": f"made-up-{number}"})) is InvalidUserToken
    assert by_set.asked == 1


def test_a_withdrawn_key_is_noticed_after_ten_minutes(
    project: Project, by_set: KeySetServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    by_set.add("a", RSA)
    verify_user_token(project, sign(RSA, "RS256", {"kid": "a"}))
    by_set.keys.clear()
    clock.ahead += signing_keys.FRESH + 1
    assert refused(project, sign(RSA, "RS256", {"kid": "a"})) is InvalidUserToken


def test_known_keys_serve_for_an_hour_while_their_url_is_down(
    project: Project, by_set: KeySetServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch)
    by_set.add("a", RSA)
    token = sign(RSA, "RS256", {"kid": "a"})
    verify_user_token(project, token)
    by_set.status = 503
    clock.ahead += signing_keys.FRESH + 1
    assert verify_user_token(project, token).user_id == "u1"
    clock.ahead += signing_keys.STALE
    assert refused(project, token) is InvalidUserToken
    assert "it answered 503" in caplog.text


@pytest.mark.parametrize("raw", [b"<html>down</html>", b"[]", b'{"keys": 5}', b'{"keys": ["x", {}, {"kty": "RSA"}]}'])
def test_what_is_no_key_set_gives_no_key(project: Project, by_set: KeySetServer, raw: bytes) -> None:
    by_set.raw = raw
    assert refused(project, sign(RSA, "RS256", {"kid": "a"})) is InvalidUserToken


def test_a_key_set_that_is_too_large_is_not_read(project: Project, by_set: KeySetServer) -> None:
    by_set.add("a", RSA)
    by_set.raw = json.dumps({"keys": by_set.keys, "filler": "x" * signing_keys.MAX_BYTES}).encode()
    assert refused(project, sign(RSA, "RS256", {"kid": "a"})) is InvalidUserToken


def test_a_key_set_at_a_private_address_is_not_asked(
    project: Project, by_set: KeySetServer, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = ""
    by_set.add("a", RSA)
    assert refused(project, sign(RSA, "RS256", {"kid": "a"})) is InvalidUserToken
    assert by_set.asked == 0
    assert "may not be called" in caplog.text


@pytest.mark.parametrize(
    ("key", "algorithm", "members"),
    [
        (RSA, "RS256", {"use": "enc"}),
        (RSA, "RS256", {"alg": "RS512"}),
        (WEAK_RSA, "RS256", {}),
        (P384, "ES384", {}),
    ],
)
@pytest.mark.filterwarnings("ignore:The RSA key is:UserWarning")
def test_unfit_keys_of_a_set_are_left_out(
    project: Project, by_set: KeySetServer, key: Any, algorithm: str, members: dict[str, Any]
) -> None:
    by_set.add("a", key, **members)
    assert refused(project, sign(key, algorithm, {"kid": "a"})) is InvalidUserToken


def test_a_symmetric_key_of_a_set_signs_nothing(project: Project, by_set: KeySetServer) -> None:
    encoded = base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("=")
    by_set.keys.append({"kty": "oct", "k": encoded, "kid": "a", "alg": "HS256"})
    assert refused(project, sign(SECRET, "HS256", {"kid": "a"})) is InvalidUserToken


def test_a_key_is_good_for_its_own_algorithm_alone(project: Project, by_set: KeySetServer) -> None:
    by_set.add("a", RSA)
    assert refused(project, sign(P256, "ES256", {"kid": "a"})) is InvalidUserToken
    assert refused(project, sign(RSA, "RS512", {"kid": "a"})) is InvalidUserToken


def test_a_token_without_a_kid_is_taken_where_the_set_leaves_no_choice(
    project: Project, by_set: KeySetServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    by_set.add("a", RSA)
    assert verify_user_token(project, sign(RSA, "RS256")).user_id == "u1"
    by_set.add("b", OTHER_RSA)
    clock.ahead += signing_keys.FRESH + 1
    assert refused(project, sign(RSA, "RS256")) is InvalidUserToken


def test_the_least_used_sets_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing_keys, "MAX_SETS", 3)
    monkeypatch.setattr(signing_keys, "_fetch", lambda url: [])
    sets = signing_keys.KeySets()
    for number in range(10):
        sets.find(f"https://{number}.example", "a", "RS256")
    assert list(sets._sets) == ["https://7.example", "https://8.example", "https://9.example"]


# -- Issuers ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"method": "HS256", "secret": "short"}, "secret"),
        ({"method": "HS256"}, "secret"),
        ({"method": "RS256", "public_key": "nonsense"}, "public_key"),
        ({"method": "RS256", "public_key": pem(P256)}, "public_key"),
        ({"method": "RS256", "public_key": pem(WEAK_RSA)}, "public_key"),
        ({"method": "ES256", "public_key": pem(P384)}, "public_key"),
        ({"method": "EdDSA", "public_key": pem(RSA)}, "public_key"),
        ({"method": "JWKS", "jwks_url": "http://keys.example/jwks"}, "jwks_url"),
        ({"method": "JWKS"}, "jwks_url"),
        ({"method": "HS512", "secret": SECRET}, "method"),
        ({"method": "HS256", "secret": SECRET, "leeway": 301}, "leeway"),
        ({"method": "HS256", "secret": SECRET, "issuer": ""}, "issuer"),
        ({"method": "HS256", "secret": SECRET, "user_claim": ""}, "user_claim"),
    ],
)
def test_an_issuer_is_checked_before_it_is_kept(project: Project, given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        set_issuer(project, SYSTEM, **{"issuer": ISS, **given})
    assert field in caught.value.details
    assert not project.jwt_issuers.exists()


def test_this_installation_is_nobodys_issuer(project: Project, settings: Any) -> None:
    with pytest.raises(InvalidInput):
        set_issuer(project, SYSTEM, issuer=settings.JACKFIELD_URL, method="HS256", secret=SECRET)


def test_an_issuers_secret_is_stored_sealed_and_kept_when_none_is_given(project: Project) -> None:
    set_issuer(project, SYSTEM, issuer=ISS, method="HS256", secret=SECRET)
    again = set_issuer(project, SYSTEM, issuer=ISS, method="HS256", audience="jackfield")
    assert project.jwt_issuers.count() == 1
    assert again.secret.startswith("jf1:")
    assert SECRET not in again.secret
    assert verify_user_token(project, sign(SECRET, "HS256", aud="jackfield")).user_id == "u1"


def test_a_change_of_method_drops_the_old_secret(project: Project) -> None:
    set_issuer(project, SYSTEM, issuer=ISS, method="HS256", secret=SECRET)
    row = set_issuer(project, SYSTEM, issuer=ISS, method="RS256", public_key=pem(RSA))
    assert row.secret == ""
    assert refused(project, sign(SECRET, "HS256")) is InvalidUserToken


def test_changes_of_issuers_are_audited_without_the_secret(project: Project, shared: JwtIssuer) -> None:
    remove_issuer(shared, SYSTEM)
    events = AuditEvent.objects.filter(action__startswith="issuer.").order_by("created_at")
    assert [event.action for event in events] == ["issuer.set", "issuer.removed"]
    assert SECRET not in str([event.details for event in events])
    assert refused(project, sign(SECRET, "HS256")) is InvalidUserToken
