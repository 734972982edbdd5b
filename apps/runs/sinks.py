"""Sinks: where runs' results go. A webhook or an S3 bucket, of a run, of a job, or a project's default.

A sink is kept by the Runs API's names: ``{type: webhook, url, headers?, skipOnFail?, apisToSend?}`` or ``{type: s3, bucket,
accessKeyId, secretAccessKey, region, prefix?, skipOnFail?, apisToSend?, endpoint?, forcePathStyle?}``.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from django.db import transaction

from apps.lib import broker
from apps.lib.errors import InvalidInput
from apps.lib.http import BAD_IN_HEADER
from apps.lib.redact import MASK
from apps.lib.vault import VaultError
from apps.modules.models import Module
from apps.workspaces.audit import Actor, record
from apps.workspaces.delivering import MAX_URL, Trickle, url_fault
from apps.workspaces.models import Project

from .models import Delivery, JobRun, Run, SinkSettings
from .outcome import error_of, reason_of

log = logging.getLogger(__name__)

Sink = dict[str, Any]
Faults = dict[str, list[str]]

MOST_HEADERS = 50
LONGEST_HEADERS = 16_384  # characters of all names and values
MOST_APIS = 1000
LONGEST_PREFIX = 400  # bytes: with the longest names behind it a key stays within S3's 1,024
UNTIL_TRIED = timedelta(days=3)  # that a delivery may wait for its first try; its own time begins with that

TASK = "runs.deliver"
HINT_SECONDS = 60.0  # that a hint is good for; the sweeper names what is due anew
_hints = Trickle(most=20, seconds=1.0)

# RFC 9110 section 5.6.2.
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
REGION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
PRINTABLE = re.compile(r"[\x21-\x7e]{1,512}")

UNUSABLE = "Has characters that cannot be sent."
NEEDED = "This field is required."
ANEW = "It is masked, and nothing is stored that it could stand for: give it anew."


# -- What is accepted ------------------------------------------------------------------------------------------------
def accepted(given: Any, stored: Sink | None = None) -> Sink:
    """A sink as it came, checked, what is masked in it as it was ``stored``. Raises `InvalidInput` by member."""
    sink = unmasked(clean(given), stored)
    name = "secretAccessKey" if sink["type"] == "s3" else "headers"
    if MASK in [sink.get("secretAccessKey"), *sink.get("headers", {}).values()]:
        raise InvalidInput({name: [ANEW]})
    return sink


def clean(given: Any) -> Sink:
    """The sink as it is stored, without members that are null or not known; masked ones stay (`unmasked`).

    Raises `InvalidInput`, its details by member (``url``, ``bucket``).
    """
    if not isinstance(given, dict):
        raise InvalidInput({"sink": ["Must be a JSON object."]})
    checks = KINDS.get(given["type"]) if isinstance(given.get("type"), str) else None
    if checks is None:
        raise InvalidInput({"type": ["Must be webhook or s3."]})
    present = {name: given[name] for name in checks if given.get(name) is not None}
    faults = {name: [fault] for name, value in present.items() if (fault := checks[name](value))}
    faults |= {name: [NEEDED] for name in REQUIRED[given["type"]] if name not in present}
    if faults:
        raise InvalidInput(faults)
    return {"type": given["type"], **present}


def _url(value: Any) -> str:
    return url_fault(value) if isinstance(value, str) else f"Must be an absolute URL of at most {MAX_URL} characters."


def _endpoint(value: Any) -> str:
    fault = _url(value)
    return fault or ("Must have no query." if urlsplit(value).query or urlsplit(value).fragment else "")


def _headers(value: Any) -> str:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        return "Must be an object of texts."
    if len(value) > MOST_HEADERS or sum(len(name) + len(text) for name, text in value.items()) > LONGEST_HEADERS:
        return f"May be {MOST_HEADERS} headers of {LONGEST_HEADERS:,} characters in all."
    wrong = [name for name, text in value.items() if not TOKEN.fullmatch(name) or not _may_be_header(text)]
    return f"{wrong[0][:60]!r}: {UNUSABLE}" if wrong else ""


def _may_be_header(text: str) -> bool:
    return not BAD_IN_HEADER.search(text) and _has_utf8(text)


def _has_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _boolean(value: Any) -> str:
    return "" if isinstance(value, bool) else "Must be true or false."


def _apis(value: Any) -> str:
    named = isinstance(value, list) and all(isinstance(name, str) and _is_text(name) for name in value)
    return "" if named and len(value) <= MOST_APIS else f"Must be a list of at most {MOST_APIS} names of modules."


def _is_text(text: str) -> bool:
    return len(text) <= 150 and "\x00" not in text and _has_utf8(text)


def _matching(pattern: re.Pattern[str], said: str) -> Callable[[Any], str]:
    return lambda value: "" if isinstance(value, str) and pattern.fullmatch(value) else said


def _prefix(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        return "Must be a text without control characters."
    if len(value.encode()) > LONGEST_PREFIX:
        return f"May have {LONGEST_PREFIX} bytes."
    # What HTTP clients and proxies take out of a path, after which the signature fits no more (RFC 3986 section 5.2.4).
    return "May have no part that is . or .." if {".", ".."} & set(value.split("/")) else ""


FILTERS = {"skipOnFail": _boolean, "apisToSend": _apis}
KINDS: dict[str, dict[str, Callable[[Any], str]]] = {
    "webhook": {"url": _url, "headers": _headers, **FILTERS},
    "s3": {
        "bucket": _matching(BUCKET, "Must be a bucket's name."),
        "accessKeyId": _matching(PRINTABLE, "Must be 1 to 512 printable ASCII characters."),
        "secretAccessKey": _matching(PRINTABLE, "Must be 1 to 512 printable ASCII characters."),
        "region": _matching(REGION, "Must be a region's name, as in us-east-1."),
        "prefix": _prefix,
        **FILTERS,
        "endpoint": _endpoint,
        "forcePathStyle": _boolean,
    },
}
REQUIRED = {"webhook": ("url",), "s3": ("bucket", "accessKeyId", "secretAccessKey", "region")}


# -- How it is read back ---------------------------------------------------------------------------------------------
def masked(sink: Sink | None) -> Sink | None:
    """As the API reads it back: secretAccessKey and the values of webhook headers are ``********``."""
    if sink is None:
        return None
    hidden: Sink = {}
    if sink.get("headers"):
        hidden["headers"] = dict.fromkeys(sink["headers"], MASK)
    if sink.get("secretAccessKey"):
        hidden["secretAccessKey"] = MASK
    return {**sink, **hidden}


def unmasked(given: Sink, stored: Sink | None) -> Sink:
    """A checked sink that somebody sends back as it was read: what is masked in it is as it was stored.

    A header's value goes to the origin that it was given for and to no other: whoever may change a sink could else have it
    sent to a place of their own. A mask that stands for nothing stays.
    """
    if stored is None or given["type"] != stored["type"]:
        return given
    if given["type"] == "s3":
        kept = {"secretAccessKey": stored["secretAccessKey"]} if given["secretAccessKey"] == MASK else {}
        return {**given, **kept}
    if "headers" not in given or _origin(given["url"]) != _origin(stored["url"]):
        return given
    known = stored.get("headers", {})
    headers = {name: known.get(name, text) if text == MASK else text for name, text in given["headers"].items()}
    return {**given, "headers": headers}


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


# -- A project's default ---------------------------------------------------------------------------------------------
def default_of(project: Project) -> Sink | None:
    """The project's default sink. Costs no query where ``project.settings`` has no ``hasSink``."""
    if not project.settings.get("hasSink"):
        return None
    row = SinkSettings.objects.filter(pk=project.pk).first()
    sink: Sink | None = row.unseal("default") if row else None
    return sink


