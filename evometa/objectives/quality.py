"""How well a genome trains: against tuned Adam on the same tasks, at equal steps. 1.0 is as good as it."""

from __future__ import annotations

import numpy as np

from evometa.objectives.base import OBJECTIVES, WORST_RATIO, FloatArray, Objective, Outcomes

#: Stands for a mean loss that is not finite.
WORST_LOSS = 1e6


def geometric_mean(ratios: FloatArray) -> float:
    """exp of the mean logarithm."""
    return float(np.exp(np.log(ratios).mean()))


def meta_loss(outcomes: Outcomes) -> float:
    """Geometric mean over tasks of the final loss divided by tuned Adam's."""
    return geometric_mean(outcomes.final_ratio)


def anytime(outcomes: Outcomes) -> float:
    """Geometric mean over tasks and steps of the loss divided by tuned Adam's."""
    return geometric_mean(outcomes.anytime_ratio)


def robustness(outcomes: Outcomes) -> float:
    """Geometric mean of the worst tenth of the final ratios; a run that diverged counts as the worst."""
    worst_first = np.sort(outcomes.final_ratio)[::-1]
    return geometric_mean(worst_first[: max(1, len(worst_first) // 10)])


def divergence(outcomes: Outcomes) -> float:
    """Share of the runs that diverged or failed."""
    return float(outcomes.lost.mean())


def final_loss(outcomes: Outcomes) -> float:
    """Mean over tasks of the final training loss; a run that is lost counts with its initial loss."""
    return float(np.where(outcomes.lost, outcomes.initial_loss, outcomes.final_loss).mean())


def valid_loss(outcomes: Outcomes) -> float:
    """Mean over tasks of the trained model's loss on held-out rows; NaN (the worst) where a task has none."""
    return float(np.where(outcomes.lost, np.inf, outcomes.valid_loss).mean())


for _objective in (
    Objective(
        "meta_loss",
        "final loss over tuned Adam's on the same tasks (geometric mean)",
        "× tuned Adam",
        meta_loss,
        worst=WORST_RATIO,
        scale="log",
        ideal=0.01,
        reference=10.0,
        reads_flops=False,
    ),
    Objective(
        "anytime",
        "area under the log-loss curve, as a ratio to tuned Adam's",
        "× tuned Adam",
        anytime,
        worst=WORST_RATIO,
        scale="log",
        ideal=0.01,
        reference=10.0,
        reads_flops=False,
    ),
    Objective(
        "robustness",
        "worst tenth of the final ratios, diverged runs counted as the worst",
        "× tuned Adam",
        robustness,
        worst=WORST_RATIO,
        scale="log",
        ideal=0.01,
        reference=WORST_RATIO,
        reads_flops=False,
    ),
    Objective(
        "divergence",
        "share of runs that diverged or failed",
        "share",
        divergence,
        worst=1.0,
        reference=1.0,
        reads_flops=False,
    ),
    Objective(
        "final_loss",
        "final training loss (mean over tasks)",
        "loss",
        final_loss,
        worst=WORST_LOSS,
        scale="log",
        reads_flops=False,
    ),
    Objective(
        "valid_loss",
        "loss of the trained model on held-out rows (mean over tasks)",
        "loss",
        valid_loss,
        worst=WORST_LOSS,
        scale="log",
        reads_flops=False,
    ),
):
    OBJECTIVES.add(_objective.name, _objective)
