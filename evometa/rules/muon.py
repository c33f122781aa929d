"""Muon: matrices move along their momentum made orthogonal, all other tensors as Adam moves them.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks". The momentum M = U·S·Vᵀ of a
matrix is replaced by about U·Vᵀ, so that every direction gets a step of about the same length: five
iterations X ← a·X + (b·A + c·A²)·X with A = X·Xᵀ, from M/‖M‖. As the paper chooses (a, b, c), singular values
end between 0.7 and 1.2, not at 1. ``torch.optim.Muon`` does the same in bfloat16, and has the two scales:
√max(1, rows/columns) as in the paper, or 0.2·√max(rows, columns), by which entries are as large as Adam's
(Liu et al. 2025, "Muon is scalable for LLM training", section 2.2).

Tensors of more than two axes are matrices of their first axis and all others; a matrix of one row or one
column is left to Adam. So are, in the paper, the first and last layer; here they are not.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from evometa.genome.genes import Choice, LogReal
from evometa.genome.space import Genes, Space
from evometa.layout import Layout
from evometa.rules.base import Hyper, RuleFamily, StepContext, UpdateRule
from evometa.rules.hand_designed import bias_correction, root
from evometa.rules.hand_designed_table import beta1, beta2, learning_rate, momentum, weight_decay
from evometa.trees import Tree

#: a, b, c of the iteration and its number, as in the paper.
COEFFICIENTS, N_ITERATIONS = (3.4445, -4.7750, 2.0315), 5
#: Least norm that a matrix is divided by.
NORM_EPSILON = 1e-7
#: Of Adam.
EPSILON = 1e-8

#: Rows, columns, and which of the layout's tensors are such matrices.
Matrices = tuple[tuple[int, int, tuple[int, ...]], ...]


@lru_cache(maxsize=256)
def matrices(layout: Layout) -> Matrices:
    """The matrices of a model, those of one shape together."""
    found: dict[tuple[int, int], list[int]] = {}
    for place, segment in enumerate(layout.segments):
        if segment.size and len(segment.shape) > 1:
            rows, columns = segment.shape[0], segment.size // segment.shape[0]
            if min(rows, columns) > 1:
                found.setdefault((rows, columns), []).append(place)
    return tuple((*shape, tuple(places)) for shape, places in found.items())


@lru_cache(maxsize=256)
def others(layout: Layout) -> tuple[int, ...]:
    """Which of the layout's tensors are no matrices."""
    among = {place for _, _, places in matrices(layout) for place in places}
    return tuple(place for place in range(len(layout.segments)) if place not in among)


def orthogonalised(x: Tensor) -> Tensor:
    """About U·Vᵀ of matrices ``(n, …, rows, columns)`` = U·S·Vᵀ; zeros of zeros."""
    wide = x.mT if x.shape[-2] > x.shape[-1] else x
    a, b, c = COEFFICIENTS
    own = wide.flatten(0, -3)
    own = own / own.square().sum((-2, -1), keepdim=True).clamp(min=NORM_EPSILON**2).sqrt()
    for _ in range(N_ITERATIONS):
        gram = torch.bmm(own, own.mT)
        own = torch.baddbmm(own, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), own, beta=a)
    wide = own.reshape(wide.shape)
    return wide.mT if x.shape[-2] > x.shape[-1] else wide


