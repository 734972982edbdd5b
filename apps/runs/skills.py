"""What the Shortcut API tells of its endpoints: lists, documentation, and the files that coding agents read (SKILL.md)."""

from __future__ import annotations

import json
import shlex
from typing import Any

from django.conf import settings

from apps.connections.models import Connection, Integration
from apps.lib import errors
from apps.lib.envelopes import SHORTCUT
from apps.lib.errors import Failure
from apps.toolkits.examples import example_of
from apps.toolkits.registry import catalog
from apps.toolkits.spec import Tool, Toolkit
from apps.workspaces.callers import Caller

Row = dict[str, Any]

# Every refusal of ours, in the order in which a call is checked.
ERRORS: tuple[tuple[type[Failure], str], ...] = (
    (errors.AuthRequired, "The API key is missing, unknown, revoked or expired."),
    (errors.NotPermitted, "The key may not use this integration."),
    (errors.NotFound, "There is no such integration or endpoint."),
    (errors.InvalidInput, "A parameter is missing or wrong; the message names it."),
    (
        errors.NotConnected,
        "The user has not connected this integration, or the project has not enabled it; see action_url.",
    ),
    (errors.ConnectionExpired, "The connection has expired and could not be refreshed; connect again at action_url."),
    (errors.QuotaExceeded, "The calls of the day are used up."),
    (errors.RateLimited, "Too many calls in this minute; wait for the seconds that Retry-After names."),
    (errors.Conflict, "The Idempotency-Key was used with another body."),
    (errors.BodyTooLarge, "The request is too large."),
    (errors.Unreachable, "The service could not be reached."),
    (errors.TimedOut, "The service did not answer in time."),
)


# -- Lists and documentation -----------------------------------------------------------------------------------------
def listed(caller: Caller, user_id: str | None) -> list[Row]:
    """The project's enabled toolkits that the key may use; whether the user has connected each."""
    enabled = Integration.objects.filter(project=caller.project).primary().enabled().values_list("toolkit", flat=True)
    known = catalog(caller.project)
    toolkits = [known.get(slug) for slug in sorted(enabled) if caller.may_use(slug)]
    connected = _connected(caller, user_id)
    return [
        {
            "slug": toolkit.slug,
            "name": toolkit.name,
            "connected": toolkit.slug in connected,
            "endpoints": [tool.slug for tool in toolkit.tools],
        }
        for toolkit in toolkits
        if toolkit is not None
    ]


def _connected(caller: Caller, user_id: str | None) -> set[str]:
    if user_id is None:
        return set()
    rows = Connection.objects.of_user(caller.project.pk, user_id).filter(integration__is_primary=True)
    return set(rows.filter(status=Connection.Status.ACTIVE).values_list("toolkit", flat=True))


def described(toolkit: Toolkit) -> Row:
    rows = [{"name": tool.slug, "method": tool.method, "description": tool.description} for tool in toolkit.tools]
    return {"slug": toolkit.slug, "name": toolkit.name, "auth": toolkit.auth[0].type, "endpoints": rows}


def documented(toolkit: Toolkit, tool: Tool) -> Row:
    return {
        "name": tool.slug,
        "method": tool.method,
        "description": tool.description,
        "parameters": tool.input_schema,
        "example_request": {
            "method": "POST",
            "url": url_of(toolkit, tool),
            "headers": {"Authorization": "Bearer jf_sk_…", "Content-Type": "application/json"},
            "body": {"params": example_of(tool)},
        },
        "scopes": tool.scopes,
        "errors": error_rows(),
    }


def url_of(toolkit: Toolkit, tool: Tool) -> str:
    return f"{settings.JACKFIELD_URL}/v1/{toolkit.slug}/{tool.slug}"


def error_rows() -> list[Row]:
    """The status, code and meaning of each refusal, as the surface spells it."""
    return [
        {"status": SHORTCUT.status(cls()), "error": SHORTCUT.body(cls())["error"], "description": meaning}
        for cls, meaning in ERRORS
    ]


# -- Files for coding agents -----------------------------------------------------------------------------------------
def files(toolkit: Toolkit) -> list[Row]:
    """SKILL.md, and one Markdown page an endpoint, as ``{file_path, content}``."""
    pages = [{"file_path": _path(tool), "content": _page(toolkit, tool)} for tool in toolkit.tools]
    return [{"file_path": "SKILL.md", "content": _skill(toolkit)}, *pages]


def _path(tool: Tool) -> str:
    return f"endpoints/{tool.slug}.md"


