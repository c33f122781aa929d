"""Fitting inner training into a limit of memory: how many candidates at once, and how many of their tasks.

What a candidate gets does not depend on it, but for the last digits where PyTorch alone serves a rule.
"""

from __future__ import annotations

from collections.abc import Sequence

from evometa.inner.memory import Demand, PartBytes, part_bytes
from evometa.inner.plan import cut
from evometa.inner.task_set import REMEMBERED_BYTES, PreparedTasks, held_bytes
from evometa.rules.learner import Learner

#: Share of a limit that is planned with: allocators leave gaps, and operations need room inside.
PLANNED_SHARE = 0.75
#: What recording one loss takes at most: on the device, as a float64 on the CPU, and in copies of that.
_RECORD_BYTES = 32


def training_bytes(parts: Sequence[PartBytes]) -> int:
    """What one candidate takes in training on all tasks without a graph, one architecture after the other.

    The state that a training begins with is alive beside the one that it has reached.
    """
    carried = sum(part.n_tasks * part.carried for part in parts)
    return carried + max(part.n_tasks * (part.carried + part.step) for part in parts)


def room(max_bytes: int, parts: Sequence[PreparedTasks]) -> int:
    """Bytes of a limit that training on ``parts`` may plan with: what gaps and the tasks themselves leave."""
    return int(PLANNED_SHARE * max_bytes) - max(held_bytes(parts), REMEMBERED_BYTES)


def too_large(learner: Learner, part: PreparedTasks, what: str, needed: int, max_bytes: int) -> MemoryError:
    """The error that ends a candidate for which there is no way within the limit."""
    return MemoryError(
        f"{what} of {learner.family!r} on {part.tasks.description} takes about {megabytes(needed)} "
        f"besides the tasks, and may have {megabytes(max_bytes)} with them and with gaps: raise "
        "execution.max_memory_bytes or run fewer workers"
    )


def megabytes(n_bytes: int) -> str:
    """For reading, ``"1,234 MB"``."""
    return f"{-(-n_bytes // 10**6):,} MB"


def candidates_in(learner: Learner, parts: Sequence[PreparedTasks], n_steps: int, n_bytes: int) -> int:
    """How many candidates can be trained on ``parts`` for ``n_steps`` and recorded within ``n_bytes``.

    An upper bound tells in most cases; where it leaves no room for one candidate, it is measured.
    """
    recorded = _recorded(sum(part.tasks.n_tasks for part in parts), n_steps)

    def most(*, measured: bool) -> int:
        sizes = part_bytes(learner, parts, Demand(), measured=measured)
        return max(0, n_bytes // (training_bytes(sizes) + recorded))

    return most(measured=False) or most(measured=True)


def cut_to_fit(
    learner: Learner, parts: Sequence[PreparedTasks], n_candidates: int, n_steps: int, max_bytes: int
) -> list[PreparedTasks]:
    """``parts``, those cut up on which ``n_candidates`` cannot be trained within ``max_bytes``.

    Raises MemoryError, one line, where not even one task fits.
    """
    n_bytes = room(max_bytes, parts)
    if candidates_in(learner, parts, n_steps, n_bytes) >= n_candidates:
        return list(parts)
    n_bytes -= n_candidates * _recorded(sum(part.tasks.n_tasks for part in parts), n_steps)
    pieces = []
    for part, size in zip(parts, part_bytes(learner, parts, Demand(), measured=True), strict=True):
        one = n_candidates * (2 * size.carried + size.step)
        if one > n_bytes:
            raise too_large(learner, part, "training on one task", one, max_bytes)
        pieces += [part.of(slice(tasks.start, tasks.stop)) for tasks in cut(size.n_tasks, n_bytes // one)]
    return pieces


def _recorded(n_tasks: int, n_steps: int) -> int:
    return n_tasks * n_steps * _RECORD_BYTES
