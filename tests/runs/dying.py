"""Runs that are carried by processes which die: a program, so that it has a database and processes of its own.

``python -m tests.runs.dying MODE LEDGER UPSTREAM FOLDER`` on the database of its environment; prints what happened as JSON.

``kills``    one run after another; the first process that carries the n-th ends itself by SIGKILL at the n-th checkpoint, others
             go on with it; until a run has no further checkpoint
``many``     a run that eight processes carry at the same time; then 500 runs, carried by two processes that are told of each
             run twice, in an order of their own

A carrier is a fork of this process, which itself holds no connection to anything while it forks.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any


def prepare() -> None:
    import django
    from django.core.management import call_command

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    call_command("migrate", verbosity=0)


def cast_and_lab(upstream: str) -> Any:
    """A project with the lab switched on at the upstream, and the user u1 connected."""
    import yaml

    from apps.toolkits.registry import catalog, parse
    from tests.api.shop import LAB
    from tests.cast import connect, enable, make_cast

    toolkit, faults = parse(yaml.safe_load(LAB))
    assert toolkit is not None, faults
    known = catalog()
    known.toolkits["lab"] = toolkit
    known.tools |= {toolkit.public_name(tool): (toolkit, tool) for tool in toolkit.tools}
    cast = make_cast()
    connect(enable(cast.project, "lab", upstream))
    return cast


def in_child(work: Callable[[], None]) -> int:
    """Does it in a process of its own; its exit status, negative for the signal that ended it."""
    from django.db import connections

    connections.close_all()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            connections.close_all()
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# -- Every kind of step ------------------------------------------------------------------------------------------------
def posted(ledger: str, name: str) -> dict[str, Any]:
    """A request that the ledger counts under the run's id and a name; its credential is good for some seconds."""
    token = {"Authorization": "Bearer at.{{ run.id }}.0"}
    return {"method": "POST", "url": f"{ledger}/do", "query": {"id": f"{{{{ run.id }}}}{name}"}, "headers": token}


def every_kind(ledger: str) -> list[dict[str, Any]]:
    def post(name: str, **more: Any) -> dict[str, Any]:
        return {"id": name.partition(" ")[0], "request": posted(ledger, f" {name}"), **more}

    return [
        {"id": "get", "request": {**posted(ledger, " get"), "method": "GET"}},
        post("post", on_lost="continue"),
        post("again", on_lost="retry"),
        {"id": "tool", "tool": "LAB_CREATE_ITEM", "with": {"title": "{{ run.id }}"}, "on_lost": "continue"},
        {"id": "code", "code": "note", "with": {"run": "{{ run.id }}"}, "on_lost": "continue"},
        {"id": "values", "set": {"n": 1}},
        {"id": "which", "condition": "{{ steps.values.output.n == 1 }}", "then": [post("inner", on_lost="continue")]},
        {"id": "kind", "switch": "{{ steps.values.output.n }}", "cases": {"1": [{"id": "one", "set": {"a": 1}}]}},
        {"id": "each", "for_each": [0, 1, 2], "parallel": 2, "do": [post("side {{ item }}", on_lost="continue")]},
        {"id": "pause", "wait": "10ms"},
        {"id": "form", "form": {"title": "Form", "fields": [{"name": "a", "label": "A", "type": "text"}]}},
        {"id": "approve", "approve": {"title": "Approve"}},
        {"id": "event", "wait": {"event": "paid"}},
        {"id": "sub", "run": "inner"},
    ]


def inner(ledger: str) -> list[dict[str, Any]]:
    return [{"id": "child", "request": posted(ledger, " child"), "on_lost": "continue"}]


def kills(ledger: str, upstream: str, folder: Path) -> Any:
    from tests.runs import lab

    cast = cast_and_lab(upstream)
    lab.publish(cast.project, inner(ledger), name="inner")
    every = lab.publish(cast.project, every_kind(ledger), result="done")
    strict = lab.publish(cast.project, [{**inner(ledger)[0], "on_lost": "fail"}], name="strict", result="done")
    failing = lab.publish(cast.project, [{"id": "stop", "fail": {"message": "No"}}], name="failing")
    return {
        name: _until_it_lives(module, folder)
        for name, module in (("every", every), ("strict", strict), ("failing", failing))
    }


