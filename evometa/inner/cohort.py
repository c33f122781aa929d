"""A cohort: candidates of one structure, their weights and continuous genes stacked on the axis P."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from evometa.genome.genes import Value
from evometa.rules.learner import Learner
from evometa.trees import Tree, packed, stack, take, tree_map, unpacked


@dataclass(frozen=True)
class Candidate:
    """What a unit of work needs of one genome: plain data that travels to a worker.

    ``genes`` may hold genes of other levels (``meta.…``); ``weights`` is {} where nothing is learned.
    """

    id: str
    family: str
    genes: Mapping[str, Value]
    weights: Mapping[str, Tensor]

    def __getstate__(self) -> dict[str, Any]:
        """For pickling, with plain data for tensors: every unit of work and its result carry candidates."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**own, "weights": packed(self.weights)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`__getstate__`."""
        self.__dict__.update(state, weights=unpacked(state["weights"]))

    @cached_property
    def learner(self) -> Learner:
        """The candidate's update. Raises GenomeError when its genes are not permitted."""
        return Learner.of(self.family, self.genes)


@dataclass(frozen=True)
class Cohort:
    """P candidates that share ``learner``'s structure.

    Attributes:
        learner: any candidate's learner; only its structure counts.
        weights: each ``(P, …)``.
        hyper: continuous genes, each ``(P,)``.
        n_candidates: P.
    """

    learner: Learner
    weights: Tree
    hyper: Tree
    n_candidates: int

    @classmethod
    def of(
        cls,
        candidates: Sequence[Candidate],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> Cohort:
        """The cohort of candidates of equal structure, on ``device``."""
        learners = [candidate.learner for candidate in candidates]
        weights = stack([candidate.weights for candidate in candidates]) if candidates[0].weights else {}
        names = learners[0].hyper
        hyper = {
            name: torch.tensor([learner.hyper[name] for learner in learners], dtype=torch.float64)
            for name in names
        }

        def move(value: Tensor) -> Tensor:
            return value.to(device, dtype)

        return cls(learners[0], tree_map(move, weights), tree_map(move, hyper), len(candidates))

    def member(self, index: int) -> tuple[Tree, Tree]:
        """Weights and continuous genes of one candidate, without the axis P."""
        return take(self.weights, index), take(self.hyper, index)


def by_structure(candidates: Sequence[Candidate]) -> dict[Hashable, list[int]]:
    """Indices of candidates grouped by structure, groups in order of first appearance."""
    return grouped(candidate.learner.structure for candidate in candidates)


def grouped(keys: Iterable[Hashable]) -> dict[Hashable, list[int]]:
    """Places of equal ``keys``, in order of their first appearance."""
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return groups
