"""Hand-designed update rules: one class that interprets a row of ``hand_designed_table.TABLE``.

Where ``torch.optim`` has the same optimizer (SGD, RMSprop, Adagrad, Adam, AdamW, NAdam), it is reproduced
step by step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evometa.genome.space import Genes, Space
from evometa.layout import Layout
from evometa.native.tasks import PerceptronTasks
from evometa.rules import moments_kernel
from evometa.rules.base import Hyper, RuleFamily, StepContext, Steps, UpdateRule
from evometa.rules.hand_designed_table import TABLE, WARM_UP_BASE, Row
from evometa.rules.hand_designed_text import described, equations
from evometa.trees import Tree

#: Steps whose numbers are computed at once.
_AHEAD = 64


class HandDesignedRule(UpdateRule):
    """The rule of one row; it keeps only the moments the row names, each of the shape of params."""

    elementwise = True

    def __init__(self, row: Row) -> None:
        self.row = row
        self._ahead: tuple[Hyper | None, int, list[Tree]] = (None, 0, [])

    def init_weights(self, generator: torch.Generator) -> Tree:
        return {}

    def init_state(self, weights: Tree, params: Tensor, layout: Layout) -> Tree:
        state: Tree = {}
        if self.row.first != "none":
            state["first"] = torch.zeros_like(params)
        if self.row.second != "none":
            state["second"] = torch.zeros_like(params)
        if self.row.schedules_momentum:
            state["momentum_product"] = params.new_ones((params.shape[0], 1))
        return state

    def update(
        self, weights: Tree, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        row = self.row
        counted = self._counted(hyper, context.step + 1)
        product = self._momentum_product(state, counted)
        numbers = _with_product(counted, product)
        new = {} if product is None else {"momentum_product": product}
        if row.first == "sum":
            new["first"] = state["first"] * numbers["first"] + grads
        elif row.first == "average":
            new["first"] = state["first"].lerp(grads, numbers["first"])
        direction = self._direction(numbers, state, new, grads)
        if row.second == "total":
            new["second"] = state["second"] + grads.square()
        elif row.second == "average":
            new["second"] = state["second"].lerp(grads.square(), numbers["second"])
        if row.second != "none":
            direction = direction / (root(new["second"]) + numbers["eps"])
        if row.sign:
            direction = direction.sign()
        step = direction * numbers["scale"]
        if row.decays_weights:
            step = step - params * numbers["decay"]
        return step, new

    def has_kernel(self, grads: Tensor, params: Tensor) -> bool:
        return moments_kernel.serves(grads, params)

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
        counted = self._counted_ahead(hyper, int(context.step))
        product = self._momentum_product(state, counted)
        numbers = _with_product(counted, product)
        next_params, moments = moments_kernel.step_cohort(
            self.row, numbers, state, grads, params, factor, overwrite=overwrite
        )
        return next_params, moments if product is None else moments | {"momentum_product": product}

    def train(
        self,
        weights: Tree,
        hyper: Hyper,
        state: Tree,
        params: Tensor,
        tasks: PerceptronTasks,
        steps: Steps,
    ) -> tuple[Tensor, Tree]:
        counted = self._counted_many(hyper, steps.numbers)
        products = self._momentum_product(state, counted)
        numbers = _with_product(counted, products)
        losses, moments = moments_kernel.train_cohort(self.row, numbers, state, params, steps.factors, tasks)
        return losses, moments if products is None else moments | {"momentum_product": products[-1]}

    def _counted_ahead(self, hyper: Hyper, step: int) -> Tree:
        """:meth:`_counted` of a cohort at one step; in a small model that takes longer than the step itself.

        Always the same steps together, wherever one begins, so that they have the same last digits.
        """
        start = step - step % _AHEAD
        known, known_start, numbers = self._ahead
        if known is not hyper or known_start != start:
            many = self._counted_many(hyper, range(start, start + _AHEAD))
            numbers = [
                {name: value[k] if value.dim() == 4 else value for name, value in many.items()}
                for k in range(_AHEAD)
            ]
            self._ahead = hyper, start, numbers
        return numbers[step - start]

    def _counted_many(self, hyper: Hyper, steps: range) -> Tree:
        """:meth:`_counted` of a cohort, whose genes are (P,), at K steps: (P, 1, 1) or (K, P, 1, 1)."""
        own = {gene.name: hyper[gene.name].reshape(-1, 1, 1) for gene in self.row.genes}
        like = own["lr"]
        counts = torch.arange(steps.start + 1, steps.stop + 1, device=like.device).to(like.dtype)
        return self._counted(own, counts.reshape(-1, 1, 1, 1))

    def _momentum_product(self, state: Tree, counted: Tree) -> Tensor | None:
        """What NAdam keeps, after an update, or after each of K; None for other rules."""
        if not self.row.schedules_momentum:
            return None
        momentum = counted["momentum"]
        return state["momentum_product"] * (momentum.cumprod(0) if momentum.dim() == 4 else momentum)

    def _counted(self, hyper: Hyper, count: Tensor) -> Tree:
        """All numbers of the update numbered ``count``, from 1 on, that no coordinate changes.

        Genes () give numbers (); the genes of a cohort, (P, 1, 1), give (P, 1, 1), and with a ``count`` of
        (K, 1, 1, 1) those of K updates, (K, P, 1, 1); a number that is the same for all steps may lack their
        axis.

        - ``first``: weight of the newest gradient in an averaging first moment, of the old moment in a sum;
        - ``second``: weight of the newest square in an averaging second moment;
        - ``of_gradient``, ``of_moment``: weights in a direction that follows both; left out where they are 1;
        - ``scale``, ``eps``: the step is scale·direction, or scale·direction/(√v + eps);
        - ``decay``: share of the params that a step takes off;
        - ``momentum``, ``next_momentum``: NAdam's coefficients, for :func:`_with_product`.
        """
        row = self.row
        numbers = self._moment_weights(hyper)
        numbers["scale"] = -hyper["lr"]
        if row.second != "none":
            numbers["eps"] = hyper["eps"]
        if row.bias_corrected:
            if row.direction == "moment":
                numbers["scale"] = numbers["scale"] / bias_correction(hyper["one_minus_beta1"], count)
            if row.direction == "blend":
                corrected = bias_correction(hyper["one_minus_beta1"], count)
                numbers["of_moment"] = (1 - hyper["gradient_share"]) / corrected
            # g/(√(v/c) + eps) = √c·g/(√v + √c·eps): a correction of scalars saves a pass over N
            correction = bias_correction(hyper["one_minus_beta2"], count).sqrt()
            numbers["scale"] = numbers["scale"] * correction
            numbers["eps"] = numbers["eps"] * correction
        if row.schedules_momentum:
            numbers["momentum"] = _warmed_momentum(hyper, count)
            numbers["next_momentum"] = _warmed_momentum(hyper, count + 1)
        if row.decays_weights:
            numbers["decay"] = hyper["lr"] * hyper["weight_decay"]
        return numbers

    def _moment_weights(self, hyper: Hyper) -> Tree:
        """The numbers that do not change from step to step."""
        row = self.row
        weights: Tree = {}
        if row.first == "sum":
            weights["first"] = 1 - hyper["one_minus_momentum"]
        elif row.first == "average":
            weights["first"] = hyper[row.first_decay]
        if row.second == "average":
            weights["second"] = hyper["one_minus_beta2"]
        if row.direction == "mixture":
            weights["of_gradient"] = hyper["one_minus_beta1"]
        elif row.direction == "blend":
            weights["of_gradient"] = hyper["gradient_share"]
        elif row.direction == "lookahead" and row.first == "sum":
            weights["of_moment"] = weights["first"]
        return weights

    def _direction(self, numbers: Tree, state: Tree, new: Tree, grads: Tensor) -> Tensor:
        """What the step follows, before scaling."""
        if self.row.direction == "gradient":
            return grads
        if self.row.direction == "mixture":
            return state["first"].lerp(grads, numbers["of_gradient"])
        if self.row.direction == "moment":
            return new["first"]
        if "of_gradient" in numbers:
            grads = grads * numbers["of_gradient"]
        return grads + new["first"] * numbers["of_moment"]


def _with_product(counted: Tree, product: Tensor | None) -> Tree:
    """The numbers of a step with NAdam's weights, which depend on its running product; others as they are."""
    if product is None:
        return counted
    momentum, following = counted["momentum"], counted["next_momentum"]
    mixed = {
        "of_gradient": (1 - momentum) / (1 - product),
        "of_moment": following / (1 - product * following),
    }
    return counted | mixed


