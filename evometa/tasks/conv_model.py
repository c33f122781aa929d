"""Convolutional networks on flat parameters, with gradients written out for all candidates and tasks.

``ConvNet.loss`` is the definition. ``ConvNet.loss_and_grad`` equals its gradient and is made of
differentiable operations, so meta-gradients of second order pass through it. Mapped by ``vmap``, a
convolution whose weights differ by candidate and task has as many groups; here it is one batched product,
which took less time on one CPU thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from evometa.layout import Layout
from evometa.tasks.base import Batch
from evometa.tasks.initialisation import initial_params
from evometa.tasks.mlp_model import ACTIVATIONS, cross_entropy_head

#: Pixels a side of a filter. It moves by two, and one zero is put around an image, so sides are halved.
KERNEL = 3


@dataclass(frozen=True)
class ConvNet:
    """Convolutions of stride two between nonlinearities, then one linear layer on all that is left.

    A batch holds ``x`` (B, side·side), pixels of one channel, and ``y`` (B,), class numbers. ``side`` is a
    multiple of 2 to the number of convolutions.
    """

    side: int
    channels: tuple[int, ...]
    n_classes: int
    activation: str
    init: str

    @cached_property
    def layout(self) -> Layout:
        """``k.weight`` and ``k.bias`` of each layer k; the last one's weight is (classes, features)."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (n_inputs, n_outputs) in enumerate(self._convolutions):
            shapes[f"{layer}.weight"] = (n_outputs, n_inputs, KERNEL, KERNEL)
            shapes[f"{layer}.bias"] = (n_outputs,)
        depth = len(self.channels)
        shapes[f"{depth}.weight"] = (self.n_classes, self._n_features)
        shapes[f"{depth}.bias"] = (self.n_classes,)
        return Layout.of(shapes)

    @property
    def description(self) -> str:
        """The network in a few words, e.g. ``"convnet 8-16-10 relu kaiming"``."""
        sizes = "-".join(map(str, (*self.channels, self.n_classes)))
        return f"convnet {sizes} {self.activation} {self.init}"

    @property
    def _convolutions(self) -> list[tuple[int, int]]:
        return list(zip((1, *self.channels), self.channels, strict=False))

    @property
    def _n_features(self) -> int:
        return self.channels[-1] * (self.side >> len(self.channels)) ** 2

    def init_params(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """Initial parameters, ``(T, N)``."""
        return initial_params(self.layout, self.init, n_tasks, generator)

    def loss(self, params: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy () of one network ``params`` (N,) on a batch of one task, in nats."""
        tensors = self.layout.views(params)
        hidden = batch["x"].reshape(-1, 1, self.side, self.side)
        depth = len(self.channels)
        for layer in range(depth):
            weight, bias = tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]
            hidden = F.conv2d(hidden, weight, bias, stride=2, padding=1)
            hidden = ACTIVATIONS[self.activation].forward(hidden)
        scores = F.linear(hidden.flatten(1), tensors[f"{depth}.weight"], tensors[f"{depth}.bias"])
        return F.cross_entropy(scores, batch["y"])

    def loss_and_grad(self, params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Losses (P, T) and gradients (P, T, N) at ``params`` (P, T, N); x is (T, B, pixels), y (T, B).

        Activations are kept as (P·T, channels, rows, columns, B): the patches under a filter are then copies
        of long runs, a layer is one batched product, and its result is the next layer's image.
        """
        n_candidates, n_tasks, n_params = params.shape
        tensors = self.layout.views(params.reshape(-1, n_params))
        depth = len(self.channels)
        weights = [tensors[f"{layer}.weight"].flatten(2) for layer in range(depth + 1)]
        biases = [tensors[f"{layer}.bias"].unsqueeze(-1) for layer in range(depth + 1)]
        activation = ACTIVATIONS[self.activation]

        pixels = batch["x"].mT.reshape(n_tasks, 1, self.side, self.side, -1)
        inputs = [_patches(pixels).repeat(n_candidates, 1, 1)]
        scores: list[Tensor] = []
        hidden: list[Tensor] = []
        for layer in range(depth):
            scores.append(torch.baddbmm(biases[layer], weights[layer], inputs[layer]))
            shape = (*scores[layer].shape[:2], self.side >> (layer + 1), self.side >> (layer + 1), -1)
            hidden.append(activation.forward(scores[layer]).reshape(shape))
            inputs.append(_patches(hidden[layer]) if layer + 1 < depth else hidden[layer].flatten(1, 3))
        outputs = torch.baddbmm(biases[depth], weights[depth], inputs[depth])

        losses, delta = cross_entropy_head(
            outputs.reshape(n_candidates, n_tasks, *outputs.shape[1:]), batch["y"]
        )
        delta = delta.flatten(0, 1)
        parts: list[Tensor] = []
        for layer in reversed(range(depth + 1)):
            parts += [delta.sum(-1), torch.bmm(delta, inputs[layer].mT).flatten(1)]
            if layer:
                score, output = scores[layer - 1], hidden[layer - 1]
                slope = torch.bmm(weights[layer].mT, delta)
                slope = _added(slope, output) if layer < depth else slope
                delta = activation.backward(slope.reshape(score.shape), score, output.flatten(2))
        return losses, torch.cat(parts[::-1], dim=-1).reshape(params.shape)


def _patches(images: Tensor) -> Tensor:
    """What each filter sees of images (Q, C, S, S, B): ``(Q, C·9, (S/2)²·B)``."""
    side = images.shape[2]
    padded = F.pad(images, (0, 0, 1, 1, 1, 1))
    seen = [
        padded[:, :, row : row + side : 2, column : column + side : 2]
        for row in range(KERNEL)
        for column in range(KERNEL)
    ]
    return torch.stack(seen, dim=2).flatten(1, 2).flatten(2)


def _added(patches: Tensor, images: Tensor) -> Tensor:
    """The transpose of :func:`_patches`: each pixel's sum over the filters that see it, like ``images``."""
    n, n_channels, side, _, n_rows = images.shape
    seen = patches.reshape(n, n_channels, KERNEL, KERNEL, side // 2, side // 2, n_rows)
    padded = seen.new_zeros(n, n_channels, side + 2, side + 2, n_rows)
    for row in range(KERNEL):
        for column in range(KERNEL):
            padded[:, :, row : row + side : 2, column : column + side : 2] += seen[:, :, row, column]
    return padded[:, :, 1:-1, 1:-1]
