"""Looks and arranges things inside a running product, by its own shell, where no page or API does."""

from __future__ import annotations

import subprocess
import sys

from tests.product import ROOT, Product


def ask(product: Product, code: str) -> str:
    """What lines of Python print in the product's shell."""
    environment = {"JACKFIELD_HOME": str(product.home), "JACKFIELD_ENV": "development", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "-v", "0", "-c", code],
        cwd=ROOT,
        env=environment | product.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()
