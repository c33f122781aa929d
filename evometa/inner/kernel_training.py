"""Many inner steps in one call of a native kernel, where rule and tasks both have one.

A call makes minibatch, gradient and update of one run after the other, and the state of a run stays in a
core's cache from step to step: nothing streams through memory, and Python has no part in a step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evometa.inner.cohort import Cohort
from evometa.inner.precision import lowered
from evometa.native.tasks import PerceptronTasks
from evometa.tasks.base import TaskBatch
from evometa.trees import Tree


def kernel_tasks(
    cohort: Cohort, tasks: TaskBatch, params: Tensor, indices: Tensor | None
) -> PerceptronTasks | None:
    """What kernels train on for the steps of ``indices (T, S, B)``; None where they cannot."""
    return measured_by_kernel(tasks, params, indices) if cohort.learner.trains(params) else None


def measured_by_kernel(tasks: TaskBatch, params: Tensor, indices: Tensor | None) -> PerceptronTasks | None:
    """The tasks where a kernel makes their losses and gradients on ``indices (T, S, B)``; else None."""
    if indices is None or tasks.for_kernels is None or tasks.loss_and_grad is None:
        return None
    if torch.is_grad_enabled() or lowered(tasks.loss) is not None:
        return None
    return tasks.for_kernels(params, tasks.rows, indices)


def train_by_kernel(
    cohort: Cohort,
    tasks: TaskBatch,
    given: PerceptronTasks,
    params: Tensor,
    state: Tree,
    first: int,
    horizon: int,
) -> tuple[Tensor, Tensor, Tree]:
    """S steps from step ``first`` on: the losses before each ``(S, P, T)``, the next params and state.

    ``params`` and ``state`` are given up by the caller and may be edited in place.
    """
    params = params.contiguous()
    losses, state = cohort.learner.train(
        cohort.weights, cohort.hyper, state, params, tasks.layout, given, first, horizon
    )
    return losses, params, state
