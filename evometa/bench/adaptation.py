"""How well models do on held-out rows after a few steps: what few-shot learning is measured by.

All entrants train on the same tasks and rows, as their exported optimizers would: schedules run over the
steps that a genome was evolved for, and where its steps are learned those beyond are held back. An entrant
with a learned initialisation begins there, any other from the params that tasks draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evometa.bench.compare import Rival
from evometa.bench.statistics import Estimate, estimate, mean
from evometa.config import TaskSource
from evometa.errors import TaskError
from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.record import UnrollRecord
from evometa.inner.task_set import PreparedTasks, TaskRequest, prepare, request
from evometa.inner.unroll import UnrollState, advance, begin, loss_and_grad, valid_losses
from evometa.objectives.baseline import baseline_candidate, tune
from evometa.process import one_thread
from evometa.rng import derive_seed, numpy_generator
from evometa.tasks.base import Split

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Entrant:
    """What adapts: ``horizon`` is the number of steps that it was made for; None for any."""

    label: str
    candidate: Candidate
    horizon: int | None


@dataclass(frozen=True)
class Adapted:
    """An entrant after some steps.

    Attributes:
        label: the entrant's.
        steps: updates made.
        loss: mean over tasks of the training loss on held-out rows, with its 95 % bootstrap interval.
        measure: likewise of what the family measures there, such as the share of rows named wrong; None where
            that is the loss.
        difference: of the measure, or else of the loss, to the first entrant's, task by task; None for that.
        n_lost: tasks on which it diverged; they count as before the first step.
    """

    label: str
    steps: int
    loss: Estimate
    measure: Estimate | None
    difference: Estimate | None
    n_lost: int


def adapt(
    entrants: Sequence[Entrant],
    source: TaskSource,
    steps: Sequence[int],
    *,
    split: Split,
    n_tasks: int,
    seed: int,
    device: torch.device,
) -> list[Adapted]:
    """Each of ``entrants`` after each of ``steps`` (0 for none) on ``n_tasks`` tasks of ``split``.

    Raises TaskError for tasks that hold no rows out.
    """
    stream = derive_seed(seed, "adapt", "held out")
    wanted = request(source.use, source.options, split, n_tasks, max(steps) + 1, stream)
    found: list[Adapted] = []
    first: FloatArray | None = None
    for entrant in entrants:
        losses, measures = _held_out(entrant, wanted, steps, device)
        n_lost = (~np.isfinite(losses)).sum(axis=1)
        losses, measures = _finite(losses), None if measures is None else _finite(measures)
        compared = losses if measures is None else measures
        for row, n_steps in enumerate(steps):
            found.append(
                Adapted(
                    entrant.label,
                    n_steps,
                    _mean(losses[row], seed),
                    None if measures is None else _mean(measures[row], seed),
                    None if first is None else _mean(compared[row] - first[row], seed),
                    int(n_lost[row]),
                )
            )
        first = compared if first is None else first
    return found


def tuned(
    rival: Rival,
    source: TaskSource,
    n_steps: int,
    *,
    n_tasks: int,
    n_points: int,
    seed: int,
    device: torch.device,
) -> Entrant:
    """A hand-designed rule at the learning rate that does best on held-out rows of meta_train tasks."""
    stream = derive_seed(seed, "adapt", "tuning")
    wanted = request(source.use, source.options, "meta_train", n_tasks, n_steps + 1, stream)
    found = tune(rival.rule, wanted, n_points, device, genes=rival.genes, criterion=_held_out_scores)
    label = f"{rival.label} (lr {found.lr:.3g})"
    return Entrant(label, baseline_candidate(rival.rule, found.lr, rival.genes), None)


def _held_out_scores(record: UnrollRecord) -> list[float]:
    """Per candidate the mean over tasks of what is measured on held-out rows; infinite where it is lost."""
    held_out = record.valid_losses
    return [float(row.mean()) for row in np.where(np.isfinite(held_out), held_out, np.inf)]


@torch.no_grad()
def _held_out(
    entrant: Entrant, wanted: TaskRequest, steps: Sequence[int], device: torch.device
) -> tuple[FloatArray, FloatArray | None]:
    """Held-out losses ``(len(steps), T)``, and what the family measures there."""
    cohort = Cohort.of([entrant.candidate], device)
    planned = entrant.horizon or max(1, max(steps))
    with one_thread():
        parts = [_part(cohort, part, steps, planned) for part in prepare(wanted, device)]
    losses = np.concatenate([own for own, _ in parts], axis=1)
    if any(measures is None for _, measures in parts):
        return losses, None
    return losses, np.concatenate([measures for _, measures in parts if measures is not None], axis=1)


def _part(
    cohort: Cohort, part: PreparedTasks, steps: Sequence[int], planned: int
) -> tuple[FloatArray, FloatArray | None]:
    tasks = part.tasks
    if tasks.valid_rows is None:
        raise TaskError(f"tasks {tasks.family!r} hold no rows out of training: there is nothing to adapt to")
    plain = replace(tasks, valid_loss=None)
    losses: dict[int, FloatArray] = {}
    measures: dict[int, FloatArray] = {}
    carry = begin(cohort, tasks.layout, part.params, tasks.gradient_delay)
    for k in range(max(steps) + 1):
        if k in steps:
            losses[k] = _numbers(valid_losses(plain, carry.params))
            if tasks.valid_loss is not None:
                measures[k] = _numbers(valid_losses(tasks, carry.params))
        if k < max(steps):
            carry = _advanced(cohort, part, carry, planned)
    rows = np.stack([losses[k] for k in steps])
    return rows, np.stack([measures[k] for k in steps]) if measures else None


def _advanced(cohort: Cohort, part: PreparedTasks, carry: UnrollState, planned: int) -> UnrollState:
    """One step, held back beyond the planned ones as the exported optimizer's is."""
    rows = None if part.indices is None else part.indices[:, carry.step]
    losses, grads = loss_and_grad(part.tasks, carry.params, part.tasks.batch(rows))
    after = advance(cohort, part.tasks.layout, carry, losses, grads, planned)
    guard = cohort.learner.guard(carry.step, planned)
    if guard == 1.0:
        return after
    return replace(after, params=carry.params + guard * (after.params - carry.params))


def _numbers(losses: Tensor) -> FloatArray:
    return np.asarray(losses[0].double().cpu().numpy())


def _finite(values: FloatArray) -> FloatArray:
    """``values (S, T)`` with the first row's in place of those that are not finite."""
    return np.where(np.isfinite(values), values, values[:1])


def _mean(values: FloatArray, seed: int) -> Estimate:
    """Of one value a task; to the bootstrap the tasks are the repetitions of a single one."""
    if np.ptp(values) == 0:
        return Estimate(float(values[0]), float(values[0]), float(values[0]))
    return estimate(mean, values[None], rng=numpy_generator(seed, "adapt", "bootstrap"))
