"""The outer optimizer: Adam on each candidate's weights, with its own learning rate, decay and clipping."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from evometa.genome.space import Genes
from evometa.trees import Tree


class MetaOptimizer:
    """P independent Adams. A candidate whose meta-gradient is not finite skips that update.

    Each candidate's tensors are leaves of their own, so that ``torch.optim.Adam`` and
    ``clip_grad_norm_`` serve as they are; :meth:`stacked` gives the engine its ``(P, …)`` view of them.
    """

    def __init__(self, weights: Tree, genes: Sequence[Genes]) -> None:
        self._genes = genes
        self._trees: list[Tree] = [
            {name: value[i].detach().clone().requires_grad_() for name, value in weights.items()}
            for i in range(len(genes))
        ]
        self._optimizers = [
            torch.optim.Adam(list(tree.values()), lr=float(gene["meta.lr"]))  # type: ignore[arg-type]
            for tree, gene in zip(self._trees, genes, strict=True)
        ]
        self._made = 0
        self.n_skipped = [0] * len(genes)
        self.meta_losses: list[list[float]] = [[] for _ in genes]

    def stacked(self) -> Tree:
        """The weights ``(P, …)`` with a graph back to each candidate's leaves."""
        return {name: torch.stack([tree[name] for tree in self._trees]) for name in self._trees[0]}

    def step(self, objective: Tensor, seen: Tensor) -> None:
        """One update of every candidate down its entry of ``objective`` ``(P,)``; ``seen`` is reported."""
        leaves = [value for tree in self._trees for value in tree.values()]
        # A candidate's entry depends on its own leaves alone, so one backward pass serves all.
        grads = iter(torch.autograd.grad(objective.sum(), leaves, allow_unused=True))
        for index, (tree, optimizer) in enumerate(zip(self._trees, self._optimizers, strict=True)):
            for value in tree.values():
                grad = next(grads)
                value.grad = torch.zeros_like(value) if grad is None else grad
            self.meta_losses[index].append(float(seen[index]))
            gene = self._genes[index]
            norm = torch.nn.utils.clip_grad_norm_(tree.values(), float(gene["meta.clip"]))  # type: ignore[arg-type]
            if not torch.isfinite(norm):
                self.n_skipped[index] += 1
                continue
            for group in optimizer.param_groups:
                group["lr"] = float(gene["meta.lr"]) * self._decay(gene)  # type: ignore[arg-type]
            optimizer.step()
        self._made += 1

    def _decay(self, gene: Genes) -> float:
        """Factor on the meta-learning rate: cosine from 1 to 0 over the meta-updates, or 1."""
        if gene["meta.lr_decay"] == "none":
            return 1.0
        return 0.5 * (1.0 + math.cos(math.pi * self._made / int(gene["meta.steps"])))  # type: ignore[arg-type]

    def results(self) -> list[Tree]:
        """The weights of each candidate, on the CPU and without a graph."""
        return [{name: value.detach().cpu().clone() for name, value in tree.items()} for tree in self._trees]
