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

from evometa.inner import graphs
from evometa.inner.cohort import Cohort
from evometa.inner.deadline import check_time
from evometa.inner.delay import empty_queue, through_queue
from evometa.inner.gradient import eager, losses_at
from evometa.inner.kernel_training import kernel_tasks, measured_by_kernel, train_by_kernel
from evometa.inner.precision import lowered
from evometa.inner.record import Status, UnrollRecord
from evometa.layout import Layout
from evometa.rules.base import StepContext
from evometa.tasks.base import TaskBatch
from evometa.trees import Tree, stack, take, tree_map

#: Steps that a kernel makes in one call: Python looks in between whether any run and any time is left.
_MANY_STEPS = 128


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


def begin(cohort: Cohort, layout: Layout, params: Tensor, delay: int) -> UnrollState:
    """The state before the first step.

    Every candidate starts from the same ``params`` ``(T, N)``, unless its initialisation is learned: then all
    its tasks start there, with a graph to its weights where grad mode is on. ``delay`` is the tasks'
    ``gradient_delay``. Raises GenomeError where a learned initialisation is for another size of model.
    """
    learned = cohort.learner.initial_params(cohort.weights, layout)
    if learned is None:
        starts = params.repeat(cohort.n_candidates, 1, 1)
    else:
        starts = learned.to(params.dtype).unsqueeze(1).repeat(1, len(params), 1)
    states = []
    for index in range(cohort.n_candidates):
        weights, _ = cohort.member(index)
        states.append(cohort.learner.init_state(weights, starts[index], layout))
    return UnrollState(starts, {**stack(states), **empty_queue(starts, delay)}, 0)


