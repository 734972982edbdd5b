"""The module definition: the only description of its format (docs/modules.md).

A definition is YAML or JSON. These models parse it and publish its JSON Schema; what no schema can say (names, order,
reachability, a project's tools) is checked by `apps.modules.checks`. No Django here: the engine reads it too.

A text may hold expressions, ``{{ start.email }}`` (`apps.lib.expressions`). A *duration* is ``500ms``, ``30s``, ``5m``,
``2h``, ``1d``, ``1w``, or a number of seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from apps.lib import expressions

MAX_STEPS = 500
MAX_BYTES = 1024 * 1024
MAX_NESTING = 20
KINDS = ("tool", "request", "form", "approve", "condition", "switch", "for_each", "set", "wait", "run", "code", "fail")
# What waits outside of a worker: for a person, a time, an event, another run.
WAITING_KINDS = frozenset({"form", "approve", "wait", "run"})
RESERVED_LAST_SEGMENTS = frozenset({"publish", "unpublish", "check", "rollback", "rotate-key", "versions"})
NAME_PATTERN = r"^[a-z0-9_-]+(/[a-z0-9_-]+)*$"
DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*(ms|s|m|h|d|w|)")
SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
LONGEST = 366 * 86400.0  # seconds: what is waited for longer than a year is a mistake
SAFE_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})  # idempotent: RFC 9110 section 9.2.2


def seconds_of(value: Any) -> float:
    """A duration in seconds. Raises ValueError."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        found = float(value)
    else:
        match = DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError("a duration is like 30s, 5m, 2h, 1d, or a number of seconds")
        found = float(match[1]) * SECONDS[match[2]]
    if not 0 <= found <= LONGEST:
        raise ValueError("a duration is from 0 to 366 days")
    return found


Duration = Annotated[float, BeforeValidator(seconds_of, json_schema_input_type=str | float)]
Id = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=60)]
ApiName = Id
ModuleName = Annotated[str, Field(pattern=NAME_PATTERN, max_length=150)]
Text = Annotated[str, Field(max_length=100_000)]
Json = Any
ParameterType = Literal["text", "date", "number", "email", "boolean", "choice", "choices", "file", "object", "list"]
FieldType = Literal["text", "long_text", "number", "date", "email", "choice", "choices", "checkbox", "file"]


class Strict(BaseModel):
    """No other keys than these, and no value made into another type: the JSON Schema says the same."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, populate_by_name=True, ignored_types=(cached_property,)
    )


Number = int | float
Option = str | int | float


class Limits(Strict):
    """Bounds of a value: of a number itself, of a text's or list's length, of a file's size in bytes."""

    min: Number | str | None = Field(default=None, description="Of a number, or of a date (YYYY-MM-DD).")
    max: Number | str | None = None
    min_length: int | None = Field(default=None, ge=0)
    max_length: int | None = Field(default=None, ge=0)
    pattern: str | None = Field(
        default=None, max_length=200, description="Regular expression that the whole text fits."
    )
    options: list[Option] | None = Field(default=None, min_length=1, max_length=500)


class StartParameter(Limits):
    """What is given to a run at its start. ``name`` is what people read, ``api_name`` what the API and expressions use."""

    name: str = Field(min_length=1, max_length=100)
    api_name: ApiName
    type: ParameterType
    required: bool = False
    default: Json = None
    help: str = Field(default="", max_length=500)


class FormField(Limits):
    """A question of a form. ``label``, ``help`` and ``default`` may hold expressions; the options too, as one expression."""

    name: Id
    label: Text
    type: FieldType = "text"
    required: bool = False
    default: Json = None
    help: Text = ""
    placeholder: Text = ""
    options: list[Option] | Text | None = None  # type: ignore[assignment] # an expression may give them


class Page(Strict):
    title: Text = ""
    text: Text = ""
    fields: list[FormField] = Field(min_length=1, max_length=100)


class Asked(Strict):
    """What a form and an approval share: who may answer, until when, and what happens then."""

    title: Text
    text: Text = ""
    assignees: list[Text] | Text | None = Field(
        default=None,
        description="E-mail addresses, group:<name>, user:<end user's id>, or one expression that gives such a list.",
    )
    deadline: Duration | None = None
    remind: Duration | None = Field(
        default=None, description="Reminds the assignees so long after the beginning, again and again."
    )
    email: bool = Field(default=True, description="Whether assignees with an address get a link by e-mail.")


