"""Hand-designed update rules: one class that interprets a row of ``hand_designed_table.TABLE``.

Where ``torch.optim`` has the same optimizer (SGD, RMSprop, Adagrad, Adam, AdamW, NAdam), it is reproduced
step by step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evometa.genome.space import Genes, Space
from evometa.layout import Layout
from evometa.rules.base import Hyper, RuleFamily, StepContext, UpdateRule
from evometa.rules.hand_designed_table import TABLE, Row
from evometa.trees import Tree

#: Base of NAdam's momentum warm-up (Dozat 2016, section 3; ``torch.optim.NAdam`` has the same constant).
_WARM_UP_BASE = 0.96


class HandDesignedRule(UpdateRule):
    """The rule of one row; it keeps only the moments the row names, each of the shape of params."""

    def __init__(self, row: Row) -> None:
        self.row = row

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
        row, scale = self.row, -hyper["lr"]
        new: Tree = {}
        if row.first != "none":
            new["first"] = self._first_moment(hyper, state, grads)
        direction = self._direction(hyper, state, new, grads, context)
        if row.direction == "moment" and row.bias_corrected:
            scale = scale / _bias_correction(hyper["one_minus_beta1"], context)
        if row.second != "none":
            new["second"] = self._second_moment(hyper, state, grads)
            eps = hyper["eps"]
            if row.bias_corrected:
                # g/(√(v/c) + eps) = √c·g/(√v + √c·eps): a correction of scalars saves a pass over N
                correction = _bias_correction(hyper["one_minus_beta2"], context).sqrt()
                scale, eps = scale * correction, eps * correction
            direction = direction / (_root(new["second"]) + eps)
        if row.sign:
            direction = direction.sign()
        step = direction * scale
        if row.decays_weights:
            step = step - params * (hyper["lr"] * hyper["weight_decay"])
        return step, new

    def _first_moment(self, hyper: Hyper, state: Tree, grads: Tensor) -> Tensor:
        if self.row.first == "sum":
            return state["first"] * (1 - hyper["one_minus_momentum"]) + grads
        return state["first"].lerp(grads, hyper[self.row.first_decay])

    def _second_moment(self, hyper: Hyper, state: Tree, grads: Tensor) -> Tensor:
        if self.row.second == "total":
            return state["second"] + grads.square()
        return state["second"].lerp(grads.square(), hyper["one_minus_beta2"])

    def _direction(self, hyper: Hyper, state: Tree, new: Tree, grads: Tensor, context: StepContext) -> Tensor:
        """What the step follows, before scaling; a running product of μ is added to ``new``."""
        if self.row.direction == "gradient":
            return grads
        if self.row.direction == "mixture":
            return state["first"].lerp(grads, hyper["one_minus_beta1"])
        if self.row.direction == "moment":
            return new["first"]
        if not self.row.schedules_momentum:
            return grads + new["first"] * (1 - hyper["one_minus_momentum"])
        coefficient = _warmed_momentum(hyper, context.step + 1)
        next_coefficient = _warmed_momentum(hyper, context.step + 2)
        product = state["momentum_product"] * coefficient
        new["momentum_product"] = product
        of_gradient = (1 - coefficient) / (1 - product)
        of_moment = next_coefficient / (1 - product * next_coefficient)
        return grads * of_gradient + new["first"] * of_moment


def _root(second: Tensor) -> Tensor:
    """√v, with a finite derivative at v = 0, where a meta-gradient would turn 0·∞ into NaN."""
    return second.clamp(min=torch.finfo(second.dtype).tiny).sqrt()


def _bias_correction(one_minus_beta: Tensor, context: StepContext) -> Tensor:
    """``1 − βᵏ⁺¹`` at step k, (): through logarithms, since 1 − 0.999 in float32 keeps five digits only."""
    return -torch.expm1((context.step + 1) * torch.log1p(-one_minus_beta))


def _warmed_momentum(hyper: Hyper, count: Tensor) -> Tensor:
    """NAdam's momentum coefficient at the ``count``-th update, (): β₁·(1 − ½·0.96^(count·decay))."""
    warmth = 1 - 0.5 * _WARM_UP_BASE ** (count * hyper["momentum_decay"])
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
        return _describe(self.row, _numbers(self.row, genes))

    def formula(self, genes: Genes) -> str:
        return "\n".join(_equations(self.row, _numbers(self.row, genes)))


