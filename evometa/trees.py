"""Dictionaries of tensors: the only container that weights and states use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Tree = dict[str, Tensor]
#: Types, shapes and the numbers' bytes.
Packed = dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]


def tree_map(function: Callable[[Tensor], Tensor], tree: Mapping[str, Tensor]) -> Tree:
    """``function`` applied to every tensor, names kept."""
    return {name: function(value) for name, value in tree.items()}


def packed(tree: Mapping[str, Tensor]) -> Packed:
    """The tree as it travels between processes: pickling a tensor takes PyTorch half a millisecond."""
    return {name: (value.dtype, tuple(value.shape), _bytes(value)) for name, value in tree.items()}


def unpacked(data: Packed) -> Tree:
    """The inverse of :func:`packed`, on the CPU."""
    return {
        name: torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)
        if raw
        else torch.empty(shape, dtype=dtype)
        for name, (dtype, shape, raw) in data.items()
    }


def _bytes(value: Tensor) -> bytes:
    try:
        return value.numpy(force=True).tobytes()
    except TypeError:  # a type that NumPy lacks, such as bfloat16
        flat = value.detach().cpu().contiguous().reshape(-1)
        return flat.view(torch.uint8).numpy().tobytes()


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
