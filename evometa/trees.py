"""Dictionaries of tensors: the only container that weights and states use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

Tree = dict[str, Tensor]
#: A tree whose tensors are arrays, but for types that NumPy lacks.
Arrays = dict[str, "npt.NDArray[Any] | Tensor"]


def tree_map(function: Callable[[Tensor], Tensor], tree: Mapping[str, Tensor]) -> Tree:
    """``function`` applied to every tensor, names kept."""
    return {name: function(value) for name, value in tree.items()}


def to_arrays(tree: Mapping[str, Tensor]) -> Arrays:
    """The tree as it travels between processes: pickling a small tensor takes PyTorch a millisecond."""
    return {name: _to_array(value.detach().cpu()) for name, value in tree.items()}


def from_arrays(arrays: Arrays) -> Tree:
    """The inverse of :func:`to_arrays`, on the CPU; memory may be shared."""
    return {
        name: value if isinstance(value, Tensor) else torch.from_numpy(value)
        for name, value in arrays.items()
    }


def _to_array(value: Tensor) -> npt.NDArray[Any] | Tensor:
    try:
        return value.numpy()
    except TypeError:  # such as bfloat16
        return value


def stack(trees: Sequence[Mapping[str, Tensor]]) -> Tree:
    """Trees with equal names and shapes, stacked on a new leading axis."""
    return {name: torch.stack([tree[name] for tree in trees]) for name in trees[0]}


def take(tree: Mapping[str, Tensor], index: int | slice) -> Tree:
    """Entry or slice ``index`` of the leading axis of every tensor."""
    return {name: value[index] for name, value in tree.items()}


def with_prefix(prefix: str, tree: Mapping[str, Tensor]) -> Tree:
    """Every name preceded by ``prefix.``."""
    return {f"{prefix}.{name}": value for name, value in tree.items()}


def under_prefix(prefix: str, tree: Mapping[str, Tensor]) -> Tree:
    """The entries whose name starts with ``prefix.``, that part removed."""
    start = f"{prefix}."
    return {name[len(start) :]: value for name, value in tree.items() if name.startswith(start)}


def all_finite(tree: Mapping[str, Tensor]) -> bool:
    """True when no tensor holds a NaN or an infinity."""
    return all(bool(torch.isfinite(value).all()) for value in tree.values())


def count(tree: Mapping[str, Tensor]) -> int:
    """Total number of elements."""
    return sum(value.numel() for value in tree.values())
