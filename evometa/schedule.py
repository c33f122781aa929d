"""The learning-rate schedule of an exported genome, around an optimizer of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from evometa.errors import GenomeError
from evometa.export.checks import Loss, as_loss, check_horizon, check_state
from evometa.export.file import check_weights, learner_of, planned_horizon, read_export
from evometa.genome.genome import Genome
from evometa.layout import Layout
from evometa.rules.base import StepContext
from evometa.trees import Tree, tree_map

__all__ = ["EvolvedSchedule", "load"]


def load(
    path: str | Path, optimizer: Optimizer, *, horizon: int | None = None, last_epoch: int = -1
) -> EvolvedSchedule:
    """The schedule in an exported file, which multiplies the learning rates of ``optimizer``.

    Args:
        path: a file written by ``evometa export``, of a genome whose update rule is hand-designed.
        optimizer: any ``torch.optim`` optimizer.
        horizon: number of steps you plan to make, which the schedule runs over; None takes the number the
            genome was evolved for.
        last_epoch: steps made so far less one, as for any scheduler of PyTorch.

    Raises GenomeError for a missing, damaged, foreign or newer file and for a learned rule, whose schedule
    means nothing without it, ValueError for a wrong option.
    """
    found = read_export(Path(path))
    if learner_of(found.genome).rule_family.learned:
        raise GenomeError(
            f"{path}: its rule {found.genome.family!r} is learned, and its schedule scales the steps of "
            "that rule; load both with evometa.load_optimizer"
        )
    steps = planned_horizon(path, horizon, found.horizon)
    return EvolvedSchedule(optimizer, found.genome, found.weights, horizon=steps, last_epoch=last_epoch)


class EvolvedSchedule(LRScheduler):
    """Sets every group's learning rate to its initial one times the schedule of ``genome``.

    As with any scheduler of PyTorch, :meth:`step` is called once after every step of the optimizer, and
    :meth:`state_dict` and :meth:`load_state_dict` continue where training stopped. A schedule counts steps,
    not epochs.

    A learned schedule reads the training loss. It is given to :meth:`step`, which comes after the optimizer's
    step, so the schedule sees the loss one step later than it did in evolution; without it, it goes by the
    progress of training alone.

    Args:
        weights: the genome's weights φ; those of its update rule, if any, are left alone.
        horizon: planned number of steps. After it the factor stays where it ends; that of a learned schedule,
            which was never trained there, becomes smaller and smaller.

    Raises GenomeError for a genome or weights that are not valid, ValueError for a wrong horizon.
    """

    def __init__(
        self, optimizer: Optimizer, genome: Genome, weights: Tree, *, horizon: int, last_epoch: int = -1
    ) -> None:
        check_horizon(horizon)
        self.genome = genome
        self._horizon = horizon
        self._learner = learner_of(genome)
        check_weights(self._learner, weights)
        if self._learner.schedule.follows_steps:
            raise GenomeError(
                f"schedule {self._learner.schedule_family.name!r} follows the steps of its own rule, which "
                "another optimizer does not make; load both with evometa.load_optimizer"
            )
        self._weights = tree_map(lambda value: value.detach().double(), weights)
        self._hyper = {
            name: torch.tensor(value, dtype=torch.float64) for name, value in self._learner.hyper.items()
        }
        self._state = self._fresh_state()
        self._loss: Tensor | None = None
        self._factor, self._factor_of = 1.0, -1
        super().__init__(optimizer, last_epoch)

    def step(self, epoch: int | None = None, *, loss: Loss | None = None) -> None:
        """Set the learning rates of the next step.

        Args:
            epoch: number of that step, where it is not the next one; PyTorch's own SequentialLR gives it.
            loss: training loss at the step just made, for a schedule that reads it.
        """
        self._loss = as_loss(loss)
        super().step(epoch)

    def get_lr(self) -> list[float | Tensor]:
        """The learning rates at this step."""
        # Once a step: PyTorch's SequentialLR asks for them without a call of step().
        if self._factor_of != self.last_epoch:
            self._advance()
        return [base * self._factor for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and tensors, which ``torch.load(…, weights_only=True)`` takes."""
        own = ("optimizer", "genome", "_learner", "_weights", "_hyper", "_state", "_loss")
        plain = {name: value for name, value in vars(self).items() if name not in own and not callable(value)}
        return {**plain, "schedule": tree_map(torch.clone, self._state)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken, the horizon included.

        Raises ValueError for the state of another scheduler or another genome.
        """
        if "schedule" not in state_dict:
            raise ValueError("loaded state dict was not saved by an evolved schedule")
        check_state(state_dict["schedule"], self._fresh_state(), "the schedule")
        check_horizon(state_dict["_horizon"])
        plain = {name: value for name, value in state_dict.items() if name != "schedule"}
        super().load_state_dict(plain)
        self._state = tree_map(torch.clone, dict(state_dict["schedule"]))

    def _fresh_state(self) -> Tree:
        return self._learner.init_schedule_state(self._weights, 1, torch.empty((), dtype=torch.float64))

    def _advance(self) -> None:
        """The factor on the step numbered ``last_epoch``."""
        step, horizon = (torch.tensor(n, dtype=torch.float64) for n in (self.last_epoch, self._horizon))
        loss = None if self._loss is None else self._loss.double().cpu()
        context = StepContext(Layout.of({}), step, horizon, loss)
        factor, self._state = self._learner.factor(self._weights, self._hyper, self._state, context)
        guard = self._learner.guard(self.last_epoch, self._horizon)
        self._factor, self._factor_of, self._loss = float(factor) * guard, self.last_epoch, None
