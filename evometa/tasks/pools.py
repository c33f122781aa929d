"""Disjoint pools of data rows, one for each split of tasks, each divided into train and valid rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evometa.rng import torch_generator
from evometa.tasks.base import SPLITS, Split
from evometa.tasks.sampling import partition, subsets

#: The pools must not move with a campaign's seed: what one campaign tested on, no other may train on.
POOL_SEED = 0


@dataclass(frozen=True, eq=False)
class Pool:
    """The rows of one split: ``x`` and ``y``, the ``n_train`` train rows first, the valid rows after them."""

    x: Tensor
    y: Tensor
    n_train: int

    @property
    def n_valid(self) -> int:
        """Number of valid rows."""
        return len(self.x) - self.n_train

    @property
    def rows(self) -> dict[str, Tensor]:
        """The data as a TaskBatch holds it."""
        return {"x": self.x, "y": self.y}

    def draw_train(self, n_tasks: int, size: int, generator: torch.Generator) -> Tensor:
        """``size`` different train rows for each task, ``(T, size)``."""
        return subsets(torch.arange(self.n_train), n_tasks, size, generator)

    def draw_valid(self, n_tasks: int, size: int, generator: torch.Generator) -> Tensor:
        """``size`` different valid rows for each task, ``(T, size)``."""
        return subsets(torch.arange(self.n_train, len(self.x)), n_tasks, size, generator)


def split_rows(
    dataset: str, n_rows: int, valid_share: float, labels: Tensor | None = None
) -> dict[Split, tuple[Tensor, Tensor]]:
    """Train and valid rows of each split: three pools of a third of the rows, alike in their classes.

    The division depends on nothing but the arguments.
    """
    generator = torch_generator(POOL_SEED, "pools", dataset)
    thirds: Sequence[Tensor] = partition(n_rows, [1 / 3] * 3, generator, labels)
    pools: dict[Split, tuple[Tensor, Tensor]] = {}
    for split, rows in zip(SPLITS, thirds, strict=True):
        inner = None if labels is None else labels[rows]
        train, valid = partition(len(rows), [1 - valid_share, valid_share], generator, inner)
        pools[split] = rows[train], rows[valid]
    return pools
