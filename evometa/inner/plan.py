"""The chunk plan: how many candidates of a cohort are trained at once on a device.

- On a CPU, a rule with a native kernel takes the whole chunk in one call, its intermediates in registers:
  only what stays between steps streams through memory. A chunk is as large as leaves that in cache from one
  step to the next, and no larger, for then there are several to deal to the workers. (Where the kernel makes
  many steps in a call it works run by run, and the size of a chunk only has to be worth a call.)
- On a CPU, a rule that PyTorch maps over candidates writes every intermediate to memory. Networks gain
  nothing from more candidates in a chunk and lose their place in cache, while hand-designed rules are bound
  by the cost of launching operations.
- On a GPU everything that fits into a worker's share of free memory is one chunk. Where it does not fit after
  all, the unit of work is halved (:mod:`evometa.execution.units`).

The plan depends on the device, the rule and the tasks, never on the number of workers, and what a candidate
gets does not depend on the plan, but for the last digits where PyTorch rounds products of other shapes
otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch

from evometa.inner.unroll import loss_and_grad
from evometa.rules.cost import OperationCounter, measure_cost, state_floats_per_param
from evometa.rules.learner import Learner
from evometa.tasks.base import TaskBatch

#: Floats that stay between steps, of a chunk that a kernel takes: 8 MB, about a core's share of a last-level
#: cache.
CPU_KERNEL_FLOATS = 2_000_000
#: Floats that an update writes, of a chunk that PyTorch maps: 32 MB, not all of them live at once. With 8
#: million rules of many small operations were 1.2 to 2.5 times as fast as with 2, in backpropagation as fast,
#: and Meta-LSTM an eighth slower; with 16 million it was a quarter slower (a core of an AMD Zen 4, in turn).
CPU_MAPPED_FLOATS = 8_000_000
#: Workers that share a GPU unless told otherwise: while one records its step, those of others are replayed.
GPU_WORKERS = 4
#: Share of a GPU's free memory that a chunk may write in one step. Not all of it is live at once; the rest is
#: for what libraries and fragments take, and for the other workers.
GPU_MEMORY_SHARE = 0.8 / GPU_WORKERS


def candidates_per_chunk(
    learner: Learner,
    batches: Sequence[TaskBatch],
    device: torch.device,
    n_candidates: int,
    live_steps: int = 1,
) -> int:
    """How many of ``n_candidates`` to train at once on the largest of ``batches``; at least 1.

    ``live_steps`` is the number of inner steps whose intermediates are kept at once (for a meta-gradient).
    """
    if n_candidates == 1:
        return 1
    coordinates = max(batch.n_tasks * batch.layout.size for batch in batches)
    # between steps: params and gradients too, and those that come late
    carried = state_floats_per_param(learner) + 2.0 + max(batch.gradient_delay for batch in batches)
    step = carried * coordinates
    by_kernel = device.type == "cpu" and has_kernel(learner)
    if not by_kernel:
        step += measure_cost(learner).floats_written_per_param * coordinates
    if device.type == "cuda":
        try:
            step += max(gradient_floats(batch, device) for batch in batches)
        except torch.OutOfMemoryError:
            return 1
        budget = GPU_MEMORY_SHARE * free_gpu_bytes(device) / 4
    elif by_kernel:
        budget = CPU_KERNEL_FLOATS
    else:
        budget = CPU_MAPPED_FLOATS
    return max(1, min(n_candidates, int(budget / (step * live_steps))))


def gradient_floats(tasks: TaskBatch, device: torch.device) -> int:
    """Floats that losses and gradients of one candidate on all of ``tasks`` write, found by making them.

    They are made by autograd: where a family has a way of its own, that writes no more.
    """
    rows = None if tasks.train_rows is None else tasks.train_rows[:, : tasks.batch_size]
    floating = (
        value.dtype
        for value in (*tasks.rows.values(), *tasks.constants.values())
        if value.is_floating_point()
    )
    params = torch.zeros((1, tasks.n_tasks, tasks.layout.size), dtype=next(floating, None), device=device)
    counter = OperationCounter()
    with torch.no_grad(), counter:
        loss_and_grad(replace(tasks, loss_and_grad=None), params, tasks.batch_of(rows))
    return counter.n_written


def has_kernel(learner: Learner) -> bool:
    """Whether a native kernel makes the learner's updates on this machine's CPU."""
    probe = torch.empty((1, 1, 1))
    return learner.has_kernel(probe, probe)


def free_gpu_bytes(device: torch.device) -> int:
    """What the driver has free, and what PyTorch holds for this process without using it."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def cut(n_candidates: int, most: int) -> list[range]:
    """Candidates 0 … n − 1 in chunks of at most ``most``, whose sizes differ by one at most.

    They are the fewest, but of three and more a multiple of four: two or four workers then get equally many.
    """
    n_chunks = -(-n_candidates // most)
    if n_chunks > 2:
        n_chunks = min(-(-n_chunks // 4) * 4, n_candidates)
    ends = [n_candidates * chunk // n_chunks for chunk in range(n_chunks + 1)]
    return [range(start, end) for start, end in pairwise(ends)]
