"""Transformers on flat parameters (Vaswani et al. 2017; normalised first, Xiong et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from evometa.layout import Layout
from evometa.tasks.base import Batch
from evometa.tasks.initialisation import initial_params
from evometa.tasks.mlp_model import ACTIVATIONS

#: Heads of every attention, and hidden units of a block's perceptron for each unit of width.
N_HEADS, EXPANSION = 2, 2


@dataclass(frozen=True)
class Blocks:
    """``depth`` blocks of attention and a perceptron, each added to what it reads, and a last normalisation.

    With ``causal`` a position attends to itself and those before it.
    """

    width: int
    depth: int
    activation: str
    causal: bool

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors in order; their names tell :func:`initial_params` what they are."""
        width, hidden = self.width, EXPANSION * self.width
        shapes: dict[str, tuple[int, ...]] = {}
        for k in range(self.depth):
            shapes |= {f"{k}.before_attention.scale": (width,), f"{k}.before_attention.shift": (width,)}
            for name, n_out, n_in in (("read", 3 * width, width), ("mix", width, width)):
                shapes |= {f"{k}.{name}.weight": (n_out, n_in), f"{k}.{name}.bias": (n_out,)}
            shapes |= {f"{k}.before_mlp.scale": (width,), f"{k}.before_mlp.shift": (width,)}
            for name, n_out, n_in in (("up", hidden, width), ("down", width, hidden)):
                shapes |= {f"{k}.{name}.weight": (n_out, n_in), f"{k}.{name}.bias": (n_out,)}
        return {**shapes, "last.scale": (width,), "last.shift": (width,)}

    def apply(self, tensors: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
        """Sequences (B, L, width) after all blocks.

        Products have two axes, rows of all positions: only then do they stay single batched products when
        ``vmap`` adds candidates and tasks.
        """
        n_rows, length, width = hidden.shape
        state = hidden.flatten(0, 1)
        for k in range(self.depth):
            seen = self._linear(tensors, f"{k}.read", self._normed(tensors, f"{k}.before_attention", state))
            heads = seen.reshape(n_rows, length, 3, N_HEADS, -1).permute(2, 0, 3, 1, 4)
            mixed = self._attention(*heads)
            mixed = mixed.transpose(1, 2).reshape(n_rows * length, width)
            state = state + self._linear(tensors, f"{k}.mix", mixed)
            seen = self._linear(tensors, f"{k}.up", self._normed(tensors, f"{k}.before_mlp", state))
            seen = ACTIVATIONS[self.activation].forward(seen)
            state = state + self._linear(tensors, f"{k}.down", seen)
        return self._normed(tensors, "last", state).reshape(hidden.shape)

    def _attention(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """softmax(QKᵀ/√d)·V of (B, heads, L, d). PyTorch's fused one on a CPU has no second derivative."""
        scores = queries @ keys.mT / math.sqrt(queries.shape[-1])
        if self.causal:
            length = scores.shape[-1]
            later = torch.ones((length, length), dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        return scores.softmax(-1) @ values

    def _normed(self, tensors: Mapping[str, Tensor], name: str, state: Tensor) -> Tensor:
        return F.layer_norm(state, (self.width,), tensors[f"{name}.scale"], tensors[f"{name}.shift"])

    def _linear(self, tensors: Mapping[str, Tensor], name: str, rows: Tensor) -> Tensor:
        return F.linear(rows, tensors[f"{name}.weight"], tensors[f"{name}.bias"])


@dataclass(frozen=True)
class PatchTransformer:
    """Reads an image as a sequence of square patches and names its class (Dosovitskiy et al. 2021).

    The class comes from the mean over the patches. A batch holds ``x`` (B, side·side), pixels of one channel,
    and ``y`` (B,), class numbers. ``side`` is a multiple of ``patch``.
    """

    side: int
    patch: int
    width: int
    depth: int
    n_classes: int
    activation: str
    init: str

    @property
    def _blocks(self) -> Blocks:
        return Blocks(self.width, self.depth, self.activation, causal=False)

    @cached_property
    def layout(self) -> Layout:
        """Where each tensor lies."""
        n_patches = (self.side // self.patch) ** 2
        return Layout.of(
            {
                "patch.weight": (self.width, self.patch**2),
                "patch.bias": (self.width,),
                "position.embedding": (n_patches, self.width),
                **self._blocks.shapes,
                "class.weight": (self.n_classes, self.width),
                "class.bias": (self.n_classes,),
            }
        )

    @property
    def description(self) -> str:
        """The network in a few words, e.g. ``"patch transformer 16×2 relu kaiming"``: width × depth."""
        return f"patch transformer {self.width}×{self.depth} {self.activation} {self.init}"

    def init_params(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """Initial parameters, ``(T, N)``."""
        return initial_params(self.layout, self.init, n_tasks, generator)

    def loss(self, params: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy () of one network ``params`` (N,) on a batch of one task, in nats."""
        tensors = self.layout.views(params)
        x, n_along = batch["x"], self.side // self.patch
        patches = x.reshape(-1, n_along, self.patch, n_along, self.patch).transpose(2, 3)
        rows = F.linear(patches.reshape(-1, self.patch**2), tensors["patch.weight"], tensors["patch.bias"])
        hidden = rows.reshape(-1, n_along**2, self.width) + tensors["position.embedding"]
        pooled = self._blocks.apply(tensors, hidden).mean(1)
        return F.cross_entropy(F.linear(pooled, tensors["class.weight"], tensors["class.bias"]), batch["y"])
