"""Implicit differentiation: the meta-gradient at a fixed point of training, without a way back to its start.

Where training stands still, z = F(z, φ) for params and state z and one update F, the loss's derivative by the
weights is Σₖ vᵀJᵏ·∂F/∂φ with J = ∂F/∂z and v = ∂L/∂z (the implicit function theorem, its inverse written as a
Neumann series; Lorraine, Vicol & Duvenaud 2020, "Optimizing millions of hyperparameters by implicit
differentiation"). Its first term alone is the one-step gradient of T1–T2 (Luketina et al. 2016, "Scalable
gradient-based tuning of continuous regularization hyperparameters").

Training goes on from segment to segment, as in T1–T2: there is a meta-update after every ``meta.truncation``
steps, and memory holds the graph of one step however long training is. Away from a fixed point the gradient
is biased, and what acts only on the way there, a learning rate or an initialisation, has none at one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from evometa.genome.genes import Integer
from evometa.genome.space import Genes, Space
from evometa.inner.cohort import Cohort
from evometa.inner.unroll import UnrollState
from evometa.meta.augmentation import Part
from evometa.meta.base import Estimator, MetaGradient, MetaProblem, Session
from evometa.meta.episodes import segments
from evometa.meta.footprint import Footprint
from evometa.meta.genes import whole
from evometa.meta.meta_loss import Objective, mean_loss, meta_loss
from evometa.meta.recorded import Recordings
from evometa.meta.training import (
    PartState,
    Training,
    held_out_losses,
    observed,
    start,
    train,
    train_losses,
    train_part,
)
from evometa.rules.base import RuleFamily
from evometa.rules.controller import CONTROLLERS
from evometa.trees import Tree


class Implicit(Estimator):
    """Training without a graph but for its last step, then products with that step's Jacobian."""

    name = "implicit"
    summary = "implicit gradients at a fixed point of training; with one term the one-step gradient (T1–T2)"
    is_common = False  # few weights of a learned rule move a fixed point

    def serves(self, family: RuleFamily) -> bool:
        # What a controller decides acts on the way to a fixed point alone, and not at every step.
        return family.differentiable and family not in CONTROLLERS

    @property
    def space(self) -> Space:
        return Space(
            (Integer("meta.neumann_terms", 1, 1000, 1, log=True, note="terms of the Neumann series"),)
        )

    def footprint(self, genes: Genes) -> Footprint:
        return Footprint(n_trainings=1, n_live_steps=2, second_order=True)

    def begin(self, problem: MetaProblem) -> Session:
        return _AtRest(problem)


class _AtRest(Session):
    """Models in training; the last step of every segment is taken for one that ends where it begins."""

    def __init__(self, problem: MetaProblem) -> None:
        genes = problem.genes[0]
        self._cohort = problem.cohort
        self._segments = segments(problem)
        self._objective = replace(Objective.of(genes), second_order=True)
        self._n_terms = whole(genes, "meta.neumann_terms")
        self._training: Training = ()
        self._recordings = Recordings()

    def estimate(self, weights: Tree) -> MetaGradient:
        segment = next(self._segments)
        parts = segment.episode.parts
        cohort = replace(self._cohort, weights=weights)
        with torch.no_grad():
            if segment.start == 0:
                self._training = start(cohort, parts)
            if segment.n_steps > 1:
                before = replace(segment, n_steps=segment.n_steps - 1)
                self._training, _ = train(
                    cohort, before, self._training, self._recordings.train, self._objective
                )
        leaves = {name: value.detach().clone().requires_grad_() for name, value in weights.items()}
        of_leaves = replace(cohort, weights=leaves)
        with torch.enable_grad(), self._objective.scope():
            steps = [
                _Step(of_leaves, part, state, segment.episode.horizon, self._objective.rows)
                for part, state in zip(parts, self._training, strict=True)
            ]
            total = meta_loss([step.values.unsqueeze(0) for step in steps], self._objective.kind).sum()
            slopes = torch.autograd.grad(total, [step.after[0] for step in steps], retain_graph=True)
            found = [
                step.gradient(slope, leaves, self._n_terms) for step, slope in zip(steps, slopes, strict=True)
            ]
        self._training = tuple(step.end for step in steps)
        losses = mean_loss([step.values.detach().unsqueeze(0) for step in steps])
        # Each further term is a product with the Jacobian, about the work of a step with its gradient.
        n_updates = segment.n_steps + self._n_terms - 1
        grads = {name: sum((one[name] for one in found[1:]), start=found[0][name]) for name in leaves}
        return MetaGradient(grads, losses, n_updates * segment.episode.n_tasks)


class _Step:
    """One update z′ = F(z, φ) of all candidates on one part, with its graph.

    ``before`` and ``after`` hold params and state, z and z′, always in the same order.
    """

    def __init__(self, cohort: Cohort, part: Part, state: PartState, horizon: int, rows: str) -> None:
        carry = state.carry
        self.before = [
            value.detach().clone().requires_grad_() for value in (carry.params, *carry.state.values())
        ]
        params, *rest = self.before
        own = UnrollState(params, dict(zip(carry.state, rest, strict=True)), carry.step)
        judge = held_out_losses if rows == "valid" else train_losses
        made = train_part(cohort, part, observed(part, own), 1, horizon, observed, judge)
        self.after = [made.end.carry.params, *(made.end.carry.state[name] for name in carry.state)]
        self.values = made.values[0]
        self.end = made.end.mapped(Tensor.detach)

    def gradient(self, slope: Tensor, leaves: Tree, n_terms: int) -> Tree:
        """Σₖ vᵀJᵏ·∂F/∂φ over ``n_terms`` terms by each of ``leaves``, for v the ``slope`` by the params."""
        term = [slope, *(torch.zeros_like(value) for value in self.before[1:])]
        summed = list(term)
        for _ in range(n_terms - 1):
            term = self._pulled(term, self.before)
            summed = [one + other for one, other in zip(summed, term, strict=True)]
        return dict(zip(leaves, self._pulled(summed, list(leaves.values())), strict=True))

    def _pulled(self, cotangents: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
        """Cotangents of z′ pulled back to ``inputs``."""
        known = [pair for pair in zip(self.after, cotangents, strict=True) if pair[0].requires_grad]
        found = torch.autograd.grad(
            [value for value, _ in known],
            inputs,
            [cotangent for _, cotangent in known],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return list(found)
