"""The rules as a user would write them in PyTorch: stock modules, one model at a time, tensor by tensor.

Written for reading, not for speed; they give evometa's losses to float tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from evometa.rules.feature_table import FACTORED_DECAYS, RECIPROCAL_EPSILON, ROOT_DECAY, TIME_SCALES, log_sign
from evometa.rules.features import NORMALISER_EPSILON
from evometa.rules.signals import EPSILON

Weights = Mapping[str, Tensor]
Tensors = Sequence[Tensor]


class RecurrentOptimizer(nn.Module):
    """Andrychowicz et al. 2016: stacked LSTM or GRU cells on log and sign of every coordinate's gradient."""

    def __init__(self, cell: str, n_layers: int, n_hidden: int, lr: float) -> None:
        super().__init__()
        kind = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}[cell]
        self.cells = nn.ModuleList(kind(n_hidden if layer else 2, n_hidden) for layer in range(n_layers))
        self.output = nn.Linear(n_hidden, 1)
        self.lr = lr
        self.state: list[Any] = []

    def load(self, weights: Weights) -> None:
        """Take over weights of evometa's rule, which has one bias where a cell has two."""
        state: dict[str, Tensor] = {}
        for layer, cell in enumerate(self.cells):
            assert isinstance(cell, nn.RNNCellBase)
            state[f"cells.{layer}.weight_ih"] = weights[
                "input.log_sign" if layer == 0 else f"layer{layer}.input"
            ]
            state[f"cells.{layer}.weight_hh"] = weights[f"layer{layer}.recurrent"]
            state[f"cells.{layer}.bias_ih"] = weights[f"layer{layer}.bias"]
            second = torch.zeros_like(cell.bias_hh)
            if f"layer{layer}.recurrent_bias" in weights:
                second[-cell.hidden_size :] = weights[f"layer{layer}.recurrent_bias"]
            state[f"cells.{layer}.bias_hh"] = second
        state["output.weight"], state["output.bias"] = weights["output.weight"], weights["output.bias"]
        self.load_state_dict(state)

    def reset(self) -> None:
        """Begin a new training."""
        self.state = [None] * len(self.cells)

    def forward(self, params: Tensors, grads: Tensors) -> list[Tensor]:
        """The next params."""
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        hidden = torch.stack(log_sign(flat), dim=1)
        for layer, cell in enumerate(self.cells):
            self.state[layer] = cell(hidden, self.state[layer])
            hidden = self.state[layer][0] if isinstance(cell, nn.LSTMCell) else self.state[layer]
        steps = self.lr * self.output(hidden).squeeze(1)
        sizes = [param.numel() for param in params]
        return [p + step.reshape(p.shape) for p, step in zip(params, steps.split(sizes), strict=True)]


