"""The same task in other units: loss c·L(s∘θ) from initial parameters θ₀/s, for scales s and c.

Its optimum and the losses on the way, in units of c, are those of the original for a rule that corrects for s
and c; one that does not sees parameters divided by s and gradients multiplied by c·s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evometa.tasks.base import Batch, Init, Loss, LossAndGrad, TaskBatch

#: What may share a scale s: a whole task, each of its tensors, or every coordinate by itself.
SHARED_BY = ("task", "tensor", "coordinate")


def rescaled(tasks: TaskBatch, param_scale: Tensor, loss_scale: Tensor) -> TaskBatch:
    """``tasks`` with loss c·L(s∘θ) and initial parameters θ₀/s, for s ``(T, N)`` and c ``(T,)``."""
    names = _Names.free_in(tasks.constants)
    return replace(
        tasks,
        description=f"{tasks.description}, rescaled",
        loss=_RescaledLoss(tasks.loss, names),
        init_params=_RescaledInit(tasks.init_params, param_scale.cpu()),
        constants={**tasks.constants, names.param_scale: param_scale, names.loss_scale: loss_scale},
        loss_and_grad=(
            None if tasks.loss_and_grad is None else _RescaledLossAndGrad(tasks.loss_and_grad, names)
        ),
        for_kernels=None,  # they know the tasks as they were
        valid_loss=None if tasks.valid_loss is None else _RescaledLoss(tasks.valid_loss, names),
    )


def param_scales(shared_by: str, tasks: TaskBatch, largest: float, generator: torch.Generator) -> Tensor:
    """s ``(T, N)``, drawn as :func:`scales` for each of what ``shared_by`` says, see :data:`SHARED_BY`."""
    size = tasks.layout.size
    sizes = {"task": [size], "tensor": tasks.layout.sizes, "coordinate": [1] * size}
    spread = torch.tensor(sizes[shared_by])
    return scales((tasks.n_tasks, len(spread)), largest, generator).repeat_interleave(spread, dim=1)


def scales(shape: tuple[int, ...], largest: float, generator: torch.Generator) -> Tensor:
    """Log-uniform between 1/largest and largest."""
    return torch.exp(math.log(largest) * (2 * torch.rand(shape, generator=generator) - 1))


@dataclass(frozen=True)
class _Names:
    """Names of s and c among the constants of a rescaled batch."""

    param_scale: str
    loss_scale: str

    @classmethod
    def free_in(cls, constants: Batch) -> _Names:
        """Others for a batch that was rescaled before."""
        depth = sum(name.startswith("rescaling.param_scale") for name in constants)
        return cls(f"rescaling.param_scale{depth or ''}", f"rescaling.loss_scale{depth or ''}")

    def own(self, batch: Batch) -> Batch:
        """What the loss as it was sees of a batch."""
        return {name: v for name, v in batch.items() if name not in (self.param_scale, self.loss_scale)}


@dataclass(frozen=True)
class _RescaledLoss:
    """c·L(s∘θ) of one task."""

    loss: Loss
    names: _Names

    def __call__(self, params: Tensor, batch: Batch) -> Tensor:
        scaled = params * batch[self.names.param_scale]
        return batch[self.names.loss_scale] * self.loss(scaled, self.names.own(batch))


@dataclass(frozen=True)
class _RescaledLossAndGrad:
    """c·L(s∘θ) and its gradient c·s∘∇L(s∘θ), from the hand-batched loss and gradient of L."""

    loss_and_grad: LossAndGrad
    names: _Names

    def __call__(self, params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        param_scale, loss_scale = batch[self.names.param_scale], batch[self.names.loss_scale]
        losses, grads = self.loss_and_grad(params * param_scale, self.names.own(batch))
        return losses * loss_scale, grads * (param_scale * loss_scale.unsqueeze(-1))


@dataclass(frozen=True)
class _RescaledInit:
    """θ₀/s."""

    init: Init
    param_scale: Tensor

    def __call__(self, generator: torch.Generator) -> Tensor:
        params = self.init(generator)
        return params / self.param_scale.to(params)
