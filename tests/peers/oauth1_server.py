"""The OAuth 1.0a provider as a program of its own (see `oauth1.py` for what it does)."""

import hashlib
import hmac
import sys
import threading
from base64 import b64encode
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from authlib.integrations.flask_oauth1 import AuthorizationServer, ResourceProtector, current_credential
from authlib.oauth1 import ClientMixin, TemporaryCredential, TokenCredentialMixin
from authlib.oauth1.rfc5849.base_server import BaseServer
from authlib.oauth1.rfc5849.signature import generate_signature_base_string
from flask import Flask, Response, g, jsonify, redirect, request
from werkzeug.serving import WSGIRequestHandler, make_server

CONSUMERS = {"consumer-key": "consumer secret/&+%"}
METHODS = ["HMAC-SHA1", "HMAC-SHA256", "PLAINTEXT"]


class Consumer(ClientMixin):  # type: ignore[misc] # Authlib has no types
    def __init__(self, key: str) -> None:
        self.key = key

    def get_default_redirect_uri(self) -> str:
        return ""

    def get_client_secret(self) -> str:
        return CONSUMERS[self.key]

    def get_rsa_public_key(self) -> None:
        return None


class Token(TokenCredentialMixin):  # type: ignore[misc]
    def __init__(self, token: str, secret: str, user: str) -> None:
        self.token, self.secret, self.user = token, secret, user

    def get_oauth_token(self) -> str:
        return self.token

    def get_oauth_token_secret(self) -> str:
        return self.secret


class Person:
    def __init__(self, name: str) -> None:
        self.name = name

    def get_user_id(self) -> str:
        return self.name


class Memory:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.temporary: dict[str, TemporaryCredential] = {}
        self.tokens: dict[str, Token] = {}
        self.nonces: set[tuple[Any, ...]] = set()
        self.clear()

    def clear(self) -> None:
        self.faults: dict[str, Any] = {}
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    def seen_nonce(self, nonce: str, timestamp: str, client_id: str, token: str) -> bool:
        with self.lock:
            key = (nonce, timestamp, client_id, token)
            known = key in self.nonces
            self.nonces.add(key)
            return known


MEMORY = Memory()
app = Flask(__name__)
app.config["OAUTH1_SUPPORTED_SIGNATURE_METHODS"] = METHODS


def verify_hmac_sha256(asked: Any) -> bool:
    """Authlib has the base string, and no SHA-256 of its own."""
    base = generate_signature_base_string(asked)
    key = f"{quote(asked.client_secret or '', safe='~')}&{quote(asked.token_secret or '', safe='~')}"
    expected = b64encode(hmac.new(key.encode(), base.encode(), hashlib.sha256).digest()).decode()
    return hmac.compare_digest(expected, asked.signature)


BaseServer.register_signature_method("HMAC-SHA256", verify_hmac_sha256)


def query_client(client_id: str) -> Consumer | None:
    return Consumer(client_id) if client_id in CONSUMERS else None


def create_temporary(token: dict[str, str], client_id: str, redirect_uri: str) -> TemporaryCredential:
    credential = TemporaryCredential(token | {"client_id": client_id, "oauth_callback": redirect_uri})
    MEMORY.temporary[token["oauth_token"]] = credential
    return credential


def create_verifier(credential: TemporaryCredential, person: Person, verifier: str) -> None:
    credential["oauth_verifier"], credential["user_id"] = verifier, person.get_user_id()


def create_token(token: dict[str, str], temporary: TemporaryCredential) -> Token:
    made = Token(token["oauth_token"], token["oauth_token_secret"], temporary["user_id"])
    MEMORY.tokens[made.token] = made
    return made


server = AuthorizationServer(app, query_client=query_client)
server.register_hook("exists_nonce", MEMORY.seen_nonce)
server.register_hook("create_temporary_credential", create_temporary)
server.register_hook("get_temporary_credential", lambda token: MEMORY.temporary.get(token))
server.register_hook("delete_temporary_credential", lambda token: MEMORY.temporary.pop(token, None))
server.register_hook("create_authorization_verifier", create_verifier)
server.register_hook("create_token_credential", create_token)


