"""Where each tensor of a model lies inside one flat vector of N coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """One tensor of the model: its ``name``, its ``shape``, and its ``offset`` in the flat vector."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Number of coordinates; 1 for a 0-d tensor, 0 for an empty one."""
        return math.prod(self.shape)

    @property
    def slice(self) -> slice:
        """The coordinates of this tensor in the flat vector."""
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True)
class Layout:
    """The segments of a flat parameter vector, in order and without gaps."""

    segments: tuple[Segment, ...]

    @classmethod
    def of(cls, shapes: Mapping[str, Sequence[int]]) -> Layout:
        """The layout of tensors of the given ``shapes``, in the mapping's order."""
        segments: list[Segment] = []
        offset = 0
        for name, shape in shapes.items():
            segment = Segment(name, tuple(int(size) for size in shape), offset)
            segments.append(segment)
            offset += segment.size
        return cls(tuple(segments))

    @property
    def size(self) -> int:
        """N, the number of coordinates."""
        return sum(segment.size for segment in self.segments)

    @property
    def sizes(self) -> list[int]:
        """The number of coordinates of each segment."""
        return [segment.size for segment in self.segments]

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """``(…, N)`` → each tensor as a view of shape ``(…, *shape)``."""
        lead = flat.shape[:-1]
        return {s.name: flat[..., s.slice].reshape((*lead, *s.shape)) for s in self.segments}

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The inverse of :meth:`views`: tensors ``(…, *shape)`` → ``(…, N)``."""
        parts = []
        for segment in self.segments:
            value = tensors[segment.name]
            lead = value.shape[: value.dim() - len(segment.shape)]
            parts.append(value.reshape(*lead, segment.size))
        return torch.cat(parts, dim=-1)

    def per_tensor(self, function: Callable[[Tensor], Tensor], flat: Tensor) -> Tensor:
        """Apply ``function`` to the coordinates of each tensor, ``(…, n) → (…, n)`` or ``(…, 1)``.

        A result of size one is spread over the tensor, so a statistic such as the mean square needs no
        more than ``layout.per_tensor(lambda x: x.square().mean(-1, keepdim=True), flat)``.
        """
        parts = [
            function(part).expand(*flat.shape[:-1], part.shape[-1])
            for part in torch.split(flat, self.sizes, dim=-1)
            if part.shape[-1]
        ]
        return torch.cat(parts, dim=-1) if parts else flat

    def spread(self, values: Tensor) -> Tensor:
        """One value for each tensor that has coordinates, ``(…, n) → (…, N)``: the same for all of them."""
        sizes = [size for size in self.sizes if size]
        parts = [
            own.unsqueeze(-1).expand(*values.shape[:-1], size)
            for own, size in zip(values.unbind(-1), sizes, strict=True)
        ]
        return torch.cat(parts, dim=-1)
