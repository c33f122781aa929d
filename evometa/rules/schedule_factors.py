"""Factors of one schedule for many at once: for many steps, or for a whole cohort."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from evometa.layout import Layout
from evometa.rules.base import Hyper, StepContext
from evometa.rules.schedule_base import Schedule
from evometa.trees import Tree, take, tree_map


def factors_at(
    schedule: Schedule, hyper: Hyper, numbers: range, horizon: int, layout: Layout, like: Tensor
) -> Tensor:
    """The factors at many steps, ``(K, P or 1)``, in the dtype and on the device of ``like``.

    Only of a schedule that is elementwise; continuous genes are () or ``(P,)``.
    """
    count = torch.arange(numbers.start, numbers.stop, dtype=like.dtype, device=like.device)
    planned = torch.full((), float(horizon), dtype=like.dtype, device=like.device)
    context = StepContext(layout, count.unsqueeze(-1), planned, None)
    factor, _ = schedule.factor({}, hyper, {}, context)
    rows = factor.reshape(-1, factor.shape[-1] if factor.dim() else 1)
    return rows.to(like.dtype).expand(len(numbers), -1)


def cohort_factor(
    schedule: Schedule, weights: Tree, hyper: Hyper, state: Tree, context: StepContext, n_candidates: int
) -> tuple[Tensor, Tree]:
    """The factor for a cohort, ``(P, 1)`` or ``(P, T)``, and the next state.

    Weights and state have the axis P in front.
    """
    if schedule.elementwise:
        factor, _ = schedule.factor({}, hyper, {}, context)
        return factor.reshape(-1, 1).expand(n_candidates, 1), {}

    def of_one(weights: Tree, hyper: Hyper, state: Tree, loss: Tensor | None) -> tuple[Tensor, Tree]:
        return schedule.factor(weights, hyper, state, replace(context, loss=loss))

    if n_candidates == 1:
        loss = None if context.loss is None else context.loss[0]
        factor, new = of_one(take(weights, 0), take(hyper, 0), take(state, 0), loss)
        factor, new = factor.unsqueeze(0), tree_map(lambda value: value.unsqueeze(0), new)
    else:
        in_dims = (0, 0, 0, None if context.loss is None else 0)
        factor, new = torch.vmap(of_one, in_dims=in_dims)(weights, dict(hyper), state, context.loss)
    return factor.reshape(n_candidates, -1), new
