"""What families of networks on images have in common: the images, and how architectures are drawn.

The images are handwritten digits, and characters of many scripts; each split has images of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from evometa.layout import Layout
from evometa.tasks.architectures import Architecture, Architectures, check_architectures, deal
from evometa.tasks.base import Batch, ForKernels, LossAndGrad, Split, TaskBatch, TaskFamily
from evometa.tasks.digits import TRAIN_SIZE, VALID_SIZE, image_pool
from evometa.tasks.glyph_data import N_INSTANCES, glyphs
from evometa.tasks.options import check_choices, check_integer, check_request, refuse
from evometa.tasks.sampling import balanced, subsets

#: The data sets: pixels a side, and classes of a task.
SIDES = {"digits": 8, "glyphs": 16}
N_CLASSES = {"digits": 10, "glyphs": 20}

#: Of the twenty images of a character a task holds these out.
VALID_INSTANCES = 5


class ImageModel(Protocol):
    """A network on images: what a TaskBatch asks of it."""

    @property
    def layout(self) -> Layout: ...

    @property
    def description(self) -> str: ...

    def init_params(self, n_tasks: int, generator: torch.Generator) -> Tensor: ...

    def loss(self, params: Tensor, batch: Batch) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class ImageRows:
    """The images of T tasks.

    Attributes:
        x: ``(n, pixels)``, what the network sees.
        y: ``(n, …)``, what it is to say about each.
        train_rows, valid_rows: ``(T, …)`` indices of each task's images.
    """

    x: Tensor
    y: Tensor
    train_rows: Tensor
    valid_rows: Tensor


@dataclass(frozen=True)
class ImageTasks(TaskFamily):
    """Networks on images; each task has its own architecture, initialisation and images.

    Attributes:
        datasets: images to sample from, "digits" (8×8, ten classes) and "glyphs" (16×16, twenty characters
            of scripts that no other split has). A task trains on 300 images and holds 100 out.
        widths: of the first layer, to sample from, for all splits; None: each split's own.
        depths: numbers of layers. None: each split's own.
        activations: nonlinearities. None: each split's own.
        inits: "kaiming", "xavier", "normal(STD)". None: each split's own.
        batch_size: images an inner step.
        tasks_per_architecture: how many tasks share one data set and architecture, and so one TaskBatch.
    """

    datasets: tuple[str, ...] = tuple(SIDES)
    widths: tuple[int, ...] | None = None
    depths: tuple[int, ...] | None = None
    activations: tuple[str, ...] | None = None
    inits: tuple[str, ...] | None = None
    batch_size: int = 64
    tasks_per_architecture: int = 2

    #: What each split samples from where the options leave it open.
    architectures: ClassVar[Mapping[Split, Architectures]]
    most_layers: ClassVar[int]
    noise_floor: ClassVar[float]

    def __post_init__(self) -> None:
        check_choices(self.name, "datasets", self.datasets, tuple(SIDES))
        check_architectures(self.name, self.widths, self.depths, self.activations, self.inits)
        if not all(1 <= depth <= self.most_layers for depth in self.depths or ()):
            raise refuse(self.name, "depths", self.depths, f"integers from 1 to {self.most_layers}")
        check_integer(self.name, "batch_size", self.batch_size, 1, TRAIN_SIZE)
        check_integer(self.name, "tasks_per_architecture", self.tasks_per_architecture, 1)

    @abstractmethod
    def model(self, dataset: str, architecture: Architecture) -> ImageModel:
        """The network for images of ``dataset``; the same object for equal arguments."""

    def rows(self, dataset: str, split: Split, n_tasks: int, generator: torch.Generator) -> ImageRows:
        """The images of ``n_tasks`` tasks."""
        return draw_images(dataset, split, n_tasks, generator)

    def sample(self, split: Split, n_tasks: int, generator: torch.Generator) -> list[TaskBatch]:
        """``n_tasks`` tasks, in one batch for each different pair of data set and architecture drawn."""
        check_request(self.name, split, n_tasks)
        n_draws = -(-n_tasks // self.tasks_per_architecture)
        datasets = balanced(self.datasets, n_draws, generator)
        own = self.architectures[split]
        architectures = own.narrowed(self.widths, self.depths, self.activations, self.inits)
        drawn = list(zip(datasets, architectures.sample(n_draws, generator), strict=True))
        return [self._batch(split, *pair, count, generator) for pair, count in deal(drawn, n_tasks).items()]

    def _batch(
        self, split: Split, dataset: str, architecture: Architecture, n_tasks: int, generator: torch.Generator
    ) -> TaskBatch:
        model = self.model(dataset, architecture)
        rows = self.rows(dataset, split, n_tasks, generator)
        by_hand: LossAndGrad | None = getattr(model, "loss_and_grad", None)
        for_kernels: ForKernels | None = getattr(model, "for_kernels", None)
        return TaskBatch(
            family=self.name,
            description=f"{dataset} {model.description}",
            n_tasks=n_tasks,
            layout=model.layout,
            loss=model.loss,
            init_params=partial(model.init_params, n_tasks),
            rows={"x": rows.x, "y": rows.y},
            train_rows=rows.train_rows,
            valid_rows=rows.valid_rows,
            batch_size=self.batch_size,
            noise_floor=self.noise_floor,
            final_window=10,
            loss_and_grad=by_hand,
            for_kernels=for_kernels,
        )


def draw_images(dataset: str, split: Split, n_tasks: int, generator: torch.Generator) -> ImageRows:
    """Images in [0, 1] and their classes: 300 to train on and 100 held out of each task.

    "digits": a subset of the split's third. "glyphs": twenty characters of the split's scripts, drawn and
    numbered anew for each task, in fifteen and five of their twenty images.
    """
    return (_digits if dataset == "digits" else _glyphs)(split, n_tasks, generator)


def _digits(split: Split, n_tasks: int, generator: torch.Generator) -> ImageRows:
    pool = image_pool("split", split)
    train = pool.draw_train(n_tasks, TRAIN_SIZE, generator)
    return ImageRows(pool.x, pool.y, train, pool.draw_valid(n_tasks, VALID_SIZE, generator))


def _glyphs(split: Split, n_tasks: int, generator: torch.Generator) -> ImageRows:
    images = glyphs(split).images.flatten(2)
    n_classes = N_CLASSES["glyphs"]
    drawn = subsets(torch.arange(len(images)), n_tasks, n_classes, generator)
    order = torch.rand((n_tasks, n_classes, N_INSTANCES), generator=generator).argsort(-1)
    first = torch.arange(n_tasks * n_classes).reshape(n_tasks, n_classes, 1) * N_INSTANCES
    rows = first + order
    return ImageRows(
        images[drawn].flatten(0, 2),
        torch.arange(n_classes).repeat_interleave(N_INSTANCES).repeat(n_tasks),
        rows[..., VALID_INSTANCES:].flatten(1),
        rows[..., :VALID_INSTANCES].flatten(1),
    )
