"""Perceptrons on scikit-learn's handwritten digits: 1,797 images of 8×8 pixels in ten classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import torch
from torch import Tensor

from evometa.tasks.architectures import Architecture, Architectures, check_architectures, deal
from evometa.tasks.base import Split, TaskBatch, TaskFamily
from evometa.tasks.options import check_choice, check_integer, check_request, refuse
from evometa.tasks.pools import Pool, split_rows

#: What each split samples from where the options leave it open. No width belongs to two splits, so no
#: architecture does; meta_test alone goes to three hidden layers, and has an activation of its own.
ARCHITECTURES: dict[Split, Architectures] = {
    "meta_train": Architectures(
        (16, 32), (1, 2), ("relu", "tanh", "gelu"), ("kaiming", "xavier", "normal(0.1)")
    ),
    "meta_valid": Architectures((24,), (1, 2), ("relu", "elu"), ("kaiming", "xavier")),
    "meta_test": Architectures((20, 40), (1, 2, 3), ("relu", "tanh", "silu"), ("kaiming", "xavier")),
}

N_PIXELS, N_CLASSES = 64, 10
VALID_SHARE = 0.25
#: Rows of each pool that its tasks draw from, and what a task draws unless told otherwise.
TRAIN_SIZE, VALID_SIZE = 300, 100

#: At 1e-3 nats a row has its right class at 99.9% on average; below that minibatches of a memorised subset
#: differ by noise, not by merit.
NOISE_FLOOR = 1e-3


@dataclass(frozen=True)
class Digits(TaskFamily):
    """Classify digits with a perceptron; each task has its own architecture, initialisation and images.

    Attributes:
        widths: hidden units a layer to sample from, for all splits; None: each split's own.
        depths: numbers of hidden layers; 0 is softmax regression. None: each split's own.
        activations: nonlinearities. None: each split's own.
        inits: "kaiming", "xavier", "torch", "normal(STD)". None: each split's own.
        batch_size: images an inner step.
        pool: "split": each split has a third of the images to itself; "all": every task of every split
            trains on all 1,797 images and holds none out, which is the setting of Andrychowicz et al. 2016
            and says nothing about unseen data.
        train_size: images that a task draws from its split's pool to train on; None: 300.
        valid_size: images that it holds out; None: 100.
        tasks_per_architecture: how many tasks share one architecture, and so one TaskBatch.
    """

    widths: tuple[int, ...] | None = None
    depths: tuple[int, ...] | None = None
    activations: tuple[str, ...] | None = None
    inits: tuple[str, ...] | None = None
    batch_size: int = 64
    pool: Literal["split", "all"] = "split"
    train_size: int | None = None
    valid_size: int | None = None
    tasks_per_architecture: int = 2

    name = "digits"
    summary = "perceptrons on 8×8 handwritten digits, with sampled architecture, initialisation and images"
    one_model = "widths = [W] and depths = [D]"

    def __post_init__(self) -> None:
        check_architectures(self.name, self.widths, self.depths, self.activations, self.inits)
        check_choice(self.name, "pool", self.pool, ("split", "all"))
        check_integer(self.name, "tasks_per_architecture", self.tasks_per_architecture, 1)
        pools = [image_pool(self.pool, split) for split in ARCHITECTURES]
        for option, size, largest in (
            ("train_size", self.train_size, min(pool.n_train for pool in pools)),
            ("valid_size", self.valid_size, min(pool.n_valid for pool in pools)),
        ):
            if size is not None and self.pool == "all":
                raise refuse(self.name, option, size, 'left out where pool = "all"')
            if size is not None:
                check_integer(self.name, option, size, 1, largest)
        check_integer(self.name, "batch_size", self.batch_size, 1, self._train_size(pools[0]))

    def _train_size(self, pool: Pool) -> int:
        return pool.n_train if self.pool == "all" else self.train_size or TRAIN_SIZE

    def sample(self, split: Split, n_tasks: int, generator: torch.Generator) -> list[TaskBatch]:
        """``n_tasks`` tasks, in one batch for each different architecture drawn."""
        check_request(self.name, split, n_tasks)
        architectures = ARCHITECTURES[split].narrowed(self.widths, self.depths, self.activations, self.inits)
        drawn = architectures.sample(-(-n_tasks // self.tasks_per_architecture), generator)
        return [self._batch(split, *entry, generator) for entry in deal(drawn, n_tasks).items()]

    def _batch(
        self, split: Split, architecture: Architecture, n_tasks: int, generator: torch.Generator
    ) -> TaskBatch:
        pool = image_pool(self.pool, split)
        model = architecture.model(N_PIXELS, N_CLASSES, "class")
        valid_rows = None
        if pool.n_valid:
            valid_rows = pool.draw_valid(n_tasks, self.valid_size or VALID_SIZE, generator)
        return TaskBatch(
            family=self.name,
            description=f"digits {model.description}",
            n_tasks=n_tasks,
            layout=model.layout,
            loss=model.loss,
            init_params=partial(model.init_params, n_tasks),
            rows=pool.rows,
            train_rows=pool.draw_train(n_tasks, self._train_size(pool), generator),
            valid_rows=valid_rows,
            batch_size=self.batch_size,
            noise_floor=NOISE_FLOOR,
            final_window=10,
            loss_and_grad=model.loss_and_grad,
            for_kernels=model.for_kernels,
        )


@cache
def images() -> tuple[Tensor, Tensor]:
    """Pixels in [0, 1], (1797, 64), and classes (1797,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.tensor(bunch.data / 16, dtype=torch.float32), torch.tensor(bunch.target, dtype=torch.int64)


@cache
def image_pool(kind: str, split: Split) -> Pool:
    """The images of ``split`` where ``kind`` is "split", all of them, none held out, where it is "all"."""
    pixels, labels = images()
    if kind == "all":
        return Pool(pixels, labels, len(pixels))
    train, valid = split_rows("digits", len(pixels), VALID_SHARE, labels)[split]
    rows = torch.cat([train, valid])
    return Pool(pixels[rows], labels[rows], len(train))
