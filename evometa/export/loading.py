"""From a file of ``evometa export`` to an optimizer of the user's model."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.optim.optimizer import ParamsT

from evometa.export.file import check_rates, planned_horizon, read_export
from evometa.export.optimizer import EvolvedOptimizer


def load_optimizer(
    path: str | Path,
    params: ParamsT,
    lr: float | Tensor = 1.0,
    *,
    weight_decay: float = 0.0,
    horizon: int | None = None,
    maximize: bool = False,
) -> EvolvedOptimizer:
    """The optimizer in an exported file, ready to train ``params``.

    Args:
        path: a file written by :func:`~evometa.export.file.export_genome`.
        params: parameters, named parameters or parameter groups, as for any ``torch.optim`` optimizer.
        lr: factor on the rule's own step; 1.0 trains as evolved.
        weight_decay: decoupled, as in AdamW: ``p -= lr·weight_decay·p`` beside the rule's step.
        horizon: number of steps you plan to make, which schedules run over; None takes the number the
            genome was evolved for.
        maximize: climb instead of descending, see :class:`EvolvedOptimizer`.

    Raises GenomeError for a missing, damaged, foreign or newer file, ValueError for a wrong option, for a
    model that a learned initialisation is not for, and for a horizon beyond that of learned rates.
    """
    found = read_export(Path(path))
    steps = planned_horizon(path, horizon, found.horizon)
    check_rates(path, horizon, found)
    return EvolvedOptimizer(
        params, found.genome, found.weights, lr, weight_decay=weight_decay, horizon=steps, maximize=maximize
    )
