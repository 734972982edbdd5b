"""The people of the journey in their browsers: an admin, end users, and the page of an integrator's product."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from playwright.sync_api import Browser, BrowserContext, Page

from tests.product import Product


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<!doctype html><title>Your app</title><h1>Welcome back</h1>"
        self.send_response(200 if self.path.startswith("/settings") else 404)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def own_site() -> Iterator[str]:
    """The integrator's product: its origin. It has one page, /settings, where people come back to."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def browser_of_its_own(chromium: Browser, product: Product) -> Iterator[BrowserContext]:
    """A browser without a cookie. What scripts and the policy complain of on our own pages fails the test."""
    context = chromium.new_context(base_url=product.url)
    complaints: list[str] = []

    def listen(page: Page) -> None:
        page.on("pageerror", lambda error: complaints.append(f"{page.url}: {error}"))
        page.on(
            "console",
            lambda message: (
                complaints.append(f"{page.url}: {message.text}")
                if message.type == "error"
                and message.location.get("url", "").startswith(product.url)
                and not message.text.endswith(("400 (Bad Request)", "409 (Conflict)"))  # of a page that refuses
                else None
            ),
        )

    context.on("page", listen)
    yield context
    context.close()
    assert not complaints


def sign_in(page: Page, product: Product) -> None:
    """On the sign-in page, as the admin that quickstart made."""
    page.get_by_label("Email").fill(product.facts["admin_email"])
    page.get_by_label("Password").fill(product.facts["admin_password"])
    page.get_by_role("button", name="Sign in", exact=True).click()


def query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
