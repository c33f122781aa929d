"""Tuned hand-designed rules: the yardstick that objectives and figures compare with.

A rule's learning rate is tuned over a quarter-decade grid on tasks of the same family that nothing else
uses (a seed stream of its own), by the criterion that objectives use: the geometric mean over tasks of the
final loss. A winner at the grid's edge moves the grid, so that no baseline is handicapped by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from evometa.genome.space import Genes
from evometa.inner.cohort import Candidate
from evometa.inner.evaluate import chunks, evaluate
from evometa.inner.record import Status, UnrollRecord
from evometa.inner.task_set import TaskRequest
from evometa.rules.learner_structure import learner_space
from evometa.rules.registry import RULES

#: Ratio of neighbouring learning rates on the grid.
QUARTER_DECADE = 10.0**0.25
#: Where the middle of each grid lies; rules without a second moment need larger steps.
_CENTRE = 10.0**-1.75
_DEFAULT_GENES: Genes = {}
#: A run that diverged counts as this many times its initial loss.
_DIVERGED = 1e3


@dataclass(frozen=True)
class TunedBaseline:
    """A rule's tuned learning rate.

    Attributes:
        rule: name of the hand-designed rule; its other genes have their defaults.
        lr: the best learning rate.
        grid: every learning rate tried, ascending.
        scores: geometric-mean final loss at each of ``grid``, relative to the initial loss.
    """

    rule: str
    lr: float
    grid: tuple[float, ...]
    scores: tuple[float, ...]

    def candidate(self) -> Candidate:
        """The tuned rule, ready to be evaluated."""
        return baseline_candidate(self.rule, self.lr)


def baseline_candidate(rule: str, lr: float, genes: Genes = _DEFAULT_GENES) -> Candidate:
    """Rule ``rule`` at learning rate ``lr``, with ``genes``, else defaults and a constant schedule."""
    complete = learner_space(RULES[rule]).complete({"schedule": "constant", **genes, "lr": lr})
    return Candidate(f"baseline-{rule}", rule, complete, {})


def tune(
    rule: str,
    wanted: TaskRequest,
    n_points: int,
    device: torch.device,
    *,
    genes: Genes = _DEFAULT_GENES,
    criterion: Callable[[UnrollRecord], list[float]] | None = None,
    ratio: float = QUARTER_DECADE,
    max_bytes: int | None = None,
) -> TunedBaseline:
    """Tune ``rule``'s learning rate on the tasks of ``wanted`` over at least ``n_points`` grid points.

    ``genes`` sets others of its genes; ``criterion`` gives each candidate of a record a score to minimise,
    by default :func:`relative_scores`. Of equal scores the smaller rate wins. ``ratio`` is that of neighbours
    on the grid. ``max_bytes`` bounds the memory that this takes.
    """
    judge = criterion or relative_scores
    gene = learner_space(RULES[rule])["lr"]
    low, high = float(gene.low), float(gene.high)  # type: ignore[attr-defined]
    first = -(n_points // 2)
    exponents = list(range(first, first + n_points))
    scores: dict[int, float] = {}

    def rate(exponent: int) -> float:
        return _CENTRE * math.pow(ratio, exponent)

    def measured(rates: list[float]) -> list[float]:
        candidates = [baseline_candidate(rule, rate, genes) for rate in rates]
        cut = chunks(candidates, wanted, device, max_bytes=max_bytes) if candidates else []
        records = (
            evaluate([candidates[i] for i in chunk], wanted, device, max_bytes=max_bytes) for chunk in cut
        )
        return [score for record in records for score in judge(record)]

    while True:
        fresh = [e for e in exponents if e not in scores and low <= rate(e) <= high]
        scores.update(zip(fresh, measured([rate(e) for e in fresh]), strict=True))
        best = min(scores, key=lambda e: (scores[e], e))
        wider = {min(scores): best - 2, max(scores): best + 2}.get(best)
        if wider is None or not low <= rate(wider) <= high:
            break
        exponents = list(range(min(best, wider), max(best, wider) + 1))
    order = sorted(scores)
    return TunedBaseline(rule, rate(best), tuple(map(rate, order)), tuple(scores[e] for e in order))


def relative_scores(record: UnrollRecord) -> list[float]:
    """Per candidate the geometric mean over tasks of final over initial loss, floored at the noise floor."""
    floor = record.noise_floor
    initial = np.maximum(record.losses[:, :, 0], floor)
    with np.errstate(invalid="ignore"):
        final = np.maximum(record.final_losses, floor) / initial
    ratio = np.where(record.status == Status.COMPLETE.value, np.minimum(final, _DIVERGED), _DIVERGED)
    return [math.exp(row) for row in np.log(ratio).mean(axis=1)]


def baseline_to_json(baseline: TunedBaseline) -> dict[str, object]:
    """Plain data for a cache or a database."""
    return {
        "rule": baseline.rule,
        "lr": baseline.lr,
        "grid": list(baseline.grid),
        "scores": list(baseline.scores),
    }


def baseline_from_json(document: object) -> TunedBaseline:
    """The inverse of :func:`baseline_to_json`. Raises ValueError for anything else."""
    if not isinstance(document, Mapping):
        raise ValueError(f"a tuned baseline is a table, not {type(document).__name__}")
    rule, lr = document.get("rule"), document.get("lr")
    grid, scores = _numbers(document.get("grid")), _numbers(document.get("scores"))
    if not isinstance(rule, str) or not isinstance(lr, float) or lr not in grid or len(scores) != len(grid):
        raise ValueError("a tuned baseline has a rule, a grid of rates, a score for each, and the best as lr")
    return TunedBaseline(rule, lr, grid, scores)


def _numbers(value: object) -> tuple[float, ...]:
    if not isinstance(value, list) or not all(isinstance(item, float) for item in value):
        raise ValueError(f"expected a list of numbers, got {value!r}")
    return tuple(value)
