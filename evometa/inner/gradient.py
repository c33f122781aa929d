"""The inner gradient of tasks whose family has not written it by hand: ``torch.func`` mapped over all runs.

A second derivative is mapped as well, not taken through the first: PyTorch's rules for mapping the gradients
of layer and batch norm are right, but autograd finds a wrong derivative of the steps that they take.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from evometa.tasks.base import Batch, Loss, LossAndGrad


def eager(loss: Loss, params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Losses ``(P, T)`` and gradients ``(P, T, N)`` at ``params`` for a batch ``(T, …)``.

    Where grad mode is on they have a graph to ``params``, good for one differentiation.
    """

    def compute(params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        grads, losses = _mapped(torch.func.grad_and_value(loss), (params,), batch)
        return losses, grads

    return with_graph(compute, loss, params, batch)


def with_graph(compute: LossAndGrad, loss: Loss, params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """What ``compute`` finds, the losses and gradients of ``loss``; with a graph where one is wanted."""
    if not (torch.is_grad_enabled() and params.requires_grad):
        return compute(params, batch)
    found: tuple[Tensor, Tensor] = _SecondOrder.apply(compute, loss, list(batch), params, *batch.values())  # type: ignore[no-untyped-call]
    return found


def losses_at(loss: Loss, params: Tensor, batch: Batch) -> Tensor:
    """Losses ``(P, T)`` without gradients, one candidate at a time, since a batch may hold many rows."""

    def forward(params: Tensor, batch: Batch) -> Tensor:
        # Where no gradient is wanted, recurrent layers and attention choose kernels that cannot be mapped.
        value: Tensor = torch.func.vjp(lambda point: loss(point, batch), params)[0]
        return value

    over_tasks = torch.vmap(forward)
    return torch.stack([over_tasks(candidate, dict(batch)) for candidate in params])


class _SecondOrder(torch.autograd.Function):
    """Losses L and gradients ∇L, whose vector-Jacobian product is ``dL·∇L + ∇²L·d∇L``.

    Between the two only the params, the gradients and the batch are kept.
    """

    @staticmethod
    def forward(
        ctx: Any, compute: LossAndGrad, loss: Loss, names: list[str], params: Tensor, *values: Tensor
    ) -> tuple[Tensor, Tensor]:
        losses, grads = compute(params.detach(), dict(zip(names, values, strict=True)))
        ctx.loss, ctx.names = loss, names
        ctx.save_for_backward(params, grads, *values)
        ctx.set_materialize_grads(False)
        return losses, grads

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_losses: Tensor | None, d_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        params, grads, *values = ctx.saved_tensors
        found = None if d_losses is None else d_losses.unsqueeze(-1) * grads
        if d_grads is not None:
            batch = dict(zip(ctx.names, values, strict=True))
            (curved,) = _mapped(_hessian_product(ctx.loss), (params.detach(), d_grads), batch)
            found = curved if found is None else found + curved
        return None, None, None, found, *(None for _ in values)


def _hessian_product(loss: Loss) -> Callable[[Tensor, Tensor, Batch], tuple[Tensor]]:
    """∇²L(θ)·v of one run."""

    def product(params: Tensor, vector: Tensor, batch: Batch) -> tuple[Tensor]:
        gradient = torch.func.grad(loss)
        pull_back = torch.func.vjp(lambda point: gradient(point, batch), params)[1]
        found: tuple[Tensor] = pull_back(vector)
        return found

    return product


def _mapped(
    function: Callable[..., tuple[Tensor, ...]], tensors: tuple[Tensor, ...], batch: Batch
) -> tuple[Tensor, ...]:
    """``function`` of each run's part of ``tensors`` ``(P, T, …)`` and its task's part of ``batch``."""
    over_tasks = torch.vmap(function)
    if tensors[0].shape[0] == 1:
        return tuple(found.unsqueeze(0) for found in over_tasks(*(own[0] for own in tensors), dict(batch)))
    return torch.vmap(over_tasks, in_dims=(*(0 for _ in tensors), None))(*tensors, dict(batch))