class MuonRule(UpdateRule):
    """State: ``first (T, N)``, averages of gradients; ``second``, of squares, for what is in no matrix."""

    def __init__(self, nesterov: bool, scale: str) -> None:
        self.nesterov = nesterov
        self.scale = scale

    def init_weights(self, generator: torch.Generator) -> Tree:
        return {}

    def init_state(self, weights: Tree, params: Tensor, layout: Layout) -> Tree:
        n_others = sum(layout.sizes[place] for place in others(layout))
        return {"first": torch.zeros_like(params), "second": params.new_zeros((params.shape[0], n_others))}

    def update(
        self, weights: Tree, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        layout, left = context.layout, others(context.layout)
        newest = _spread(layout, hyper["one_minus_momentum"], hyper["one_minus_beta1"])
        new = {"first": state["first"].lerp(grads, newest), "second": state["second"]}
        ahead = new["first"].lerp(grads, hyper["one_minus_momentum"]) if self.nesterov else new["first"]
        directions = list(torch.split(ahead, layout.sizes, dim=-1))
        for rows, columns, places in matrices(layout):
            stacked = torch.stack([directions[place] for place in places], dim=-2)
            along = orthogonalised(torch.unflatten(stacked, -1, (rows, columns))).flatten(-2)
            for place, own in zip(places, (self._scale(rows, columns) * along).unbind(-2), strict=True):
                directions[place] = own
        if left:
            count, squares = context.step + 1, _gathered(grads, layout).square()
            new["second"] = state["second"].lerp(squares, hyper["one_minus_beta2"])
            average = _gathered(new["first"], layout) / bias_correction(hyper["one_minus_beta1"], count)
            square = new["second"] / bias_correction(hyper["one_minus_beta2"], count)
            adam = torch.split(average / (root(square) + EPSILON), [layout.sizes[n] for n in left], dim=-1)
            for place, own in zip(left, adam, strict=True):
                directions[place] = own
        rate = _spread(layout, hyper["lr"], hyper["adam_lr"])
        return -rate * (torch.cat(directions, dim=-1) + hyper["weight_decay"] * params), new

    def _scale(self, rows: int, columns: int) -> float:
        if self.scale == "match_rms_adamw":
            return 0.2 * math.sqrt(max(rows, columns))
        return math.sqrt(max(1.0, rows / columns))


def _gathered(flat: Tensor, layout: Layout) -> Tensor:
    """Of ``(T, N)`` the coordinates that are in no matrix."""
    parts = torch.split(flat, layout.sizes, dim=-1)
    return torch.cat([parts[place] for place in others(layout)], dim=-1)


def _spread(layout: Layout, of_matrices: Tensor, of_others: Tensor) -> Tensor:
    """A number for each coordinate, ``(N,)``, that is the one or the other."""
    left = others(layout)
    values = [of_others if n in left else of_matrices for n, size in enumerate(layout.sizes) if size]
    return layout.spread(torch.stack(values))


class MuonFamily(RuleFamily):
    """The registry row of Muon."""

    name = "muon"
    summary = "momentum of matrices made orthogonal, Adam for all other tensors (Jordan et al. 2024)"

    @property
    def space(self) -> Space:
        return Space(
            (
                learning_rate(0.02, 1e-5, 1.0),
                momentum(0.05),
                Choice("nesterov", (True, False), note="whether matrices follow their momentum a step ahead"),
                Choice("scale", ("original", "match_rms_adamw"), note="of a matrix's step, by its shape"),
                LogReal("adam_lr", 1e-7, 1.0, 3e-3, note="learning rate of what is in no matrix"),
                beta1(),
                beta2(1e-3),
                weight_decay(),
            )
        )

    def build(self, genes: Genes) -> MuonRule:
        return MuonRule(bool(genes["nesterov"]), str(genes["scale"]))

    def describe(self, genes: Genes) -> str:
        n = {name: f"{value:.3g}" for name, value in self.space.continuous(genes).items()}
        ahead = ", one step ahead," if genes["nesterov"] else ""
        return (
            f"Matrices step along their momentum (newest gradient {n['one_minus_momentum']}){ahead} made "
            f"orthogonal, with learning rate {n['lr']}; all other tensors as Adam steps with learning rate "
            f"{n['adam_lr']} (newest gradient {n['one_minus_beta1']}, newest square {n['one_minus_beta2']}). "
            f"Every step also shrinks the parameters by {n['weight_decay']} of themselves, times the "
            "learning rate."
        )

    def formula(self, genes: Genes) -> str:
        n = {name: f"{value:.3g}" for name, value in self.space.continuous(genes).items()}
        mu, b1, b2 = (
            f"{1 - float(cast(float, genes[name])):.6g}"
            for name in ("one_minus_momentum", "one_minus_beta1", "one_minus_beta2")
        )
        ahead = f"{mu}·M + {n['one_minus_momentum']}·G" if genes["nesterov"] else "M"
        scale = "0.2·√max(rows, columns)" if genes["scale"] == "match_rms_adamw" else "√max(1, rows/columns)"
        average, square = f"m/(1 − {b1}^(k+1))", f"v/(1 − {b2}^(k+1))"
        return "\n".join(
            [
                "G = ∇L(θ)",
                "of a matrix:",
                f"  M ← {mu}·M + {n['one_minus_momentum']}·G",
                f"  U·S·Vᵀ = {ahead}, singular value decomposition",
                f"  Δ ≈ −{n['lr']}·[{scale}·U·Vᵀ + {n['weight_decay']}·θ]",
                "of all else:",
                f"  m ← {b1}·m + {n['one_minus_beta1']}·g",
                f"  v ← {b2}·v + {n['one_minus_beta2']}·g²",
                f"  Δ = −{n['adam_lr']}·[{average} / (√({square}) + {EPSILON:g}) + {n['weight_decay']}·θ]",
            ]
        )
