"""What buckets compute with: dtypes, layouts, numbers, and a genome's weights and genes on their device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from evometa.layout import Layout
from evometa.rules.base import Hyper
from evometa.rules.initialisation import joined, model_of
from evometa.rules.learner import Learner
from evometa.trees import Tree, tree_map


def compute_dtype(parameter: Tensor) -> torch.dtype:
    """What a parameter's step is computed in: float32, but for float64."""
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


@lru_cache(maxsize=1024)
def layout_of(shapes: tuple[tuple[int, ...], ...]) -> Layout:
    """The layout of tensors of these shapes, which are named by their number."""
    return Layout.of({str(index): shape for index, shape in enumerate(shapes)})


@lru_cache(maxsize=64)
def number(value: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A number as rules want it; all tensors of a step share it."""
    return torch.full((), float(value), device=device, dtype=dtype)


@dataclass(frozen=True)
class Placed:
    """A genome's weights and continuous genes where a bucket computes, and the same with an axis P = 1.

    ``shared`` are the state's names that have no piece for each tensor: one is there for all of a bucket.
    ``scale`` ``(N,)`` is what the steps of a whole model are multiplied by; None for nothing.
    """

    weights: Tree
    hyper: Tree
    weights_of_cohort: Tree
    hyper_of_cohort: Hyper
    shared: frozenset[str]
    scale: Tensor | None

    @classmethod
    def of(cls, learner: Learner, weights: Tree, device: torch.device, dtype: torch.dtype) -> Placed:
        """Moved to ``device`` in ``dtype``."""
        moved = tree_map(lambda value: value.to(device, dtype), weights)
        hyper = {
            name: torch.full((), value, device=device, dtype=dtype) for name, value in learner.hyper.items()
        }
        fresh = [
            learner.init_rule_state(
                moved, torch.zeros((1, n), device=device, dtype=dtype), layout_of(((),) * n)
            )
            for n in (1, 2)
        ]
        shared = {name for name, of_two in fresh[1].items() if of_two.shape[-1] == fresh[0][name].shape[-1]}
        scale = learner.step_scale(joined(moved), model_of(moved)) if learner.scales_steps else None
        return cls(moved, hyper, _with_axis(moved), _with_axis(hyper), frozenset(shared), scale)


def _with_axis(tree: Tree) -> Tree:
    """With the axis P = 1 in front."""
    return tree_map(lambda value: value.unsqueeze(0).contiguous(), tree)
