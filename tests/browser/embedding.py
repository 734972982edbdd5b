"""An integrator's product with the embedding script on its page, on an origin of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

from playwright.sync_api import Page

from tests.product import Product

PAGE = """<!doctype html><html lang="en"><title>Your app</title><h1>Your app</h1>
<button id="go">Connect</button><iframe id="frame"></iframe>
<script src="%s/static/connect.js"></script>
<script>
window.events = []; window.heard = []; window.outcome = null;
addEventListener("message", (event) => heard.push({origin: event.origin, data: event.data}));
document.getElementById("go").addEventListener("click", () => {
  Jackfield.connect({
    url: window.target,
    onSuccess: (account) => events.push({success: account}),
    onError: (error) => events.push({error}),
    onClose: (how) => events.push({close: how}),
  }).then((result) => { window.outcome = result; }, (error) => { window.outcome = {rejected: error.code ?? error.message}; });
});
</script>"""


@contextmanager
def embedding_site(product: Product) -> Iterator[str]:
    """The origin; its page / has a button that opens ``window.target``, and keeps what it was told."""
    body = (PAGE % product.url).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def session_url(product: Product, user: str | None = None, **body: Any) -> str:
    """POST connect-sessions: the link of a hosted page."""
    given = {"userId": user or f"person-{uuid4().hex[:8]}", **body}
    answer = product.call("POST", "integrations/connect-sessions", json=given)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["url"])


def press(page: Page, target: str) -> Page:
    """Presses the page's button; the popup."""
    page.evaluate("target => { window.target = target }", target)
    with page.expect_popup() as popup:
        page.get_by_role("button", name="Connect").click()
    return popup.value


def outcome(page: Page) -> dict[str, Any]:
    """What the promise came to."""
    page.wait_for_function("window.outcome !== null", timeout=15_000)
    found: dict[str, Any] = page.evaluate("window.outcome")
    return found