def root(second: Tensor) -> Tensor:
    """√v, with a finite derivative at v = 0, where a meta-gradient would turn 0·∞ into NaN."""
    return second.clamp(min=torch.finfo(second.dtype).tiny).sqrt()


def bias_correction(one_minus_beta: Tensor, count: Tensor) -> Tensor:
    """``1 − βⁿ`` at update n: through logarithms, since 1 − 0.999 in float32 keeps five digits only."""
    return -torch.expm1(count * torch.log1p(-one_minus_beta))


def _warmed_momentum(hyper: Hyper, count: Tensor) -> Tensor:
    """NAdam's momentum coefficient at the ``count``-th update: β₁·(1 − ½·0.96^(count·decay))."""
    warmth = 1 - 0.5 * WARM_UP_BASE ** (count * hyper["momentum_decay"])
    return (1 - hyper["one_minus_beta1"]) * warmth


class HandDesignedFamily(RuleFamily):
    """The registry row of one row of the table."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.name = row.name
        self.summary = f"{row.summary} ({row.source})"

    @property
    def space(self) -> Space:
        return self.row.space

    def build(self, genes: Genes) -> HandDesignedRule:
        return HandDesignedRule(self.row)

    def describe(self, genes: Genes) -> str:
        return described(self.row, genes)

    def formula(self, genes: Genes) -> str:
        return "\n".join(equations(self.row, genes))


HAND_DESIGNED: tuple[HandDesignedFamily, ...] = tuple(HandDesignedFamily(row) for row in TABLE)
