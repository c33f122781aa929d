"""Gradients of all candidates and tasks at once for losses that are written for any leading axes.

Such a loss takes params ``(…, N)`` with a batch ``(…, B, …)`` and gives ``(…)``: one task's, as everywhere,
without leading axes, and a whole cohort's where the batch has the axis T and the params have P and T. One
backward pass then serves all runs, without ``vmap``, which costs time for every operation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evometa.tasks.base import Batch, Loss


@dataclass(frozen=True)
class AllAtOnce:
    """See :data:`evometa.tasks.base.LossAndGrad`; where grad mode is on, both results have a graph."""

    loss: Loss

    def __call__(self, params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        graph = torch.is_grad_enabled() and params.requires_grad
        with torch.enable_grad():
            point = params if graph else params.detach().requires_grad_()
            losses = self.loss(point, batch)
            (grads,) = torch.autograd.grad(losses.sum(), point, create_graph=graph)
        return (losses, grads) if graph else (losses.detach(), grads)