def _skill(toolkit: Toolkit) -> str:
    """The front matter has the two members that agents choose a skill by; JSON's strings are YAML's too."""
    summary = " ".join(
        f"Calls {toolkit.name} with the user's own connected account through one HTTP API. {toolkit.description}".split()
    )
    rows = "\n".join(f"- [`{tool.slug}`]({_path(tool)}): {_line(tool.description)}" for tool in toolkit.tools)
    first = toolkit.tools[0] if toolkit.tools else None
    return SKILL.format(
        slug=toolkit.slug,
        name=_line(toolkit.name),
        description=json.dumps(summary[:1000], ensure_ascii=False),
        url=settings.JACKFIELD_URL,
        call=_curl(toolkit, first) if first else "(this integration has no endpoints)",
        endpoints=rows,
        errors=_error_table(),
    )


def _page(toolkit: Toolkit, tool: Tool) -> str:
    example = json.dumps({"params": example_of(tool)}, indent=2, ensure_ascii=False)
    return PAGE.format(
        endpoint=tool.slug,
        title=_line(tool.name),
        description=tool.description.strip(),
        notes="".join(f"\n{line}\n" for line in _notes(tool)),
        path=f"/v1/{toolkit.slug}/{tool.slug}",
        parameters=_parameter_table(tool),
        example=example,
        call=_curl(toolkit, tool),
        schema=json.dumps(tool.input_schema, indent=2, ensure_ascii=False),
    )


def _notes(tool: Tool) -> list[str]:
    found = []
    if tool.deprecated:
        reason = f" {tool.deprecated}" if isinstance(tool.deprecated, str) else ""
        found.append(f"**Deprecated.**{reason}")
    if tool.method == "DELETE":
        found.append("**This deletes something.** Ask the user first.")
    if tool.scopes:
        found.append("Scopes at the service: " + ", ".join(f"`{scope}`" for scope in tool.scopes))
    if tool.docs_url:
        found.append(f"The service's own documentation: {tool.docs_url}")
    return found


def _curl(toolkit: Toolkit, tool: Tool) -> str:
    body = json.dumps({"params": example_of(tool)}, ensure_ascii=False)
    lines = [
        f"curl -X POST {shlex.quote(url_of(toolkit, tool))}",
        '-H "Authorization: Bearer $JF_API_KEY"',
        '-H "Content-Type: application/json"',
        f"-d {shlex.quote(body)}",
    ]
    return " \\\n  ".join(lines)


def _parameter_table(tool: Tool) -> str:
    if not tool.parameters:
        return "None."
    rows = ["| Parameter | Type | Required | Description |", "| --- | --- | --- | --- |"]
    for name, parameter in tool.parameters.items():
        schema = parameter.json_schema
        text = _line(str(schema.get("description", "")))
        if "enum" in schema:
            text = f"{text} One of: {', '.join(json.dumps(value) for value in schema['enum'])}.".strip()
        required = "yes" if parameter.required else "no"
        rows.append(f"| `{name}` | {_type(schema)} | {required} | {_cell(text)} |")
    rows += [f"\nAt least one of these sets is needed: {_sets(tool)}."] if tool.any_of else []
    return "\n".join(rows)


def _sets(tool: Tool) -> str:
    return "; ".join(", ".join(f"`{name}`" for name in names) for names in tool.any_of)


def _type(schema: Row) -> str:
    kind = schema.get("type", "any")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _error_table() -> str:
    rows = ["| Status | error | Meaning |", "| --- | --- | --- |"]
    return "\n".join(
        [*rows, *(f"| {row['status']} | `{row['error']}` | {row['description']} |" for row in error_rows())]
    )


def _line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


SKILL = """---
name: {slug}
description: {description}
---

# {name}

Every endpoint is one POST to `{url}/v1/{slug}/<endpoint>` with a JSON body `{{"params": {{…}}}}`. The user's account is used;
you never see its credentials.

## Authentication

Send an API key in the header `Authorization: Bearer <key>`. Read it from the environment variable `JF_API_KEY`; never
write it into a file, a log or a message. A personal key acts for its owner. With a project's key, name the person in the
header `X-End-User`.

## Calling

```sh
{call}
```

A success is `{{"status": 200, "data": …}}`: `status` is the service's own, `data` its answer as it came. Where the service
refuses, the HTTP status is the service's and the body is `{{"status": …, "error": …}}`.

To be sure that a call is made once, send a header `Idempotency-Key` of your own: repeating the request with the same key
gives the first answer.

## Endpoints

{endpoints}

## Errors

What the service has not answered is `{{"error": code, "message": text, "action_url": page}}`. Where there is an `action_url`,
show it to the user: they can mend it there.

{errors}

## Connecting

If the user has not connected this integration, `POST {url}/v1/connect` with `{{"integration": "{slug}"}}` gives
`{{"oauth_url", "connection_id"}}`. Let the user open `oauth_url`, and ask `GET {url}/v1/connect/<connection_id>` until its
`status` is `connected` or `error`.
"""

PAGE = """# {endpoint}: {title}

{description}
{notes}
`POST {path}`

## Parameters

{parameters}

## Example

```json
{example}
```

```sh
{call}
```

## JSON Schema of params

```json
{schema}
```
"""
