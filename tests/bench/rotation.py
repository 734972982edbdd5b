"""Does a call fail while the encryption key is changed? Again and again, under load, with tokens that live two seconds.

    python -m tests.bench.rotation [--rotations 20] [--callers 16] [--sqlite]

Each time a new key is made, everything is encrypted anew, and the old key is removed. On a PostgreSQL of its own. The scaled
version is tests/acceptance/test_rotation.py, in the test run on both databases.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from pathlib import Path

import django

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    os.environ.setdefault("JACKFIELD_ENV", "test")
    django.setup()

from apps.lib.vault import parse_keys
from tests.acceptance.test_rotation import Load, refreshes, rotate, users_of
from tests.peers.oidc import OidcProvider
from tests.peers.postgres import Postgres
from tests.product import Product


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rotations", type=int, default=20)
    parser.add_argument("--callers", type=int, default=16)
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
        run(product, provider, options.rotations, options.callers)


def run(product: Product, provider: OidcProvider, rotations: int, callers: int) -> None:
    users = users_of(product, provider)
    provider.set_ttl(access=2)
    file = product.home / "encryption_keys"
    first = set(parse_keys(file.read_text()))
    started = time.monotonic()
    with Load(product, users, [product.url, *product.more_web(1)], callers) as load:
        load.goes_well(3)
        for _ in range(rotations):
            for option in ("--new", "--check", "--remove-old"):
                done = rotate(product, option)
                assert done.returncode == 0, done.stdout + done.stderr
            load.goes_well(5)  # longer than a process goes by what it read before
    took = time.monotonic() - started
    assert provider.counts()["error"] == {}, provider.counts()
    assert set(load.answers) == {200}, load.answers
    left = parse_keys(file.read_text())
    assert len(left) == 1, list(left)
    assert not first & set(left)
    print(f"{rotations} rotations in {took:.0f} s under {callers} callers: {load.answers[200]:,} calls and "
          f"{refreshes(provider)} refreshes, none failed")  # fmt: skip


if __name__ == "__main__":
    main()