def loss_and_grad(tasks: TaskBatch, params: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Losses ``(P, T)`` and gradients ``(P, T, N)`` at ``params``; differentiable where grad mode is on."""
    loss = lowered(tasks.loss)
    if loss is None and tasks.loss_and_grad is not None:
        return tasks.loss_and_grad(params, batch)
    return eager(loss or tasks.loss, params, batch)


def advance(
    cohort: Cohort,
    layout: Layout,
    carry: UnrollState,
    losses: Tensor,
    grads: Tensor,
    horizon: int,
    *,
    overwrite: bool = False,
    step: Tensor | None = None,
) -> UnrollState:
    """One update of all runs from the ``losses (P, T)`` and ``grads (P, T, N)`` at ``carry.params``.

    Where gradients are delayed, ``grads`` join the queue and the rule is given those at its head. With
    ``overwrite`` the tensors of ``carry``, which the caller gives up, may be edited in place. A ``step``
    counts the updates made so far on the device, as a tensor (), where the count of ``carry`` is not read.
    """
    params = carry.params
    grads, before, queue = through_queue(carry.state, grads)
    if step is None:
        step = torch.full((), float(carry.step), dtype=params.dtype, device=params.device)
    planned = torch.full((), float(horizon), dtype=params.dtype, device=params.device)
    whole = StepContext(layout, step, planned, losses)
    advanced = cohort.learner.advance(
        cohort.weights, cohort.hyper, before, grads, params, whole, overwrite=overwrite
    )
    if advanced is not None:
        after, state = advanced
        return UnrollState(after, {**state, **queue}, carry.step + 1)

    def update(
        weights: Tree, hyper: Tree, state: Tree, grad: Tensor, param: Tensor, loss: Tensor
    ) -> tuple[Tensor, Tree]:
        context = StepContext(layout, step, planned, loss)
        return cohort.learner.update(weights, hyper, state, grad, param, context)

    if cohort.n_candidates == 1:
        weights, hyper = cohort.member(0)
        updates, state = update(weights, hyper, take(before, 0), grads[0], params[0], losses[0])
        updates, state = updates.unsqueeze(0), tree_map(lambda value: value.unsqueeze(0), state)
    else:
        arguments = (cohort.weights, cohort.hyper, before, grads, params, losses)
        updates, state = torch.vmap(update)(*arguments)
    return UnrollState(params + updates, {**state, **queue}, carry.step + 1)


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
    history = torch.full(
        (horizon + 1, cohort.n_candidates, tasks.n_tasks), torch.nan, dtype=params.dtype, device=params.device
    )
    if graphs.serves(params.device, horizon):
        trained = _train_replayed(cohort, tasks, params, indices, history)
    elif indices is not None and kernel_tasks(cohort, tasks, params, indices) is not None:
        trained = _train_by_kernel(cohort, tasks, params, indices, history)
    else:
        trained = _train(cohort, tasks, params, indices, history)
    return record_of(tasks, history, valid_losses(tasks, trained))


def _train_by_kernel(
    cohort: Cohort, tasks: TaskBatch, params: Tensor, indices: Tensor, history: Tensor
) -> Tensor:
    """As :func:`_train`, many steps in one call."""
    horizon, trained = len(history) - 1, []
    at_once = 1 if cohort.learner.rule.tasks_apart else tasks.n_tasks
    for first in range(0, tasks.n_tasks, at_once):
        those = slice(first, first + at_once)
        some, own, rows = tasks.of(those), history[:, :, those], indices[those]
        carry = begin(cohort, some.layout, params[those], some.gradient_delay)
        for start in range(0, horizon, _MANY_STEPS):
            check_time()
            steps = slice(start, min(start + _MANY_STEPS, horizon))
            given = kernel_tasks(cohort, some, carry.params, rows[:, steps])
            assert given is not None
            own[steps], next_params, state = train_by_kernel(
                cohort, some, given, carry.params, carry.state, start, horizon
            )
            carry = UnrollState(next_params, state, steps.stop)
            if not bool(torch.isfinite(own[steps.stop - 1]).any()):
                break
        else:
            own[horizon] = loss_and_grad(some, carry.params, some.batch(rows[:, horizon]))[0]
        trained.append(carry.params)
    return torch.cat(trained, dim=1)


def _train(
    cohort: Cohort, tasks: TaskBatch, params: Tensor, indices: Tensor | None, history: Tensor
) -> Tensor:
    """Step after step; fills ``history (K + 1, P, T)`` with losses and returns the trained params."""
    horizon, carry = len(history) - 1, begin(cohort, tasks.layout, params, tasks.gradient_delay)
    for k in range(horizon + 1):
        check_time()
        batch = tasks.batch(None if indices is None else indices[:, k])
        losses, grads = loss_and_grad(tasks, carry.params, batch)
        history[k] = losses
        if all_lost(history, k):
            break
        if k < horizon:
            carry = advance(cohort, tasks.layout, carry, losses, grads, horizon, overwrite=True)
    return carry.params


def _train_replayed(
    cohort: Cohort, tasks: TaskBatch, params: Tensor, indices: Tensor | None, history: Tensor
) -> Tensor:
    """As :func:`_train`, by a step on tensors that stay where they are, which a GPU records and replays."""
    horizon, carry = len(history) - 1, begin(cohort, tasks.layout, params, tasks.gradient_delay)

    def step(params: Tensor, state: Tree, rows: Tensor | None, count: Tensor) -> tuple[Tensor, Tensor, Tree]:
        losses, grads = loss_and_grad(tasks, params, tasks.batch(rows))
        here = UnrollState(params, state, 0)
        after = advance(cohort, tasks.layout, here, losses, grads, horizon, overwrite=True, step=count)
        return losses, after.params, after.state

    loop = graphs.StaticLoop(step, carry.params, carry.state, indices, history)
    replayed = graphs.Replayed(graphs.CudaGraphs(history.device))
    for k in range(horizon):
        check_time()
        replayed(loop.advance)
        if all_lost(history, k):
            return loop.params
    batch = tasks.batch(None if indices is None else indices[:, horizon])
    history[horizon] = loss_and_grad(tasks, loop.params, batch)[0]
    return loop.params


def all_lost(history: Tensor, k: int) -> bool:
    """Whether no run is left finite; looked at now and then, since asking a GPU makes it wait."""
    return k % 16 == 15 and not bool(torch.isfinite(history[k]).any())


def valid_losses(tasks: TaskBatch, params: Tensor) -> Tensor:
    """Held-out losses ``(P, T)``; NaN for tasks without held-out rows."""
    rows, batch = tasks.valid_rows, tasks.valid_batch()
    if rows is None or batch is None:
        return params.new_full(params.shape[:2], torch.nan)
    if tasks.valid_loss is None and measured_by_kernel(tasks, params, rows.unsqueeze(1)) is not None:
        return loss_and_grad(tasks, params, batch)[0]  # its gradients cost less than PyTorch's losses
    return losses_at(tasks.valid_loss or tasks.loss, params, batch)


def record_of(tasks: TaskBatch, history: Tensor, valid_losses: Tensor) -> UnrollRecord:
    """The record of losses ``history (K + 1, P, T)`` and held-out losses ``(P, T)``."""
    losses = history.permute(1, 2, 0).double().cpu().numpy()
    lost = np.logical_or.accumulate(~np.isfinite(losses), axis=-1)
    # What came after depends on whether others trained on, and might even be finite again.
    losses[..., 1:][lost[..., :-1]] = np.nan
    return UnrollRecord(
        losses=losses,
        valid_losses=np.where(lost[..., -1], np.nan, valid_losses.double().cpu().numpy()),
        status=np.where(lost[..., -1], Status.DIVERGED.value, Status.COMPLETE.value),
        final_window=tasks.final_window,
        noise_floor=tasks.noise_floor,
        descriptions=(tasks.description,) * tasks.n_tasks,
        family=tasks.family,
    )
