"""Per-parameter MLP update rules: a tiny network reads many statistics of one coordinate and writes its step.

With all features of METZ and ``time``, two hidden layers of four units, direction × exp(magnitude) and both
scales at 1e-3 this is the "adafac MLP" of Metz et al. 2022 ("Practical tradeoffs between memory, compute, and
performance in learned optimizers"): those are the genes' defaults.
"""

from __future__ import annotations

import math
from typing import ClassVar, cast

import torch
from torch import Tensor

from evometa import native
from evometa.genome.genes import Integer, Subset
from evometa.genome.space import Genes, Space
from evometa.layout import Layout
from evometa.native.tasks import PerceptronTasks
from evometa.rules.base import Hyper, RuleFamily, StepContext, Steps, UpdateRule
from evometa.rules.cells import uniform
from evometa.rules.feature_table import METZ, SHARED_FEATURES, VARYING_FEATURES, WITHIN_TENSOR
from evometa.rules.features import FeatureSet, Inputs, normalised_products
from evometa.rules.mlp_kernel import UNIT, MLPKernel
from evometa.rules.output import Output, output_genes
from evometa.rules.signals import Signals
from evometa.trees import Tree, under_prefix, with_prefix


class MLPNetwork:
    """Features, each with second moment one over its tensor → hidden layers (ReLU), for every coordinate.

    State: the features' statistics. Weights: ``input.<feature>`` ``(H, channels)`` for every feature, so that
    a genome that gains or loses one keeps the others; ``layer<l>.bias`` and, from the second layer on,
    ``layer<l>.weight``; the last layer's are the caller's. Activations are ``(T, H, N)``.
    """

    def __init__(self, n_layers: int, n_hidden: int, features: FeatureSet) -> None:
        self.n_layers = n_layers
        self.n_hidden = n_hidden
        self.features = features

    def init_weights(self, generator: torch.Generator) -> Tree:
        """He's initialisation (He et al. 2015) by the number of inputs of each layer; biases zero."""
        n_hidden = self.n_hidden
        bound = math.sqrt(6.0 / sum(self.features.n_channels.values()))
        weights = {
            f"input.{name}": uniform(generator, (n_hidden, n_channels), bound)
            for name, n_channels in self.features.n_channels.items()
        }
        weights["layer0.bias"] = torch.zeros(n_hidden)
        for layer in range(1, self.n_layers):
            drawn = uniform(generator, (n_hidden, n_hidden), math.sqrt(6.0 / n_hidden))
            weights |= {f"layer{layer}.weight": drawn, f"layer{layer}.bias": torch.zeros(n_hidden)}
        return weights

    def outputs(self, weights: Tree, last: Tree, signals: Signals, offsets: Tensor | None = None) -> Tensor:
        """What the layer ``last`` makes of this step's signals, ``(n_outputs, T, N)``.

        ``last`` has ``weight (n_outputs, H)`` and ``bias (n_outputs,)``. ``offsets`` ``(H, T, n_tensors)``
        are added to the first layer's bias, those of each tensor for all of its coordinates.
        """
        hidden = self._first_layer(weights, signals, offsets).relu_()
        for layer in range(1, self.n_layers):
            hidden = _dense(under_prefix(f"layer{layer}", weights), hidden).relu_()
        return _dense(last, hidden).transpose(0, 1)

    def formula(self) -> tuple[list[str], str]:
        """The lines up to the last layer's input, and that input's symbol."""
        lines = [*self.features.formula(), "x̃ = x/rms(x) over each tensor; k, K and L as they are"]
        below = "x̃"
        for number in "₁₂₃"[: self.n_layers]:
            lines.append(f"h{number} = max(0, W{number}·{below} + b{number})")
            below = f"h{number}"
        return lines, below

    def _first_layer(self, weights: Tree, signals: Signals, offsets: Tensor | None) -> Tensor:
        """Activations before the ReLU, ``(T, H, N)``: per tensor the sum of what each scope contributes."""
        inputs = self.features.inputs(signals)
        bias = self._bias(weights, inputs).unsqueeze(-1)
        totals = [bias] * len(signals.matrices)
        if offsets is not None:
            totals = [bias + own.T.unsqueeze(-1).unsqueeze(-1) for own in offsets.unbind(-1)]
        for scope in [scope for scope in WITHIN_TENSOR if scope in self.features.scopes]:
            own = [inputs[scope][..., matrix.place(scope)] for matrix in signals.matrices]
            products = normalised_products(self.features.weights(weights, scope), own)
            totals = [
                total + torch.unflatten(product, -1, matrix.shape(scope))
                for total, product, matrix in zip(totals, products, signals.matrices, strict=True)
            ]
        parts = [
            total.expand(-1, -1, matrix.n_rows, matrix.n_columns).flatten(-2)
            for total, matrix in zip(totals, signals.matrices, strict=True)
        ]
        return torch.cat(parts, dim=-1)

    def _bias(self, weights: Tree, inputs: Inputs) -> Tensor:
        """What all coordinates of a task share, ``(T or 1, H, 1)``."""
        bias = weights["layer0.bias"]
        if "step" in self.features.scopes:
            bias = torch.addmv(bias, self.features.weights(weights, "step"), inputs["step"])
        bias = bias.unsqueeze(-1)
        if "task" in self.features.scopes:
            bias = torch.addmm(bias, self.features.weights(weights, "task"), inputs["task"])
        return bias.T.unsqueeze(-1)


