"""Inner training the plain way: one candidate, one task, a Python loop over steps, autograd.

Nothing here is batched, fused, planned or cached, so that it can be read as the definition of what
:func:`evometa.inner.unroll.unroll` and the estimators compute. Every fast path is tested against it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evometa.inner.cohort import Candidate
from evometa.inner.task_set import PreparedTasks
from evometa.rules.base import StepContext
from evometa.rules.learner import Learner
from evometa.tasks.base import Batch, TaskBatch
from evometa.trees import Tree, tree_map


@dataclass(frozen=True)
class Subject:
    """One candidate in the dtype it trains in: its weights φ and its continuous genes ``hyper``, each 0-d."""

    learner: Learner
    weights: Tree
    hyper: Tree

    @classmethod
    def of(cls, candidate: Candidate, dtype: torch.dtype) -> Subject:
        """The candidate with its weights and continuous genes on the CPU."""
        learner = candidate.learner
        hyper = {name: torch.tensor(value, dtype=dtype) for name, value in learner.hyper.items()}
        return cls(learner, tree_map(lambda value: value.to(dtype), candidate.weights), hyper)


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        losses: ``(K + 1,)``; entry k is the loss after k updates, on minibatch k.
        params: ``(N,)`` after K updates.
        state: the learner's after K updates, with a task axis of length one.
    """

    losses: Tensor
    params: Tensor
    state: Tree


def train(
    subject: Subject,
    part: PreparedTasks,
    task: int,
    n_steps: int,
    *,
    horizon: int | None = None,
    truncation: int | None = None,
    second_order: bool = False,
) -> Run:
    """``n_steps`` updates of one candidate on task ``task`` of ``part``, of ``horizon`` planned ones.

    Where weights require gradients, the losses carry a graph to them that is cut after every ``truncation``
    steps. The gradients and losses that the learner reads are constants in it, unless ``second_order``.
    """
    tasks, params = part.tasks, part.params[task : task + 1]
    planned = params.new_tensor(float(n_steps if horizon is None else horizon))
    state = subject.learner.init_state(subject.weights, params, tasks.layout)
    losses, on_the_way = [], [torch.zeros_like(params[0])] * tasks.gradient_delay
    for k in range(n_steps + 1):
        batch = _own_batch(tasks, None if part.indices is None else part.indices[:, k], task)
        losses.append(tasks.loss(params[0], batch))
        if k == n_steps:
            break
        if truncation is not None and k % truncation == 0:
            params, state = params.detach(), tree_map(torch.Tensor.detach, state)
            on_the_way = [late.detach() for late in on_the_way]
        loss, grad = _loss_and_grad(tasks, params[0], batch, second_order)
        on_the_way.append(grad)
        grad = on_the_way.pop(0)
        context = StepContext(tasks.layout, params.new_tensor(float(k)), planned, loss.unsqueeze(0))
        update, state = subject.learner.update(
            subject.weights, subject.hyper, state, grad.unsqueeze(0), params, context
        )
        params = params + update
    return Run(torch.stack(losses), params[0], state)


def valid_loss(part: PreparedTasks, task: int, params: Tensor) -> Tensor:
    """Loss () of ``params`` ``(N,)`` on the rows that the task holds out; NaN for a task without."""
    held_out = part.tasks.valid_batch()
    if held_out is None:
        return params.new_tensor(torch.nan)
    measure = part.tasks.valid_loss or part.tasks.loss
    return measure(params, {name: value[task] for name, value in held_out.items()})


def meta_gradients(
    subject: Subject,
    part: PreparedTasks,
    n_steps: int,
    *,
    truncation: int,
    second_order: bool,
    kind: str = "mean",
    horizon: int | None = None,
) -> Iterator[Tree]:
    """For segment after segment of ``truncation`` steps, the meta-gradient at the same weights.

    It is that of the mean over the segment's steps of the loss after the step, averaged over all tasks of
    ``part`` (``kind`` "mean"), or of the logarithm of that average ("log_mean").
    """
    leaves = tree_map(lambda value: value.detach().clone().requires_grad_(), subject.weights)
    learning = replace(subject, weights=leaves)
    runs = [
        train(
            learning,
            part,
            task,
            n_steps,
            horizon=horizon,
            truncation=truncation,
            second_order=second_order,
        )
        for task in range(part.tasks.n_tasks)
    ]
    averages = torch.stack([run.losses for run in runs]).mean(dim=0)
    measured = averages.log() if kind == "log_mean" else averages
    for segment in torch.split(measured[1:], truncation):
        grads = torch.autograd.grad(
            segment.mean(),
            list(leaves.values()),
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        yield dict(zip(leaves, grads, strict=True))


def _own_batch(tasks: TaskBatch, indices: Tensor | None, task: int) -> Batch:
    """What the loss of one task sees."""
    return {name: value[task] for name, value in tasks.batch(indices).items()}


def _loss_and_grad(
    tasks: TaskBatch, params: Tensor, batch: Batch, second_order: bool
) -> tuple[Tensor, Tensor]:
    """The loss () and gradient (N,) that a learner reads; they have a graph for a second order only."""
    with torch.enable_grad():
        point = params if second_order and params.requires_grad else params.detach().requires_grad_()
        loss = tasks.loss(point, batch)
        (grad,) = torch.autograd.grad(loss, point, create_graph=second_order)
    return (loss if second_order else loss.detach()), grad
