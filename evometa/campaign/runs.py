"""A genome's task runs as columns, which grow by an array a generation and not by thousands of records."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from evometa.errors import EvometaError
from evometa.genome.genome import Genome
from evometa.objectives import Objective, Outcomes
from evometa.rules.cost import Cost, measure_cost, size_cost
from evometa.rules.learner import Learner
from evometa.store.records import TaskResult
from evometa.tasks.options import described

#: The losses and ratios of a run, in the order of its record.
NUMBERS = TaskResult._fields[3:]


@dataclass(frozen=True)
class Runs:
    """Task runs of one genome.

    Attributes:
        status: how each ended ``(n,)``.
        numbers: their losses and ratios, in the order of ``NUMBERS`` ``(n, 6)``.
    """

    status: npt.NDArray[np.str_]
    numbers: npt.NDArray[np.float64]

    @classmethod
    def of(cls, rows: Sequence[TaskResult]) -> Self:
        """Those that ``rows`` record."""
        numbers = np.array([row.numbers for row in rows], dtype=np.float64)
        return cls(np.array([row.status for row in rows], dtype=np.str_), numbers.reshape(-1, len(NUMBERS)))

    @classmethod
    def joined(cls, parts: Iterable[Runs]) -> Self:
        """All of ``parts``, of which there is one at least, in their order."""
        parts = tuple(parts)
        if len(parts) == 1:
            return cls(parts[0].status, parts[0].numbers)
        return cls(
            np.concatenate([part.status for part in parts]), np.concatenate([part.numbers for part in parts])
        )

    def outcomes(self, cost: Cost) -> Outcomes:
        """What objectives are told of them."""
        columns = dict(zip(NUMBERS, np.ascontiguousarray(self.numbers.T), strict=True))
        return Outcomes(status=self.status, cost=cost, **columns)


def reads_flops(objectives: Iterable[Objective]) -> bool:
    """Whether any of them asks for operations, so that those of every new structure have to be counted."""
    return any(objective.reads_flops for objective in objectives)


def cost_for(objectives: Iterable[Objective], learner: Learner) -> Cost:
    """The cost of ``learner`` as far as any of them reads it."""
    return measure_cost(learner) if reads_flops(objectives) else size_cost(learner)


def objective_values(
    genomes: Sequence[Genome], runs: Mapping[str, Runs], objectives: Sequence[Objective]
) -> npt.NDArray[np.float64]:
    """Finite values ``(n, M)`` of ``genomes`` from the task runs of each, which are pooled."""
    values = np.empty((len(genomes), len(objectives)))
    for i, genome in enumerate(genomes):
        try:
            cost = cost_for(objectives, Learner.of(genome.family, genome.genes))
        except EvometaError:
            raise
        except Exception as error:  # a rule of a user's own may raise anything: it costs its row
            what = f"what rule {genome.family!r} costs cannot be measured ({described(error)})"
            warnings.warn(f"{what}; its genomes have the worst values", stacklevel=2)
            values[i] = [objective.worst for objective in objectives]
            continue
        pooled = runs[genome.id].outcomes(cost)
        values[i] = [objective(pooled) for objective in objectives]
    return values
