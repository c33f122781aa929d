"""The chunk plan: how many candidates of a cohort are trained at once on a device.

On a CPU a chunk's working set should stay in cache: batching a whole population of recurrent rules is
slower than a loop over candidates, while elementwise rules gain from large chunks. On a GPU everything
that fits goes into one batch. The plan depends on the device, the rule and the tasks, never on the number
of workers, so that results do not either.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from evometa.rules.cost import measure_cost
from evometa.rules.learner import Learner
from evometa.tasks.base import TaskBatch

#: Floats of working set that a chunk may take on a CPU: a few caches, since not all is live at once.
CPU_CHUNK_FLOATS = 2_000_000
#: Share of a GPU's free memory that a chunk may take.
GPU_MEMORY_SHARE = 0.5


def floats_per_coordinate(learner: Learner) -> float:
    """Rough working set of an update: states, old and new, and intermediates, told from its arithmetic.

    Rules with much arithmetic a coordinate (networks) gain nothing from more candidates in a chunk and lose
    their place in cache; those with little (hand-designed) are bound by the cost of launching operations.
    """
    cost = measure_cost(learner)
    return 4.0 * cost.state_floats_per_param + cost.flops_per_param / 4.0 + 8.0


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
    coordinates = max(batch.n_tasks * batch.layout.size for batch in batches)
    floats = floats_per_coordinate(learner) * coordinates * live_steps
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        budget = GPU_MEMORY_SHARE * free_bytes / 4
    else:
        budget = CPU_CHUNK_FLOATS
    return max(1, min(n_candidates, int(budget // floats)))
