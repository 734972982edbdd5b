"""What a definition names of its project: tools, toolkits, connections, other modules; and of the installation: actions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from apps.connections.models import Connection, Integration
from apps.lib import expressions
from apps.toolkits.registry import Catalog, catalog
from apps.toolkits.spec import Tool, Toolkit
from apps.workspaces.models import Project

from . import actions
from .definition import StartParameter
from .format import Place, Report, did_you_mean
from .models import Module
from .order import Written, collect
from .parameters import Wrong, convert

MOST_HINTS = 20  # of a catalog of thousands: each costs a look at them all


class Belongings:
    """``siblings``: definitions by name that stand beside this one, before what the project has (`manage.py apply`)."""

    def __init__(self, project: Project, siblings: Mapping[str, Any], report: Report) -> None:
        self.project = project
        self.siblings = siblings
        self.report = report
        self.hints = 0

    def check(self, data: dict[str, Any], steps: list[Written]) -> None:
        self._check_tools([step for step in steps if isinstance(step.raw.get("tool"), str)])
        self._check_runs(data.get("name"), [step for step in steps if isinstance(step.raw.get("run"), str)])
        self._check_code([step for step in steps if isinstance(step.raw.get("code"), str)])

    # -- Tools -------------------------------------------------------------------------------------------------------
    def _check_tools(self, steps: list[Written]) -> None:
        if not steps:
            return
        known = catalog(self.project)
        enabled = set(
            Integration.objects.enabled().primary().filter(project=self.project).values_list("toolkit", flat=True)
        )
        connections = self._connections(steps)
        for step in steps:
            found = known.find_tool(step.raw["tool"])
            if found is None:
                self._report_unknown_tool(step, known)
                continue
            toolkit, tool = found
            if toolkit.slug not in enabled:
                self.report((*step.path, "tool"), f"The toolkit {toolkit.slug} is not enabled for this project.")
            self._check_with(step, tool)
            self._check_connection(step, toolkit, connections)

    def _report_unknown_tool(self, step: Written, known: Catalog) -> None:
        name = step.raw["tool"].upper().replace(".", "_")
        prefix = name.partition("_")[0]
        names = [public for public in known.tools if "." not in public]
        near = [public for public in names if public.startswith(f"{prefix}_")] or names
        self.hints += 1
        hint = did_you_mean(name, near) if self.hints <= MOST_HINTS else ""
        self.report((*step.path, "tool"), f"There is no tool {step.raw['tool'][:60]}.{hint}")

    def _connections(self, steps: list[Written]) -> dict[str, str]:
        """The toolkit of each connection of the project that the steps name."""
        named = {step.raw["connection"] for step in steps if str(step.raw.get("connection")).startswith("ca_")}
        rows = Connection.objects.filter(project=self.project, pk__in=named) if named else ()
        return {row.pk: row.toolkit for row in rows}

    def _check_connection(self, step: Written, toolkit: Toolkit, connections: dict[str, str]) -> None:
        name = step.raw.get("connection")
        if not isinstance(name, str) or not name.startswith("ca_"):
            return
        if name not in connections:
            self.report((*step.path, "connection"), f"This project has no connection {name[:60]}.")
        elif connections[name] != toolkit.slug:
            other = connections[name]
            self.report((*step.path, "connection"), f"{name} is a connection of {other}, and not of {toolkit.slug}.")

    def _check_with(self, step: Written, tool: Tool) -> None:
        given = step.raw.get("with")
        if isinstance(given, str):  # an expression of them all
            return
        params = given if isinstance(given, dict) else {}
        for path, message in parameter_faults(tool, params):
            self.report((*step.path, "with", *path), message)

    # -- Other modules -----------------------------------------------------------------------------------------------
    def _check_runs(self, name: Any, steps: list[Written]) -> None:
        modules = self._modules({step.raw["run"] for step in steps} - {name if isinstance(name, str) else ""})
        known: list[str] | None = None
        for step in steps:
            target, path = step.raw["run"], (*step.path, "run")
            if target == name:
                self.report(path, "A module cannot run itself.")
            elif target not in modules:
                if known is None:
                    known = [*self.siblings, *self._living().values_list("name", flat=True)[:1000]]
                self.report(path, f"There is no module {target[:60]}.{did_you_mean(target, known)}")
            else:
                self._check_given(step, modules[target])
                cycle = way_back(target, name, modules)
                if cycle:
                    self.report(path, f"This is a cycle: {' runs '.join([str(name), *cycle])}.")

    def _living(self) -> Any:
        return Module.objects.living().filter(project=self.project)

    def _modules(self, wanted: set[str]) -> dict[str, Any]:
        """Definitions (as data) of modules and of all that they run in turn: published ones, else their drafts."""
        found: dict[str, Any] = {}
        missing: set[str] = set()
        while wanted := wanted - set(found) - missing:
            found |= {name: self.siblings[name] for name in wanted if name in self.siblings}
            asked = [name for name in wanted if name not in found]
            for row in self._living().filter(name__in=asked).select_related("published") if asked else ():
                found[row.name] = row.published.definition if row.published else row.draft
            missing |= wanted - set(found)
            wanted = {target for name in wanted if name in found for target in runs_of(found[name])}
        return found

    def _check_given(self, step: Written, called: Any) -> None:
        given, path = step.raw.get("with"), (*step.path, "with")
        if isinstance(given, str):
            return
        parameters = _start_parameters(called)
        members = given if isinstance(given, dict) else {}
        for name, value in members.items():
            if name not in parameters:
                near = did_you_mean(name, parameters)
                self.report((*path, name), f"{step.raw['run']} has no start parameter {name[:60]}.{near}")
            elif value is not None and not expressions.has_expression(value):
                self._check_literal(parameters[name], value, (*path, name))
        for name, parameter in parameters.items():
            if parameter.required and parameter.default is None and members.get(name) is None:
                self.report((*path, name), f"{step.raw['run']} needs the start parameter {name}.")

    def _check_literal(self, parameter: StartParameter, value: Any, path: Place) -> None:
        try:
            convert(parameter, value)
        except Wrong as error:
            self.report(path, str(error))

    # -- Actions -----------------------------------------------------------------------------------------------------
    def _check_code(self, steps: list[Written]) -> None:
        known = actions.names() if steps else []
        for step in steps:
            name = step.raw["code"]
            if name not in known:
                hint = did_you_mean(name, known)
                self.report((*step.path, "code"), f"This installation has no action {name[:60]}.{hint}")


# -- Parameters of a tool --------------------------------------------------------------------------------------------
def parameter_faults(tool: Tool, params: dict[str, Any]) -> Iterable[tuple[Place, str]]:
    """What the tool's schema finds wrong with parameters, some of which are expressions: those count as any value."""
    found: list[tuple[Place, str]] = []
    for error in tool.validator.iter_errors(params):
        path: Place = tuple(error.instance_path)
        kind = type(error.kind).__name__.rpartition("_")[2]
        if kind.endswith("Required"):
            found.append(((*path, str(error.kind.property)), f"{error.kind.property} is missing."))
        elif kind.endswith("AdditionalProperties"):
            found += [((*path, name), _unknown_parameter(tool, path, name)) for name in error.kind.unexpected]
        elif kind.endswith("AnyOf") and not path and tool.any_of:
            choices = ", or ".join(" and ".join(names) for names in tool.any_of)
            found.append(((), f"{choices} must be given."))
        elif not _is_open(_at(params, path), kind):
            found.append((path, f"{error.message[:300]}."))
    return dict.fromkeys(found)


