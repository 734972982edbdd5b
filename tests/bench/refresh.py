"""Is it one refresh, time after time? Callers of four processes want one stale token, at a provider that rotates.

    python -m tests.bench.refresh [--rounds 100] [--sqlite]

The provider ends a grant when a used refresh token comes again, so that one refresh too many ends the bench. Every round
each user's token has expired, and fifty callers over four web processes call at once. On a PostgreSQL of its own. The
scaled version is tests/acceptance/test_refresh.py, in the test run on both databases.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import django

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    os.environ.setdefault("JACKFIELD_ENV", "test")
    django.setup()

from tests.acceptance.journey import connect_strict, enable_strict, new_user
from tests.acceptance.test_refresh import all_at_once
from tests.peers.oidc import OidcProvider
from tests.peers.postgres import Postgres
from tests.product import Product

LIFETIME = 2  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--sqlite", action="store_true")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jackfield-bench-")))
        os.environ.pop("DATABASE_URL", None)
        if not options.sqlite:
            os.environ["DATABASE_URL"] = stack.enter_context(Postgres()).url
        provider = stack.enter_context(OidcProvider())
        product = Product(folder / "home", JACKFIELD_EGRESS_ALLOW="127.0.0.0/8")
        stack.callback(product.close)
        product.start(patience=120)
        run(product, provider, options.rounds)


def run(product: Product, provider: OidcProvider, rounds: int) -> None:
    sites = [product.url, *product.more_web(3)]
    enable_strict(product, provider)
    provider.set_ttl(access=LIFETIME)
    user = new_user()
    connect_strict(product, provider, user)
    found: Counter[int] = Counter()
    slowest = 0.0
    before = refreshed(provider)
    for number in range(rounds):
        provider.set_ttl(access=LIFETIME + 30)  # of the token that this round brings
        if number:
            stale(product, user)
        else:
            time.sleep(LIFETIME + 0.1)
        started = time.monotonic()
        answers = all_at_once(product, sites, user)
        slowest = max(slowest, time.monotonic() - started)
        found += Counter(answer.status_code for answer in answers)
        refreshes = refreshed(provider) - before
        assert refreshes == number + 1, f"{refreshes} refreshes in {number + 1} rounds"
    counts = provider.counts()
    assert set(found) == {200}, found
    assert (counts["error"], counts["denied"]) == ({}, 0), counts
    print(f"{rounds} rounds: {found[200]:,} calls over {len(sites)} processes, {refreshes} refreshes, no error; the slowest "
          f"round took {slowest:.2f} s")  # fmt: skip


def refreshed(provider: OidcProvider) -> int:
    return int(provider.counts()["token"].get("refresh_token", 0))


def stale(product: Product, user: str) -> None:
    """Lets the user's token have expired, as far as we know: nobody need wait for it."""
    product.run(f"""
from datetime import timedelta
from django.utils import timezone
from apps.connections.models import Connection
Connection.objects.filter(end_user__external_id="{user}").update(expires_at=timezone.now() - timedelta(seconds=1))
""")


if __name__ == "__main__":
    main()
