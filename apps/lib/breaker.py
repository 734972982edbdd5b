"""Circuit breaker of a provider's host: while it is down, calls fail at once and one at a time probes it.

A circuit has three states. *Closed*: calls pass. *Open*, after eight failures in a row: calls raise `CircuitOpen` without
touching the network, for 5 s, and twice as long after each probe that fails, up to 60 s, give or take a fifth so that
processes do not probe in step. *Half open*, when that time is over: one call passes as a probe while the others go on
failing; its success closes the circuit, its failure opens it again.

A failure is a network's: nobody listens, no such name, no answer in time. Any answer of the service, a 503 too, is a
success: it came fast, it is the caller's to read, and a service that is overloaded says so by 429 or Retry-After, which
`apps.connections.pace` heeds. One success among the failures begins the count anew, so that a provider that loses one call
in twenty is never shut off.

State is kept by process, in memory. Keys are made by the caller: tenant and origin, so that one tenant's bad address
closes a host for nobody else.
"""

from __future__ import annotations

import math
import random
import threading
import time
from dataclasses import dataclass

from .errors import CircuitOpen

THRESHOLD = 8  # failures in a row
FORGOTTEN_AFTER = 120.0  # seconds after which failures are no longer "in a row"
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0  # seconds
JITTER = 0.2
PROBE_PATIENCE = 60.0  # seconds until a probe of which nothing was heard is given up, and another may go
MOST = 10_000  # circuits remembered

clock = time.monotonic
jitter = random.uniform


@dataclass
class _Circuit:
    """What is known of a host that failed lately; one that did not has no circuit."""

    failures: int = 0
    last_failure: float = 0.0
    openings: int = 0
    open_until: float = 0.0  # 0: closed
    probe_until: float = 0.0  # 0: no probe is under way


_circuits: dict[str, _Circuit] = {}
_lock = threading.Lock()


def before(key: str) -> None:
    """To be called before a request to the host. Raises `CircuitOpen`, whose ``retry_after`` is in seconds.

    Where it does not raise, exactly one of `succeeded`, `failed` and `abandoned` is to follow.
    """
    circuit = _circuits.get(key)  # no lock: of a healthy host nothing is known
    if circuit is None or not circuit.open_until:
        return
    now = clock()
    with _lock:
        wait = circuit.open_until - now
        if wait <= 0 and now >= circuit.probe_until:
            circuit.probe_until = now + PROBE_PATIENCE
            return
    raise CircuitOpen(retry_after=max(1, math.ceil(wait)))


def succeeded(key: str) -> None:
    """The host answered, whatever it said."""
    if key in _circuits:
        with _lock:
            _circuits.pop(key, None)


def abandoned(key: str) -> None:
    """The request was not sent, or its end says nothing of the host: if it was the probe, the next call is."""
    circuit = _circuits.get(key)
    if circuit is not None:
        with _lock:
            circuit.probe_until = 0.0


def failed(key: str) -> None:
    """The network failed: no connection, no answer, not in time."""
    now = clock()
    with _lock:
        circuit = _circuits.get(key) or _remember(key)
        if circuit.open_until:
            if now >= circuit.open_until:  # else it is a straggler, sent before the circuit opened
                _open(circuit, now)
            return
        if now - circuit.last_failure > FORGOTTEN_AFTER:
            circuit.failures = 0
        circuit.failures += 1
        circuit.last_failure = now
        if circuit.failures >= THRESHOLD:
            _open(circuit, now)


def _open(circuit: _Circuit, now: float) -> None:
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(circuit.openings, 10))
    circuit.openings += 1
    circuit.open_until = now + pause * jitter(1 - JITTER, 1 + JITTER)
    circuit.probe_until = 0.0


def _remember(key: str) -> _Circuit:
    if len(_circuits) >= MOST:  # the oldest tenth goes; a host among it that is down is noticed again
        for old in list(_circuits)[: MOST // 10]:
            del _circuits[old]
    return _circuits.setdefault(key, _Circuit())
