"""NSGA-II's ranking and selection (Deb et al. 2002), through DEAP; all objectives are minimised.

Values must be finite (DEAP lets ``(0.5, nan)`` evict ``(1, 1)`` from a front, and an infinity makes the
crowding distance NaN): objectives see to that before anything is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from deap import base
from deap.tools import emo

FloatArray = npt.NDArray[np.float64]


@lru_cache(maxsize=8)
def _fitness_class(n_objectives: int) -> type[base.Fitness]:
    """A Fitness with all weights −1; made here, not by ``deap.creator``, whose classes are module globals."""
    return type("Fitness", (base.Fitness,), {"weights": (-1.0,) * n_objectives})


class _Ranked:
    """What DEAP's selection looks at: a ``fitness``; ``index`` is ours."""

    def __init__(self, index: int, values: Sequence[float]) -> None:
        self.index = index
        self.fitness = _fitness_class(len(values))(tuple(float(value) for value in values))


def survivors(values: FloatArray, k: int) -> list[int]:
    """Indices of the ``k`` rows of ``values`` ``(n, M)`` that NSGA-II keeps, in their given order."""
    _check(values)
    ranked = [_Ranked(index, row) for index, row in enumerate(values)]
    kept = emo.selNSGA2(ranked, min(k, len(ranked)), nd="log" if values.shape[1] > 1 else "standard")
    return sorted(individual.index for individual in kept)


def rank_and_crowding(values: FloatArray) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Front number (0 is the best) and crowding distance of every row of ``values`` ``(n, M)``."""
    _check(values)
    ranked = [_Ranked(index, row) for index, row in enumerate(values)]
    rank = np.zeros(len(ranked), dtype=np.int64)
    crowding = np.zeros(len(ranked))
    # DEAP's faster sort cannot do without a second objective.
    sort = emo.sortLogNondominated if values.shape[1] > 1 else emo.sortNondominated
    for number, front in enumerate(sort(ranked, len(ranked))):
        emo.assignCrowdingDist(front)
        for individual in front:
            rank[individual.index] = number
            crowding[individual.index] = individual.fitness.crowding_dist
    return rank, crowding


def tournament(
    rank: npt.NDArray[np.int64], crowding: FloatArray, size: int, generator: np.random.Generator
) -> int:
    """Index of the winner among ``size`` drawn at random: lower rank first, then less crowded.

    (DEAP's selTournamentDCD draws from the global ``random`` and returns multiples of four.)
    """
    drawn = generator.choice(len(rank), size=min(size, len(rank)), replace=False)
    return int(min(drawn, key=lambda index: (rank[index], -crowding[index], index)))


def _check(values: FloatArray) -> None:
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(
            "objective values must be a finite (n, M) array; map NaN to the objective's worst first"
        )
