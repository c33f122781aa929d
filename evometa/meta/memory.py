"""How backpropagation is fitted into memory: groups of tasks, and the way through a segment.

The groups follow from structures alone, whatever memory there is, since what comes out depends on them in its
last digits. The way is chosen by memory, and what comes out does not depend on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from evometa.inner.limit import room, too_large, training_bytes
from evometa.inner.memory import Demand, PartBytes, part_bytes
from evometa.inner.plan import candidates_per_chunk, cut
from evometa.meta.augmentation import Part
from evometa.meta.base import MetaProblem
from evometa.meta.meta_loss import Objective
from evometa.meta.replay import Way
from evometa.rules.learner import Learner

#: What the graph of one group of tasks may take for a candidate, unless a single task takes more. Where there
#: are kernels larger groups are quicker, since they share calls.
GROUP_BYTES = 3 * 2**26


def demand_of(objective: Objective) -> Demand:
    """What the objective asks of memory."""
    return Demand(graph=True, second_order=objective.second_order)


def groups_of(
    learner: Learner, parts: Sequence[Part], n_steps: int, objective: Objective, *, recorded: bool
) -> list[list[Part]]:
    """The tasks of each architecture in groups; graphs of ``n_steps`` steps are gone through one by one.

    ``recorded``: steps are gone through one by one instead, on all tasks at once.
    """
    if recorded:
        return [[part] for part in parts]
    bounds = part_bytes(learner, parts, demand_of(objective), measured=False)
    return [
        [part.of(slice(group.start, group.stop)) for group in cut(part.tasks.n_tasks, _most(bound, n_steps))]
        for part, bound in zip(parts, bounds, strict=True)
    ]


def _most(bound: PartBytes, n_steps: int) -> int:
    return max(1, GROUP_BYTES // (n_steps * bound.graph))


def way_through(
    learner: Learner,
    groups: Sequence[Sequence[Part]],
    n_candidates: int,
    n_steps: int,
    objective: Objective,
    max_bytes: int | None,
    *,
    recorded: bool,
) -> Way:
    """The quickest way on which ``n_candidates`` go through ``groups`` within ``max_bytes``.

    ``recorded``: with recorded steps, for which there is one way.
    Raises MemoryError, one line, where there is none.
    """
    ways = [Way(replays=True, steps_at_once=1, recorded=True)] if recorded else list(_ways(n_steps))
    if max_bytes is None:
        return ways[0]
    parts = [part for own in groups for part in own]
    available = room(max_bytes, parts) // n_candidates
    bounds = _sizes(learner, groups, objective, measured=False)
    if _needed(ways[0], bounds, n_steps, objective) <= available:
        return ways[0]
    sizes = _sizes(learner, groups, objective, measured=True)
    needed = {way: _needed(way, sizes, n_steps, objective) for way in ways}
    for way, n_bytes in needed.items():
        if n_bytes <= available:
            return way
    what = f"a meta-gradient through {n_steps} steps"
    raise too_large(learner, parts[0], what, n_candidates * min(needed.values()), max_bytes)


def _ways(n_steps: int) -> Iterator[Way]:
    """From the quickest to the most frugal."""
    yield Way(replays=False)
    yield Way(replays=True)
    for length in range(-(-n_steps // 2), 0, -1):
        yield Way(replays=True, steps_at_once=length)


def particles_at_once(learner: Learner, parts: Sequence[Part], n_kept: int, max_bytes: int) -> int:
    """How many particles may train on ``parts`` side by side, while ``n_kept`` trainings are kept.

    Raises MemoryError, one line, where there is no room for one.
    """
    for measured in (False, True):
        sizes = part_bytes(learner, parts, Demand(), measured=measured)
        carried = sum(size.n_tasks * size.carried for size in sizes)
        kept = n_kept * carried
        one = training_bytes(sizes)
        if parts[0].params.device.type == "cuda":
            one += carried  # a recorded step works on copies
        if kept + one <= room(max_bytes, parts):
            return (room(max_bytes, parts) - kept) // one
    what = f"a perturbed training beside {n_kept} that are kept"
    raise too_large(learner, parts[0], what, kept + one, max_bytes)


def pieces(problem: MetaProblem, parts: Sequence[Part], n_particles: int, n_kept: int) -> list[Tensor]:
    """Rows of the particles that train at once on ``parts``; particle j of candidate i is row i·n + j.

    ``n_kept`` trainings of a candidate are kept while others run. Raises MemoryError as
    :func:`particles_at_once`.
    """
    n_candidates, learner = problem.cohort.n_candidates, problem.cohort.learner
    n_rows = n_candidates * n_particles
    most = candidates_per_chunk(learner, [part.tasks for part in parts], problem.device, n_rows)
    if problem.max_bytes is not None:
        most = min(most, particles_at_once(learner, parts, n_candidates * n_kept, problem.max_bytes))
    return [torch.tensor(piece, device=problem.device) for piece in cut(n_rows, most)]


_Sizes = list[tuple[int, PartBytes]]


def _sizes(
    learner: Learner, groups: Sequence[Sequence[Part]], objective: Objective, *, measured: bool
) -> _Sizes:
    """Of each architecture the number of tasks, and the bytes of each task of its largest group."""
    largest = [max(own, key=lambda part: part.tasks.n_tasks) for own in groups]
    found = part_bytes(learner, largest, demand_of(objective), measured=measured)
    counts = [sum(part.tasks.n_tasks for part in own) for own in groups]
    return list(zip(counts, found, strict=True))


def _needed(way: Way, sizes: _Sizes, n_steps: int, objective: Objective) -> int:
    """Bytes of one candidate: what all tasks keep, and the most of any architecture on its way besides."""
    # A recording has the training, its cotangents and its end in tensors of its own.
    copies = 5 if way.recorded else 2
    kept = sum(copies * n_tasks * part.carried for n_tasks, part in sizes)
    return kept + max(_besides(way, n_tasks, part, n_steps, objective) for n_tasks, part in sizes)


def _besides(way: Way, n_tasks: int, part: PartBytes, n_steps: int, objective: Objective) -> int:
    at_once = part.n_tasks  # of a group
    if not way.replays:
        with_graph = n_tasks if objective.kind == "log_mean" else at_once
        return with_graph * n_steps * part.graph + at_once * part.backward
    noted = 0 if objective.second_order else n_tasks * n_steps * part.gradient
    length = way.steps_at_once or n_steps
    n_pieces = -(-n_steps // length)
    begins = (n_pieces - 1) * n_tasks * part.carried
    cotangents = part.carried if n_pieces > 1 else 0
    rehearsed = at_once * (part.carried + part.step)
    replayed = at_once * (length * part.graph + part.backward + cotangents)
    return noted + begins + max(rehearsed, replayed)
