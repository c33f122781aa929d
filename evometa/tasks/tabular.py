"""Perceptrons on scikit-learn's small tables: three classifications and one regression."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evometa.native.tasks import Target
from evometa.tasks.architectures import Architecture, Architectures, check_architectures, deal
from evometa.tasks.base import Split, TaskBatch, TaskFamily
from evometa.tasks.options import check_choices, check_integer, check_number, check_request
from evometa.tasks.pools import Pool, split_rows
from evometa.tasks.sampling import balanced

#: What each data set asks for.
DATASETS: dict[str, Target] = {
    "breast_cancer": "class",
    "wine": "class",
    "iris": "class",
    "diabetes": "value",
}

#: What each split samples from where the options leave it open; no width belongs to two splits.
ARCHITECTURES: dict[Split, Architectures] = {
    "meta_train": Architectures(
        (8, 16), (1, 2), ("relu", "tanh", "gelu"), ("kaiming", "xavier", "normal(0.1)")
    ),
    "meta_valid": Architectures((12,), (1, 2), ("relu", "elu"), ("kaiming", "xavier")),
    "meta_test": Architectures((10, 20), (1, 2, 3), ("relu", "tanh", "silu"), ("kaiming", "xavier")),
}

VALID_SHARE = 0.25

#: 1e-3 nats is the right class at 99.9%; of a standardised target it is a thousandth of its variance. Below
#: either, a model of a few dozen rows has memorised them and differences are noise.
NOISE_FLOOR = 1e-3


@dataclass(frozen=True)
class Tabular(TaskFamily):
    """Classify or regress a small table with a perceptron or (depth 0) a linear model.

    Each split has a third of every table to itself. Features, and the target of a regression, are
    standardised by the mean and standard deviation of that third's train rows.

    Attributes:
        datasets: tables to sample from: "breast_cancer", "wine", "iris" (mean cross-entropy in nats),
            "diabetes" (mean squared error in variances of the target).
        widths: hidden units a layer to sample from, for all splits; None: each split's own.
        depths: numbers of hidden layers; 0 is a linear model. None: each split's own.
        activations: nonlinearities. None: each split's own.
        inits: "kaiming", "xavier", "torch", "normal(STD)". None: each split's own.
        batch_size: rows an inner step, at most: a task with fewer train rows uses all of them.
        train_share: share of its pool's train rows that a task draws; all valid rows serve every task.
        tasks_per_architecture: how many tasks share one table and architecture, and so one TaskBatch.
    """

    datasets: tuple[str, ...] = tuple(DATASETS)
    widths: tuple[int, ...] | None = None
    depths: tuple[int, ...] | None = None
    activations: tuple[str, ...] | None = None
    inits: tuple[str, ...] | None = None
    batch_size: int = 32
    train_share: float = 0.8
    tasks_per_architecture: int = 2

    name = "tabular"
    summary = "perceptrons and linear models on breast cancer, wine, iris (classes) and diabetes (a value)"
    one_model = "widths = [W] and depths = [D]"

    def __post_init__(self) -> None:
        check_choices(self.name, "datasets", self.datasets, tuple(DATASETS))
        check_architectures(self.name, self.widths, self.depths, self.activations, self.inits)
        check_integer(self.name, "batch_size", self.batch_size, 1)
        check_number(self.name, "train_share", self.train_share, 0.0, 1.0)
        check_integer(self.name, "tasks_per_architecture", self.tasks_per_architecture, 1)

    def sample(self, split: Split, n_tasks: int, generator: torch.Generator) -> list[TaskBatch]:
        """``n_tasks`` tasks, in one batch for each different pair of table and architecture drawn."""
        check_request(self.name, split, n_tasks)
        n_draws = -(-n_tasks // self.tasks_per_architecture)
        datasets = balanced(self.datasets, n_draws, generator)
        architectures = ARCHITECTURES[split].narrowed(self.widths, self.depths, self.activations, self.inits)
        drawn = list(zip(datasets, architectures.sample(n_draws, generator), strict=True))
        return [self._batch(split, *pair, count, generator) for pair, count in deal(drawn, n_tasks).items()]

    def _batch(
        self, split: Split, dataset: str, architecture: Architecture, n_tasks: int, generator: torch.Generator
    ) -> TaskBatch:
        pool = pool_of(dataset, split)
        target = DATASETS[dataset]
        n_outputs = int(pool.y.max()) + 1 if target == "class" else 1
        model = architecture.model(pool.x.shape[1], n_outputs, target)
        train_size = max(1, round(self.train_share * pool.n_train))
        return TaskBatch(
            family=self.name,
            description=f"{dataset} {model.description}",
            n_tasks=n_tasks,
            layout=model.layout,
            loss=model.loss,
            init_params=partial(model.init_params, n_tasks),
            rows=pool.rows,
            train_rows=pool.draw_train(n_tasks, train_size, generator),
            valid_rows=pool.draw_valid(n_tasks, pool.n_valid, generator),
            batch_size=min(self.batch_size, train_size),
            noise_floor=NOISE_FLOOR,
            final_window=10,
            loss_and_grad=model.loss_and_grad,
            for_kernels=model.for_kernels,
        )


@cache
def table(dataset: str) -> tuple[Tensor, Tensor]:
    """Raw features (n, d) and targets (n,); rows that repeat an earlier one (iris has one) are left out."""
    from sklearn import datasets

    # diabetes comes standardised over all of its rows unless asked for raw: that would leak across splits
    bunch: Any = (
        datasets.load_diabetes(scaled=False)
        if dataset == "diabetes"
        else getattr(datasets, f"load_{dataset}")()
    )
    first = np.sort(np.unique(bunch.data, axis=0, return_index=True)[1])
    return torch.tensor(bunch.data[first]), torch.tensor(bunch.target[first])


@cache
def pool_of(dataset: str, split: Split) -> Pool:
    """The rows of ``split``, features and the target of a regression standardised."""
    features, targets = table(dataset)
    classes = targets if DATASETS[dataset] == "class" else None
    train, valid = split_rows(dataset, len(features), VALID_SHARE, classes)[split]
    rows = torch.cat([train, valid])
    x = _standardised(features[rows], len(train)).float()
    y = targets[rows] if classes is not None else _standardised(targets[rows], len(train)).float()
    return Pool(x, y, len(train))


def _standardised(values: Tensor, n_train: int) -> Tensor:
    """``values`` with mean 0 and variance 1 over the first ``n_train`` rows, the others on the same scale."""
    values = values.double()
    mean, std = values[:n_train].mean(0), values[:n_train].std(0)
    return (values - mean) / torch.where(std > 0, std, 1.0)
