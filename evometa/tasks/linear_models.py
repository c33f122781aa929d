"""Regularised linear models on synthetic data: logistic regression, and robust regression by Huber's loss.

Both are strongly convex, so that each task's optimum is found when it is drawn, by Newton's method in
float64, and what a rule is given is the excess over it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from evometa.layout import Layout
from evometa.tasks.base import Batch, Split, TaskBatch, TaskFamily
from evometa.tasks.options import (
    check_choices,
    check_integer,
    check_integers,
    check_number,
    check_range,
    check_request,
    flaw,
)
from evometa.tasks.sampling import balanced, log_uniform

Kind = Literal["logistic", "huber"]

#: Numbers of features of each split, and by what factor the features' scales differ in it.
DIMS: dict[Split, tuple[int, ...]] = {"meta_train": (4, 8, 16), "meta_valid": (6, 12), "meta_test": (10, 20)}
SCALES: dict[Split, tuple[float, float]] = {
    "meta_train": (1.0, 10.0),
    "meta_valid": (2.0, 20.0),
    "meta_test": (5.0, 50.0),
}

#: Share of the targets that are wrong: labels of the other class, or outliers of OUTLIER standard deviations.
CORRUPTED, OUTLIER = 0.1, 10.0
#: Standard deviation of the targets' ordinary noise in a regression, and where Huber's loss turns linear.
TARGET_NOISE, DELTA = 0.1, 0.2

#: Starts lie at 0.1 to 100 above the optimum. In float32 a loss near 1 is exact to about 1e-7, and so is the
#: excess: a hundred times that is solved.
NOISE_FLOOR = 1e-5

_MOST_NEWTON_STEPS, _MOST_HALVINGS = 100, 40


@dataclass(frozen=True)
class _RowLoss:
    """ℓ(z, y) of a prediction z and target y with its first and second derivative by z, elementwise."""

    value: Callable[[Tensor, Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    curvature: Callable[[Tensor, Tensor], Tensor]


def _logistic_curvature(score: Tensor, label: Tensor) -> Tensor:
    return torch.sigmoid(score) * torch.sigmoid(-score)


def _huber(output: Tensor, target: Tensor) -> Tensor:
    size = (output - target).abs()
    inside = size.clamp(max=DELTA)
    return inside * (size - 0.5 * inside)


#: Labels are −1 and 1. Huber's loss is quadratic within DELTA of the target, linear beyond (Huber 1964).
ROW_LOSSES: dict[str, _RowLoss] = {
    "logistic": _RowLoss(
        value=lambda score, label: F.softplus(-label * score),
        slope=lambda score, label: -label * torch.sigmoid(-label * score),
        curvature=_logistic_curvature,
    ),
    "huber": _RowLoss(
        value=_huber,
        slope=lambda output, target: (output - target).clamp(-DELTA, DELTA),
        curvature=lambda output, target: ((output - target).abs() < DELTA).to(output.dtype),
    ),
}


@dataclass(frozen=True)
class LinearModels(TaskFamily):
    """F(w) = mean ℓ(x·w, y) + (l2/2)·‖w‖² over all rows of a task; its loss is F − min F + NOISE_FLOOR.

    Features are normal, each with a scale of its own: the factor between the largest and the smallest is
    drawn log-uniformly and squared is about the condition number of the Hessian. A tenth of the targets is
    wrong. There is no intercept. The splits differ in the number of features and the spread of their scales.

    Attributes:
        kinds: what to sample from: "logistic" regression, "huber" (robust) regression.
        dims: numbers of features to sample from, for all splits; None: each split's own.
        n_rows: rows of each task; all of them are in every step, so losses are exact.
        scales: range of the factor between features' scales, for all splits; None: each split's own.
        l2: strength of the penalty.
    """

    kinds: tuple[Kind, ...] = ("logistic", "huber")
    dims: tuple[int, ...] | None = None
    n_rows: int = 64
    scales: tuple[float, float] | None = None
    l2: float = 1e-2

    name = "linear_models"
    summary = "logistic and robust (Huber) regression with features of different scales, exact optimum known"

    def __post_init__(self) -> None:
        check_choices(self.name, "kinds", self.kinds, tuple(ROW_LOSSES))
        if self.dims is not None:
            check_integers(self.name, "dims", self.dims, 1)
        check_integer(self.name, "n_rows", self.n_rows, 2)
        if self.scales is not None:
            check_range(self.name, "scales", self.scales)
        check_number(self.name, "l2", self.l2, 0.0, 1e6)

    def sample(self, split: Split, n_tasks: int, generator: torch.Generator) -> list[TaskBatch]:
        """``n_tasks`` tasks, one batch for each pair of kind and number of features drawn."""
        check_request(self.name, split, n_tasks)
        kinds = balanced(self.kinds, n_tasks, generator)
        dims = balanced(self.dims or DIMS[split], n_tasks, generator)
        drawn = list(zip(kinds, dims, strict=True))
        return [self._batch(split, *pair, drawn.count(pair), generator) for pair in sorted(set(drawn))]

    def _batch(
        self, split: Split, kind: Kind, dim: int, n_tasks: int, generator: torch.Generator
    ) -> TaskBatch:
        spread = log_uniform((n_tasks, 1), self.scales or SCALES[split], generator)
        scales = spread ** (torch.rand((n_tasks, dim), generator=generator) - 0.5)
        x = scales.unsqueeze(1) * torch.randn((n_tasks, self.n_rows, dim), generator=generator)
        y = _targets(kind, x / scales.unsqueeze(1), generator)
        _, optimum = minimum(kind, x, y, self.l2)
        return TaskBatch(
            family=self.name,
            description=f"{kind} regression, {dim} features, {self.n_rows} rows",
            n_tasks=n_tasks,
            layout=Layout.of({"w": (dim,)}),
            loss=partial(excess, kind, self.l2),
            init_params=partial(_init_params, n_tasks, dim),
            constants={"x": x, "y": y, "optimum": optimum.float()},
            noise_floor=NOISE_FLOOR,
            loss_and_grad=partial(excess_and_grad, kind, self.l2),
        )


def excess(kind: Kind, l2: float, params: Tensor, batch: Batch) -> Tensor:
    """F − min F + NOISE_FLOOR at ``params`` (N,); x is (rows, N), y (rows,), the optimum ()."""
    rows = ROW_LOSSES[kind].value(batch["x"] @ params, batch["y"])
    return rows.mean() + 0.5 * l2 * params.square().sum() - batch["optimum"] + NOISE_FLOOR


def excess_and_grad(kind: Kind, l2: float, params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """As :func:`excess` for ``params`` (P, T, N), with gradients. Each run's sums are its own."""
    x, y = batch["x"], batch["y"]
    outputs = (x * params.unsqueeze(-2)).sum(-1)
    row = ROW_LOSSES[kind]
    losses = row.value(outputs, y).mean(-1) + 0.5 * l2 * params.square().sum(-1)
    grads = (x * row.slope(outputs, y).unsqueeze(-1)).mean(-2) + l2 * params
    return losses - batch["optimum"] + NOISE_FLOOR, grads


