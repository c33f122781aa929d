"""Multilayer perceptrons on flat parameters, with gradients written out for all candidates and tasks at once.

``MLP.loss`` is the definition. ``MLP.loss_and_grad`` equals its gradient; on one CPU thread it took 1/3.5 of
the time of ``vmap(grad)`` for one candidate and 1/1.7 for 32 (8 tasks, MLP 64-32-10, 64 rows). It is made of
differentiable operations, so meta-gradients of second order pass through it; where there is no graph, a
native kernel takes its place on the CPU.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from evometa.errors import TaskError
from evometa.layout import Layout
from evometa.native.tasks import PerceptronTasks, Target
from evometa.tasks import mlp_kernel
from evometa.tasks.base import Batch

aten = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """A nonlinearity h(z), and δ·h′(z) from (δ, z, h) in one fused pass that autograd can differentiate."""

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor], Tensor]


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(torch.relu, lambda delta, z, h: aten.threshold_backward(delta, z, 0)),
    "tanh": Activation(torch.tanh, lambda delta, z, h: aten.tanh_backward(delta, h)),
    "sigmoid": Activation(torch.sigmoid, lambda delta, z, h: aten.sigmoid_backward(delta, h)),
    "gelu": Activation(F.gelu, lambda delta, z, h: aten.gelu_backward(delta, z)),
    "silu": Activation(F.silu, lambda delta, z, h: delta * (z.sigmoid() * (1 + z - h))),
    "elu": Activation(F.elu, lambda delta, z, h: aten.elu_backward(delta, 1, 1, 1, False, z)),
}

#: What ``init`` may be: "kaiming", "xavier", "torch" or "normal(STD)".
INIT_PATTERN = re.compile(r"kaiming|xavier|torch|normal\((\d*\.?\d+(?:e-?\d+)?)\)")


#: The same in words.
INITS = "'kaiming', 'xavier', 'torch', 'normal(STD)'"


def init_stds(init: str, n_inputs: int, n_outputs: int) -> tuple[float, float]:
    """Standard deviations of a layer's initial weights and of its biases.

    "kaiming": √(2/n_inputs) (He et al. 2015), "xavier": √(2/(n_inputs + n_outputs)) (Glorot and Bengio
    2010), both with zero biases; "torch": 1/√(3·n_inputs) for weights and biases alike, as ``nn.Linear``
    has them; "normal(STD)": STD for both (Andrychowicz et al. 2016). Raises TaskError for any other name.
    """
    match = INIT_PATTERN.fullmatch(init)
    if match is None:
        raise TaskError(f"unknown init {init!r}; allowed: {INITS}")
    if match[1]:
        return float(match[1]), float(match[1])
    if init == "torch":
        return 1 / math.sqrt(3 * n_inputs), 1 / math.sqrt(3 * n_inputs)
    fan = n_inputs if init == "kaiming" else n_inputs + n_outputs
    return math.sqrt(2 / fan), 0.0


@dataclass(frozen=True)
class MLP:
    """A perceptron with ``sizes`` = (inputs, hidden …, outputs); without hidden layers a linear model.

    A batch holds ``x`` (B, inputs) and ``y``: class numbers (B,), real values (B,) where there is one output
    and ``target`` is "value", or (B, outputs) where it is "values".
    """

    sizes: tuple[int, ...]
    activation: str
    init: str
    target: Target

    @cached_property
    def layout(self) -> Layout:
        """Weights ``k.weight`` (outputs, inputs) and biases ``k.bias`` (outputs,) of each layer k."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (n_inputs, n_outputs) in enumerate(self._layers):
            shapes[f"{layer}.weight"] = (n_outputs, n_inputs)
            shapes[f"{layer}.bias"] = (n_outputs,)
        return Layout.of(shapes)

    @property
    def description(self) -> str:
        """The network in a few words, e.g. ``"MLP 64-32-10 relu kaiming"``."""
        sizes = "-".join(map(str, self.sizes))
        return (
            f"MLP {sizes} {self.activation} {self.init}"
            if len(self.sizes) > 2
            else f"linear {sizes} {self.init}"
        )

    @property
    def nonlinearity(self) -> Activation:
        """Of the hidden layers."""
        return ACTIVATIONS[self.activation]

    @property
    def kernel_activation(self) -> str:
        """The nonlinearity as native kernels name it."""
        return self.activation

    @property
    def _layers(self) -> list[tuple[int, int]]:
        return list(zip(self.sizes, self.sizes[1:], strict=False))

    def init_params(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """Initial parameters, ``(T, N)``."""
        stds: list[Tensor] = []
        for n_inputs, n_outputs in self._layers:
            weight_std, bias_std = init_stds(self.init, n_inputs, n_outputs)
            stds += [torch.full((n_inputs * n_outputs,), weight_std), torch.full((n_outputs,), bias_std)]
        return torch.randn((n_tasks, self.layout.size), generator=generator) * torch.cat(stds)

    def outputs(self, params: Tensor, x: Tensor) -> Tensor:
        """Class scores (B, classes) or predictions (B, 1) of one network ``params`` (N,)."""
        tensors = self.layout.views(params)
        hidden = x
        for layer in range(len(self._layers)):
            if layer:
                hidden = self.nonlinearity.forward(hidden)
            hidden = F.linear(hidden, tensors[f"{layer}.weight"], tensors[f"{layer}.bias"])
        return hidden

    def loss(self, params: Tensor, batch: Batch) -> Tensor:
        """Mean loss () of one network ``params`` (N,) on a batch of one task."""
        return mean_loss(self.target, self.outputs(params, batch["x"]), batch["y"])

    def error(self, params: Tensor, batch: Batch) -> Tensor:
        """Share () of the rows of a batch of one task that one classifier ``params`` (N,) names wrong."""
        named = self.outputs(params, batch["x"]).argmax(dim=-1)
        return (named != batch["y"]).to(params.dtype).mean()

    def loss_and_grad(self, params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Losses (P, T) and gradients (P, T, N) at ``params`` (P, T, N); x is (T, B, inputs), y (T, B),
        or (T, B, outputs) of several values.

        Activations are kept as (P·T, features, B): a layer is then one batched product with its bias folded
        in, and no operand is ever transposed in memory except the data.
        """
        x, y = batch["x"], batch["y"]
        if mlp_kernel.serves(self.sizes, self.target, params, x, y):
            return mlp_kernel.loss_and_grad(self.sizes, self.kernel_activation, self.target, params, x, y)
        n_candidates, n_tasks, n_params = params.shape
        tensors = self.layout.views(params.reshape(-1, n_params))
        weights = [tensors[f"{layer}.weight"] for layer in range(len(self._layers))]
        biases = [tensors[f"{layer}.bias"].unsqueeze(-1) for layer in range(len(self._layers))]
        activation = self.nonlinearity

        columns = x.mT.contiguous()
        hidden = [columns.expand(n_candidates, *columns.shape).reshape(-1, *columns.shape[1:])]
        scores: list[Tensor] = []
        for weight, bias in zip(weights, biases, strict=True):
            if scores:
                hidden.append(activation.forward(scores[-1]))
            scores.append(torch.baddbmm(bias, weight, hidden[-1]))

        outputs = scores[-1].reshape(n_candidates, n_tasks, *scores[-1].shape[1:])
        losses, delta = head(self.target, outputs, y)
        delta = delta.flatten(0, 1)
        parts: list[Tensor] = []
        for layer in reversed(range(len(weights))):
            parts += [delta.sum(-1), torch.bmm(delta, hidden[layer].mT).flatten(1)]
            if layer:
                delta = activation.backward(
                    torch.bmm(weights[layer].mT, delta), scores[layer - 1], hidden[layer]
                )
        return losses, torch.cat(parts[::-1], dim=-1).reshape(params.shape)

    def for_kernels(self, params: Tensor, rows: Batch, indices: Tensor) -> PerceptronTasks | None:
        """See :data:`evometa.tasks.base.ForKernels`."""
        x, y = rows["x"], rows["y"]
        if not mlp_kernel.serves(self.sizes, self.target, params, x, y):
            return None
        return PerceptronTasks(
            x.contiguous(), y.contiguous(), indices, self.sizes, self.kernel_activation, self.target
        )


def mean_loss(target: Target, outputs: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of class scores (B, classes), or mean squared error of predictions (B, outputs)."""
    if target == "class":
        return F.cross_entropy(outputs, y)
    return F.mse_loss(outputs if target == "values" else outputs.squeeze(-1), y)


def head(target: Target, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss (P, T) of outputs (P, T, C, B), and its derivative by them; y is as a batch has it."""
    if target == "class":
        return cross_entropy_head(outputs, y)
    return squared_error_head(outputs, y.mT if target == "values" else y.unsqueeze(1))


def cross_entropy_head(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy (P, T) of scores (P, T, classes, B) and its derivative by the scores."""
    n_candidates, n_tasks, n_classes, n_rows = scores.shape
    log_probabilities = scores.log_softmax(2)
    picked = log_probabilities.gather(2, labels.unsqueeze(1).expand(n_candidates, n_tasks, 1, n_rows))
    one_hot = F.one_hot(labels, n_classes).mT.to(scores.dtype)
    return -picked.mean((2, 3)), (log_probabilities.exp() - one_hot) / n_rows


def squared_error_head(outputs: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error (P, T) of outputs (P, T, C, B) against (T, C, B), its derivative by the outputs."""
    residual = outputs - values
    return residual.square().mean((2, 3)), residual * (2 / (values.shape[-2] * values.shape[-1]))
