"""Regression of sinusoids from a few points, the first test of few-shot learning (Finn et al. 2017, 5.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from evometa.tasks.architectures import Architecture
from evometa.tasks.base import Split, TaskBatch, TaskFamily
from evometa.tasks.few_shot import check_network, rows_of_tasks
from evometa.tasks.options import check_integer, check_request

#: Ranges of amplitude, phase and input.
AMPLITUDES, PHASES, INPUTS = (0.1, 5.0), (0.0, math.pi), (-5.0, 5.0)
#: Query points in splits that are only measured on: with more of them a task's held-out loss is told more
#: precisely, and nothing else changes.
EVALUATION_QUERIES = 100
#: A thousandth of the mean square of the targets is as good as the curve itself.
NOISE_FLOOR = 4e-3


@dataclass(frozen=True)
class Sinusoid(TaskFamily):
    """y = A·sin(x − φ), A ~ U(0.1, 5), φ ~ U(0, π), x ~ U(−5, 5), by a perceptron; mean squared error.

    A task trains on its support set, all of it in every step, and holds its query set out. The splits share
    one distribution. Predicting 0 costs 4.254 on average, the best predictor that knows no task 3.005.

    Attributes:
        shots: points of a support set.
        queries: points of a query set; None: as many as shots in meta_train, 100 in the other splits.
        width, depth: hidden units a layer, and hidden layers.
        activation, init: of the network.
    """

    shots: int = 10
    queries: int | None = None
    width: int = 40
    depth: int = 2
    activation: str = "relu"
    init: str = "torch"

    name = "sinusoid"
    summary = "few-shot regression: sinusoids of random amplitude and phase, from a few points each"

    def __post_init__(self) -> None:
        check_integer(self.name, "shots", self.shots, 1)
        if self.queries is not None:
            check_integer(self.name, "queries", self.queries, 1)
        check_network(self.name, self.width, self.depth, self.activation, self.init)

    def sample(self, split: Split, n_tasks: int, generator: torch.Generator) -> list[TaskBatch]:
        """One batch of ``n_tasks`` curves."""
        check_request(self.name, split, n_tasks)
        few = self.shots if split == "meta_train" else EVALUATION_QUERIES
        n_queries = few if self.queries is None else self.queries
        amplitude, phase = (_uniform((n_tasks, 1), *ends, generator) for ends in (AMPLITUDES, PHASES))
        x = _uniform((n_tasks, self.shots + n_queries), *INPUTS, generator)
        y = amplitude * torch.sin(x - phase)
        model = Architecture(self.width, self.depth, self.activation, self.init).model(1, 1, "value")
        support, query = rows_of_tasks(n_tasks, self.shots, n_queries)
        batch = TaskBatch(
            family=self.name,
            description=f"sinusoid {self.shots}-shot {model.description}",
            n_tasks=n_tasks,
            layout=model.layout,
            loss=model.loss,
            init_params=partial(model.init_params, n_tasks),
            rows={"x": x.reshape(-1, 1), "y": y.reshape(-1)},
            train_rows=support,
            valid_rows=query,
            batch_size=self.shots,
            noise_floor=NOISE_FLOOR,
            loss_and_grad=model.loss_and_grad,
            for_kernels=model.for_kernels,
        )
        return [batch]


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)