def change_default(project: Project, given: Any, actor: Actor) -> None:
    """Sets it, or with None takes it away. Raises `InvalidInput` by ``sink`` and its members."""
    try:
        sink = None if given is None else accepted(given, default_of(project))
    except InvalidInput as error:
        raise InvalidInput(named(error)) from None
    with transaction.atomic():
        row, _ = SinkSettings.objects.get_or_create(project=project)
        row.default = row.sealed("default", sink) if sink else ""
        row.save(update_fields=["default", "updated_at"])
        fresh = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        fresh.settings["hasSink"] = project.settings["hasSink"] = sink is not None
        fresh.save(update_fields=["settings"])
        record(actor, "sink.changed", project.pk, project=project, sink=target_of(sink) if sink else None)


def named(error: InvalidInput, name: str = "sink") -> Faults:
    """The faults of `clean` as those of a member ``name``: ``sink.url``."""
    details: Faults = error.details
    return {name if member == name else f"{name}.{member}": said for member, said in details.items()}


# -- What is delivered -----------------------------------------------------------------------------------------------
def api_info(run: Run) -> dict[str, Any]:
    """What came out of a run that has ended, as sinks and files of results show it."""
    shown = {"name": _module_name(run), "parameters": run.parameters, "runId": run.pk}
    return {**shown, "result": _result(run)}


