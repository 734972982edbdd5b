"""What a new module may begin with. Each is a whole definition that passes every check; ``NAME`` becomes its name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    label: str
    source: str


HELLO = """\
name: NAME
title: Say hello
access: api_key
start_parameters:
  - {name: Name, api_name: name, type: text, required: true}
steps:
  - id: greeting
    set:
      text: "Hello, {{ start.name }}!"
result: {greeting: "{{ steps.greeting.output.text }}"}
"""

APPROVAL = """\
name: NAME
title: Ask before buying
access: api_key
start_parameters:
  - {name: Item, api_name: item, type: text, required: true}
  - {name: Price, api_name: price, type: number, required: true}
steps:
  # A person answers these in the browser; whoever has the run's link may do so.
  - id: details
    form:
      title: "What is {{ start.item }} for?"
      fields:
        - {name: reason, label: Reason, type: long_text, required: true}
        - {name: needed_by, label: Needed by, type: date}
  - id: ok
    approve:
      title: "Buy {{ start.item }} for {{ start.price }}?"
      text: "{{ steps.details.output.reason }}"
      reason_on_reject: true
      deadline: 2d
      on_deadline: reject
  - id: decided
    condition: "{{ steps.ok.output.approved }}"
    then:
      - id: bought
        set: {text: approved}
    else:
      - id: refused
        fail: {message: "Not approved: {{ steps.ok.output.reason }}"}
result: {approved: "{{ steps.ok.output.approved }}", by: "{{ steps.ok.output.by }}"}
"""

FOR_EACH = """\
name: NAME
title: Ask for a list, and do something for each of it
access: api_key
start_parameters:
  - {name: Address, api_name: address, type: text, default: "https://example.com/items"}
steps:
  - id: items
    request: {method: GET, url: "{{ start.address }}"}
    retry: {maximum_attempts: 3, delay: 1s}
  - id: each
    for_each: "{{ steps.items.output.body }}"
    as: item
    parallel: 5
    do:
      - id: line
        set: {text: "{{ item }}"}
result: {count: "{{ steps.each.output | length }}"}
"""

TEMPLATES = {
    "hello": Template("Hello: one parameter, one step", HELLO),
    "approval": Template("Approval: a form, a decision, a branch", APPROVAL),
    "for_each": Template("For each: a request, and something for each item of its answer", FOR_EACH),
}
