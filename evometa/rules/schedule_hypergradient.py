"""Hypergradient descent: the factor on the step is itself moved downhill, at every step.

Baydin et al. 2018 ("Online learning rate adaptation with hypergradient descent", equations 4 to 8): the step
that was made from θₖ₋₁ was s·u, so the loss at θₖ has the derivative ⟨gₖ, u⟩ by the factor s. The same holds
for every rule whose steps are u, not only for the gradient descent of the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evometa.genome.genes import Choice, LogReal
from evometa.genome.space import Genes, Space
from evometa.rules.base import Hyper, StepContext
from evometa.rules.schedule_base import Schedule, ScheduleFamily
from evometa.rules.schedules import MAX_FACTOR
from evometa.trees import Tree

#: How the factor moves: by the derivative itself, or in shares of the factor by the angle alone.
FORMS = ("multiplicative", "additive")
#: No factor becomes smaller: from nothing it would not return.
_MIN_FACTOR = 1e-4


class HypergradientSchedule(Schedule):
    """State: ``factor`` (T,), on the last step made.

    Without ``context.last_step`` the factor stays as it is.
    """

    follows_steps = True

    def __init__(self, form: str) -> None:
        self.form = form

    def init_state(self, weights: Tree, n_tasks: int, like: Tensor) -> Tree:
        return {"factor": like.new_ones((n_tasks,))}

    def factor(self, weights: Tree, hyper: Hyper, state: Tree, context: StepContext) -> tuple[Tensor, Tree]:
        factor, rate, last = state["factor"], hyper["schedule.hyper_lr"], context.last_step
        if last is not None:
            if self.form == "additive":
                moved = factor - rate * last.slope
            else:
                # Both norms apart: the product of their squares is soon too small for a float32.
                norms = _root(last.grad_square) * _root(last.step_square)
                moved = factor * (1.0 - rate * last.slope / norms)
            # A loss that is no longer finite has no derivative; the run is lost, its factor need not be.
            moved = torch.where(torch.isfinite(moved), moved, factor)
            factor = moved.clamp(_MIN_FACTOR, MAX_FACTOR)
        return factor, {"factor": factor}


def _root(square: Tensor) -> Tensor:
    """√square, 1 where that is zero: of zeros the slope is zero, too."""
    return torch.where(square > 0, square, torch.ones_like(square)).sqrt()


class HypergradientFamily(ScheduleFamily):
    """The registry row of hypergradient descent."""

    name = "hypergradient"
    summary = "descent on the factor itself, by the slope of the loss along the last step"
    is_common = False  # it doubles the state of most rules, and no kernel serves it

    @property
    def space(self) -> Space:
        return Space(
            (
                Choice("schedule.form", FORMS, note="whether the slope or the angle moves the factor"),
                LogReal("schedule.hyper_lr", 1e-5, 0.5, 0.02, note="rate of the descent on the factor"),
            )
        )

    def build(self, genes: Genes) -> HypergradientSchedule:
        return HypergradientSchedule(str(genes["schedule.form"]))

    def formula(self, genes: Genes) -> str:
        rate = f"{float(genes['schedule.hyper_lr']):.4g}"  # type: ignore[arg-type]
        if genes["schedule.form"] == "additive":
            return f"s(k−1) − {rate}·⟨gₖ, Δₖ₋₁⟩,  s(0) = 1"
        return f"s(k−1)·(1 − {rate}·cos(gₖ, Δₖ₋₁)),  s(0) = 1"
