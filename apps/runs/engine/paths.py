"""Where steps stand in a definition, for goto: which targets may be reached, and through which branches."""

from __future__ import annotations

from apps.modules.definition import Step

Path = tuple[tuple[str, str], ...]  # ids of the steps around one, each with the name of its block, the outermost first


class Paths:
    def __init__(self, steps: list[Step]) -> None:
        self.of: dict[str, Path] = {}
        self._order: dict[str, int] = {}
        self._add(steps, ())

    def _add(self, steps: list[Step], path: Path) -> None:
        for step in steps:
            self.of[step.id] = path
            self._order[step.id] = len(self._order)
            for name, block in step.blocks():
                self._add(block, (*path, (step.id, name)))

    def allow(self, start: str, target: str) -> bool:
        """Whether a goto may lead there: forward, inside of the same body, and not into the branch that was not taken."""
        if target not in self.of or self._order[target] <= self._order[start]:
            return False
        here, there = self.of[start], self.of[target]
        if _body(here) != _body(there) or any(step == start for step, _ in there):
            return False
        return all(one == other or one[0] != other[0] for one, other in zip(here, there, strict=False))

    def branch(self, container: str, target: str) -> str | None:
        """The name of the container's block that holds the target, at whatever depth; None where none does."""
        return dict(self.of.get(target, ())).get(container)


def _body(path: Path) -> Path:
    """The innermost for_each body around."""
    return next((path[: number + 1] for number in reversed(range(len(path))) if path[number][1] == "do"), ())