class Form(Asked):
    """Questions to a person. ``on_deadline``: fail, or continue with the defaults."""

    pages: list[Page] | None = Field(default=None, min_length=1, max_length=30)
    fields: list[FormField] | None = Field(default=None, min_length=1, max_length=100)
    submit: str = Field(default="", max_length=60, description="Text of the last page's button.")
    on_deadline: Literal["fail", "continue"] = "fail"

    @model_validator(mode="after")
    def _one_of_two(self) -> Form:
        if (self.pages is None) == (self.fields is None):
            raise ValueError("give either pages or fields")
        names = [field.name for page in self.all_pages for field in page.fields]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"a field's name stands there twice: {', '.join(twice)}")
        return self

    @property
    def all_pages(self) -> list[Page]:
        return self.pages if self.pages is not None else [Page(fields=self.fields or [])]


class Approve(Asked):
    """A yes or no of one person, or of ``quorum`` of them. A rejection is an outcome, not a failure: ``output.approved``."""

    quorum: int = Field(default=1, ge=1, le=50)
    not_starter: bool = False
    reason_on_reject: bool = False
    on_deadline: Literal["approve", "reject", "fail"] = "reject"


class Request(Strict):
    """One plain HTTP request. At most one of json, form and body."""

    method: Text = "GET"
    url: Text
    headers: dict[str, Json] = {}
    query: dict[str, Json] = {}
    json_body: Json = Field(default=None, alias="json")
    form: dict[str, Json] | None = None
    body: Text | None = None
    accept: list[int] = Field(default=[], description="Statuses of 400 and above that are no failure.")
    follow: bool = True

    @model_validator(mode="after")
    def _one_body(self) -> Request:
        if sum(part is not None for part in (self.json_body, self.form, self.body)) > 1:
            raise ValueError("give only one of json, form and body")
        return self


class WaitUntil(Strict):
    until: Text = Field(description="A date or a time with its zone, mostly an expression.")


class WaitEvent(Strict):
    event: Text = Field(description="POST /v1/{appId}/runs/{runId}/events/{name} ends the waiting.")
    timeout: Duration | None = None


class Fail(Strict):
    message: Text
    code: str | None = Field(default=None, max_length=60)
    details: Json = None


class Retry(Strict):
    """Tries within an attempt. ``on``: network, timeout, any, a status (429), or a class of them (5xx)."""

    maximum_attempts: int = Field(default=3, ge=1, le=50)
    delay: Duration = 1.0
    factor: float = Field(default=2.0, ge=1, le=10)
    max_delay: Duration = 60.0
    on: list[str | int] = Field(default=["network", "timeout", 408, 429, "5xx"], max_length=50)

    @model_validator(mode="after")
    def _known(self) -> Retry:
        for item in self.on:
            if not re.fullmatch(r"network|timeout|any|[1-5]xx|[1-5]\d\d", str(item)):
                raise ValueError(f"on: {item} is none of network, timeout, any, a status, or a class like 5xx")
        return self


def _message_alone(value: Any) -> Any:
    return {"message": value} if isinstance(value, str) else value


def _one_kind(schema: dict[str, Any]) -> None:
    """In the JSON Schema: exactly one of the kinds' keys."""
    schema["oneOf"] = [{"required": [kind]} for kind in KINDS]


class Goto(Strict):
    goto: Id


class Step(Strict):
    """One unit of a module. Exactly one of the kinds' keys says what it does."""

    id: Id
    title: str = Field(default="", max_length=200)
    when: Text | bool | None = Field(default=None, description="Skipped where this is not true.")
    retry: Retry | None = None
    timeout: Duration | None = None
    on_error: Literal["fail", "continue"] | Goto = "fail"
    on_lost: Literal["retry", "fail", "continue"] | None = None
    connection: Text = "user"

    tool: str | None = Field(default=None, max_length=200, description="GITHUB_CREATE_ISSUE, or github.create_issue.")
    request: Request | None = None
    form: Form | None = None
    approve: Approve | None = None
    condition: Text | bool | None = None
    switch: Json = None
    for_each: Json = None
    set: dict[str, Json] | None = None
    wait: WaitUntil | WaitEvent | Text | Number | None = None
    run: ModuleName | None = None
    code: str | None = Field(default=None, max_length=200, description="A callable that the installation registers.")
    fail: Annotated[Fail | None, BeforeValidator(_message_alone, json_schema_input_type=Fail | Text | None)] = None

    with_: dict[str, Json] | Text | None = Field(default=None, alias="with")
    then: list[Step] = []
    otherwise: list[Step] = Field(default=[], alias="else")
    cases: dict[str, list[Step]] = {}
    default: list[Step] = []
    as_: Id | None = Field(default=None, alias="as")
    parallel: int = Field(default=1, ge=1, le=50)
    do: list[Step] = []

    model_config = ConfigDict(json_schema_extra=_one_kind)

    @property
    def item_name(self) -> str:
        """What expressions of a for_each's ``do`` call the item."""
        return self.as_ or "item"

    @property
    def kind(self) -> str:
        """The first of its kinds; `apps.modules.checks` sees to it that there is one."""
        return next((kind for kind in KINDS if kind in self.model_fields_set and getattr(self, kind) is not None), "")

    def blocks(self) -> Iterator[tuple[str, list[Step]]]:
        """Its inner blocks by name: then, else, ``case <value>``, default, do."""
        if self.then:
            yield "then", self.then
        if self.otherwise:
            yield "else", self.otherwise
        for value, steps in self.cases.items():
            yield f"case {value}", steps
        if self.default:
            yield "default", self.default
        if self.do:
            yield "do", self.do


