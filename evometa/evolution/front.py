"""The Pareto front of a set of values: its members, its hypervolume and its knee.

Distances are measured in each objective's own scale (linear or logarithmic), mapped to [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
import numpy.typing as npt

from evometa.objectives import Objective

FloatArray = npt.NDArray[np.float64]


def non_dominated(values: FloatArray) -> list[int]:
    """Indices of the rows of ``values`` ``(n, M)`` that no other row dominates; of equal rows the first."""
    if len(values) == 0:
        return []
    return [int(index) for index in np.flatnonzero(moocore.is_nondominated(values, keep_weakly=False))]


def bounds(objectives: Sequence[Objective], values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Ideal and reference point ``(M,)``: the objectives' own, or for lack of one the worst of ``values``."""
    ideal = np.array([objective.ideal for objective in objectives])
    reference = np.array(
        [
            float(values[:, j].max()) if objective.reference is None else objective.reference
            for j, objective in enumerate(objectives)
        ]
    )
    return ideal, reference


def hypervolume(
    values: FloatArray, objectives: Sequence[Objective], ideal: FloatArray, reference: FloatArray
) -> float:
    """Share of the box from ``ideal`` to ``reference`` that ``values`` ``(n, M)`` dominates, in [0, 1]."""
    if len(values) == 0:
        return 0.0
    unit = np.stack(
        [_unit(values[:, j], objective, ideal[j], reference[j]) for j, objective in enumerate(objectives)],
        axis=1,
    )
    return float(moocore.hypervolume(np.clip(unit, 0.0, 1.0), ref=np.ones(len(objectives))))


def knee(values: FloatArray, objectives: Sequence[Objective]) -> int:
    """Index of the knee of a front ``(n, M)``: the point farthest below the plane through the extremes.

    With every objective mapped to [0, 1] over the front this is the smallest sum (Das 1999).
    """
    if len(values) == 0:
        raise ValueError("an empty front has no knee")
    unit = np.stack(
        [
            _unit(values[:, j], objective, float(values[:, j].min()), float(values[:, j].max()))
            for j, objective in enumerate(objectives)
        ],
        axis=1,
    )
    return int(np.argmin(unit.sum(axis=1)))


def _unit(column: FloatArray, objective: Objective, low: float, high: float) -> FloatArray:
    """``column`` mapped so that ``low`` is 0 and ``high`` is 1, in the objective's scale."""
    if high <= low:
        return np.zeros_like(column)
    ends = in_scale(np.array([low, high]), objective)
    return np.asarray((in_scale(column, objective) - ends[0]) / (ends[1] - ends[0]))


def in_scale(values: FloatArray, objective: Objective) -> FloatArray:
    """Values of one objective on the axis of its scale."""
    if objective.scale == "log":
        return np.log(np.maximum(values, 1e-12))
    return np.log1p(values) if objective.scale == "log1p" else values
