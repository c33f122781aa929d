"""Rastrigin's function: a bowl covered with local minima."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from evometa.layout import Layout
from evometa.tasks.base import Batch, Split, TaskBatch, TaskFamily
from evometa.tasks.options import check_integers, check_range, check_request
from evometa.tasks.sampling import balanced, log_uniform

#: Dimensions and range of a of each split; a = 10 is the textbook's function.
DIMS: dict[Split, tuple[int, ...]] = {"meta_train": (2, 4, 8), "meta_valid": (3, 6), "meta_test": (5, 10)}
A_RANGES: dict[Split, tuple[float, float]] = {
    "meta_train": (0.5, 5.0),
    "meta_valid": (1.0, 8.0),
    "meta_test": (2.0, 10.0),
}

#: The starts lie at 1 to 10³ and the minimum is 0: a millionth is solved, and above float32's rounding.
NOISE_FLOOR = 1e-6

#: Minima are uniform in [−1, 1] in every coordinate, starts in the textbook's [−5.12, 5.12].
SHIFT, START = 1.0, 5.12


@dataclass(frozen=True)
class Rastrigin(TaskFamily):
    """f(x) = Σᵢ zᵢ² + a(1 − cos 2πzᵢ) with z = x − s, s uniform and a log-uniform (Rastrigin 1974).

    The minimum is 0 at s for every a and dimension. In each coordinate there is a local minimum near every
    whole z below about πa; what a rule is measured by is how deep a basin it ends in. The splits differ in
    dimension and in the range of a, which is half the height of the waves.

    Attributes:
        dims: dimensions to sample from, for all splits; None: each split's own.
        a_range: range of a, for all splits; None: each split's own.
    """

    dims: tuple[int, ...] | None = None
    a_range: tuple[float, float] | None = None

    name = "rastrigin"
    summary = "Rastrigin's bowl with waves in 2 to 10 dimensions, with sampled minimum, start and waves"

    def __post_init__(self) -> None:
        if self.dims is not None:
            check_integers(self.name, "dims", self.dims, 1)
        if self.a_range is not None:
            check_range(self.name, "a_range", self.a_range)

    def sample(self, split: Split, n_tasks: int, generator: torch.Generator) -> list[TaskBatch]:
        """``n_tasks`` tasks, one batch a dimension, the tasks spread evenly over the dimensions."""
        check_request(self.name, split, n_tasks)
        drawn = balanced(self.dims or DIMS[split], n_tasks, generator)
        return [self._batch(split, dim, drawn.count(dim), generator) for dim in sorted(set(drawn))]

    def _batch(self, split: Split, dim: int, n_tasks: int, generator: torch.Generator) -> TaskBatch:
        constants = {
            "a": log_uniform((n_tasks,), self.a_range or A_RANGES[split], generator),
            "minimum": SHIFT * (2 * torch.rand((n_tasks, dim), generator=generator) - 1),
        }
        return TaskBatch(
            family=self.name,
            description=f"Rastrigin in {dim} dimensions",
            n_tasks=n_tasks,
            layout=Layout.of({"x": (dim,)}),
            loss=rastrigin_loss,
            init_params=partial(_init_params, n_tasks, dim),
            constants=constants,
            noise_floor=NOISE_FLOOR,
            loss_and_grad=rastrigin_loss_and_grad,
        )


def rastrigin_loss(params: Tensor, batch: Batch) -> Tensor:
    """Rastrigin's function at ``params`` (N,) with a () and its minimum (N,).

    Written with 1 − cos 2πz = 2 sin² πz, which keeps its digits near the minima.
    """
    distance = params - batch["minimum"]
    return (distance.square() + 2 * batch["a"] * torch.sin(math.pi * distance).square()).sum()


def rastrigin_loss_and_grad(params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Losses (P, T) and gradients 2z + 2πa·sin 2πz (P, T, N) at ``params`` (P, T, N)."""
    distance, a = params - batch["minimum"], batch["a"].unsqueeze(-1)
    losses = (distance.square() + 2 * a * torch.sin(math.pi * distance).square()).sum(-1)
    return losses, 2 * distance + 2 * math.pi * a * torch.sin(2 * math.pi * distance)


def _init_params(n_tasks: int, dim: int, generator: torch.Generator) -> Tensor:
    return START * (2 * torch.rand((n_tasks, dim), generator=generator) - 1)
