"""Attention rules: a transformer over the recent history of each tensor sets its step size and momentum.

The history is a sequence of the statistics that a tensor had at the last L steps. Blocks are those of Vaswani
et al. 2017 ("Attention is all you need") with normalisation in front (Xiong et al. 2020, "On layer
normalization in the transformer architecture") and learned positions; the latest step's place gives the
tensor's controls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from evometa.genome.genes import Choice, Integer
from evometa.genome.space import Genes, Space
from evometa.layout import Layout
from evometa.rules.base import Hyper, RuleFamily, StepContext, UpdateRule
from evometa.rules.cells import uniform
from evometa.rules.features import FeatureSet
from evometa.rules.tensor_controls import TensorControls, control_genes
from evometa.rules.tensor_features import TENSOR_GENES, TensorFeatures
from evometa.trees import Tree, under_prefix, with_prefix

#: added to variances that tokens are normalised by
NORM_EPSILON = 1e-5
#: units of a block's perceptron for each of a token's
WIDENING = 2
#: score of a step before the first
ABSENT = -1e9


@dataclass(frozen=True)
class Transformer:
    """Blocks for sequences of ``length`` tokens of ``width`` numbers.

    Weights: ``position (L, D)``; of block l ``block<l>.query``, ``.key``, ``.value``, ``.merge`` ``(D, D)``,
    ``.widen (2·D, D)``, ``.widen_bias``, ``.narrow (D, 2·D)``, ``.narrow_bias``, and ``.norm_attention``,
    ``.norm_perceptron`` ``(2, D)``, gain and bias each; ``norm`` likewise, in the end.
    """

    n_blocks: int
    n_heads: int
    width: int
    length: int

    def init_weights(self, generator: torch.Generator) -> Tree:
        """Products U(−1/√n, 1/√n) by their number n of inputs, biases zero, gains one."""
        width, wide = self.width, WIDENING * self.width
        weights = {"position": uniform(generator, (self.length, width), width**-0.5)}
        norm = torch.stack([torch.ones(width), torch.zeros(width)])
        for block in range(self.n_blocks):
            square = ("query", "key", "value", "merge")
            own = {name: uniform(generator, (width, width), width**-0.5) for name in square}
            own["widen"] = uniform(generator, (wide, width), width**-0.5)
            own["narrow"] = uniform(generator, (width, wide), wide**-0.5)
            own |= {"widen_bias": torch.zeros(wide), "narrow_bias": torch.zeros(width)}
            own |= {"norm_attention": norm.clone(), "norm_perceptron": norm.clone()}
            weights |= with_prefix(f"block{block}", own)
        return weights | {"norm": norm}

    def latest(self, weights: Tree, tokens: Tensor, step: Tensor) -> Tensor:
        """What the blocks make of the last tokens, ``(R, D)``, for R sequences ``(R, L, D)``.

        Of them the last ``step + 1`` are there.
        """
        ages = torch.arange(self.length - 1, -1, -1, dtype=step.dtype, device=step.device)
        absent = torch.where(ages > step, ABSENT, 0.0).to(tokens.dtype)
        tokens = tokens + weights["position"]
        for block in range(self.n_blocks):
            own = under_prefix(f"block{block}", weights)
            tokens = tokens + self._attended(own, _normalised(tokens, own["norm_attention"]), absent)
            wide = _normalised(tokens, own["norm_perceptron"]) @ own["widen"].T + own["widen_bias"]
            tokens = tokens + torch.relu(wide) @ own["narrow"].T + own["narrow_bias"]
        return _normalised(tokens[:, -1], weights["norm"])

    def _attended(self, weights: Tree, tokens: Tensor, absent: Tensor) -> Tensor:
        """Multi-head attention of tokens ``(R, L, D)`` to each other."""
        shape = (self.n_heads, self.width // self.n_heads)
        query, key, value = (
            torch.unflatten(tokens @ weights[name].T, -1, shape).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(-1, -2) * (1.0 / math.sqrt(shape[1])) + absent
        mixed = torch.softmax(scores, dim=-1) @ value
        return mixed.transpose(1, 2).flatten(2) @ weights["merge"].T


def _normalised(tokens: Tensor, norm: Tensor) -> Tensor:
    """Layer normalisation over the last axis (Ba et al. 2016), then ``norm``'s gain and bias."""
    centred = tokens - tokens.mean(dim=-1, keepdim=True)
    variance = centred.square().mean(dim=-1, keepdim=True)
    return centred * torch.rsqrt(variance + NORM_EPSILON) * norm[0] + norm[1]


