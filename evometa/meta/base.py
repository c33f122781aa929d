"""Contract of estimators (level 1): they estimate meta-gradients; following them is not their business.

An :class:`Estimator` is a registry row. Its :class:`Session` lives as long as one refinement and keeps what
continues between meta-updates: models in training, particles, accumulators. The loop that clips, steps and
averages is :func:`evometa.meta.refinement.refine`, the same for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from evometa.genome.space import Genes, Space
from evometa.inner.cohort import Cohort
from evometa.meta.footprint import Footprint
from evometa.rules.base import RuleFamily
from evometa.trees import Tree


@dataclass(frozen=True)
class TaskStream:
    """The meta_train tasks of one refinement, drawn again by name in every worker.

    Attributes:
        use, options: task family, as in :class:`~evometa.inner.task_set.TaskRequest`.
        n_tasks: tasks of one meta-batch.
        horizon: the planned length of an inner training: what schedules are told.
        seed: seed of the stream; episode e draws its tasks from a seed named e.
        compiled: whether gradients of the inner loss are compiled.
    """

    use: str
    options: str
    n_tasks: int
    horizon: int
    seed: int
    compiled: bool = False


@dataclass(frozen=True)
class MetaProblem:
    """What a session is given: candidates of one cohort and the tasks they meta-train on.

    Attributes:
        cohort: P candidates; its weights are those before the first meta-update.
        genes: the complete ``meta.…`` genes of each candidate; they agree in :meth:`Estimator.structure`
            and in the shared genes of episodes, and may differ in the continuous ones.
        streams: episode e draws its tasks from ``streams[e % len(streams)]``.
        device, dtype: of the weights and of the inner trainings.
        max_bytes: what the session may take in memory, tasks included; None without a limit.
    """

    cohort: Cohort
    genes: tuple[Genes, ...]
    streams: tuple[TaskStream, ...]
    device: torch.device
    dtype: torch.dtype
    max_bytes: int | None = None


@dataclass(frozen=True)
class MetaGradient:
    """One estimate for each of P candidates.

    Attributes:
        grads: each ``(P, …)`` like the weights; where an inner training failed, not finite.
        losses: ``(P,)`` mean inner loss seen (reported only).
        n_inner_steps: inner steps made for each candidate: tasks × steps × particles.
        way: how backpropagation was fitted into memory, in a few words; "" where there was none.
    """

    grads: Tree
    losses: Tensor
    n_inner_steps: int
    way: str = ""


class Session(ABC):
    """A cohort in meta-training. Estimates follow one another and may leave trainings unfinished between."""

    @abstractmethod
    def estimate(self, weights: Tree) -> MetaGradient:
        """The meta-gradient at ``weights``, each ``(P, …)``, on the next segment of inner training.

        What candidate i gets does not depend on which others are in the cohort. Draws come from seeds named
        by stream, episode and step, the same for all candidates.
        """


class Estimator(ABC):
    """A registry row: a way to estimate the meta-gradient.

    ``is_common`` says that campaigns draw it without naming it. ``needs_initialisation`` says that it trains
    learned initialisations and nothing else.
    """

    name: str
    summary: str
    is_common: ClassVar[bool] = True
    needs_initialisation: ClassVar[bool] = False

    def serves(self, family: RuleFamily) -> bool:
        """Whether it finds meta-gradients for the rules of ``family``; search spaces offer no others."""
        return True

    @property
    @abstractmethod
    def space(self) -> Space:
        """The estimator's own genes, named ``meta.…``, without conditions on ``meta.estimator``."""

    def structure(self, genes: Genes) -> Hashable:
        """What candidates of one session must agree in besides the shared genes: all but continuous genes."""
        return self.space.structural(genes)

    @abstractmethod
    def footprint(self, genes: Genes) -> Footprint:
        """What a session keeps in memory for each candidate; chunks are planned by it."""

    @abstractmethod
    def begin(self, problem: MetaProblem) -> Session:
        """A session for the cohort of ``problem``."""
