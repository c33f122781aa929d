"""Task augmentation: the same task in other units, so that a rule learns not to depend on them.

A task's loss L(θ) becomes c·L(s∘θ) with initial parameters θ₀/s. Its optimum and the losses on the way, in
units of c, are those of the original for a rule that corrects for s and c; one that does not sees parameters
divided by s and gradients multiplied by c·s. Both are drawn log-uniformly between a gene's value and its
inverse, for s as in VeLO (Metz et al. 2022). By itself s leaves ⟨gradient, parameters⟩ as it was; c, the
unit of the loss (a sum over rows instead of a mean, say), varies the gradient alone. Meta-losses are measured
in the task's own unit, so that no task outweighs the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from evometa.genome.space import Genes
from evometa.inner.task_set import PreparedTasks
from evometa.meta.genes import whole
from evometa.rng import torch_generator
from evometa.tasks.base import Batch, Init, Loss, LossAndGrad, TaskBatch

#: Names of s and c among the constants of an augmented batch.
_PARAM_SCALE, _LOSS_SCALE = "augmentation.param_scale", "augmentation.loss_scale"


@dataclass(frozen=True)
class Part(PreparedTasks):
    """Tasks of one architecture.

    ``loss_scale`` ``(T,)`` is the c of each, ``param_scale`` ``(T, N)`` the s; None where all are 1.
    """

    loss_scale: Tensor | None = None
    param_scale: Tensor | None = None

    def of(self, tasks: slice) -> Self:
        """These tasks alone, sharing their tensors with the whole."""
        loss_scale = None if self.loss_scale is None else self.loss_scale[tasks]
        param_scale = None if self.param_scale is None else self.param_scale[tasks]
        return replace(super().of(tasks), loss_scale=loss_scale, param_scale=param_scale)

    def own_unit(self, losses: Tensor) -> Tensor:
        """Losses ``(P, T)`` in the tasks' own unit."""
        return losses if self.loss_scale is None else losses / self.loss_scale


def augment(prepared: PreparedTasks, genes: Genes, seed: int) -> Part:
    """The tasks as ``meta.reparametrisation`` and ``meta.loss_scaling`` say; scales are drawn on the CPU."""
    tasks, params = prepared.tasks, prepared.params
    param_scale, loss_scale = torch.ones_like(params), params.new_ones(tasks.n_tasks)
    scales_params = genes["meta.reparametrisation"] != "none"
    scales_loss = genes["meta.loss_scaling"] != "none"
    if scales_params:
        param_scale = _param_scale(genes, tasks, torch_generator(seed, "params")).to(params)
    if scales_loss:
        largest = whole(genes, "meta.loss_scaling_range")
        loss_scale = _log_uniform((tasks.n_tasks,), largest, torch_generator(seed, "loss")).to(params)
    if not (scales_params or scales_loss):
        return Part(tasks, params, prepared.indices)
    changed = rescaled(tasks, param_scale, loss_scale)
    return Part(
        changed,
        params / param_scale,
        prepared.indices,
        loss_scale if scales_loss else None,
        param_scale if scales_params else None,
    )


def rescaled(tasks: TaskBatch, param_scale: Tensor, loss_scale: Tensor) -> TaskBatch:
    """``tasks`` with loss c·L(s∘θ) and initial parameters θ₀/s, for s ``(T, N)`` and c ``(T,)``."""
    return replace(
        tasks,
        description=f"{tasks.description}, rescaled",
        loss=_RescaledLoss(tasks.loss),
        init_params=_RescaledInit(tasks.init_params, param_scale.cpu()),
        constants={**tasks.constants, _PARAM_SCALE: param_scale, _LOSS_SCALE: loss_scale},
        loss_and_grad=None if tasks.loss_and_grad is None else _RescaledLossAndGrad(tasks.loss_and_grad),
        for_kernels=None,  # they know the tasks as they were
        valid_loss=None if tasks.valid_loss is None else _RescaledLoss(tasks.valid_loss),
    )


def _param_scale(genes: Genes, tasks: TaskBatch, generator: torch.Generator) -> Tensor:
    """s ``(T, N)``: a draw for a whole task, for each of its tensors, or for every coordinate."""
    size = tasks.layout.size
    sizes = {"task": [size], "tensor": tasks.layout.sizes, "coordinate": [1] * size}
    spread = torch.tensor(sizes[str(genes["meta.reparametrisation"])])
    largest = whole(genes, "meta.reparametrisation_range")
    return _log_uniform((tasks.n_tasks, len(spread)), largest, generator).repeat_interleave(spread, dim=1)


def _log_uniform(shape: tuple[int, ...], largest: float, generator: torch.Generator) -> Tensor:
    """Between 1/largest and largest."""
    return torch.exp(math.log(largest) * (2 * torch.rand(shape, generator=generator) - 1))


def _own(batch: Batch) -> Batch:
    """What the task's own loss sees of a batch."""
    return {name: value for name, value in batch.items() if name not in (_PARAM_SCALE, _LOSS_SCALE)}


@dataclass(frozen=True)
class _RescaledLoss:
    """c·L(s∘θ) of one task."""

    loss: Loss

    def __call__(self, params: Tensor, batch: Batch) -> Tensor:
        return batch[_LOSS_SCALE] * self.loss(params * batch[_PARAM_SCALE], _own(batch))


@dataclass(frozen=True)
class _RescaledLossAndGrad:
    """c·L(s∘θ) and its gradient c·s∘∇L(s∘θ), from the hand-batched loss and gradient of L."""

    loss_and_grad: LossAndGrad

    def __call__(self, params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        param_scale, loss_scale = batch[_PARAM_SCALE], batch[_LOSS_SCALE]
        losses, grads = self.loss_and_grad(params * param_scale, _own(batch))
        return losses * loss_scale, grads * (param_scale * loss_scale.unsqueeze(-1))


@dataclass(frozen=True)
class _RescaledInit:
    """θ₀/s."""

    init: Init
    param_scale: Tensor

    def __call__(self, generator: torch.Generator) -> Tensor:
        params = self.init(generator)
        return params / self.param_scale.to(params)