class AttentionRule(UpdateRule):
    """The last L steps' statistics of each tensor → transformer → controls of a nominal Adam.

    State: ``history (L, F, T, n_tensors)``, the latest step last, and the statistics. Weights:
    ``input.<feature> (D, channels)``, the transformer's, ``control.weight (2, D)`` and ``control.bias``.
    """

    def __init__(
        self,
        transformer: Transformer,
        features: FeatureSet,
        tensors: TensorFeatures,
        controls: TensorControls,
    ) -> None:
        self.transformer = transformer
        self.features = features
        self.tensors = tensors
        self.controls = controls

    def init_weights(self, generator: torch.Generator) -> Tree:
        width, bound = self.transformer.width, sum(self.tensors.n_channels.values()) ** -0.5
        weights = self.tensors.init_weights(lambda n: uniform(generator, (width, n), bound))
        weights |= self.transformer.init_weights(generator)
        return weights | with_prefix("control", self.controls.init(width))

    def init_state(self, weights: Tree, params: Tensor, layout: Layout) -> Tree:
        n_tensors = sum(size > 0 for size in layout.sizes)
        n_inputs = sum(self.tensors.n_channels.values())
        history = params.new_zeros(self.transformer.length, n_inputs, len(params), n_tensors)
        return self.features.init_state(params, layout) | {"history": history}

    def update(
        self, weights: Tree, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        signals = self.features.observe(state, grads, params, context)
        rows = self.tensors.inputs(signals)
        history = torch.cat([state["history"][1:], rows.unsqueeze(0)])
        tokens = history.flatten(2).permute(2, 0, 1) @ self.tensors.weights(weights).T
        latest = self.transformer.latest(weights, tokens, context.step)
        own = under_prefix("control", weights)
        controls = torch.addmm(own["bias"].unsqueeze(-1), own["weight"], latest.T)
        step = self.controls.step(torch.unflatten(controls, 1, rows.shape[1:]), hyper, signals)
        return step, signals.state | {"history": history}


class AttentionFamily(RuleFamily):
    """The registry row of the attention rules."""

    name = "attention"
    summary = "a transformer over each tensor's recent history sets its step size and momentum in Adam"
    learned: ClassVar[bool] = True

    @property
    def space(self) -> Space:
        return Space(
            (
                Integer("blocks", 1, 2, 1, note="transformer blocks"),
                Choice("heads", (2, 1, 4), note="heads of their attention"),
                Choice("width", (8, 16, 32), note="numbers in a token"),
                Integer("length", 2, 16, 8, log=True, note="steps in the history"),
                *TENSOR_GENES,
                *control_genes(),
            )
        )

    def build(self, genes: Genes) -> AttentionRule:
        controls, tensors = TensorControls.of(genes), TensorFeatures.of(genes)
        features = FeatureSet((), tensors.statistics_beside(controls.nominal.statistics))
        blocks, heads, width, length = (
            cast(int, genes[name]) for name in ("blocks", "heads", "width", "length")
        )
        return AttentionRule(Transformer(blocks, heads, width, length), features, tensors, controls)

    def describe(self, genes: Genes) -> str:
        rule = self.build(genes)
        net = rule.transformer
        blocks = "one block" if net.n_blocks == 1 else f"{net.n_blocks} blocks"
        heads = "one head" if net.n_heads == 1 else f"{net.n_heads} heads"
        return (
            f"For each tensor a transformer of {blocks} with {heads} reads its last {net.length} steps as "
            f"tokens of {net.width} numbers, made of {rule.tensors.in_words()}; it "
            f"{rule.controls.describe(genes)}."
        )

    def formula(self, genes: Genes) -> str:
        rule = self.build(genes)
        net = rule.transformer
        lines = [
            rule.tensors.formula(),
            *rule.features.definitions(),
            f"t = [E·qₖ₋{net.length - 1}, …, E·qₖ] + positions",
            "t ← t + attention(norm t);  t ← t + V·max(0, U·norm t + c) + d"
            + (f"  ({net.n_blocks} times)" if net.n_blocks > 1 else ""),
            "(a, b) = W·norm(last t) + w",
        ]
        return "\n".join([*lines, *rule.controls.formula(genes)])
