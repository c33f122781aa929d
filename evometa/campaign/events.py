"""What a running campaign tells whoever watches it. Watching never changes a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from evometa.execution import UnitResult
from evometa.store import JournalEntry


@dataclass(frozen=True)
class ObjectiveSummary:
    """One objective's best value in the front, and its median over the surviving population."""

    name: str
    best: float
    median: float


@dataclass(frozen=True)
class GenerationSummary:
    """One generation, after it was committed.

    Attributes:
        generation, n_generations: which of how many.
        objectives: best and median of each objective.
        hypervolume: of the population's front, in [0, 1].
        front_size: members of the front.
        n_failures: candidates of which no training was completed.
        inner_steps: made in this generation, refinement and evaluation together.
        seconds: wall-clock time of the generation.
    """

    generation: int
    n_generations: int
    objectives: tuple[ObjectiveSummary, ...]
    hypervolume: float
    front_size: int
    n_failures: int
    inner_steps: int
    seconds: float


class Listener(Protocol):
    """Receives a campaign's progress; all methods are called in the driver's process."""

    def phase(self, name: str, n_runs: int) -> None:
        """A phase begins.

        It is kernels, compilation (of a gradient), baselines, refinement, evaluation, precision, final or
        report.

        ``n_runs`` is the work to come: candidates on task sources, for ``baselines`` rules to tune, for
        ``kernels`` libraries to compile.
        """

    def unit(self, result: UnitResult) -> None:
        """A unit of work of the current phase is done."""

    def note(self, entry: JournalEntry) -> None:
        """Something was found out or decided about this machine."""

    def generation(self, summary: GenerationSummary) -> None:
        """A generation was committed."""


class Silent:
    """A listener that hears nothing."""

    def phase(self, name: str, n_runs: int) -> None:
        """Ignored."""

    def unit(self, result: UnitResult) -> None:
        """Ignored."""

    def note(self, entry: JournalEntry) -> None:
        """Ignored."""

    def generation(self, summary: GenerationSummary) -> None:
        """Ignored."""
