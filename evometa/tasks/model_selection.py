"""Model selection: the trainings that a search for the best model of a table of data would make.

Such a search (AutoML) tries architectures, batch sizes and subsets of rows and features, and trains each of
them once. A rule for it has to do well on models and data that it has not been tuned for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from evometa.native.tasks import Target
from evometa.tasks import digits, tabular
from evometa.tasks.architectures import Architecture, Architectures, check_architectures, deal
from evometa.tasks.base import Split, TaskBatch, TaskFamily
from evometa.tasks.mlp_model import MLP
from evometa.tasks.normalised_mlp import NormalisedMLP
from evometa.tasks.options import (
    check_choices,
    check_integer,
    check_integers,
    check_range,
    check_request,
    refuse,
)
from evometa.tasks.pools import Pool
from evometa.tasks.sampling import balanced

#: What each data set asks for.
DATASETS: dict[str, Target] = {**tabular.DATASETS, "digits": "class"}

#: What each split samples from where the options leave it open; no width belongs to two splits, and meta_test
#: alone goes to three hidden layers.
ARCHITECTURES: dict[Split, Architectures] = {
    "meta_train": Architectures((8, 16, 32), (1, 2), ("relu", "tanh", "gelu"), ("kaiming", "xavier")),
    "meta_valid": Architectures((12, 24), (1, 2), ("relu", "elu"), ("kaiming", "xavier")),
    "meta_test": Architectures((10, 20, 40), (1, 2, 3), ("relu", "tanh", "silu"), ("kaiming", "xavier")),
}

#: As in the families of the data.
NOISE_FLOOR = 1e-3


@dataclass(frozen=True)
class _Trial:
    """What one model is and what it is trained on."""

    dataset: str
    architecture: Architecture
    layer_norm: bool
    batch_size: int
    train_size: int
    features: tuple[int, ...]

    @property
    def description(self) -> str:
        return f"{len(self.features)} features, {self.train_size} rows, batches of {self.batch_size}"

    def model(self, n_outputs: int) -> MLP | NormalisedMLP:
        plain = self.architecture.model(len(self.features), n_outputs, DATASETS[self.dataset])
        return NormalisedMLP(plain) if self.layer_norm else plain


@dataclass(frozen=True)
class ModelSelection(TaskFamily):
    """Perceptrons of sampled architecture on sampled rows and features of scikit-learn's small data sets.

    Each split has a third of the rows of every data set to itself, and its own architectures.

    Attributes:
        datasets: to sample from: "breast_cancer", "wine", "iris", "digits" (mean cross-entropy in nats),
            "diabetes" (mean squared error in variances of the target).
        widths: hidden units a layer to sample from, for all splits; None: each split's own.
        depths: numbers of hidden layers, from 1; None: each split's own.
        activations: nonlinearities. None: each split's own.
        inits: "kaiming", "xavier", "normal(STD)". None: each split's own.
        layer_norms: whether hidden layers are normalised, to sample from.
        batch_sizes: rows an inner step, to sample from; a task with fewer train rows uses all of them.
        row_share: range of the share of its pool's train rows that a task draws; all valid rows serve.
        feature_share: range of the share of the features that a model sees.
        tasks_per_model: how many tasks share one model and its features, and so one TaskBatch; they differ in
            rows and initialisation.
    """

    datasets: tuple[str, ...] = tuple(DATASETS)
    widths: tuple[int, ...] | None = None
    depths: tuple[int, ...] | None = None
    activations: tuple[str, ...] | None = None
    inits: tuple[str, ...] | None = None
    layer_norms: tuple[bool, ...] = (False, True)
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64)
    row_share: tuple[float, float] = (0.4, 1.0)
    feature_share: tuple[float, float] = (0.4, 1.0)
    tasks_per_model: int = 2

    name = "model_selection"
    summary = "perceptrons as a model search tries them: sampled data set, rows, features, layers, batch size"

    def __post_init__(self) -> None:
        check_choices(self.name, "datasets", self.datasets, tuple(DATASETS))
        check_architectures(self.name, self.widths, self.depths, self.activations, self.inits)
        if self.depths is not None:
            check_integers(self.name, "depths", self.depths, 1)
        if not self.layer_norms or not all(isinstance(one, bool) for one in self.layer_norms):
            raise refuse(self.name, "layer_norms", self.layer_norms, "a non-empty list out of true, false")
        check_integers(self.name, "batch_sizes", self.batch_sizes, 1)
        for option, bounds in (("row_share", self.row_share), ("feature_share", self.feature_share)):
            check_range(self.name, option, bounds)
            if bounds[1] > 1:
                raise refuse(self.name, option, bounds, "shares of at most 1")
        check_integer(self.name, "tasks_per_model", self.tasks_per_model, 1)

    def sample(self, split: Split, n_tasks: int, generator: torch.Generator) -> list[TaskBatch]:
        """``n_tasks`` tasks, in one batch for each different model drawn."""
        check_request(self.name, split, n_tasks)
        trials = self._trials(split, -(-n_tasks // self.tasks_per_model), generator)
        return [self._batch(split, *pair, generator) for pair in deal(trials, n_tasks).items()]

    def _trials(self, split: Split, n_draws: int, generator: torch.Generator) -> list[_Trial]:
        architectures = ARCHITECTURES[split].narrowed(self.widths, self.depths, self.activations, self.inits)
        columns = zip(
            balanced(self.datasets, n_draws, generator),
            architectures.sample(n_draws, generator),
            balanced(self.layer_norms, n_draws, generator),
            balanced(self.batch_sizes, n_draws, generator),
            _shares(self.row_share, n_draws, generator),
            _shares(self.feature_share, n_draws, generator),
            strict=True,
        )
        trials = []
        for dataset, architecture, layer_norm, batch_size, row_share, feature_share in columns:
            pool = _pool(dataset, split)
            train_size, n_features = max(1, round(row_share * pool.n_train)), pool.x.shape[1]
            n_kept = max(1, round(feature_share * n_features))
            kept = torch.randperm(n_features, generator=generator)[:n_kept].sort().values
            size = min(batch_size, train_size)
            features = tuple(kept.tolist())
            trials.append(_Trial(dataset, architecture, layer_norm, size, train_size, features))
        return trials

    def _batch(self, split: Split, trial: _Trial, n_tasks: int, generator: torch.Generator) -> TaskBatch:
        pool = _pool(trial.dataset, split)
        model = trial.model(int(pool.y.max()) + 1 if DATASETS[trial.dataset] == "class" else 1)
        return TaskBatch(
            family=self.name,
            description=f"{trial.dataset} {model.description}, {trial.description}",
            n_tasks=n_tasks,
            layout=model.layout,
            loss=model.loss,
            init_params=partial(model.init_params, n_tasks),
            rows={"x": pool.x[:, list(trial.features)], "y": pool.y},
            train_rows=pool.draw_train(n_tasks, trial.train_size, generator),
            valid_rows=pool.draw_valid(n_tasks, pool.n_valid, generator),
            batch_size=trial.batch_size,
            noise_floor=NOISE_FLOOR,
            final_window=10,
            loss_and_grad=model.loss_and_grad,
            for_kernels=model.for_kernels if isinstance(model, MLP) else None,
        )


def _pool(dataset: str, split: Split) -> Pool:
    return digits.image_pool("split", split) if dataset == "digits" else tabular.pool_of(dataset, split)


def _shares(bounds: tuple[float, float], n_draws: int, generator: torch.Generator) -> list[float]:
    low, high = bounds
    drawn: Tensor = low + (high - low) * torch.rand(n_draws, generator=generator)
    return [float(share) for share in drawn]
