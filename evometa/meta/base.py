"""Contract of estimators (level 1): how a cohort's weights φ are meta-trained, and the genes that say so."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from evometa.genome.genes import Choice, Integer, LogReal
from evometa.genome.space import Genes, Space
from evometa.inner.cohort import Candidate
from evometa.trees import Tree

#: How a lifetime's learning enters the lineage: inherited, only scored with, or not done at all.
WRITE_BACK = ("lamarckian", "baldwinian", "none")
_REFINED = {"meta.write_back": ("lamarckian", "baldwinian")}


@dataclass(frozen=True)
class TaskStream:
    """The meta_train tasks of one refinement, drawn again by name in every worker.

    Attributes:
        use, options: task family, as in :class:`~evometa.inner.task_set.TaskRequest`.
        n_tasks: tasks of one meta-batch.
        horizon: the planned length of an inner training: what schedules are told.
        seed: seed of the stream; episode e draws its tasks from a seed named e.
    """

    use: str
    options: str
    n_tasks: int
    horizon: int
    seed: int


@dataclass(frozen=True)
class Refinement:
    """What came out of refining one cohort.

    Attributes:
        weights: one tree a candidate, on the CPU; where meta-training failed, the weights it began with.
        n_inner_steps: inner steps made for each candidate.
        n_skipped: per candidate, meta-updates left out because the meta-gradient was not finite.
        meta_losses: per candidate, the mean inner loss seen by each meta-update (reported only).
    """

    weights: list[Tree]
    n_inner_steps: int
    n_skipped: list[int]
    meta_losses: list[list[float]] = field(default_factory=list)


class Estimator(ABC):
    """A registry row: a way to estimate the meta-gradient and to follow it."""

    name: str
    summary: str

    @property
    @abstractmethod
    def space(self) -> Space:
        """The estimator's own genes, named ``meta.…``, without conditions."""

    @abstractmethod
    def structure(self, genes: Genes) -> tuple[object, ...]:
        """What genomes of one cohort must also share to be refined together."""

    @abstractmethod
    def live_steps(self, genes: Genes) -> int:
        """Inner steps whose intermediate values are kept at once; what a chunk's memory is planned by."""

    @abstractmethod
    def refine(
        self,
        candidates: Sequence[Candidate],
        streams: Sequence[TaskStream],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> Refinement:
        """Meta-train candidates of equal structure (see :meth:`structure`) and complete genes.

        Episode e draws its tasks from stream ``e mod len(streams)``; all candidates see the same tasks.
        """


def shared_space(estimators: tuple[str, ...]) -> Space:
    """Genes of every estimator: whether and how to refine, how long, and how fast."""
    return Space(
        (
            Choice("meta.write_back", WRITE_BACK, note="what becomes of weights refined in a lifetime"),
            Choice("meta.estimator", estimators, when=_REFINED, note="meta-gradient estimator"),
            Integer("meta.steps", 1, 100_000, 10, log=True, when=_REFINED, note="meta-updates a lifetime"),
            LogReal("meta.lr", 1e-4, 3e-2, 3e-3, when=_REFINED, note="meta-learning rate (Adam)"),
            Choice("meta.lr_decay", ("cosine", "none"), when=_REFINED, note="meta-learning rate over steps"),
            LogReal("meta.clip", 0.1, 10.0, 1.0, when=_REFINED, note="largest norm of a meta-gradient"),
        )
    )
