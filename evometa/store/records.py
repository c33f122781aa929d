"""The rows of a campaign database as values.

Numbers that are not finite: SQLite has no NaN, and a NaN or an infinity is never a result, only the sign
of one that is missing (the status says why). Records normalise it when they are made, to ``nan`` where a
field is a float and to ``None`` where it may be None; both are stored as NULL. So what a driver holds in
memory is what a resumed driver reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

if TYPE_CHECKING:  # at run time it would import torch
    from evometa.tasks.base import Split

JsonValue = str | int | float | bool | None
Purpose = Literal["fitness", "final", "report"]
CampaignState = Literal["running", "finished", "interrupted"]


def finite_or_none(value: float | None) -> float | None:
    """``value`` as a float; None for None, NaN and infinities."""
    if value is None or not math.isfinite(value):
        return None
    return float(value) + 0.0  # SQLite knows no -0.0 either


def finite_or_nan(value: float | None) -> float:
    """``value`` as a float; ``nan`` for None, NaN and infinities."""
    finite = finite_or_none(value)
    return math.nan if finite is None else finite


class _TaskResult(NamedTuple):
    family: str
    description: str
    status: str
    initial_loss: float
    final_loss: float
    valid_loss: float
    reference_loss: float
    final_ratio: float
    anytime_ratio: float


class TaskResult(_TaskResult):
    """One training run: a candidate on one task of an evaluation. Numbers not measured are nan.

    A tuple, because a generation has thousands; ``_make`` takes one whose numbers are finite or nan already.

    Attributes:
        family: name of the task family.
        description: the task's architecture, one line.
        status: how the run ended, a name of :class:`evometa.inner.record.Status`.
        initial_loss: training loss before the first step.
        final_loss: training loss at the end.
        valid_loss: loss on the task's held-out rows.
        reference_loss: tuned Adam's final loss on the same task at equal steps.
        final_ratio: final loss over tuned Adam's.
        anytime_ratio: the same for the geometric mean over all steps.
    """

    __slots__ = ()

    def __new__(
        cls,
        family: str,
        description: str,
        status: str,
        initial_loss: float = math.nan,
        final_loss: float = math.nan,
        valid_loss: float = math.nan,
        reference_loss: float = math.nan,
        final_ratio: float = math.nan,
        anytime_ratio: float = math.nan,
    ) -> Self:
        """Numbers that are not finite become nan."""
        numbers = (initial_loss, final_loss, valid_loss, reference_loss, final_ratio, anytime_ratio)
        return super().__new__(cls, family, description, status, *map(finite_or_nan, numbers))

    @property
    def numbers(self) -> tuple[float, ...]:
        """The losses and ratios, in the order of the fields."""
        _, _, _, *numbers = self
        return tuple(numbers)


@dataclass(frozen=True)
class Evaluation:
    """A genome measured on the tasks of one split; a genome has one a generation, split and purpose.

    Attributes:
        genome_id: whose.
        generation: when; for ``final`` and ``report`` the last generation.
        split: ``meta_valid`` or ``meta_test``.
        purpose: ``fitness`` (ranked by), ``final`` (chosen by) or ``report`` (only told).
        inner_steps: cost, summed over the tasks.
        status: the evaluation as a whole, in the same words as its tasks'.
        message: the error's text, else "".
        tasks: one result a task, in the order of the tasks.
    """

    genome_id: str
    generation: int
    split: Split
    purpose: Purpose
    inner_steps: int
    status: str
    message: str = ""
    tasks: tuple[TaskResult, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """A genome that was ranked in a generation, or that the archive holds.

    Attributes:
        genome_id: whose.
        values: its objectives then, in the record's order, all minimised.
        in_front: whether it belongs to the campaign's Pareto front after this generation.
    """

    genome_id: str
    values: tuple[float, ...]
    in_front: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(finite_or_nan(value) for value in self.values))
        object.__setattr__(self, "in_front", bool(self.in_front))  # a NumPy mask's entries are no bool


@dataclass(frozen=True)
class GenerationRecord:
    """What a generation came to.

    Attributes:
        index: 0, 1, 2 …
        objectives: names of the M objectives.
        reference_point: (M,) point against which the hypervolume is measured.
        candidates: everyone with objective values at this generation: parents, children, archive.
        population: ids of the survivors in order, all of them among the candidates.
        hypervolume: of the front; None where it was not measured.
        n_failures: evaluations of this generation without a complete task.
        refinement_inner_steps: spent on meta-training in this generation.
        evaluation_inner_steps: spent on evaluations in this generation.
    """

    index: int
    objectives: tuple[str, ...]
    reference_point: tuple[float, ...]
    candidates: tuple[Candidate, ...]
    population: tuple[str, ...]
    hypervolume: float | None = None
    n_failures: int = 0
    refinement_inner_steps: int = 0
    evaluation_inner_steps: int = 0

    def __post_init__(self) -> None:
        point = tuple(finite_or_nan(value) for value in self.reference_point)
        object.__setattr__(self, "reference_point", point)
        object.__setattr__(self, "hypervolume", finite_or_none(self.hypervolume))


@dataclass(frozen=True)
class GenerationTotals:
    """What a generation came to, without its candidates; fields as in :class:`GenerationRecord`."""

    index: int
    hypervolume: float | None
    n_failures: int
    refinement_inner_steps: int
    evaluation_inner_steps: int


@dataclass(frozen=True)
class Baseline:
    """A hand-designed rule tuned once for a source of tasks, kept so that a resumed campaign need not.

    Attributes:
        task: key of the task source.
        rule: name of the rule, e.g. ``"adam"``.
        horizon: inner steps it was tuned for.
        learning_rate: the best of the grid.
        grid: (learning rate, score) pairs, lower is better; nan where a run diverged.
        inner_steps: cost of the tuning.
    """

    task: str
    rule: str
    horizon: int
    learning_rate: float
    grid: tuple[tuple[float, float], ...]
    inner_steps: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "learning_rate", finite_or_nan(self.learning_rate))
        grid = tuple((finite_or_nan(rate), finite_or_nan(score)) for rate, score in self.grid)
        object.__setattr__(self, "grid", grid)


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of one phase of a generation, and the inner steps done in them.

    With the journal, the only thing in a campaign that two equal runs do not share.
    """

    generation: int
    phase: str
    seconds: float
    inner_steps: int = 0


@dataclass(frozen=True)
class JournalEntry:
    """Something that was found out or decided about this machine: a fact of where the campaign ran.

    Attributes:
        topic: what it is about; a campaign has one entry a topic.
        line: one line for reading.
        data: what a continued campaign needs in order to go on in the same way.
    """

    topic: str
    line: str
    data: Mapping[str, JsonValue] = field(default_factory=dict)
