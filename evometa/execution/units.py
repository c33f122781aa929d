"""Units of work: plain data in, a result with a status out. Running one never raises.

A unit is one chunk of candidates of equal structure on one set of tasks. Units are cut before they are
handed to workers and always run with one intra-operator thread, so a result depends neither on the
number of workers nor on who computed it. One that fails is halved until what it fails on stands alone.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch

from evometa.inner.cohort import Candidate
from evometa.inner.evaluate import evaluate
from evometa.inner.modes import Precision
from evometa.inner.precision import precision_of
from evometa.inner.record import Status, UnrollRecord
from evometa.inner.task_set import TaskRequest
from evometa.meta import Refinement, TaskStream, refine
from evometa.objectives.baseline import TunedBaseline, tune
from evometa.process import one_thread
from evometa.rules.cost import count_rule

#: What a RuntimeError says when memory was asked for in vain.
_OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED")


@dataclass(frozen=True)
class EvaluationUnit:
    """Train ``candidates`` (equal structure) on the tasks of ``wanted``.

    With ``counted`` their rule's operations are counted as well, so that the driver need not do it.
    """

    candidates: tuple[Candidate, ...]
    wanted: TaskRequest
    counted: bool = False

    def compute(self, device: torch.device, max_bytes: int | None) -> UnrollRecord:
        """The record of all candidates."""
        record = evaluate(self.candidates, self.wanted, device, max_bytes=max_bytes)
        if not self.counted:
            return record
        return replace(record, rule_counts=count_rule(self.candidates[0].learner))


@dataclass(frozen=True)
class RefinementUnit:
    """Meta-train ``candidates`` (equal structure and meta-structure) on ``streams``."""

    candidates: tuple[Candidate, ...]
    streams: tuple[TaskStream, ...]

    def compute(self, device: torch.device, max_bytes: int | None) -> Refinement:
        """Refined weights of all candidates."""
        return refine(self.candidates, self.streams, device, max_bytes=max_bytes)


@dataclass(frozen=True)
class TuningUnit:
    """Tune a hand-designed rule's learning rate on the tasks of ``wanted``; whole or not at all."""

    rule: str
    wanted: TaskRequest
    n_points: int
    candidates: tuple[Candidate, ...] = ()

    def compute(self, device: torch.device, max_bytes: int | None) -> TunedBaseline:
        """The tuned rule."""
        return tune(self.rule, self.wanted, self.n_points, device, max_bytes=max_bytes)


Unit = EvaluationUnit | RefinementUnit | TuningUnit


@dataclass(frozen=True)
class UnitResult:
    """How a unit ended: ``value`` where ``status`` is complete, else ``message`` says what went wrong."""

    unit: Unit
    status: Status
    seconds: float
    value: UnrollRecord | Refinement | TunedBaseline | None = None
    message: str = ""


def halves(unit: Unit) -> list[Unit]:
    """The same work for the first half of the candidates and for the others, in order."""
    middle = len(unit.candidates) // 2
    return [
        replace(unit, candidates=part)
        for part in (unit.candidates[:middle], unit.candidates[middle:])
        if part
    ]


def run_unit(
    unit: Unit, device_name: str, precision: Precision = "float32", max_bytes: int | None = None
) -> list[UnitResult]:
    """Run a unit; one that fails and holds several candidates runs again in halves, and those likewise.

    ``max_bytes`` bounds what it takes in memory beyond what the process took before.
    """
    device = torch.device(device_name)
    result = _attempt(unit, device, precision, max_bytes)
    if result.status == Status.COMPLETE or len(unit.candidates) <= 1:
        return [result]
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the failed attempt left is in pieces of the wrong size
    return [found for half in halves(unit) for found in run_unit(half, device_name, precision, max_bytes)]


def _attempt(unit: Unit, device: torch.device, precision: Precision, max_bytes: int | None) -> UnitResult:
    started = time.perf_counter()
    on_device = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    try:
        with one_thread(), precision_of(precision), on_device:
            value = unit.compute(device, max_bytes)
    except Exception as error:  # a bad genome or a user's task must cost one row, not the campaign
        status = Status.OUT_OF_MEMORY if _is_out_of_memory(error) else Status.ERROR
        return _failure(unit, status, error, started)
    return UnitResult(unit, Status.COMPLETE, time.perf_counter() - started, value)


def _is_out_of_memory(error: Exception) -> bool:
    """PyTorch has a class for its allocations on a GPU, not for those on the CPU or by CUDA's libraries."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def _failure(unit: Unit, status: Status, error: Exception, started: float) -> UnitResult:
    lines = str(error).strip().splitlines()
    message = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    return UnitResult(unit, status, time.perf_counter() - started, message=message)
