"""The tasks of one evaluation, drawn from named seeds: the same for all candidates and in every worker.

A :class:`TaskRequest` is a few words of plain data; whoever needs the tasks draws them from it again, so
no data set is ever shipped to a worker.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from evometa.errors import TaskError
from evometa.rng import torch_generator
from evometa.tasks import build_family
from evometa.tasks.base import Split, TaskBatch


@dataclass(frozen=True)
class TaskRequest:
    """Which tasks to draw.

    Attributes:
        use: a registered family or ``pkg.module:attribute``.
        options: the family's options as JSON with sorted keys (hashable).
        split: meta_train, meta_valid or meta_test.
        n_tasks: number of tasks in all.
        n_steps: minibatches to draw per task.
        seed: seed of everything that is drawn.
    """

    use: str
    options: str
    split: Split
    n_tasks: int
    n_steps: int
    seed: int


@dataclass(frozen=True)
class PreparedTasks:
    """One batch of tasks with initial parameters ``(T, N)`` and minibatch rows ``(T, n_steps, B)``."""

    tasks: TaskBatch
    params: Tensor
    indices: Tensor | None


def request(
    use: str, options: Mapping[str, object], split: Split, n_tasks: int, n_steps: int, seed: int
) -> TaskRequest:
    """A :class:`TaskRequest` from options as a mapping."""
    return TaskRequest(use, json.dumps(options, sort_keys=True), split, n_tasks, n_steps, seed)


@lru_cache(maxsize=8)
def prepare(
    wanted: TaskRequest, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[PreparedTasks, ...]:
    """Draw the tasks, their initial parameters and minibatches on the CPU and move them to ``device``.

    Raises TaskError, naming the family, when user code fails or gives wrong shapes or non-finite values.
    """
    family = build_family(wanted.use, json.loads(wanted.options))
    batches = family.sample(wanted.split, wanted.n_tasks, torch_generator(wanted.seed, "tasks"))
    if sum(batch.n_tasks for batch in batches) != wanted.n_tasks:
        raise TaskError(
            f"task family {wanted.use!r}: sample() gave {sum(b.n_tasks for b in batches)} tasks, "
            f"{wanted.n_tasks} were asked for"
        )
    prepared = []
    for number, batch in enumerate(batches):
        params = batch.init_params(torch_generator(wanted.seed, "params", number))
        indices = batch.index_stream(wanted.n_steps, torch_generator(wanted.seed, "batches", number))
        if params.shape != (batch.n_tasks, batch.layout.size):
            raise TaskError(
                f"task family {wanted.use!r}: init_params gave shape {tuple(params.shape)}, "
                f"expected (tasks, coordinates) = ({batch.n_tasks}, {batch.layout.size})"
            )
        if not torch.isfinite(params).all():
            raise TaskError(f"task family {wanted.use!r}: initial parameters are not finite")
        prepared.append(
            PreparedTasks(
                batch.to(device, dtype),
                params.to(device, dtype),
                None if indices is None else indices.to(device),
            )
        )
    return tuple(prepared)
