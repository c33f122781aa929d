"""Hierarchical rules: a recurrent net for each tensor steers an MLP for each parameter.

Wichrowska et al. 2017 ("Learned optimizers that scale and generalize", section 3): recurrent networks on the
levels of parameters, tensors and the whole model, of which the upper ones bias the lower ones. As in VeLO
(Metz et al. 2022) the net of a tensor reads statistics of the tensor, and the lowest level is a tiny MLP.
The level of the whole model is a gene: its net reads the mean of all tensors' hidden states, and its own is
an input of every tensor's net at the next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor

from evometa.genome.genes import Choice, Integer, LogReal, Subset
from evometa.genome.space import Genes, Space
from evometa.layout import Layout
from evometa.rules.base import Hyper, RuleFamily, StepContext, UpdateRule
from evometa.rules.cells import CELLS, uniform
from evometa.rules.feature_table import VARYING_FEATURES
from evometa.rules.features import FeatureSet
from evometa.rules.mlp import MLPNetwork
from evometa.rules.output import Output, bounded_exp, output_genes
from evometa.rules.tensor_cell import TensorCell
from evometa.rules.tensor_features import TENSOR_GENES, TensorFeatures
from evometa.trees import Tree, under_prefix, with_prefix

#: inputs of each coordinate by default
FEATURES = (
    "log_sign",
    "parameter",
    "average_0.99",
    "log_sign_average_0.9",
    "rms_average_0.9",
    "rms_average_0.99",
    "factored_gradient_0.9",
    "factored_average_0.9",
)


class HierarchicalRule(UpdateRule):
    """Statistics of each tensor → a recurrent cell → its log step size and a bias of its parameters' MLP.

    State: ``tensor_hidden`` and, for an LSTM, ``tensor_memory`` ``(H, T, n_tensors)``, with a global level
    ``global_hidden`` and so on ``(H, T, 1)``, and the features' statistics. Weights: the MLP's and its output
    layer's as in :class:`evometa.rules.mlp.MLPRule`; ``tensor.…`` and ``global.…`` as in
    :class:`evometa.rules.cells.Cell`, with ``tensor.input.<feature>`` for every feature and
    ``tensor.feedback`` from the global level; ``control.weight (1 + H_mlp, H)`` and ``control.bias``, whose
    first row gives the log step size.
    """

    def __init__(
        self,
        network: MLPNetwork,
        tensors: TensorFeatures,
        cell: str,
        n_hidden: int,
        global_level: bool,
        output: Output,
    ) -> None:
        self.network = network
        self.tensors = tensors
        self.own = TensorCell("tensor", cell, n_hidden)
        self.above = TensorCell("global", cell, n_hidden)
        self.global_level = global_level
        self.output = output
        self.tensorwise = not global_level

    def init_weights(self, generator: torch.Generator) -> Tree:
        """The first row of the controls is zero, so that fresh weights leave step sizes as they are."""
        network, cell, n_hidden = self.network, self.own.cell, self.own.n_hidden
        weights = network.init_weights(generator)
        weights |= with_prefix("output", self.output.init(generator, network.n_hidden))
        own = self.tensors.init_weights(lambda n: cell.init_input(generator, n_hidden, n))
        own |= cell.init(generator, n_hidden)
        if self.global_level:
            own["feedback"] = cell.init_input(generator, n_hidden, n_hidden)
            above = {"input": cell.init_input(generator, n_hidden, n_hidden)} | cell.init(generator, n_hidden)
            weights |= with_prefix("global", above)
        control = uniform(generator, (1 + network.n_hidden, n_hidden), n_hidden**-0.5)
        control[0] = 0.0
        weights |= with_prefix("tensor", own)
        return weights | {"control.weight": control, "control.bias": torch.zeros(1 + network.n_hidden)}

    def init_state(self, weights: Tree, params: Tensor, layout: Layout) -> Tree:
        n_tensors = sum(size > 0 for size in layout.sizes)
        state = self.network.features.init_state(params, layout) | self.own.init_state(params, n_tensors)
        return state | self.above.init_state(params, 1) if self.global_level else state

    def update(
        self, weights: Tree, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        signals = self.network.features.observe(state, grads, params, context)
        controls, levels = self._controls(weights, state, self.tensors.inputs(signals))
        outputs = self.network.outputs(weights, under_prefix("output", weights), signals, controls[1:])
        step = self.output.step(outputs, hyper, signals)
        size = bounded_exp(hyper["control"] * controls[0])
        return step * context.layout.spread(size), levels | signals.state

    def _controls(self, weights: Tree, state: Tree, rows: Tensor) -> tuple[Tensor, Tree]:
        """The controls ``(1 + H_mlp, T, n_tensors)`` of inputs ``(C, T, n_tensors)``, and the states."""
        own = under_prefix("tensor", weights)
        own["input"] = self.tensors.weights(own)
        if self.global_level:
            above = state[self.above.carried[0]].expand(-1, -1, rows.shape[-1])
            rows, own["input"] = torch.cat([rows, above]), torch.cat([own["input"], own["feedback"]], dim=1)
        hidden, levels = self.own.step(own, rows, state)
        if self.global_level:
            mean = hidden.mean(dim=-1, keepdim=True)
            _, new = self.above.step(under_prefix("global", weights), mean, state)
            levels = levels | new
        bias = weights["control.bias"].unsqueeze(-1)
        controls = torch.addmm(bias, weights["control.weight"], hidden.flatten(1))
        return torch.unflatten(controls, 1, hidden.shape[1:]), levels


class HierarchicalFamily(RuleFamily):
    """The registry row of the hierarchical rules."""

    name = "hierarchical"
    summary = "a recurrent net per tensor steers an MLP per parameter and its step size"
    learned: ClassVar[bool] = True

    @property
    def space(self) -> Space:
        return Space(
            (
                Choice("cell", tuple(CELLS), "gru", note="kind of recurrent cell of each tensor"),
                Integer("tensor_hidden", 4, 64, 16, log=True, note="its units"),
                Choice("global_level", (False, True), note="a net of the whole model above them"),
                Integer("layers", 1, 2, 1, note="hidden layers of each parameter's MLP"),
                Integer("hidden", 4, 32, 6, log=True, note="units of each layer"),
                Subset("features", VARYING_FEATURES, FEATURES, note="inputs of each coordinate"),
                *TENSOR_GENES,
                LogReal("control", 1e-2, 1.0, 0.1, note="scale of each tensor's log step size"),
                *output_genes(output="direct", lr=0.1, nominal="adam", combine="scale"),
            )
        )

    def build(self, genes: Genes) -> HierarchicalRule:
        output = Output.of(genes)
        tensors = TensorFeatures.of(genes)
        features = FeatureSet(
            cast(Sequence[str], genes["features"]), tensors.statistics_beside(output.statistics)
        )
        network = MLPNetwork(cast(int, genes["layers"]), cast(int, genes["hidden"]), features)
        n_hidden, global_level = cast(int, genes["tensor_hidden"]), bool(genes["global_level"])
        return HierarchicalRule(network, tensors, str(genes["cell"]), n_hidden, global_level, output)

    def describe(self, genes: Genes) -> str:
        rule = self.build(genes)
        network, cell = rule.network, rule.own.cell
        layers = "one hidden layer" if network.n_layers == 1 else f"{network.n_layers} hidden layers"
        above = ", together with such a net of the whole model," if rule.global_level else ""
        return (
            f"For each tensor {cell.title} of {rule.own.n_hidden} units{above} reads "
            f"{rule.tensors.in_words()}; it scales the tensor's step (within 1/10 and 10) and biases a "
            f"per-parameter MLP with {layers} of {network.n_hidden} units that reads, normalised over each "
            f"tensor, {network.features.in_words()}; {rule.output.describe(genes)}."
        )

    def formula(self, genes: Genes) -> str:
        rule = self.build(genes)
        below, top = rule.network.formula()
        lines = [rule.tensors.formula()]
        if rule.global_level:
            lines += ["q ← [q, hᴳ]"]
        lines += [line.format(x="q", n="ₜ") for line in rule.own.cell.formula]
        if rule.global_level:
            lines += [line.format(x="mean hₜ", n="ᴳ") for line in rule.above.cell.formula]
        lines += ["(a, b) = Wᶜ·hₜ + bᶜ for each tensor"]
        lines += [line.replace(" + b₁)", " + b₁ + b)") for line in below]
        lines += [f"o = W·{top} + b₀", *rule.output.formula(genes)]
        return "\n".join([*lines, f"Δ ← Δ·exp(s·tanh({genes['control']:.3g}·a/s)), s = log 10"])
