"""What few-shot families share: support and query sets, and N-way K-shot classification of images."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from evometa.tasks.architectures import Architecture
from evometa.tasks.base import Split, TaskBatch, TaskFamily
from evometa.tasks.mlp_model import ACTIVATIONS, INIT_PATTERN, INITS
from evometa.tasks.options import check_choice, check_integer, check_request, refuse

#: At 1e-3 nats an image has its right class at 99.9% on average.
NOISE_FLOOR = 1e-3


def rows_of_tasks(n_tasks: int, n_support: int, n_query: int) -> tuple[Tensor, Tensor]:
    """Rows of support ``(T, n_support)`` and query ``(T, n_query)``, where task t has a block of its own."""
    rows = torch.arange(n_tasks * (n_support + n_query)).reshape(n_tasks, -1)
    return rows[:, :n_support], rows[:, n_support:]


def check_network(family: str, width: object, depth: object, activation: object, init: object) -> None:
    """Raise TaskError for what is no network of ``depth`` hidden layers of ``width`` units."""
    check_integer(family, "width", width, 1)
    check_integer(family, "depth", depth, 0)
    check_choice(family, "activation", activation, tuple(ACTIVATIONS))
    if not INIT_PATTERN.fullmatch(str(init)):
        raise refuse(family, "init", init, f"one of {INITS}")


@dataclass(frozen=True)
class FewShotClassification(TaskFamily):
    """Tell ``ways`` classes apart that are drawn for each task, from ``shots`` images of each (Vinyals 2016).

    A task trains on its support set, all of it in every step, and holds its query set out. Classes of one
    split are in no other. What is measured on the query set is the share of images that are named wrong; the
    training loss is the cross-entropy.

    Attributes:
        ways: classes of a task.
        shots: images of each class in a support set.
        queries: images of each class in a query set.
        width, depth: hidden units a layer, and hidden layers.
        activation, init: of the perceptron.
    """

    ways: int = 5
    shots: int = 1
    queries: int = 15
    width: int = 64
    depth: int = 2
    activation: str = "relu"
    init: str = "kaiming"

    def __post_init__(self) -> None:
        n_classes, n_images = self.largest
        check_integer(self.name, "ways", self.ways, 2, n_classes)
        check_integer(self.name, "shots", self.shots, 1, n_images - 1)
        check_integer(self.name, "queries", self.queries, 1, n_images - self.shots)
        check_network(self.name, self.width, self.depth, self.activation, self.init)

    @property
    @abstractmethod
    def largest(self) -> tuple[int, int]:
        """Classes of the split with the fewest, and images of each class."""

    @abstractmethod
    def classes(self, split: Split) -> Tensor:
        """The images of a split, ``(n_classes, n_images, n_pixels)`` in [0, 1]."""

    def sample(self, split: Split, n_tasks: int, generator: torch.Generator) -> list[TaskBatch]:
        """One batch of ``n_tasks`` tasks."""
        check_request(self.name, split, n_tasks)
        images = self.classes(split)
        n_classes, n_images, n_pixels = images.shape
        drawn = torch.rand((n_tasks, n_classes), generator=generator).argsort(dim=1)[:, : self.ways]
        shuffled = torch.rand((n_tasks, self.ways, n_images), generator=generator).argsort(dim=2)
        instances = shuffled[..., : self.shots + self.queries]
        # Class after class within the support, then within the query.
        parts = torch.split(images[drawn.unsqueeze(2), instances], [self.shots, self.queries], dim=2)
        x = torch.cat([part.reshape(n_tasks, -1, n_pixels) for part in parts], dim=1)
        labels = [torch.arange(self.ways).repeat_interleave(n) for n in (self.shots, self.queries)]
        support, query = rows_of_tasks(n_tasks, self.ways * self.shots, self.ways * self.queries)
        model = Architecture(self.width, self.depth, self.activation, self.init).model(
            n_pixels, self.ways, "class"
        )
        batch = TaskBatch(
            family=self.name,
            description=f"{self.name} {self.ways}-way {self.shots}-shot {model.description}",
            n_tasks=n_tasks,
            layout=model.layout,
            loss=model.loss,
            init_params=partial(model.init_params, n_tasks),
            rows={"x": x.reshape(-1, n_pixels), "y": torch.cat(labels).repeat(n_tasks)},
            train_rows=support,
            valid_rows=query,
            batch_size=self.ways * self.shots,
            noise_floor=NOISE_FLOOR,
            loss_and_grad=model.loss_and_grad,
            for_kernels=model.for_kernels,
            valid_loss=model.error,
        )
        return [batch]
