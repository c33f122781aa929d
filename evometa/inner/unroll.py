"""Batched inner training: P candidates × T tasks × K steps. The only place that knows the axis P.

One step serves evaluation and every estimator: :func:`advance` makes it, :func:`unroll` repeats it and
records, and an estimator repeats it with a graph. Where a rule has a kernel it takes the whole cohort in one
call. Elsewhere rules, which are written for one candidate, are mapped over P with ``torch.vmap``, or called
directly when a chunk holds a single candidate, which is the faster way for recurrent rules on a CPU (their
gates would otherwise stream through main memory).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evometa.inner.cohort import Cohort
from evometa.inner.record import Status, UnrollRecord
from evometa.rules.base import StepContext
from evometa.tasks.base import TaskBatch
from evometa.trees import Tree, stack, take, tree_map


@dataclass(frozen=True)
class UnrollState:
    """What continues from one inner step to the next.

    Attributes:
        params: ``(P, T, N)``.
        state: the learner's state, each ``(P, …)``.
        step: updates made so far.
    """

    params: Tensor
    state: Tree
    step: int

    def detached(self) -> UnrollState:
        """The same values cut from any graph: where a truncation ends."""
        return UnrollState(
            self.params.detach(), tree_map(lambda value: value.detach(), self.state), self.step
        )


def begin(cohort: Cohort, tasks: TaskBatch, params: Tensor) -> UnrollState:
    """The state before the first step; every candidate starts from the same ``params`` ``(T, N)``."""
    states = []
    for index in range(cohort.n_candidates):
        weights, _ = cohort.member(index)
        states.append(cohort.learner.init_state(weights, params, tasks.layout))
    return UnrollState(params.repeat(cohort.n_candidates, 1, 1), stack(states), 0)


def loss_and_grad(tasks: TaskBatch, params: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Losses ``(P, T)`` and gradients ``(P, T, N)`` at ``params``; differentiable where grad mode is on."""
    if tasks.loss_and_grad is not None:
        return tasks.loss_and_grad(params, batch)
    over_tasks = torch.vmap(torch.func.grad_and_value(tasks.loss), in_dims=(0, 0))
    if params.shape[0] == 1:
        grads, losses = over_tasks(params[0], dict(batch))
        return losses.unsqueeze(0), grads.unsqueeze(0)
    grads, losses = torch.vmap(over_tasks, in_dims=(0, None))(params, dict(batch))
    return losses, grads


def advance(
    cohort: Cohort,
    tasks: TaskBatch,
    carry: UnrollState,
    losses: Tensor,
    grads: Tensor,
    horizon: int,
    *,
    overwrite: bool = False,
) -> UnrollState:
    """One update of all runs from the ``losses (P, T)`` and ``grads (P, T, N)`` at ``carry.params``.

    With ``overwrite`` the tensors of ``carry``, which the caller gives up, may be edited in place.
    """
    params = carry.params
    step = torch.full((), float(carry.step), dtype=params.dtype, device=params.device)
    planned = torch.full((), float(horizon), dtype=params.dtype, device=params.device)
    whole = StepContext(tasks.layout, step, planned, losses)
    advanced = cohort.learner.advance(
        cohort.weights, cohort.hyper, carry.state, grads, params, whole, overwrite=overwrite
    )
    if advanced is not None:
        return UnrollState(*advanced, carry.step + 1)

    def update(
        weights: Tree, hyper: Tree, state: Tree, grad: Tensor, param: Tensor, loss: Tensor
    ) -> tuple[Tensor, Tree]:
        context = StepContext(tasks.layout, step, planned, loss)
        return cohort.learner.update(weights, hyper, state, grad, param, context)

    if cohort.n_candidates == 1:
        weights, hyper = cohort.member(0)
        updates, state = update(weights, hyper, take(carry.state, 0), grads[0], params[0], losses[0])
        updates, state = updates.unsqueeze(0), tree_map(lambda value: value.unsqueeze(0), state)
    else:
        arguments = (cohort.weights, cohort.hyper, carry.state, grads, params, losses)
        updates, state = torch.vmap(update)(*arguments)
    return UnrollState(params + updates, state, carry.step + 1)


@torch.no_grad()
def unroll(
    cohort: Cohort, tasks: TaskBatch, params: Tensor, indices: Tensor | None, horizon: int
) -> UnrollRecord:
    """Train every candidate on every task for ``horizon`` updates and record.

    Args:
        params: ``(T, N)`` initial parameters, the same for all candidates.
        indices: ``(T, horizon + 1, B)`` rows of each minibatch, or None for tasks without data.

    Runs that diverge do not disturb the others; once none is left finite the unroll stops early.
    """
    carry = begin(cohort, tasks, params)
    history = torch.full(
        (horizon + 1, cohort.n_candidates, tasks.n_tasks), torch.nan, dtype=params.dtype, device=params.device
    )
    for k in range(horizon + 1):
        batch = tasks.batch(None if indices is None else indices[:, k])
        losses, grads = loss_and_grad(tasks, carry.params, batch)
        history[k] = losses
        # Looked at now and then: asking a GPU for a value makes it wait.
        if k % 16 == 15 and not torch.isfinite(losses).any():
            break
        if k < horizon:
            carry = advance(cohort, tasks, carry, losses, grads, horizon, overwrite=True)
    valid = tasks.valid_batch()
    return _record(tasks, history, _valid_losses(tasks, carry.params, valid))


def _valid_losses(tasks: TaskBatch, params: Tensor, batch: Mapping[str, Tensor] | None) -> Tensor:
    """Held-out losses ``(P, T)``; NaN for tasks without held-out rows."""
    if batch is None:
        return params.new_full(params.shape[:2], torch.nan)
    over_tasks = torch.vmap(tasks.loss, in_dims=(0, 0))
    return torch.stack([over_tasks(candidate, dict(batch)) for candidate in params])


def _record(tasks: TaskBatch, history: Tensor, valid_losses: Tensor) -> UnrollRecord:
    losses = history.permute(1, 2, 0).double().cpu().numpy()
    finite = np.isfinite(losses).all(axis=-1)
    return UnrollRecord(
        losses=losses,
        valid_losses=valid_losses.double().cpu().numpy(),
        status=np.where(finite, Status.COMPLETE.value, Status.DIVERGED.value),
        final_window=tasks.final_window,
        noise_floor=tasks.noise_floor,
        descriptions=(tasks.description,) * tasks.n_tasks,
        family=tasks.family,
    )