def _dense(layer: Tree, hidden: Tensor) -> Tensor:
    """An affine layer on ``(T, H, N)``."""
    weight = layer["weight"].expand(hidden.shape[0], -1, -1)
    return torch.baddbmm(layer["bias"].unsqueeze(-1), weight, hidden)


class MLPRule(UpdateRule):
    """An :class:`MLPNetwork` → output stage.

    State and weights are the network's; the last layer's are ``output.weight`` and ``output.bias``.
    """

    def __init__(self, n_layers: int, n_hidden: int, features: FeatureSet, output: Output) -> None:
        self.network = MLPNetwork(n_layers, n_hidden, features)
        self.output = output
        self._kernel = MLPKernel(n_layers, n_hidden, features, output)

    def init_weights(self, generator: torch.Generator) -> Tree:
        weights = self.network.init_weights(generator)
        return weights | with_prefix("output", self.output.init(generator, self.network.n_hidden))

    def init_state(self, weights: Tree, params: Tensor, layout: Layout) -> Tree:
        return self.network.features.init_state(params, layout)

    def update(
        self, weights: Tree, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        signals = self.network.features.observe(state, grads, params, context)
        outputs = self.network.outputs(weights, under_prefix("output", weights), signals)
        return self.output.step(outputs, hyper, signals), signals.state

    def has_kernel(self, grads: Tensor, params: Tensor) -> bool:
        return not grads.requires_grad and native.serves(UNIT, grads, params)

    def advance(
        self,
        weights: Tree,
        hyper: Hyper,
        state: Tree,
        grads: Tensor,
        params: Tensor,
        context: StepContext,
        factor: Tensor,
        *,
        overwrite: bool = False,
    ) -> tuple[Tensor, Tree]:
        return self._kernel.advance(
            weights, hyper, state, grads, params, context, factor, overwrite=overwrite
        )

    def train(
        self, weights: Tree, hyper: Hyper, state: Tree, params: Tensor, tasks: PerceptronTasks, steps: Steps
    ) -> tuple[Tensor, Tree]:
        return self._kernel.train(weights, hyper, state, params, tasks, steps)


class MLPFamily(RuleFamily):
    """The registry row of the per-parameter MLP rules."""

    name = "mlp"
    summary = "a tiny MLP per parameter turns many statistics of its gradient into its step"
    learned: ClassVar[bool] = True

    @property
    def space(self) -> Space:
        return Space(
            (
                Integer("layers", 1, 3, 2, note="hidden layers of the network"),
                Integer("hidden", 4, 32, 4, log=True, note="units of each layer"),
                Subset("features", VARYING_FEATURES, METZ, note="inputs of each coordinate"),
                Subset("shared_features", SHARED_FEATURES, ("time",), 0, note="inputs they all share"),
                *output_genes(output="direction_magnitude", lr=1e-3),
            )
        )

    def build(self, genes: Genes) -> MLPRule:
        output = Output.of(genes)
        features = FeatureSet.of(genes, output.statistics)
        return MLPRule(cast(int, genes["layers"]), cast(int, genes["hidden"]), features, output)

    def describe(self, genes: Genes) -> str:
        rule = self.build(genes)
        network = rule.network
        layers = "one hidden layer" if network.n_layers == 1 else f"{network.n_layers} hidden layers"
        return (
            f"A per-parameter MLP with {layers} of {network.n_hidden} units reads, normalised over each "
            f"tensor, {network.features.in_words()}; {rule.output.describe(genes)}."
        )

    def formula(self, genes: Genes) -> str:
        rule = self.build(genes)
        lines, below = rule.network.formula()
        return "\n".join([*lines, f"o = W·{below} + b", *rule.output.formula(genes)])