def _until_it_lives(module: Any, folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    while not rows or rows[-1]["killed"]:
        rows.append(_killed_at(len(rows) + 1, module, folder))
        assert len(rows) < 200
    return rows


def _killed_at(number: int, module: Any, folder: Path) -> dict[str, Any]:
    from apps.runs.models import Run
    from tests.runs import lab

    run = lab.start(module, user_id="u1")
    passed, place = multiprocessing.Value("i", 0), folder / "place"
    place.write_text("")
    for _ in range(60):
        in_child(lambda: _carry_all(passed, number, place, folder))
        if lab.fresh(run).has_ended:
            break
        _act(run)
        _end_leases()
    found = _found(lab.fresh(run))
    children = [_found(child) for child in Run.objects.filter(parent=run)]
    return {"killed": passed.value >= number, "place": place.read_text(), **found, "children": children}


def _end_leases() -> None:
    """Of processes that died; instead of waiting for thirty seconds."""
    from django.utils import timezone

    from apps.runs.models import Run

    past = timezone.now() - timedelta(seconds=1)
    Run.objects.living().exclude(lease_until=None).update(lease_until=past)


def _carry_all(passed: Any, number: int, place: Path, folder: Path) -> None:
    """Whatever is due, as a worker would; dies on the way, once."""
    from apps.modules import actions
    from apps.runs import carrier
    from apps.runs.models import Run

    def checkpoint(name: str) -> None:
        passed.value += 1
        if passed.value == number:
            place.write_text(name)
            os.kill(os.getpid(), signal.SIGKILL)

    def note(run: str) -> str:
        with open(folder / "code", "a") as file:
            file.write(f"{run}\n")
        checkpoint("within code")
        return run

    carrier.checkpoint = checkpoint
    actions.find = lambda name: note
    for pk in Run.objects.living().exclude(wake_at=None).values_list("pk", flat=True):
        carrier.carry(pk)


def _act(run: Any) -> None:
    """What people and programs do for a run that waits."""
    from apps.runs import human, starting
    from apps.runs.models import HumanTask
    from tests.runs import lab

    for task in HumanTask.objects.filter(run=run, status="open"):
        if task.kind == "form":
            human.answer(task, {"a": "b"}, human.Person("Ada"))
        else:
            human.decide(task, True, "", human.Person("Ada"))
    if not run.signals.exists():
        starting.signal(run, "paid", 1, lab.ACTOR)


def _found(run: Any) -> dict[str, Any]:
    from apps.runs.models import RunEvent

    rows = list(RunEvent.objects.filter(run=run).order_by("number").values_list("number", "kind"))
    return {
        "run": run.pk,
        "status": run.status,
        "result": run.result,
        "error": run.error["code"] if run.error else None,
        "numbers_are_whole": [number for number, _ in rows] == list(range(run.events_count)),
        "ends": sum(kind in ("completed", "errored", "cancelled") for _, kind in rows),
        "lease": run.lease_token,
    }


# -- Many at once ------------------------------------------------------------------------------------------------------
def many(ledger: str, upstream: str, folder: Path) -> Any:
    from apps.runs.models import Run
    from tests.runs import lab

    cast = cast_and_lab(upstream)
    steps = [{"id": "post", "request": posted(ledger, "")}, {"id": "set", "set": {"n": 1}}]
    module = lab.publish(cast.project, steps)
    wanted = lab.start(module)
    _at_once(8, lambda index: [wanted.pk])
    race = _found(lab.fresh(wanted))
    ids = [lab.start(module).pk for _ in range(500)]

    def order(index: int) -> list[str]:
        told = ids * 2
        random.Random(index).shuffle(told)
        return told

    _at_once(2, order)
    return {"race": race, "flood": [_found(run) for run in Run.objects.filter(pk__in=ids)]}


def _at_once(count: int, told: Callable[[int], list[str]]) -> None:
    from django.db import connections

    from apps.runs import carrier

    connections.close_all()
    children = []
    for index in range(count):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for pk in told(index):
                    carrier.carry(pk)
                status = 0
            finally:
                connections.close_all()
                os._exit(status)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0


def main() -> None:
    mode, ledger, upstream, folder = sys.argv[1:]
    prepare()
    found = {"kills": kills, "many": many}[mode](ledger, upstream, Path(folder))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
