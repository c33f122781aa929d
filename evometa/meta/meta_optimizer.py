"""The outer optimizer: Adam on P candidates at once, each with its own rate, decay, clipping and average."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from evometa.genome.space import Genes
from evometa.layout import Layout
from evometa.meta.genes import per_candidate, whole
from evometa.trees import Tree, take, tree_map

#: Adam's constants (Kingma & Ba 2015).
_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8


class MetaOptimizer:
    """P independent Adams; a candidate whose meta-gradient is not finite skips that update.

    A meta-gradient longer than the candidate's ``meta.clip`` is shortened to it. With ``meta.averaging =
    "ema"`` the result is the exponential moving average of the weights after each update made, divided by
    the sum of its coefficients so that the start does not count (Polyak & Juditsky 1992; Kingma & Ba 2015,
    section 7.2), else the last weights. ``torch.optim`` is the reference in the tests, not used here:
    building its Adams imports the whole compiler, and P of them are P Python loops.
    """

    def __init__(self, weights: Tree, genes: Sequence[Genes]) -> None:
        self._layout = Layout.of({name: value.shape[1:] for name, value in weights.items()})
        self._flat = self._layout.flatten(weights).detach().clone()
        column = self._flat[:, :1]
        self._lr = per_candidate(genes, "meta.lr", column).unsqueeze(-1)
        self._clip = per_candidate(genes, "meta.clip", column).unsqueeze(-1)
        self._cosine = torch.tensor(
            [[gene["meta.lr_decay"] == "cosine"] for gene in genes], device=column.device
        )
        # Without averaging the gene is absent, and the newest weights count with all of it.
        newest = per_candidate(genes, "meta.one_minus_averaging_decay", column, absent=1.0)
        self._newest = newest.unsqueeze(-1)
        self._n_steps = whole(genes[0], "meta.steps")
        self._first, self._second, self._average = (torch.zeros_like(self._flat) for _ in range(3))
        self._made = torch.zeros_like(column)
        self._seen = 0

    @property
    def weights(self) -> Tree:
        """The weights now, each ``(P, …)``, contiguous."""
        return tree_map(torch.Tensor.contiguous, self._layout.views(self._flat))

    @property
    def n_skipped(self) -> list[int]:
        """Updates left out for each candidate because its meta-gradient was not finite."""
        return [self._seen - int(made) for made in self._made.flatten().tolist()]

    def step(self, grads: Tree) -> None:
        """One update of every candidate down ``grads``, each ``(P, …)``."""
        grad = self._layout.flatten(grads)
        norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)
        usable = torch.isfinite(norm)
        grad = grad * (self._clip / (norm + 1e-6)).clamp(max=1.0)
        made = self._made + 1
        first = torch.lerp(self._first, grad, 1 - _BETA1)
        second = torch.lerp(self._second, grad.square(), 1 - _BETA2)
        # 1 − βᵗ by expm1: in float32 the difference itself would lose half its digits.
        first_sum, second_sum = (-torch.expm1(made * math.log(beta)) for beta in (_BETA1, _BETA2))
        direction = (first / first_sum) / ((second / second_sum).sqrt() + _EPS)
        flat = self._flat - self._lr * self._decay() * direction
        average = torch.lerp(self._average, flat, self._newest)
        self._flat = torch.where(usable, flat, self._flat)
        self._first = torch.where(usable, first, self._first)
        self._second = torch.where(usable, second, self._second)
        self._average = torch.where(usable, average, self._average)
        self._made = torch.where(usable, made, self._made)
        self._seen += 1

    def _decay(self) -> Tensor:
        """Factor on the meta-learning rate, ``(P, 1)``: cosine from 1 to 0 over the meta-updates, or 1."""
        cosine = 0.5 * (1.0 + math.cos(math.pi * self._seen / self._n_steps))
        return torch.where(self._cosine, cosine, 1.0).to(self._flat.dtype)

    def results(self) -> list[Tree]:
        """Averaged weights of each candidate, on the CPU; those it began with where no update was made."""
        coefficients = -torch.expm1(self._made * torch.log1p(-self._newest))
        flat = torch.where(self._made > 0, self._average / coefficients, self._flat).cpu()
        trees = self._layout.views(flat)
        return [tree_map(torch.clone, take(trees, index)) for index in range(len(flat))]