def minimum(kind: Kind, x: Tensor, y: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    """Minimisers (T, N) and minima (T,) of F in float64, for x (T, rows, N) and y (T, rows).

    Newton's method, its step halved until F decreases by Armijo's rule; on Huber's loss, which is piecewise
    quadratic, it ends after finitely many steps (Madsen & Nielsen 1990). Raises TaskError should it not.
    """
    x, y, row = x.double(), y.double(), ROW_LOSSES[kind]
    weights = x.new_zeros((len(x), x.shape[-1]))
    ridge = l2 * torch.eye(x.shape[-1], dtype=x.dtype)

    def objective(weights: Tensor) -> Tensor:
        outputs = (x @ weights.unsqueeze(-1)).squeeze(-1)
        return row.value(outputs, y).mean(-1) + 0.5 * l2 * weights.square().sum(-1)

    for _ in range(_MOST_NEWTON_STEPS):
        outputs = (x @ weights.unsqueeze(-1)).squeeze(-1)
        slope = (x * row.slope(outputs, y).unsqueeze(-1)).mean(-2) + l2 * weights
        curvature = row.curvature(outputs, y).unsqueeze(-1) * x
        step = torch.linalg.solve(x.mT @ curvature / x.shape[1] + ridge, slope)
        decrement = (step * slope).sum(-1)  # of which half is the distance to the minimum, about
        before = objective(weights)
        if bool((decrement <= 1e-14 * (1 + before)).all()):
            return weights, before
        size = torch.ones_like(before)
        for _ in range(_MOST_HALVINGS):
            worse = objective(weights - size.unsqueeze(-1) * step) > before - 1e-4 * size * decrement + 1e-15
            if not bool(worse.any()):
                break
            size = torch.where(worse, size / 2, size)
        weights = weights - size.unsqueeze(-1) * step
    raise flaw("linear_models", f"Newton's method did not find the minimum of a {kind} regression")


def _targets(kind: Kind, x: Tensor, generator: torch.Generator) -> Tensor:
    """Targets (T, rows) of a random linear teacher that sees x (T, rows, N), a tenth of them wrong."""
    n_tasks, n_rows, dim = x.shape
    teacher = torch.randn((n_tasks, dim, 1), generator=generator)
    outputs = (x @ teacher).squeeze(-1) / math.sqrt(dim)
    wrong = torch.rand((n_tasks, n_rows), generator=generator) < CORRUPTED
    noise = torch.randn((n_tasks, n_rows), generator=generator)
    if kind == "huber":
        return outputs + TARGET_NOISE * torch.where(wrong, OUTLIER * noise, noise)
    labels = torch.where(outputs >= 0, 1.0, -1.0)
    return torch.where(wrong, -labels, labels)


def _init_params(n_tasks: int, dim: int, generator: torch.Generator) -> Tensor:
    return torch.randn((n_tasks, dim), generator=generator)