def _result(run: Run) -> dict[str, Any]:
    if run.status == Run.Status.COMPLETED:
        return {"status": "completed", "result": run.result, "statusCode": 200}
    if run.status == Run.Status.CANCELLED:
        reason = reason_of(run)
        return {"status": "canceled", "error": reason["type"], "message": reason["message"], "statusCode": 500}
    error = error_of(run)
    code = 408 if error["code"] == "script-timeout" else 500
    return {"status": "failed", "error": error["code"], "message": error["message"], "statusCode": code}


def _module_name(run: Run) -> str:
    """Without a SELECT for each of ten thousand runs of a module."""
    if Run.module.is_cached(run):
        return run.module.name
    return _name_of_module(run.module_id)


@lru_cache(maxsize=1000)
def _name_of_module(module_id: str) -> str:
    """A module keeps its name."""
    return Module.objects.values_list("name", flat=True).get(pk=module_id)


@lru_cache(maxsize=1000)
def _name_of_job(job_run_id: str) -> str | None:
    """By which the API knows the job of a job run, which keeps it. None where the job run's time was over before its run's."""
    return JobRun.objects.filter(pk=job_run_id).values_list("job__name", flat=True).first()


def write_delivery(run: Run, now: datetime) -> None:
    """In the transaction that ended the run: the row of its delivery, unless skipOnFail or apisToSend leave it out."""
    try:
        sink: Sink = run.unseal("sink")
    except VaultError as error:
        log.error("the result of run %s goes nowhere, for its sink does not open: %s", run.pk, error)
        return
    api = _module_name(run)
    if not _wants(sink, run, api):
        return
    row = Delivery(
        project_id=run.project_id,
        run_id=run.pk,
        job_run_id=run.job_run_id or "",
        api=api,
        kind=sink["type"],
        target=target_of(sink, run.project.name, api, run.pk),
        host=host_of(sink),
        body=json.dumps(body_of(run), separators=(",", ":"), default=str),
        next_try_at=now,
        ends_at=now + UNTIL_TRIED,
        created_at=now,
    )
    row.seal("sink", sink)
    row.save(force_insert=True)
    transaction.on_commit(partial(hint, row.pk, (row.project_id, row.host)))


def _wants(sink: Sink, run: Run, api: str) -> bool:
    """An empty apisToSend is none: all are sent."""
    failed = run.status != Run.Status.COMPLETED
    return not (failed and sink.get("skipOnFail")) and api in (sink.get("apisToSend") or [api])


def body_of(run: Run) -> dict[str, Any]:
    """What a webhook is sent, and what is put into a bucket."""
    project = run.project
    body: dict[str, Any] = {
        "apiInfo": api_info(run),
        "workspaceId": str(run.workspace_id),
        "project": {"id": project.pk, "name": project.name},
    }
    if run.auth_session:
        body["authSession"] = {"id": run.auth_session}
    if run.job_run_id:
        job = _name_of_job(run.job_run_id)
        if job is not None:
            body["projectJob"] = {"id": job}
        body["projectJobRun"] = {"id": run.job_run_id}
    return body


def target_of(sink: Sink, *names: str) -> str:
    """Where it goes, as people may read it: a URL without its query, or ``s3://bucket/key``."""
    if sink["type"] == "s3":
        key = "/".join(_segment(part) for name in names for part in name.split("/"))
        return f"s3://{sink['bucket']}/{sink.get('prefix', '')}{key}" + (".json" if names else "")
    parts = urlsplit(sink["url"])
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "…" if parts.query else "", ""))


def _segment(name: str) -> str:
    """A part of a path that HTTP clients and proxies leave where it is."""
    return name.replace(".", "_") if name in {".", ".."} else name


def host_of(sink: Sink) -> str:
    """Who receives it."""
    url = sink.get("url") or sink.get("endpoint")
    return urlsplit(url).netloc.lower()[:255] if url else f"s3.{sink['region']}.amazonaws.com"


def hint(delivery_id: str, receiver: tuple[str, str]) -> None:
    """Tells the workers of a delivery, unless this process has just told them of many others of its receiver.

    Those come after one another (`apps.runs.deliveries.deliver`), and the sweeper looks after the rest.
    """
    if _hints.allows(receiver):
        broker.hand(TASK, [delivery_id], queue="deliveries", expires=HINT_SECONDS)