class Verify(Strict):
    """How a hook's sender is known: by a secret in a header, or as GitHub, Stripe or Slack sign."""

    kind: Literal["secret", "github", "stripe", "slack"]
    header: str = Field(default="X-Hook-Secret", pattern=r"^[A-Za-z0-9-]{1,60}$", description="For kind secret.")


class Hook(Strict):
    """How ``POST /hooks/{token}`` starts the module. In ``parameters``: ``body``, ``headers`` (lower case), ``query``."""

    verify: Verify | None = None
    parameters: dict[str, Json] | None = Field(
        default=None, description="Start parameters as expressions; without it the body's members of their names."
    )
    user: Text | None = Field(default=None, description="The run's end user, an expression.")
    when: Text | bool | None = Field(default=None, description="Answers 202 and starts nothing where this is not true.")
    answer: Literal["at_once", "result"] = "at_once"
    timeout: Duration = Field(
        default=30.0, description="How long a hook that answers with the result waits: at most 60 s."
    )


class End(Strict):
    """What a person sees at the end of a session. Texts may hold expressions."""

    title: Text = ""
    text: Text = ""
    redirect: Text | None = Field(default=None, description="An absolute URL on an origin that the project allows.")


class Payload(Strict):
    """One more run for a job run: of the module ``api``, with these start parameters. Both may hold expressions."""

    api: Text = Field(min_length=1)
    parameters: dict[str, Json] | Text = {}


class Definition(Strict):
    """A whole module."""

    name: ModuleName
    title: str = Field(default="", max_length=150)
    description: str = Field(default="", max_length=5000)
    access: Literal["public", "signed_in", "api_key", "off"] = "api_key"
    start_parameters: list[StartParameter] = Field(default=[], max_length=100)
    steps: list[Step] = Field(min_length=1, max_length=MAX_STEPS)
    result: Json = None
    extended_payloads: list[Payload] | Text | None = Field(
        default=None,
        description="What a run adds to its job run at its end: [{api, parameters}], or one expression that gives such a list.",
    )
    hook: Hook | Literal[False] | None = None
    end: End | None = None

    @model_validator(mode="before")
    @classmethod
    def _mentions_resolved(cls, data: Any) -> Any:
        return with_mentions(data)

    @cached_property
    def by_id(self) -> dict[str, Step]:
        return {step.id: step for step in walk(self.steps)}

    @property
    def shown_title(self) -> str:
        return self.title or self.name


def walk(steps: list[Step]) -> Iterator[Step]:
    """Every step in the order in which it is written, inner ones after the one that holds them."""
    for step in steps:
        yield step
        for _, block in step.blocks():
            yield from walk(block)


def with_mentions(data: Any) -> Any:
    """A definition's data with every ``@[Name]`` as the expression it means; unknown names stay as they stand.

    What the start parameters themselves say is left alone.
    """
    parameters = data.get("start_parameters") if isinstance(data, dict) else None
    if not isinstance(parameters, list):
        return data
    names = {
        item["name"].strip(): item["api_name"]
        for item in parameters
        if isinstance(item, dict) and isinstance(item.get("name"), str) and isinstance(item.get("api_name"), str)
    }
    return {key: value if key == "start_parameters" else _resolved(value, names) for key, value in data.items()}


def _resolved(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, str):
        known = "@[" in value and not expressions.unknown_mentions(value, names)
        return expressions.resolve_mentions(value, names) if known else value
    if isinstance(value, list):
        return [_resolved(item, names) for item in value]
    if isinstance(value, dict):
        return {key: _resolved(item, names) for key, item in value.items()}
    return value
