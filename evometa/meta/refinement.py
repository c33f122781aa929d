"""Meta-training of one cohort: estimate a meta-gradient, follow it, as often as the genes say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.deadline import check_time
from evometa.meta.base import MetaProblem, TaskStream
from evometa.meta.genes import whole
from evometa.meta.meta_optimizer import MetaOptimizer
from evometa.meta.registry import estimator_of, meta_genes
from evometa.trees import Tree, all_finite, packed, unpacked


@dataclass(frozen=True)
class Refinement:
    """What came out of refining one cohort.

    Attributes:
        weights: one tree a candidate, on the CPU; where meta-training failed, the weights it began with.
        n_inner_steps: inner steps made for each candidate.
        finite: per candidate, whether its weights are all finite.
        n_skipped: per candidate, meta-updates left out because the meta-gradient was not finite.
        meta_losses: per candidate, the mean inner loss seen by each meta-update (reported only).
        ways: the ways in which backpropagation was fitted into memory; none without it (reported only).
    """

    weights: list[Tree]
    n_inner_steps: int
    finite: list[bool]
    n_skipped: list[int]
    meta_losses: list[list[float]] = field(default_factory=list)
    ways: frozenset[str] = frozenset()

    def __getstate__(self) -> dict[str, Any]:
        """For pickling, with plain data for tensors."""
        return {**self.__dict__, "weights": [packed(tree) for tree in self.weights]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`__getstate__`."""
        self.__dict__.update(state, weights=[unpacked(tree) for tree in state["weights"]])


def refine(
    candidates: Sequence[Candidate],
    streams: Sequence[TaskStream],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    max_bytes: int | None = None,
) -> Refinement:
    """Meta-train candidates of one structure and one :func:`~evometa.meta.registry.meta_structure`.

    Episode e draws its tasks from stream ``e mod len(streams)``; all candidates see the same tasks.
    ``max_bytes`` bounds the memory that this takes and does not change what comes out. Raises MemoryError
    where it cannot be done within it, GenomeError where their estimator serves other rules.
    """
    genes = tuple(meta_genes(candidate.genes) for candidate in candidates)
    cohort = Cohort.of(candidates, device, dtype)
    problem = MetaProblem(cohort, genes, tuple(streams), device, dtype, max_bytes)
    session = estimator_of(cohort.learner, genes[0]).begin(problem)
    optimizer = MetaOptimizer(cohort.weights, genes)
    losses, ways, n_inner_steps = [], set(), 0
    for _ in range(whole(genes[0], "meta.steps")):
        check_time()
        found = session.estimate(optimizer.weights)
        optimizer.step(found.grads)
        losses.append(found.losses)
        ways |= {found.way} - {""}
        n_inner_steps += found.n_inner_steps
    meta_losses = torch.stack(losses, dim=1).tolist()
    weights = optimizer.results()
    finite = list(map(all_finite, weights))
    return Refinement(weights, n_inner_steps, finite, optimizer.n_skipped, meta_losses, frozenset(ways))
