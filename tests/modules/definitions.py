"""Definitions for tests: the one that the contract prints, and small ones around single steps."""

from __future__ import annotations

import json
from typing import Any

# As `contracts/modules.md` prints it: it must parse as it stands.
ONBOARD = """\
name: onboard                       # the `api` of the Runs API; unique in the project
title: Onboard an employee
access: api_key                     # public | signed_in | api_key (default) | off
start_parameters:
  - {name: Employee Name, api_name: employee_name, type: text, required: true}
  - {name: Start date, api_name: employment_start_date, type: date}
  - {name: Number, api_name: employee_reference_number, type: number}
  - {name: E-mail, api_name: employee_email, type: email}
  - {name: Size, api_name: size, type: choice, options: [S, M, L], default: M}   # also boolean, choices, file, object, list
steps:
  - id: record                      # plain HTTP
    request: {method: POST, url: "https://hr.example/people", headers: {x-source: jackfield}, query: {}, json: {name: "{{ start.employee_name }}"}, accept: [404]}
    retry: {maximum_attempts: 3, delay: 1s, on: [network, 429, 5xx]}
    timeout: 30
    on_error: {goto: stop}          # fail (default) | continue | {goto: id}
    on_lost: retry                  # when a worker died in it: retry | fail (default for what is not idempotent) | continue
  - id: issue                       # a tool
    tool: GITHUB_CREATE_ISSUE
    with: {repo: acme/hr, title: "Onboard {{ start.employee_name }}"}
    connection: shared              # user (default: the run's end user) | shared | ca_…
    when: "{{ steps.record.output.status == 201 }}"
  - id: details                     # a person answers in the browser; state waiting_for_input
    form:
      title: Equipment
      pages:                        # or `fields` directly for one page
        - fields:
            - {name: laptop, label: Which laptop?, type: choice, options: [13 inch, 15 inch], required: true}
            - {name: note, label: Note, type: long_text, default: "{{ start.employee_name }}"}
  - id: ok
    approve: {title: "Buy {{ steps.details.output.laptop }}?", assignees: [it@example.com, "group:buyers"], quorum: 1, not_starter: true, reason_on_reject: true, deadline: 2d, on_deadline: reject, remind: 1d}
  - id: branch
    condition: "{{ steps.ok.output.approved }}"
    then: [{id: note, set: {text: approved}}]
    else: [{id: stop, fail: {message: "Not approved"}}]
  - id: kind
    switch: "{{ start.size }}"
    cases: {S: [{id: small, set: {n: 1}}], M: [{id: middle, set: {n: 2}}]}
    default: [{id: large, set: {n: 3}}]
  - id: each
    for_each: "{{ steps.record.output.body.devices }}"
    as: device
    parallel: 5
    do: [{id: order, request: {method: POST, url: "https://shop.example/{{ device.sku }}"}}]
  - {id: pause, wait: 5m}           # or {until: "{{ … }}"} or {event: name, timeout: 1d}
  - {id: sub, run: other-module, with: {n: 1}}
  - {id: calc, code: company.actions.total, with: {items: "{{ steps.each.output }}"}}
result: {issue: "{{ steps.issue.output.number }}", said: "{{ steps.record.output.body }}"}
"""  # noqa: E501

PARAMETERS = [
    {"name": "Employee Name", "api_name": "name", "type": "text", "required": True},
    {"name": "Number", "api_name": "number", "type": "number"},
]


def definition(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A definition of these steps as data; a step without an id is called s0, s1, …"""
    named = [{"id": f"s{number}", **step} for number, step in enumerate(steps)]
    return {"name": "module", "start_parameters": PARAMETERS, "steps": named, **more}


def source(*steps: dict[str, Any], **more: Any) -> str:
    return json.dumps(definition(*steps, **more))
