"""Models of the next character on flat parameters: a gated recurrent network and a transformer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from evometa.layout import Layout
from evometa.tasks.base import Batch
from evometa.tasks.initialisation import initial_params
from evometa.tasks.transformer_model import Blocks


@dataclass(frozen=True)
class CharacterModel(ABC):
    """Embeds characters, passes them through ``depth`` layers of ``width`` units and scores the next one.

    A batch holds ``x`` (B, length), the numbers of characters, and ``y`` (B, length), those that follow.
    """

    n_characters: int
    length: int
    width: int
    depth: int
    init: str

    @property
    @abstractmethod
    def description(self) -> str:
        """The network in a few words."""

    @property
    @abstractmethod
    def inner_shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors between embedding and scores."""

    @abstractmethod
    def hidden(self, tensors: Mapping[str, Tensor], embedded: Tensor) -> Tensor:
        """Sequences (B, length, width) of what each position knows of the characters up to it."""

    @cached_property
    def layout(self) -> Layout:
        """Where each tensor lies."""
        return Layout.of(
            {
                "character.embedding": (self.n_characters, self.width),
                **self.inner_shapes,
                "next.weight": (self.n_characters, self.width),
                "next.bias": (self.n_characters,),
            }
        )

    def init_params(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """Initial parameters, ``(T, N)``."""
        return initial_params(self.layout, self.init, n_tasks, generator)

    def scores(self, params: Tensor, x: Tensor) -> Tensor:
        """Scores (B, length, characters) of what follows each character of ``x`` (B, length)."""
        tensors = self.layout.views(params)
        hidden = self.hidden(tensors, F.embedding(x, tensors["character.embedding"]))
        scores = F.linear(hidden.flatten(0, 1), tensors["next.weight"], tensors["next.bias"])
        return scores.reshape(*x.shape, self.n_characters)

    def loss(self, params: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy () of one network ``params`` (N,), in nats a character."""
        scores = self.scores(params, batch["x"])
        return F.cross_entropy(scores.flatten(0, 1), batch["y"].flatten())


@dataclass(frozen=True)
class CharacterGRU(CharacterModel):
    """Layers of gated recurrent units (Cho et al. 2014), as ``torch.nn.GRU`` has them; the state begins at 0.

    Written out, because PyTorch's kernels for whole layers cannot be mapped by ``vmap``.
    """

    @property
    def description(self) -> str:
        """For example ``"GRU 16×2 xavier"``: width × depth."""
        return f"GRU {self.width}×{self.depth} {self.init}"

    @property
    def inner_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each layer the gates reset, update and new, from the input and from the state before."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.depth):
            for source in ("input", "state"):
                shapes[f"{layer}.{source}.weight"] = (3 * self.width, self.width)
                shapes[f"{layer}.{source}.bias"] = (3 * self.width,)
        return shapes

    def hidden(self, tensors: Mapping[str, Tensor], embedded: Tensor) -> Tensor:
        """The states of the last layer."""
        sequence = embedded
        for layer in range(self.depth):
            weight, bias = tensors[f"{layer}.input.weight"], tensors[f"{layer}.input.bias"]
            seen = F.linear(sequence.flatten(0, 1), weight, bias).reshape(*sequence.shape[:2], -1)
            weight, bias = tensors[f"{layer}.state.weight"], tensors[f"{layer}.state.bias"]
            state = torch.zeros_like(sequence[:, 0])
            states: list[Tensor] = []
            for step in seen.unbind(1):
                known = F.linear(state, weight, bias)
                gates = torch.sigmoid(step[:, : 2 * self.width] + known[:, : 2 * self.width])
                reset, update = gates.chunk(2, dim=-1)
                new = torch.tanh(step[:, 2 * self.width :] + reset * known[:, 2 * self.width :])
                state = new + update * (state - new)
                states.append(state)
            sequence = torch.stack(states, dim=1)
        return sequence


@dataclass(frozen=True)
class CharacterTransformer(CharacterModel):
    """Causal blocks of attention and perceptrons with ``activation``; positions have embeddings."""

    activation: str

    @property
    def _blocks(self) -> Blocks:
        return Blocks(self.width, self.depth, self.activation, causal=True)

    @property
    def description(self) -> str:
        """For example ``"transformer 16×2 gelu xavier"``: width × depth."""
        return f"transformer {self.width}×{self.depth} {self.activation} {self.init}"

    @property
    def inner_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of positions and blocks."""
        return {"position.embedding": (self.length, self.width), **self._blocks.shapes}

    def hidden(self, tensors: Mapping[str, Tensor], embedded: Tensor) -> Tensor:
        """What leaves the last block."""
        return self._blocks.apply(tensors, embedded + tensors["position.embedding"])
