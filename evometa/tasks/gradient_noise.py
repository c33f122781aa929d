"""Noise on the gradient alone: the loss L(θ) + ⟨ε, θ − stop(θ)⟩ has the value L and the gradient ∇L + ε.

ε is normal, drawn anew at every step and the same for all candidates: the number that the minibatch stream
draws for the step says where in a long row of normal numbers it begins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from evometa.rng import torch_generator
from evometa.tasks.base import Batch, Loss, LossAndGrad, TaskBatch

#: Length of the row. Two steps whose numbers overlap have them in other coordinates.
LENGTH = 2**17

_ROW, _DRAWS = "gradient_noise.row", "draws"


def with_gradient_noise(tasks: TaskBatch, scale: float) -> TaskBatch:
    """``tasks`` whose gradient has normal noise of standard deviation ``scale`` in every coordinate.

    They must not have draws of their own. Held-out losses are as they were.
    """
    return replace(
        tasks,
        description=f"{tasks.description}, gradient noise {scale:g}",
        loss=_NoisyLoss(tasks.loss, scale),
        constants={**tasks.constants, _ROW: _row().expand(tasks.n_tasks, LENGTH)},
        n_draws=1,
        loss_and_grad=(
            None if tasks.loss_and_grad is None else _NoisyLossAndGrad(tasks.loss_and_grad, scale)
        ),
        for_kernels=None,  # they know the tasks as they were
        valid_loss=None if tasks.valid_loss is None else _NoisyLoss(tasks.valid_loss, scale),
    )


@cache
def _row() -> Tensor:
    """``(1, LENGTH)`` with mean 0 and variance 1."""
    row = torch.randn((1, LENGTH), generator=torch_generator(0, "gradient noise"), dtype=torch.float64)
    return ((row - row.mean()) / row.std(correction=0)).float()


def _noise(batch: Batch, params: Tensor, scale: float) -> Tensor | None:
    """ε of one task (N,) or of T tasks (T, N) for ``params`` (…, N); None for a batch without draws."""
    if _DRAWS not in batch:
        return None
    places = torch.arange(params.shape[-1], device=params.device)
    return scale * batch[_ROW].gather(-1, (batch[_DRAWS] + places) % LENGTH)


def _own(batch: Batch) -> Batch:
    """What the loss as it was sees of a batch."""
    return {name: value for name, value in batch.items() if name not in (_ROW, _DRAWS)}


@dataclass(frozen=True)
class _NoisyLoss:
    """L(θ) + ⟨ε, θ − stop(θ)⟩ of one task."""

    loss: Loss
    scale: float

    def __call__(self, params: Tensor, batch: Batch) -> Tensor:
        loss, noise = self.loss(params, _own(batch)), _noise(batch, params, self.scale)
        return loss if noise is None else loss + (noise * (params - params.detach())).sum()


@dataclass(frozen=True)
class _NoisyLossAndGrad:
    """L and ∇L + ε, from the hand-batched loss and gradient of L."""

    loss_and_grad: LossAndGrad
    scale: float

    def __call__(self, params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        losses, grads = self.loss_and_grad(params, _own(batch))
        noise = _noise(batch, params, self.scale)
        return losses, grads if noise is None else grads + noise
