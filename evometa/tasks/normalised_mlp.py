"""Perceptrons with layer normalisation (Ba, Kiros & Hinton 2016) in front of every nonlinearity.

``NormalisedMLP.loss`` is the definition. ``NormalisedMLP.loss_and_grad`` equals its gradient, as
:class:`~evometa.tasks.mlp_model.MLP` has it; it took a third to a seventh of the time of ``vmap(grad)`` (8
candidates, 2 tasks, one thread, in turn).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from evometa.layout import Layout
from evometa.tasks.base import Batch
from evometa.tasks.mlp_model import ACTIVATIONS, MLP, head, mean_loss

#: Added to a layer's variance, as ``nn.LayerNorm`` does.
EPSILON = 1e-5


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
                hidden = F.layer_norm(hidden, hidden.shape[-1:], scale, shift, EPSILON)
                hidden = ACTIVATIONS[self.plain.activation].forward(hidden)
        return mean_loss(self.plain.target, hidden, batch["y"])

    def loss_and_grad(self, params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Losses (P, T) and gradients (P, T, N) at ``params`` (P, T, N); x is (T, B, inputs), y (T, B).

        Activations are kept as (P·T, features, B), as in :meth:`MLP.loss_and_grad`.
        """
        n_candidates, n_tasks, n_params = params.shape
        tensors = self.layout.views(params.reshape(-1, n_params))
        activation = self.plain.nonlinearity
        columns = batch["x"].mT
        hidden = [columns.expand(n_candidates, *columns.shape).flatten(0, 1)]
        normals: list[_Normalised] = []
        scores: list[Tensor] = []
        for layer in range(self._n_hidden + 1):
            weight, bias = tensors[f"{layer}.weight"], tensors[f"{layer}.bias"].unsqueeze(-1)
            output = torch.baddbmm(bias, weight, hidden[layer])
            if layer < self._n_hidden:
                normals.append(_Normalised.of(output))
                scale, shift = (tensors[f"{layer}.{name}"].unsqueeze(-1) for name in ("scale", "shift"))
                scores.append(torch.addcmul(shift, normals[layer].values, scale))
                hidden.append(activation.forward(scores[layer]))
        losses, delta = head(
            self.plain.target, output.reshape(n_candidates, n_tasks, *output.shape[1:]), batch["y"]
        )
        delta = delta.flatten(0, 1)
        grads: dict[str, Tensor] = {}
        for layer in reversed(range(self._n_hidden + 1)):
            grads[f"{layer}.weight"] = torch.bmm(delta, hidden[layer].mT)
            grads[f"{layer}.bias"] = delta.sum(-1)
            if layer:
                slope = torch.bmm(tensors[f"{layer}.weight"].mT, delta)
                slope = activation.backward(slope, scores[layer - 1], hidden[layer])
                grads[f"{layer - 1}.scale"] = (slope * normals[layer - 1].values).sum(-1)
                grads[f"{layer - 1}.shift"] = slope.sum(-1)
                delta = normals[layer - 1].backward(slope * tensors[f"{layer - 1}.scale"].unsqueeze(-1))
        return losses, self.layout.flatten(grads).reshape(params.shape)


@dataclass(frozen=True)
class _Normalised:
    """The features (Q, features, B) of each row, less their mean and over their standard deviation."""

    values: Tensor
    inverse_deviation: Tensor

    @classmethod
    def of(cls, features: Tensor) -> _Normalised:
        centred = features - features.mean(1, keepdim=True)
        inverse_deviation = (centred.square().mean(1, keepdim=True) + EPSILON).rsqrt()
        return cls(centred * inverse_deviation, inverse_deviation)

    def backward(self, delta: Tensor) -> Tensor:
        """The derivative by the features from that by the values."""
        along = (delta * self.values).mean(1, keepdim=True)
        return (delta - delta.mean(1, keepdim=True) - self.values * along) * self.inverse_deviation
