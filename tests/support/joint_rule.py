"""A rule that relates the tensors of a model to each other, small enough to be foreseen."""

from __future__ import annotations

import torch
from torch import Tensor

from evometa.genome.genes import LogReal
from evometa.genome.space import Genes, Space
from evometa.layout import Layout
from evometa.rules.base import Hyper, RuleFamily, StepContext, UpdateRule
from evometa.trees import Tree

DECAY = 0.5


class JointRule(UpdateRule):
    """Momentum, divided by the norm of the whole model's gradient.

    State: ``momentum (T, N)``, ``norms (T, n_tensors)`` of each tensor's last gradient, and ``length (T,)``,
    the sum of all norms so far.
    """

    tensorwise = False

    def init_weights(self, generator: torch.Generator) -> Tree:
        return {}

    def init_state(self, weights: Tree, params: Tensor, layout: Layout) -> Tree:
        n_tasks = params.shape[0]
        return {
            "momentum": torch.zeros_like(params),
            "norms": params.new_zeros(n_tasks, len(layout.segments)),
            "length": params.new_zeros(n_tasks),
        }

    def update(
        self, weights: Tree, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        sizes = context.layout.sizes
        norms = torch.stack([part.norm(dim=-1) for part in torch.split(grads, sizes, dim=-1)], dim=-1)
        momentum = torch.lerp(state["momentum"], grads, 1.0 - DECAY)
        length = norms.norm(dim=-1)
        step = -hyper["lr"] * momentum / (length.unsqueeze(-1) + 1e-8)
        return step, {"momentum": momentum, "norms": norms, "length": state["length"] + length}


class JointFamily(RuleFamily):
    """The registry row."""

    name = "joint"
    summary = "momentum divided by the norm of the whole gradient"

    @property
    def space(self) -> Space:
        return Space((LogReal("lr", 1e-4, 1.0, 0.1),))

    def build(self, genes: Genes) -> UpdateRule:
        return JointRule()

    def describe(self, genes: Genes) -> str:
        return "Momentum, divided by the norm of the whole gradient."

    def formula(self, genes: Genes) -> str:
        return "Δ = −lr·m/‖g‖"
