"""Evaluate candidates of one structure on requested tasks: sample, plan chunks, unroll, join."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.plan import candidates_per_chunk
from evometa.inner.record import UnrollRecord, concatenate
from evometa.inner.task_set import TaskRequest, prepare
from evometa.inner.unroll import unroll


def chunks(
    candidates: Sequence[Candidate], wanted: TaskRequest, device: torch.device, live_steps: int = 1
) -> list[list[int]]:
    """Indices of candidates of one structure cut into the chunks that are trained at once."""
    batches = [prepared.tasks for prepared in prepare(wanted, device)]
    size = candidates_per_chunk(candidates[0].learner, batches, device, len(candidates), live_steps)
    indices = list(range(len(candidates)))
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def evaluate(
    candidates: Sequence[Candidate],
    wanted: TaskRequest,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> UnrollRecord:
    """Train one chunk of candidates of equal structure on the requested tasks.

    The horizon is ``wanted.n_steps - 1`` updates: the last minibatch only measures the trained parameters.
    """
    cohort = Cohort.of(candidates, device, dtype)
    horizon = wanted.n_steps - 1
    records = [
        unroll(cohort, part.tasks, part.params, part.indices, horizon)
        for part in prepare(wanted, device, dtype)
    ]
    return concatenate(records)


def split_by_candidate(record: UnrollRecord) -> list[UnrollRecord]:
    """One record a candidate, each with P = 1."""
    return [
        UnrollRecord(
            losses=record.losses[i : i + 1],
            valid_losses=record.valid_losses[i : i + 1],
            status=np.asarray(record.status[i : i + 1]),
            final_window=record.final_window,
            noise_floor=record.noise_floor,
            descriptions=record.descriptions,
            family=record.family,
        )
        for i in range(record.losses.shape[0])
    ]
