"""Proximal gradient rules for losses with an L1 penalty: soft thresholding as part of the update.

For f(θ) + λ‖θ‖₁ with step η: θ ← soft(θ − η∇f(θ), ηλ), where soft(z, c) moves every entry of z by c towards
zero and no further. That is ISTA (Daubechies, Defrise & De Mol 2004); with Nesterov's extrapolation it is
FISTA (Beck & Teboulle 2009, section 4), of which the params are y, the point where the gradient is taken.

A loss as one writes it in PyTorch has the penalty inside, and its gradient is ∇f + λ·sign(θ) with
sign(0) = 0. The rule takes the second part off again with its own λ, the gene ``threshold``; the gene
``penalty`` says whether there is one. A schedule's factor s goes the share s of the way to where the rule
would: it scales neither η nor the threshold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evometa.genome.genes import Choice, LogReal
from evometa.genome.space import Genes, Space
from evometa.layout import Layout
from evometa.rules.base import Hyper, RuleFamily, StepContext, UpdateRule
from evometa.trees import Tree


class ProximalRule(UpdateRule):
    """ISTA, which keeps nothing, or FISTA, which keeps the last point x ``(T, N)`` and t ``(T, 1)``."""

    elementwise = True

    def __init__(self, accelerated: bool, penalty_in_loss: bool) -> None:
        self.accelerated = accelerated
        self.penalty_in_loss = penalty_in_loss

    def init_weights(self, generator: torch.Generator) -> Tree:
        return {}

    def init_state(self, weights: Tree, params: Tensor, layout: Layout) -> Tree:
        if not self.accelerated:
            return {}
        # Of the first step, momentum leaves nothing: no matter where the point was.
        return {"point": torch.zeros_like(params), "momentum": params.new_ones((params.shape[0], 1))}

    def update(
        self, weights: Tree, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        if self.penalty_in_loss:
            grads = grads - hyper["threshold"] * params.sign()
        moved = params - hyper["lr"] * grads
        threshold = hyper["lr"] * hyper["threshold"]
        point = moved.sign() * (moved.abs() - threshold).clamp(min=0.0)
        if not self.accelerated:
            return point - params, {}
        momentum = (1 + (1 + 4 * state["momentum"].square()).sqrt()) / 2
        ahead = point + (state["momentum"] - 1) / momentum * (point - state["point"])
        return ahead - params, {"point": point, "momentum": momentum}


class ProximalFamily(RuleFamily):
    """The registry row of the proximal rules."""

    name = "proximal"
    summary = "gradient descent with soft thresholding, for losses with an L1 penalty (ISTA, FISTA)"

    @property
    def space(self) -> Space:
        return Space(
            (
                LogReal("lr", 1e-5, 10.0, 0.1, note="learning rate"),
                LogReal("threshold", 1e-6, 10.0, 0.1, note="λ of the L1 penalty: lr·λ is taken off a step"),
                Choice("acceleration", ("none", "fista"), note="Nesterov's extrapolation as in FISTA"),
                Choice(
                    "penalty",
                    ("in_loss", "in_rule"),
                    note="whether gradients contain λ·sign(θ), which is taken off first",
                ),
            )
        )

    def build(self, genes: Genes) -> ProximalRule:
        return ProximalRule(genes["acceleration"] == "fista", genes["penalty"] == "in_loss")

    def describe(self, genes: Genes) -> str:
        rule = self.build(genes)
        taken_off = ", after the penalty's part is taken off it" if rule.penalty_in_loss else ""
        ahead = ", and looks ahead as FISTA does" if rule.accelerated else ""
        return (
            f"Steps against the gradient{taken_off}, with learning rate {genes['lr']:.4g}, moves every "
            f"parameter towards zero by {genes['lr']:.4g}·{genes['threshold']:.4g}{ahead}."
        )

    def formula(self, genes: Genes) -> str:
        rule, lr, threshold = self.build(genes), f"{genes['lr']:.4g}", f"{genes['threshold']:.4g}"
        gradient = f"∇L(θ) − {threshold}·sign(θ)" if rule.penalty_in_loss else "∇L(θ)"
        lines = [f"g = {gradient}", f"z = θ − {lr}·g", f"p = sign(z)·max(|z| − {lr}·{threshold}, 0)"]
        if not rule.accelerated:
            return "\n".join([*lines, "Δ = p − θ"])
        return "\n".join(
            [*lines, "t' = (1 + √(1 + 4t²))/2,  t₀ = 1", "Δ = p + (t − 1)/t'·(p − x) − θ,  x ← p,  t ← t'"]
        )
