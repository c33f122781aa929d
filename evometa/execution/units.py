"""Units of work: one chunk of candidates of equal structure on one set of tasks, as plain data.

They are cut before they are handed to workers, so a result does not depend on how many there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

import evometa
from evometa.inner.cohort import Candidate
from evometa.inner.evaluate import evaluate
from evometa.inner.fingerprint import updates_hashes
from evometa.inner.record import RunSummary, Status
from evometa.inner.task_set import TaskRequest
from evometa.meta import Refinement, TaskStream, refine
from evometa.objectives.baseline import TunedBaseline, tune
from evometa.rules.cost import count_rule


@dataclass(frozen=True)
class EvaluationUnit:
    """Train ``candidates`` (equal structure) on the tasks of ``wanted``.

    With ``counted`` their rule's operations are counted as well, so that the driver need not do it.
    """

    candidates: tuple[Candidate, ...]
    wanted: TaskRequest
    counted: bool = False

    @property
    def n_trained(self) -> int:
        """How many candidates are trained: a time limit counts for each."""
        return len(self.candidates)

    def compute(self, device: torch.device, max_bytes: int | None) -> RunSummary:
        """What all candidates' runs are compared by."""
        runs = evaluate(self.candidates, self.wanted, device, max_bytes=max_bytes).summary()
        if not self.counted:
            return runs
        return replace(runs, rule_counts=count_rule(self.candidates[0].learner))


@dataclass(frozen=True)
class RefinementUnit:
    """Meta-train ``candidates`` (equal structure and meta-structure) on ``streams``."""

    candidates: tuple[Candidate, ...]
    streams: tuple[TaskStream, ...]

    @property
    def n_trained(self) -> int:
        """As in :class:`EvaluationUnit`."""
        return len(self.candidates)

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

    @property
    def n_trained(self) -> int:
        """As in :class:`EvaluationUnit`: at first there is one a learning rate."""
        return self.n_points

    def compute(self, device: torch.device, max_bytes: int | None) -> TunedBaseline:
        """The tuned rule."""
        return tune(self.rule, self.wanted, self.n_points, device, max_bytes=max_bytes)


@dataclass(frozen=True)
class FingerprintUnit:
    """Hash what ``candidates`` (without weights, of one rule) do in trainings of ``horizons`` steps."""

    candidates: tuple[Candidate, ...]
    horizons: tuple[int, ...]

    @property
    def n_trained(self) -> int:
        """As in :class:`EvaluationUnit`."""
        return len(self.candidates)

    def compute(self, device: torch.device, max_bytes: int | None) -> Fingerprints:
        """The hash of each candidate, computed on the CPU wherever the candidates are trained."""
        return Fingerprints(tuple(updates_hashes(self.candidates, self.horizons)))


@dataclass(frozen=True)
class Fingerprints:
    """Of some candidates' updates, in their order."""

    hashes: tuple[str, ...]


@dataclass(frozen=True)
class ProbeUnit:
    """Nothing to compute: shows that a worker answers, and with which versions of evometa and PyTorch."""

    candidates: tuple[Candidate, ...] = ()
    n_trained: int = 1

    def compute(self, device: torch.device, max_bytes: int | None) -> Versions:
        """Those of this process, once it has reached ``device``."""
        torch.empty(1, device=device)
        return Versions(evometa.__version__, torch.__version__)


@dataclass(frozen=True)
class Versions:
    """What a worker computes with."""

    evometa: str
    torch: str


Unit = EvaluationUnit | RefinementUnit | TuningUnit | FingerprintUnit | ProbeUnit
#: What computing one gives.
Value = RunSummary | Refinement | TunedBaseline | Fingerprints | Versions


@dataclass(frozen=True)
class UnitResult:
    """How a unit ended: ``value`` where ``status`` is complete, else ``message`` says what went wrong."""

    unit: Unit
    status: Status
    seconds: float
    value: Value | None = None
    message: str = ""


def halves(unit: Unit) -> list[Unit]:
    """The same work for the first half of the candidates and for the others, in order."""
    middle = len(unit.candidates) // 2
    return [
        replace(unit, candidates=part)
        for part in (unit.candidates[:middle], unit.candidates[middle:])
        if part
    ]