class Protector(ResourceProtector):  # type: ignore[misc]
    """Authlib's, which takes Flask's URL with every escape undone, and then refuses what is not escaped."""

    def acquire_credential(self) -> Any:
        path = request.environ["REQUEST_URI"].partition("?")[0]
        read = urlencode(list(request.args.items(multi=True)), quote_via=quote)
        url = f"{request.host_url.rstrip('/')}{path}?{read}"
        found = self.validate_request(request.method, url, list(request.form.items(multi=True)), request.headers)
        g.authlib_server_oauth1_credential = found.credential
        return found.credential


protect = Protector(
    app,
    query_client=query_client,
    query_token=lambda client_id, token: MEMORY.tokens.get(token),
    exists_nonce=MEMORY.seen_nonce,
)


def fault(name: str) -> Any:
    """The fault, and one time less of it where it was to come so many times only."""
    with MEMORY.lock:
        value = MEMORY.faults.get(name)
        if isinstance(value, list):
            return value.pop(0) if value else None
        return value


@app.before_request
def broken() -> Response | None:
    MEMORY.counts[request.path] += 1
    status = fault("status") if request.path.startswith("/oauth/") else None
    return Response("<p>broken", status=status, content_type="text/html") if status else None


@app.after_request
def note(response: Response) -> Response:
    if response.status_code >= 400 and response.is_json:
        MEMORY.errors[str((response.get_json() or {}).get("error"))] += 1
    return response


@app.post("/oauth/request_token")
def request_token() -> Response:
    response: Response = server.create_temporary_credentials_response()
    if response.status_code == 200 and fault("unconfirmed"):
        response.set_data(response.get_data(as_text=True).replace("oauth_callback_confirmed", "something_else"))
    return response


@app.route("/oauth/authorize", methods=["GET", "POST"])
def authorize() -> Any:
    if request.method == "GET":
        server.check_authorization_request()
        return '<form method="post"><input name="login"><button name="answer" value="allow">Allow</button></form>'
    token = request.args["oauth_token"]
    callback = MEMORY.temporary[token]["oauth_callback"]
    if request.form["answer"] == "deny":
        return redirect(_returning(callback, {"denied": token}))
    if request.form["answer"] == "error":  # Authlib's own way to say no: without the token
        return server.create_authorization_response(grant_user=None)
    answer = server.create_authorization_response(grant_user=Person(request.form["login"]))
    return redirect(_returning(callback, dict(parse_qsl(urlsplit(answer.headers["Location"]).query))))


def _returning(callback: str, answer: dict[str, str]) -> str:
    """Some providers forget the query of the callback that they were given."""
    parts = urlsplit(callback)
    kept = {} if fault("forgetful") else dict(parse_qsl(parts.query))
    answer = {name: value for name, value in answer.items() if name != "state"}
    return parts._replace(query=urlencode(kept | answer)).geturl()


@app.post("/oauth/access_token")
def access_token() -> Response:
    response: Response = server.create_token_response()
    if response.status_code == 200:
        token = dict(parse_qsl(response.get_data(as_text=True)))
        further = {"screen_name": MEMORY.tokens[token["oauth_token"]].user, "shard": fault("shard") or "s1"}
        # Loosely encoded, as some write the names of people.
        response.set_data(
            response.get_data(as_text=True) + "".join(f"&{key}={value}" for key, value in further.items())
        )
    return response


@app.route("/api/me", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
@app.route("/api/<path:rest>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
@protect()  # type: ignore[untyped-decorator]
def resource(rest: str = "") -> Any:
    if status := fault("flaky"):
        return jsonify(error="flaky"), status
    if rest == "redirect":
        return redirect(request.args["to"])
    return jsonify(
        user=current_credential.user,
        path=request.path,
        args=request.args.to_dict(flat=False),
        form=request.form.to_dict(flat=False),
        json=request.get_json(silent=True),
    )


@app.route("/_memory", methods=["GET", "POST", "DELETE"])
def side() -> Any:
    if request.method == "DELETE":
        MEMORY.clear()
    if request.method == "POST":
        MEMORY.faults |= request.get_json()
        for token in MEMORY.faults.pop("revoke", []):
            MEMORY.tokens.pop(token, None)
    return jsonify(counts=MEMORY.counts, errors=MEMORY.errors, nonces=len(MEMORY.nonces))


class Quiet(WSGIRequestHandler):
    def log_request(self, *args: Any) -> None:
        """Silent: MEMORY is the log."""


def main() -> None:
    port_file = Path(sys.argv[1])
    made = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    part = port_file.with_suffix(".part")
    part.write_text(str(made.server_port))
    part.rename(port_file)
    made.serve_forever()


if __name__ == "__main__":
    main()
