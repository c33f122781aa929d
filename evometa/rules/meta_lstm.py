"""Meta-LSTM rules: the parameters are the memory of an LSTM, whose gates are learned.

Ravi & Larochelle 2017 ("Optimization as a model for few-shot learning", section 3.1): θ ← f∘θ − i∘∇L, where
the input gate i is a learning rate of every coordinate and the forget gate f lets parameters shrink. As in
their appendix, a recurrent network reads the preprocessed gradient and loss, and the gates read its hidden
state, the parameter and their own previous value. Where they start is set by two genes instead of by drawn
biases, so that an untrained rule *is* SGD with weight decay, and both may evolve while the weights stay.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from evometa.genome.genes import Choice, Integer, LogReal, Subset
from evometa.genome.space import Genes, Space
from evometa.layout import Layout
from evometa.rules.base import Hyper, RuleFamily, StepContext, UpdateRule
from evometa.rules.cells import CELLS
from evometa.rules.feature_table import RECURRENT_FEATURES, SHARED_FEATURES
from evometa.rules.features import FeatureSet
from evometa.rules.recurrent import RecurrentNetwork
from evometa.trees import Tree, under_prefix

#: The rows of the gates' weights, in this order.
GATES = ("input", "forget")


class MetaLSTMRule(UpdateRule):
    """A :class:`RecurrentNetwork` of one layer → input and forget gate of every coordinate.

    State: the network's, and ``gate_input`` and ``gate_forget`` ``(T, N)``, the gates of the last step.
    Weights: the network's, and of the gates ``gates.weight (2, H)``, ``gates.bias``, ``gates.parameter`` and
    ``gates.previous`` ``(2,)`` each; these start at zero.
    """

    def __init__(self, cell: str, n_hidden: int, features: FeatureSet) -> None:
        self.network = RecurrentNetwork(cell, 1, n_hidden, features)
        self.elementwise = features.elementwise

    def init_weights(self, generator: torch.Generator) -> Tree:
        gates = {"weight": torch.zeros(len(GATES), self.network.n_hidden)}
        gates |= {name: torch.zeros(len(GATES)) for name in ("bias", "parameter", "previous")}
        return self.network.init_weights(generator) | {f"gates.{name}": w for name, w in gates.items()}

    def init_state(self, weights: Tree, params: Tensor, layout: Layout) -> Tree:
        gates = {f"gate_{name}": torch.zeros_like(params) for name in GATES}
        return self.network.init_state(params, layout) | gates

    def update(
        self, weights: Tree, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        own = under_prefix("gates", weights)
        signals = self.network.features.observe(state, grads, params, context)
        from_hidden, after = self.network.outputs(weights, own, state, signals)
        previous = torch.stack([state["gate_input"], state["gate_forget"]])
        seen = own["parameter"].reshape(2, 1, 1) * params + own["previous"].reshape(2, 1, 1) * previous
        to_input, to_forget = (from_hidden + seen).unbind(0)
        learning_rate = torch.sigmoid(to_input + torch.logit(hyper["initial_lr"]))
        # 1 − f by itself: f is so near 1 that their difference would have few digits left.
        decay = torch.sigmoid(torch.logit(hyper["initial_decay"]) - to_forget)
        step = -(learning_rate * grads) - decay * params
        return step, after | {"gate_input": learning_rate, "gate_forget": 1.0 - decay}


class MetaLSTMFamily(RuleFamily):
    """The registry row of the Meta-LSTM rules."""

    name = "meta_lstm"
    summary = "SGD with weight decay, both set for every parameter and step by the gates of a small LSTM"
    learned = True

    @property
    def space(self) -> Space:
        return Space(
            (
                Choice("cell", tuple(CELLS), "lstm", note="kind of recurrent cell below the gates"),
                Integer("hidden", 4, 32, 20, log=True, note="units of its layer"),
                Subset("features", RECURRENT_FEATURES, ("log_sign",), note="inputs of each coordinate"),
                Subset("shared_features", SHARED_FEATURES, ("loss",), 0, note="inputs they all share"),
                LogReal("initial_lr", 1e-4, 0.9, 1e-2, note="input gate of an untrained rule"),
                LogReal("initial_decay", 1e-8, 0.1, 1e-6, note="1 − forget gate of an untrained rule"),
            )
        )

    def build(self, genes: Genes) -> MetaLSTMRule:
        return MetaLSTMRule(str(genes["cell"]), cast(int, genes["hidden"]), FeatureSet.of(genes))

    def describe(self, genes: Genes) -> str:
        network = self.build(genes).network
        return (
            f"SGD whose learning rate (at first {genes['initial_lr']:.3g}) and weight decay (at first "
            f"{genes['initial_decay']:.3g}) are gates, of every coordinate and at every step: they look at "
            f"the parameter, their last value and {network.cell.title} of {network.n_hidden} units that "
            f"reads {network.features.in_words()}."
        )

    def formula(self, genes: Genes) -> str:
        lines, top = self.build(genes).network.formula()
        lines += [
            f"i ← σ(w·{top} + b + v·θ + u·i + logit {genes['initial_lr']:.3g})",
            f"f ← σ(w'·{top} + b' + v'·θ + u'·f − logit {genes['initial_decay']:.3g})",
            "Δ = (f − 1)∘θ − i∘g",
        ]
        return "\n".join(lines)
