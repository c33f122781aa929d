"""How the families draw: balanced choices, disjoint pools of rows, subsets of a pool, scales."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Option = TypeVar("Option", bound=Hashable)


def balanced(options: Sequence[Option], n_draws: int, generator: torch.Generator) -> list[Option]:
    """``n_draws`` of ``options`` in random order, each drawn equally often up to a difference of one.

    A handful of tasks then covers the options, where independent draws would often miss some.
    """
    drawn: list[Option] = []
    while len(drawn) < n_draws:
        order = torch.randperm(len(options), generator=generator).tolist()
        drawn += [options[index] for index in order]
    return drawn[:n_draws]


def partition(
    n_rows: int, shares: Sequence[float], generator: torch.Generator, labels: Tensor | None = None
) -> list[Tensor]:
    """Row numbers divided at random into disjoint parts in the proportions ``shares`` (which sum to 1).

    With integer ``labels`` of shape (n_rows,) every class is divided in these proportions. The parts are
    sorted and together hold every row once.
    """
    order = torch.randperm(n_rows, generator=generator)
    groups = [order] if labels is None else [order[labels[order] == label] for label in torch.unique(labels)]
    parts: list[list[Tensor]] = [[] for _ in shares]
    for group in groups:
        bounds = [round(sum(shares[:k]) * len(group)) for k in range(len(shares))] + [len(group)]
        for part, start, stop in zip(parts, bounds, bounds[1:], strict=False):
            part.append(group[start:stop])
    return [torch.cat(part).sort().values for part in parts]


def subsets(rows: Tensor, n_tasks: int, size: int, generator: torch.Generator) -> Tensor:
    """For each of T tasks ``size`` different entries of ``rows``, ``(T, size)``."""
    order = torch.rand((n_tasks, len(rows)), generator=generator).argsort(dim=-1)
    return rows[order[:, :size]]


def log_uniform(shape: tuple[int, ...], bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Draws whose logarithm is uniform between those of ``bounds``, both positive."""
    low, high = (math.log(end) for end in bounds)
    return (low + (high - low) * torch.rand(shape, generator=generator)).exp()
