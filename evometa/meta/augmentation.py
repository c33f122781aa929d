"""Task augmentation: the same task in other units, so that a rule learns not to depend on them.

A task's loss L(θ) becomes c·L(s∘θ) with initial parameters θ₀/s. Its optimum and the losses on the way, in
units of c, are those of the original for a rule that corrects for s and c; one that does not sees parameters
divided by s and gradients multiplied by c·s. Both are drawn log-uniformly between a gene's value and its
inverse, for s as in VeLO (Metz et al. 2022). By itself s leaves ⟨gradient, parameters⟩ as it was; c, the
unit of the loss (a sum over rows instead of a mean, say), varies the gradient alone. Meta-losses are measured
in the task's own unit, so that no task outweighs the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from evometa.genome.space import Genes
from evometa.inner.task_set import PreparedTasks
from evometa.meta.genes import whole
from evometa.rng import torch_generator
from evometa.tasks.rescaling import param_scales, rescaled, scales


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
        shared_by, largest = (
            str(genes["meta.reparametrisation"]),
            whole(genes, "meta.reparametrisation_range"),
        )
        drawn = param_scales(shared_by, tasks, largest, torch_generator(seed, "params"))
        param_scale = drawn.to(params)
    if scales_loss:
        largest = whole(genes, "meta.loss_scaling_range")
        loss_scale = scales((tasks.n_tasks,), largest, torch_generator(seed, "loss")).to(params)
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