def _numbers(row: Row, genes: Genes) -> dict[str, str]:
    """The row's genes as short text; each ``one_minus_x`` also as ``x``, the coefficient people know."""
    text: dict[str, str] = {}
    for name in row.space.names():
        value = float(genes[name])  # type: ignore[arg-type]
        text[name] = f"{value:.4g}"
        if name.startswith("one_minus_"):
            text[name.removeprefix("one_minus_")] = f"{1 - value:.6g}"
    return text


def _describe(row: Row, n: dict[str, str]) -> str:
    corrected = "bias-corrected " if row.bias_corrected else ""
    follows = {
        ("gradient", "none"): "the gradient",
        ("moment", "sum"): f"a decaying sum of the gradients (momentum {n.get('momentum')})",
        ("moment", "average"): f"a {corrected}moving average of the gradients (β₁ = {n.get('beta1')})",
        (
            "lookahead",
            "sum",
        ): f"a decaying sum of the gradients (momentum {n.get('momentum')}), one step ahead",
        (
            "lookahead",
            "average",
        ): f"a moving average of the gradients (β₁ = {n.get('beta1')}), one step ahead, "
        f"its momentum warmed up (decay {n.get('momentum_decay')})",
        (
            "mixture",
            "average",
        ): f"a mixture of the gradient and a moving average of past ones (β₁ = {n.get('beta1')}, "
        f"β₂ = {n.get('moment_decay')})",
    }[row.direction, row.first]
    divided = {
        "none": "",
        "average": f", divided by the root of a {corrected}moving average of their squares "
        f"(β₂ = {n.get('beta2')}, eps {n.get('eps')})",
        "total": f", divided by the root of the sum of all squared gradients so far (eps {n.get('eps')})",
    }[row.second]
    sign = "the signs of " if row.sign else ""
    sentence = f"Steps against {sign}{follows}{divided}, with learning rate {n['lr']}."
    if row.decays_weights:
        sentence += f" Every step also shrinks the parameters by {n['lr']}·{n['weight_decay']} of themselves."
    return sentence


def _equations(row: Row, n: dict[str, str]) -> list[str]:
    lines = ["g = ∇L(θ)"]
    if row.first == "sum":
        lines.append(f"m ← {n['momentum']}·m + g")
    if row.schedules_momentum:
        lines.append(f"μₖ = {n['beta1']}·(1 − ½·{_WARM_UP_BASE}^({n['momentum_decay']}·(k+1)))")
        lines.append("π ← π·μₖ,  π₀ = 1")
    if row.direction == "mixture":
        lines.append(f"u = {n['beta1']}·m + {n['one_minus_beta1']}·g")
    if row.first == "average":
        decay = row.first_decay
        lines.append(f"m ← {n[decay.removeprefix('one_minus_')]}·m + {n[decay]}·g")
    if row.second == "average":
        lines.append(f"v ← {n['beta2']}·v + {n['one_minus_beta2']}·g²")
    if row.second == "total":
        lines.append("v ← v + g²")
    top = {
        ("gradient", False): "g",
        ("moment", False): "m",
        ("moment", True): f"m/(1 − {n.get('beta1')}^(k+1))",
        ("lookahead", False): f"(g + {n.get('momentum')}·m)",
        ("lookahead", True): "[(1 − μₖ)/(1 − π)·g + μₖ₊₁/(1 − π·μₖ₊₁)·m]",
        ("mixture", False): "u",
    }[row.direction, row.bias_corrected]
    if row.sign:
        top = f"sign({top})"
    if row.second != "none":
        v = f"v/(1 − {n['beta2']}^(k+1))" if row.bias_corrected else "v"
        top += f" / (√({v}) + {n['eps']})" if row.bias_corrected else f" / (√v + {n['eps']})"
    if row.decays_weights:
        top = f"[{top} + {n['weight_decay']}·θ]"
    return [*lines, f"Δ = −{n['lr']}·{top}"]


HAND_DESIGNED: tuple[HandDesignedFamily, ...] = tuple(HandDesignedFamily(row) for row in TABLE)
