"""Evaluate candidates of one structure on requested tasks: sample, plan chunks, unroll, join."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch

from evometa.errors import EvometaError
from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.limit import candidates_in, cut_to_fit, room
from evometa.inner.plan import candidates_per_chunk, cut
from evometa.inner.record import UnrollRecord, concatenate
from evometa.inner.task_set import PreparedTasks, TaskRequest, prepare
from evometa.inner.unroll import unroll
from evometa.rules.learner import Learner
from evometa.tasks.options import described

#: ``(learner, tasks, steps, bytes) → how many candidates fit there``
Fit = Callable[[Learner, Sequence[PreparedTasks], int, int], int]


def chunks(
    candidates: Sequence[Candidate],
    wanted: TaskRequest,
    device: torch.device,
    live_steps: int = 1,
    *,
    max_bytes: int | None = None,
    fit: Fit = candidates_in,
) -> list[list[int]]:
    """Indices of candidates of one structure cut into the chunks that are trained at once.

    No chunk has more candidates than ``fit`` into ``max_bytes``; where that is none it has one, and whoever
    trains it goes about it in another way. So it is where the rule fails when it is measured.
    """
    learner, parts = candidates[0].learner, prepare(wanted, device)
    batches = [prepared.tasks for prepared in parts]
    try:
        most = candidates_per_chunk(learner, batches, device, len(candidates), live_steps)
        if max_bytes is not None and most > 1:
            most = min(most, max(1, fit(learner, parts, wanted.n_steps, room(max_bytes, parts))))
    except EvometaError:
        raise
    except Exception as error:  # a rule of a user's own may raise anything: training it costs its row
        what = f"what memory rule {learner.family!r} takes cannot be measured ({described(error)})"
        warnings.warn(f"{what}; its genomes are trained one at a time", stacklevel=2)
        most = 1
    return [list(chunk) for chunk in cut(len(candidates), most)]


def evaluate(
    candidates: Sequence[Candidate],
    wanted: TaskRequest,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    max_bytes: int | None = None,
) -> UnrollRecord:
    """Train one chunk of candidates of equal structure on the requested tasks.

    The horizon is ``wanted.n_steps - 1`` updates: the last minibatch only measures the trained parameters.
    ``max_bytes`` bounds the memory that this takes: where the tasks of an architecture are too many for it
    they are trained some at a time. Raises MemoryError, one line, where not even one fits.
    """
    cohort = Cohort.of(candidates, device, dtype)
    parts: Sequence[PreparedTasks] = prepare(wanted, device, dtype)
    if max_bytes is not None:
        parts = cut_to_fit(cohort.learner, parts, len(candidates), wanted.n_steps, max_bytes)
    horizon = wanted.n_steps - 1
    records = [unroll(cohort, part.tasks, part.params, part.indices, horizon) for part in parts]
    return concatenate(records)