def _unknown_parameter(tool: Tool, path: Place, name: str) -> str:
    near = "" if path else did_you_mean(name, tool.parameters)
    return f"The tool has no parameter {'.'.join(map(str, (*path, name)))[:100]}.{near}"


def _is_open(value: Any, kind: str) -> bool:
    """Whether an error may vanish once expressions inside of the value are evaluated: a wrong type of a container does not."""
    is_container = isinstance(value, dict | list)
    return expressions.has_expression(value) and not (is_container and kind.endswith("Type"))


def _at(value: Any, path: Place) -> Any:
    for part in path:
        value = value[part]
    return value


# -- Definitions of others -------------------------------------------------------------------------------------------
def runs_of(data: Any) -> list[str]:
    """The modules that a definition runs."""
    steps = collect(data, lambda path, message: None)
    return [step.raw["run"] for step in steps if isinstance(step.raw.get("run"), str)]


def way_back(start: str, goal: Any, modules: Mapping[str, Any]) -> list[str]:
    """The modules from one to the goal, each of which runs the next; empty where none leads there."""
    ways, seen = [[start]], {start}
    while ways:
        way = ways.pop(0)
        for target in runs_of(modules.get(way[-1])):
            if target == goal:
                return [*way, target]
            if target not in seen:
                seen.add(target)
                ways.append([*way, target])
    return []


def _start_parameters(data: Any) -> dict[str, StartParameter]:
    found: dict[str, StartParameter] = {}
    for item in data.get("start_parameters") or [] if isinstance(data, dict) else []:
        try:
            parameter = StartParameter.model_validate(item)
        except ValidationError:  # of an older format
            continue
        found[parameter.api_name] = parameter
    return found
