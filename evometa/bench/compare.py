"""An evolved genome against a tuned hand-designed rule, paired on the same held-out tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from evometa.bench.statistics import estimate, mean
from evometa.config import TaskSource
from evometa.errors import TaskError
from evometa.genome.genes import Value
from evometa.inner.cohort import Candidate
from evometa.inner.evaluate import evaluate
from evometa.inner.record import UnrollRecord
from evometa.inner.task_set import TaskRequest, request
from evometa.objectives.baseline import baseline_candidate, tune
from evometa.rng import derive_seed, numpy_generator
from evometa.tasks.base import Split
from evometa.tasks.registry import metric_of

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rival:
    """A hand-designed rule to compare with: its name, and its genes that are not at their defaults."""

    rule: str
    genes: Mapping[str, Value]

    @property
    def label(self) -> str:
        """How it is named on the command line."""
        return ":".join([self.rule, *(f"{name}={value}" for name, value in self.genes.items())])


@dataclass(frozen=True)
class Comparison:
    """Final losses of a genome and of a rival on the same tasks.

    Attributes:
        rival: label of the rival.
        learning_rate: the rival's, tuned on separate tasks for the smallest mean final loss.
        n_tasks: held-out tasks.
        genome_mean, rival_mean, genome_median, rival_median: of the final losses.
        difference: mean of genome minus rival, task by task; negative where the genome is better.
        interval: 95 % bootstrap interval of ``difference`` over tasks (percentile, 10,000 resamples).
        wins: share of tasks on which the genome ends lower.
        wins_interval: its 95 % interval (Wilson 1927).
        n_lost: the genome's runs that diverged; they count with their initial loss.
        metric: title of the unit that the family tells its losses in; None for most.
        genome_metric, rival_metric: means of the final losses in that unit; None without.
    """

    rival: str
    learning_rate: float
    n_tasks: int
    genome_mean: float
    rival_mean: float
    genome_median: float
    rival_median: float
    difference: float
    interval: tuple[float, float]
    wins: float
    wins_interval: tuple[float, float]
    n_lost: int
    metric: str | None = None
    genome_metric: float | None = None
    rival_metric: float | None = None

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``undecided``: whether the interval lies on one side of zero."""
        low, high = self.interval
        return "better" if high < 0 else "worse" if low > 0 else "undecided"


def compare(
    candidate: Candidate,
    rival: Rival,
    source: TaskSource,
    *,
    split: Split,
    n_tasks: int,
    n_points: int,
    seed: int,
    device: torch.device,
    per_decade: int = 4,
) -> Comparison:
    """Train both on ``n_tasks`` tasks of ``split`` and compare their final losses.

    The rival's learning rate is tuned over ``n_points`` values, so many in a decade, on as many meta_train
    tasks.
    """

    def tasks(of: Split, purpose: str) -> TaskRequest:
        stream = derive_seed(seed, "compare", purpose)
        return request(source.use, source.options, of, n_tasks, source.horizon + 1, stream)

    tuned = tune(
        rival.rule,
        tasks("meta_train", "tuning"),
        n_points,
        device,
        genes=rival.genes,
        criterion=mean_scores,
        ratio=math.pow(10.0, 1 / per_decade),
    )
    held_out = tasks(split, "held out")
    mine = evaluate([candidate], held_out, device)
    theirs = evaluate([baseline_candidate(rival.rule, tuned.lr, rival.genes)], held_out, device)
    a, b = _finals(mine)[0], _finals(theirs)[0]
    metric = metric_of(mine.family)
    return Comparison(
        rival=rival.label,
        learning_rate=tuned.lr,
        n_tasks=n_tasks,
        genome_mean=float(a.mean()),
        rival_mean=float(b.mean()),
        genome_median=float(np.median(a)),
        rival_median=float(np.median(b)),
        difference=float((a - b).mean()),
        interval=_interval(a - b, seed),
        wins=float((a < b).mean()),
        wins_interval=_share_interval(int((a < b).sum()), n_tasks),
        n_lost=int((mine.status[0] != "complete").sum()),
        metric=metric.title if metric else None,
        genome_metric=float(metric.of(a).mean()) if metric else None,
        rival_metric=float(metric.of(b).mean()) if metric else None,
    )


def mean_scores(record: UnrollRecord) -> list[float]:
    """Per candidate the mean final loss over tasks, a lost run counted with its initial loss."""
    return [float(row.mean()) for row in _finals(record)]


def _finals(record: UnrollRecord) -> FloatArray:
    """Final losses ``(P, T)``; a run that diverged counts with its initial loss.

    Raises TaskError where that is not finite either.
    """
    finals = np.where(np.isfinite(record.final_losses), record.final_losses, record.losses[:, :, 0])
    if not np.isfinite(finals).all():
        lost = int((~np.isfinite(finals)).any(axis=0).sum())
        raise TaskError(
            f"{lost} of {finals.shape[1]} {record.family} tasks: the loss is not finite before the first "
            "step; there is nothing to compare until the tasks are mended"
        )
    return finals


def _interval(differences: FloatArray, seed: int) -> tuple[float, float]:
    """Of their mean, over tasks: to the bootstrap the tasks are the repetitions of a single one."""
    if np.ptp(differences) == 0:
        return float(differences[0]), float(differences[0])
    found = estimate(mean, differences[None], rng=numpy_generator(seed, "compare", "bootstrap"))
    return found.low, found.high


def _share_interval(n: int, of: int) -> tuple[float, float]:
    """Wilson's, which says something also where all or none of the tasks were won."""
    found = stats.binomtest(n, of).proportion_ci(method="wilson")
    return float(found.low), float(found.high)
