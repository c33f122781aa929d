"""Perceptrons with layer normalisation (Ba, Kiros & Hinton 2016) in front of every nonlinearity."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from evometa.layout import Layout
from evometa.tasks.base import Batch
from evometa.tasks.mlp_model import ACTIVATIONS, MLP, mean_loss


@dataclass(frozen=True)
class NormalisedMLP:
    """``plain``, whose hidden layer k is act(scale·norm(Wx + b) + shift) instead of act(Wx + b)."""

    plain: MLP

    @cached_property
    def layout(self) -> Layout:
        """That of ``plain``, with ``k.scale`` and ``k.shift`` (outputs,) behind each hidden layer k."""
        shapes: dict[str, tuple[int, ...]] = {}
        for segment in self.plain.layout.segments:
            shapes[segment.name] = segment.shape
            layer, _, tensor = segment.name.partition(".")
            if tensor == "bias" and int(layer) < self._n_hidden:
                shapes |= {f"{layer}.scale": segment.shape, f"{layer}.shift": segment.shape}
        return Layout.of(shapes)

    @property
    def description(self) -> str:
        """The network in a few words."""
        return f"{self.plain.description} layer norm"

    @property
    def _n_hidden(self) -> int:
        return len(self.plain.sizes) - 2

    def init_params(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """Initial parameters, ``(T, N)``: those of ``plain``, scales 1 and shifts 0."""
        tensors = self.plain.layout.views(self.plain.init_params(n_tasks, generator))
        for layer in range(self._n_hidden):
            bias = tensors[f"{layer}.bias"]
            tensors[f"{layer}.scale"] = torch.ones_like(bias)
            tensors[f"{layer}.shift"] = torch.zeros_like(bias)
        return self.layout.flatten(tensors)

    def loss(self, params: Tensor, batch: Batch) -> Tensor:
        """Mean loss () of one network ``params`` (N,) on a batch of one task."""
        tensors, hidden = self.layout.views(params), batch["x"]
        for layer in range(self._n_hidden + 1):
            hidden = F.linear(hidden, tensors[f"{layer}.weight"], tensors[f"{layer}.bias"])
            if layer < self._n_hidden:
                scale, shift = tensors[f"{layer}.scale"], tensors[f"{layer}.shift"]
                hidden = F.layer_norm(hidden, hidden.shape[-1:], scale, shift)
                hidden = ACTIVATIONS[self.plain.activation].forward(hidden)
        return mean_loss(self.plain.target, hidden, batch["y"])
