"""The test command: installs what the tests need, then checks the code and runs every test on SQLite and on PostgreSQL.

    python tests/run.py [--only lint|sqlite|postgres] [--no-install] [-- pytest arguments]

Every step runs even when an earlier one failed, but for the install; the exit status is 1 when any failed. A handful of
tests that fail among thousands on a busy machine are tried once more, alone, and the summary says how many. PostgreSQL is
the server that DATABASE_URL names, else one from a wheel. Standard library only: it starts with nothing installed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.peers.chromium import find_chromium  # noqa: E402

PYTHON = sys.executable
GROUPS = ("lint", "sqlite", "postgres")
WORKERS = "3"  # on two cores: much of a test is waiting for a server
NO_DATABASE = [f"--ignore=tests/{folder}" for folder in ("toolkits", "peers", "lib")]  # the same on either
PYTEST_CLOSING = re.compile(r"^=* ?(\x1b\[[\d;]*m)*=*.*\b(passed|failed|errors?|skipped|no tests ran)\b.* in [\d.]+s\b")
FAILED = re.compile(r"\b(\d+) failed\b")
MOST_AGAIN = 5  # tests that failed among the others, and are tried once more by themselves
Environment = dict[str, str]
# The interpreter may have plugins of other projects, whose warnings would be errors here.
ONLY_OURS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
PLUGINS = ["-p", "django", "-p", "xdist"]  # names of entry points


@dataclass
class Outcome:
    name: str
    passed: bool
    seconds: float
    closing: str = ""

    def line(self) -> str:
        verdict = "ok    " if self.passed else "FAILED"
        return f"{verdict}  {self.seconds:6.1f} s  {self.name}"


def main() -> int:
    options = parse(sys.argv[1:])
    if not options.no_install and not install():
        say("the install failed, so nothing was tested")
        return 1
    groups = [options.only] if options.only else GROUPS
    outcomes = [outcome for group in groups for outcome in STEPS[group](options.pytest)]
    report(outcomes)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Install what the tests need and run them all.")
    parser.add_argument("--only", choices=GROUPS, help="run just this part")
    parser.add_argument("--no-install", action="store_true", help="everything is installed already")
    parser.add_argument("pytest", nargs="*", help="more arguments for pytest, after --")
    return parser.parse_args(arguments)


def install() -> bool:
    say("installing Jackfield and what its tests need")
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "-e", ".[test]", "-c", "constraints.txt"]
    if os.geteuid() == 0:
        pip.append("--root-user-action=ignore")
    if run(pip, environment()):
        return False
    install_chromium()
    return True


def install_chromium() -> None:
    """Best effort: where it cannot be had, the browser tests say so themselves, and fail in CI."""
    if find_chromium():
        return
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        say("CHROMIUM IS MISSING and only root with apt-get may install it here: browser tests will not run")
        return
    say("installing Chromium")
    quiet = environment() | {"DEBIAN_FRONTEND": "noninteractive"}
    failed = run([apt, "update", "-q"], quiet) or run([apt, "install", "-y", "-q", "chromium"], quiet)
    if failed or not find_chromium():
        say("CHROMIUM COULD NOT BE INSTALLED: browser tests will not run")


def lint(_: list[str]) -> Iterator[Outcome]:
    checks = {
        "ruff check": ["-m", "ruff", "check", "."],
        "ruff format": ["-m", "ruff", "format", "--check", "."],
        "mypy": ["-m", "mypy"],
        "manage.py check": ["manage.py", "check"],
        "migrations are complete": ["manage.py", "makemigrations", "--check", "--dry-run"],
    }
    for name, arguments in checks.items():
        yield step(name, [PYTHON, *arguments], environment() | {"JACKFIELD_ENV": "test"})


def sqlite(extra: list[str]) -> Iterator[Outcome]:
    without = {key: value for key, value in environment().items() if key != "DATABASE_URL"}
    yield pytest("pytest on SQLite", without, extra)


def postgres(extra: list[str]) -> Iterator[Outcome]:
    try:
        with database_url() as url:
            yield pytest("pytest on PostgreSQL", environment() | {"DATABASE_URL": url}, NO_DATABASE + extra)
    except PostgresError as error:
        say(str(error))
        yield Outcome("pytest on PostgreSQL", False, 0.0)


STEPS: dict[str, Callable[[list[str]], Iterator[Outcome]]] = {"lint": lint, "sqlite": sqlite, "postgres": postgres}


class PostgresError(RuntimeError):
    """No PostgreSQL to test on."""


@contextmanager
def database_url() -> Iterator[str]:
    """The server that is there, or one of our own. The helper stops it when its standard input closes."""
    given = os.environ.get("DATABASE_URL", "")
    if given.startswith(("postgres://", "postgresql://")):
        yield given
        return
    helper = subprocess.Popen(
        [PYTHON, "-m", "tests.peers.postgres"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with helper:
        url = helper.stdout.readline().strip() if helper.stdout else ""
        if not url:
            raise PostgresError("POSTGRESQL DID NOT START: see above; DATABASE_URL may name another")
        yield url
        if helper.stdin:
            helper.stdin.close()


def pytest(name: str, variables: Environment, extra: list[str]) -> Outcome:
    parallel = [] if any(argument.startswith("-n") for argument in extra) else ["-n", WORKERS, "--dist", "loadfile"]
    command = [PYTHON, "-m", "pytest", *PLUGINS]
    variables = variables | {"JACKFIELD_ENV": "test", "PYTHONUNBUFFERED": "1"} | ONLY_OURS
    first = step(name, [*command, *parallel, *extra], variables)
    failed = FAILED.search(first.closing)
    if first.passed or not parallel or failed is None or int(failed[1]) > MOST_AGAIN or "error" in first.closing:
        return first
    alone = step(f"{name}: {failed[1]} once more, alone", [*command, "--lf", "--lfnf=none", *extra], variables)
    verdict = f"{name}, {failed[1]} of its tests only alone" if alone.passed else name
    return Outcome(verdict, alone.passed, first.seconds + alone.seconds, f"{first.closing}\n{alone.closing}")


def step(name: str, command: list[str], variables: Environment) -> Outcome:
    say(name)
    started = time.monotonic()
    closing = ""
    with subprocess.Popen(
        command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            closing = line.rstrip() if PYTEST_CLOSING.match(line) else closing
    return Outcome(name, process.returncode == 0, time.monotonic() - started, closing)


def report(outcomes: list[Outcome]) -> None:
    """The steps, and pytest's own closing lines once more: nobody should have to scroll for them."""
    say("summary")
    for outcome in outcomes:
        print(outcome.line())
    for outcome in outcomes:
        if outcome.closing:
            print(f"{outcome.name}:\n{outcome.closing}")
    sys.stdout.flush()


def run(command: list[str], variables: Environment) -> int:
    return subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode


def environment() -> Environment:
    return dict(os.environ)


def say(text: str) -> None:
    print(f"\n--- {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