class MLPOptimizer(nn.Module):
    """Metz et al. 2022, "adafac MLP": 28 normalised statistics and 11 of time into a tiny perceptron."""

    def __init__(self, n_layers: int, n_hidden: int, lr: float, magnitude_scale: float) -> None:
        super().__init__()
        widths = [39, *[n_hidden] * n_layers]
        layers: list[nn.Module] = []
        for below, width in pairwise(widths):
            layers += [nn.Linear(below, width), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.Linear(n_hidden, 2))
        self.lr, self.magnitude_scale = lr, magnitude_scale
        self.step = 0
        self.moments: list[dict[str, Tensor]] = []

    def load(self, weights: Weights) -> None:
        """Take over weights of evometa's rule, which keeps those of each feature apart."""
        names = ["gradient", "parameter", "second_moment", "reciprocal_root"]
        for kind in ("average", "rms_average", "factored_gradient", "factored_average"):
            names += [f"{kind}_{decay:g}" for decay in FACTORED_DECAYS]
        for kind in ("row", "reciprocal_row", "column", "reciprocal_column"):
            names += [f"{kind}_{decay:g}" for decay in FACTORED_DECAYS]
        linear = [layer for layer in self.network if isinstance(layer, nn.Linear)]
        first = torch.cat([weights[f"input.{name}"] for name in (*names, "time")], dim=1)
        with torch.no_grad():
            for index, layer in enumerate(linear):
                last = index == len(linear) - 1
                name = "output" if last else f"layer{index}"
                layer.weight.copy_(weights[f"{name}.weight"] if index else first)
                layer.bias.copy_(weights[f"{name}.bias"])

    def reset(self) -> None:
        """Begin a new training."""
        self.step, self.moments = 0, []

    def forward(self, params: Tensors, grads: Tensors) -> list[Tensor]:
        """The next params."""
        if not self.moments:
            self.moments = [{} for _ in params]
        time = torch.tanh(self.step / torch.tensor(TIME_SCALES, device=params[0].device) - 1)
        self.step += 1
        return [
            param + self._step(moments, param, grad, time)
            for moments, param, grad in zip(self.moments, params, grads, strict=True)
        ]

    def _step(self, moments: dict[str, Tensor], param: Tensor, grad: Tensor, time: Tensor) -> Tensor:
        matrix = grad.reshape(grad.shape[0], -1)
        features = [feature.expand_as(matrix) for feature in self._features(moments, param, matrix)]
        columns = torch.stack(features, dim=-1)
        scale = torch.rsqrt(columns.square().mean(dim=(0, 1)) + NORMALISER_EPSILON)
        inputs = torch.cat([columns * scale, time.expand(*matrix.shape, -1)], dim=-1)
        direction, magnitude = self.network(inputs).unbind(-1)
        step: Tensor = self.lr * direction * torch.exp(self.magnitude_scale * magnitude)
        return step.reshape(param.shape)

    def _features(self, moments: dict[str, Tensor], param: Tensor, grad: Tensor) -> list[Tensor]:
        square = grad.square()
        second = self._average(moments, "second", ROOT_DECAY, square)
        root = torch.rsqrt(second + EPSILON)
        first = [self._average(moments, "first", decay, grad) for decay in FACTORED_DECAYS]
        rows = [self._average(moments, "row", d, square.mean(1, keepdim=True)) for d in FACTORED_DECAYS]
        columns = [self._average(moments, "column", d, square.mean(0, keepdim=True)) for d in FACTORED_DECAYS]
        factored = [
            torch.rsqrt(row + EPSILON) * (row.mean() + EPSILON).sqrt() * torch.rsqrt(column + EPSILON)
            for row, column in zip(rows, columns, strict=True)
        ]
        return [
            grad,
            param.reshape(grad.shape),
            second,
            torch.rsqrt(second + RECIPROCAL_EPSILON),
            *first,
            *(moment * root for moment in first),
            *(grad * factor for factor in factored),
            *(moment * factor for moment, factor in zip(first, factored, strict=True)),
            *rows,
            *(torch.rsqrt(row + RECIPROCAL_EPSILON) for row in rows),
            *columns,
            *(torch.rsqrt(column + RECIPROCAL_EPSILON) for column in columns),
        ]

    def _average(self, moments: dict[str, Tensor], name: str, decay: float, value: Tensor) -> Tensor:
        """The bias-corrected moving average after this value."""
        key = f"{name}_{decay}"
        before = moments.get(key, torch.zeros_like(value))
        moments[key] = decay * before + (1 - decay) * value
        return moments[key] / (1 - decay**self.step)


class AdamOptimizer:
    """``torch.optim.Adam`` behind the same interface."""

    def __init__(self, lr: float, betas: tuple[float, float], eps: float) -> None:
        self.lr, self.betas, self.eps = lr, betas, eps
        self.optimizer: torch.optim.Adam | None = None

    def load(self, weights: Weights) -> None:
        """Nothing is learned."""

    def to(self, device: torch.device) -> AdamOptimizer:
        """Its state is made where the params are."""
        return self

    def reset(self) -> None:
        """Begin a new training."""
        self.optimizer = None

    def __call__(self, params: Tensors, grads: Tensors) -> list[Tensor]:
        """The next params, edited in place."""
        if self.optimizer is None:
            self.optimizer = torch.optim.Adam(list(params), lr=self.lr, betas=self.betas, eps=self.eps)
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        self.optimizer.step()
        return list(params)
