"""Units of work: plain data in, a result with a status out. Running one never raises.

A unit is one chunk of candidates of equal structure on one set of tasks. Units are cut before they are
handed to workers and always run with one intra-operator thread, so a result depends neither on the
number of workers nor on who computed it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from evometa.inner.cohort import Candidate
from evometa.inner.evaluate import evaluate
from evometa.inner.record import Status, UnrollRecord
from evometa.inner.task_set import TaskRequest
from evometa.meta import ESTIMATORS, Refinement, TaskStream
from evometa.objectives.baseline import TunedBaseline, tune


@dataclass(frozen=True)
class EvaluationUnit:
    """Train ``candidates`` (equal structure) on the tasks of ``wanted``."""

    candidates: tuple[Candidate, ...]
    wanted: TaskRequest

    def compute(self, device: torch.device) -> UnrollRecord:
        """The record of all candidates."""
        return evaluate(self.candidates, self.wanted, device)

    def alone(self, index: int) -> EvaluationUnit:
        """The same work for one candidate."""
        return replace(self, candidates=(self.candidates[index],))


@dataclass(frozen=True)
class RefinementUnit:
    """Meta-train ``candidates`` (equal structure and meta-structure) on ``streams``."""

    candidates: tuple[Candidate, ...]
    streams: tuple[TaskStream, ...]

    def compute(self, device: torch.device) -> Refinement:
        """Refined weights of all candidates."""
        estimator = ESTIMATORS[str(self.candidates[0].genes["meta.estimator"])]
        return estimator.refine(self.candidates, self.streams, device)

    def alone(self, index: int) -> RefinementUnit:
        """The same work for one candidate."""
        return replace(self, candidates=(self.candidates[index],))


@dataclass(frozen=True)
class TuningUnit:
    """Tune a hand-designed rule's learning rate on the tasks of ``wanted``."""

    rule: str
    wanted: TaskRequest
    n_points: int
    candidates: tuple[Candidate, ...] = ()

    def compute(self, device: torch.device) -> TunedBaseline:
        """The tuned rule."""
        return tune(self.rule, self.wanted, self.n_points, device)

    def alone(self, index: int) -> TuningUnit:
        """A tuning is whole or not at all."""
        return self


Unit = EvaluationUnit | RefinementUnit | TuningUnit


@dataclass(frozen=True)
class UnitResult:
    """How a unit ended: ``value`` where ``status`` is complete, else ``message`` says what went wrong."""

    unit: Unit
    status: Status
    seconds: float
    value: UnrollRecord | Refinement | TunedBaseline | None = None
    message: str = ""


def run_unit(unit: Unit, device_name: str) -> list[UnitResult]:
    """Run a unit; one that fails and holds several candidates runs again for each of them alone."""
    result = _attempt(unit, torch.device(device_name))
    if result.status == Status.COMPLETE or len(unit.candidates) <= 1:
        return [result]
    return [_attempt(unit.alone(index), torch.device(device_name)) for index in range(len(unit.candidates))]


def _attempt(unit: Unit, device: torch.device) -> UnitResult:
    started = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        value = unit.compute(device)
    except (torch.OutOfMemoryError, MemoryError) as error:
        return _failure(unit, Status.OUT_OF_MEMORY, error, started)
    except Exception as error:  # a bad genome or a user's task must cost one row, not the campaign
        return _failure(unit, Status.ERROR, error, started)
    finally:
        torch.set_num_threads(threads)
    return UnitResult(unit, Status.COMPLETE, time.perf_counter() - started, value)


def _failure(unit: Unit, status: Status, error: BaseException, started: float) -> UnitResult:
    lines = str(error).strip().splitlines()
    message = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    return UnitResult(unit, status, time.perf_counter() - started, message=message)
