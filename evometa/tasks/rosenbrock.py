"""Rosenbrock's curved valley in n dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from evometa.layout import Layout
from evometa.tasks.base import Batch, Split, TaskBatch, TaskFamily
from evometa.tasks.options import check_integers, check_range, check_request
from evometa.tasks.sampling import balanced, log_uniform

#: Dimensions and range of b of each split; b = 100 is the textbook's function.
DIMS: dict[Split, tuple[int, ...]] = {"meta_train": (2, 4, 8), "meta_valid": (3, 6), "meta_test": (5, 10)}
B_RANGES: dict[Split, tuple[float, float]] = {
    "meta_train": (1.0, 30.0),
    "meta_valid": (5.0, 60.0),
    "meta_test": (10.0, 100.0),
}

#: The starts lie at 1 to 10⁵ and the minimum is 0: a millionth is solved, and well above float32's rounding.
NOISE_FLOOR = 1e-6

#: Starts are uniform in [−START, START] in every coordinate, on both sides of the valley.
START = 2.0


@dataclass(frozen=True)
class Rosenbrock(TaskFamily):
    """f(x) = Σᵢ b(xᵢ₊₁ − xᵢ² + a² − a)² + (a − xᵢ)², with a uniform and b log-uniform (Rosenbrock 1960).

    For a = 1 it is the textbook's function. The shift a² − a keeps the minimum at (a, …, a) with value 0
    for every a and dimension; without it f* would depend on a beyond two dimensions. The splits differ in
    dimension and in the range of b, the steepness of the valley's walls.

    Attributes:
        dims: dimensions to sample from, for all splits; None: each split's own.
        a_range: range of a.
        b_range: range of b, for all splits; None: each split's own.
    """

    dims: tuple[int, ...] | None = None
    a_range: tuple[float, float] = (0.5, 1.5)
    b_range: tuple[float, float] | None = None

    name = "rosenbrock"
    summary = "Rosenbrock's curved valley in 2 to 10 dimensions, with sampled start, floor and steepness"

    def __post_init__(self) -> None:
        check_range(self.name, "a_range", self.a_range)
        if self.dims is not None:
            check_integers(self.name, "dims", self.dims, 2)
        if self.b_range is not None:
            check_range(self.name, "b_range", self.b_range)

    def sample(self, split: Split, n_tasks: int, generator: torch.Generator) -> list[TaskBatch]:
        """``n_tasks`` tasks, one batch a dimension, the tasks spread evenly over the dimensions."""
        check_request(self.name, split, n_tasks)
        drawn = balanced(self.dims or DIMS[split], n_tasks, generator)
        return [self._batch(split, dim, drawn.count(dim), generator) for dim in sorted(set(drawn))]

    def _batch(self, split: Split, dim: int, n_tasks: int, generator: torch.Generator) -> TaskBatch:
        a_low, a_high = self.a_range
        constants = {
            "a": a_low + (a_high - a_low) * torch.rand(n_tasks, generator=generator),
            "b": log_uniform((n_tasks,), self.b_range or B_RANGES[split], generator),
        }
        return TaskBatch(
            family=self.name,
            description=f"Rosenbrock in {dim} dimensions",
            n_tasks=n_tasks,
            layout=Layout.of({"x": (dim,)}),
            loss=rosenbrock_loss,
            init_params=partial(_init_params, n_tasks, dim),
            constants=constants,
            noise_floor=NOISE_FLOOR,
        )


def rosenbrock_loss(params: Tensor, batch: Batch) -> Tensor:
    """Rosenbrock's function at ``params`` (N,) with coefficients a and b, both ()."""
    a, b = batch["a"], batch["b"]
    head, tail = params[:-1], params[1:]
    return (b * (tail - head.square() + a * a - a).square() + (a - head).square()).sum()


def _init_params(n_tasks: int, dim: int, generator: torch.Generator) -> Tensor:
    return START * (2 * torch.rand((n_tasks, dim), generator=generator) - 1)
