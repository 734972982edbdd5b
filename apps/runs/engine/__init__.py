"""The engine: what a run does next. Pure Python: no Django, no Celery, no network, no clock of its own.

A run's state is the fold of its events: `Machine.replay` applies them one after another, and the same events always give
the same state. What happens is decided once, by `Machine.advance` and the methods that report what came from outside, and
becomes an event; replaying decides nothing and evaluates no expression.

::

    machine = Machine.replay(definition, facts, events)      # nothing yet, or what was persisted
    commands = machine.advance(now)                          # decides all that needs nobody; what is to be done outside
    …persist machine.take_events()…                          # before anything is done outside
    machine.ended(key, output, now) / machine.failed(key, error, now)
    …again, until machine.is_over or there is nothing to do before machine.wake_at…

A *key* names one execution of a step: its id, and inside of a for_each its place before it: ``each[3]/order``.
"""

from .commands import Ask, Command, Facts, Perform, RunModule, Waiting
from .events import Event, StepError
from .machine import Machine
from .memory import run_in_memory

__all__ = [
    "Ask", "Command", "Event", "Facts", "Machine", "Perform", "RunModule", "StepError", "Waiting", "run_in_memory",
]  # fmt: skip
