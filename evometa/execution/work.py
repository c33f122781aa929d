"""What travels to workers and back: plain data in, a status out. Computing it never raises.

Whoever computes works with one intra-operator thread, so a result depends neither on the number of workers
nor on who computed it.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from evometa.errors import TaskError
from evometa.execution.units import Unit, Value
from evometa.execution.workers import claim, die_with, settle_once
from evometa.inner.deadline import OutOfTime, time_limit
from evometa.inner.modes import Precision
from evometa.inner.precision import precision_of
from evometa.inner.record import Status
from evometa.process import one_thread

#: What a RuntimeError says when memory was asked for in vain.
_OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED")
#: A process computes one unit at a time, also where a cluster gives it several threads.
_ONE_AT_A_TIME = threading.RLock()


@dataclass(frozen=True)
class Conditions:
    """How units are computed, the same for all of them.

    Attributes:
        devices: where; of several each worker takes one for life.
        precision: of inner training.
        max_bytes: what a unit may take in memory beyond what the process took before; None without a limit.
        seconds: how long a unit may take for each candidate that it trains; 0 without a limit.
    """

    devices: tuple[str, ...]
    precision: Precision = "float32"
    max_bytes: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Workplaces:
    """Where workers of this machine compute: each claims a number of its own; they take the devices in turn.

    ``claims`` is the folder of the claims where there are several devices, ``driver`` whom to die with, and
    ``path`` where that finds modules: workers from before may have begun with another.
    """

    n_workers: int
    claims: str
    driver: int
    path: tuple[str, ...]

    def enter(self, devices: tuple[str, ...]) -> str:
        """Make this process a worker, if it is not yet one; returns its device, the same for all its life."""
        die_with(self.driver)
        settle_once()
        if tuple(sys.path) != self.path:
            sys.path[:] = self.path
        number = claim(self.claims, self.n_workers) if len(devices) > 1 else 0
        return devices[number % len(devices)]


@dataclass(frozen=True)
class Outcome:
    """How a unit ended: ``value`` where ``status`` is complete, else ``message`` says what went wrong."""

    status: Status
    seconds: float
    value: Value | None = None
    message: str = ""


@dataclass(frozen=True)
class Work:
    """A unit under its conditions; calling it computes it.

    ``places`` is given to worker processes of this machine.
    """

    unit: Unit
    conditions: Conditions
    places: Workplaces | None = None

    @property
    def seconds(self) -> float:
        """How long it may take; 0 without a limit."""
        return self.conditions.seconds * self.unit.n_trained

    def __call__(self) -> Outcome:
        """Compute; whatever goes wrong is a status."""
        with _ONE_AT_A_TIME:
            outcome = self._attempt()
            if outcome.status != Status.COMPLETE and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.empty_cache()  # what it leaves is in pieces of the wrong size for its halves
            return outcome

    def _attempt(self) -> Outcome:
        started = time.perf_counter()
        try:
            value = self._compute()
        except Exception as error:  # a bad genome or a user's task must cost one row, not the campaign
            return Outcome(_status(error), time.perf_counter() - started, message=line(error))
        return Outcome(Status.COMPLETE, time.perf_counter() - started, value)

    def _compute(self) -> Value:
        given = self.conditions
        device = torch.device(given.devices[0] if self.places is None else self.places.enter(given.devices))
        on_device = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
        with one_thread(), precision_of(given.precision), on_device, time_limit(self.seconds):
            return self.unit.compute(device, given.max_bytes)


def _status(error: Exception) -> Status:
    """PyTorch has a class for its allocations on a GPU, not for those on the CPU or by CUDA's libraries."""
    if isinstance(error, OutOfTime):
        return Status.TIMEOUT
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return Status.OUT_OF_MEMORY
    # A task's own code may have asked for it: then a TaskError says what PyTorch said.
    known = isinstance(error, RuntimeError | TaskError) and any(text in str(error) for text in _OUT_OF_MEMORY)
    return Status.OUT_OF_MEMORY if known else Status.ERROR


def line(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
