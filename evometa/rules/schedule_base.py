"""Contract of schedules: a factor multiplied onto the step of any rule.

Like rules, schedules are written for one candidate and are pure; a factor is ``()`` or ``(T,)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from evometa.genome.space import Genes, Space
from evometa.rules.base import Hyper, StepContext
from evometa.trees import Tree


class Schedule(ABC):
    """One structure of a schedule family. Stateless schedules keep the defaults.

    ``elementwise`` says that :meth:`factor` needs neither weights, state nor a loss and serves a cohort, at
    many steps at once: genes ``(P,)`` and steps ``()`` or ``(K, 1)`` give a factor that broadcasts to
    ``(P,)`` or ``(K, P)``.

    ``follows_steps`` says that :meth:`factor` reads ``context.last_step``. The rule's steps are then kept,
    one number a coordinate, and are made without its kernel.
    """

    elementwise: ClassVar[bool] = False
    follows_steps: ClassVar[bool] = False

    def init_weights(self, generator: torch.Generator) -> Tree:
        """Fresh weights of one candidate; {} for schedules that are formulas."""
        return {}

    def init_state(self, weights: Tree, n_tasks: int, like: Tensor) -> Tree:
        """State before the first step for T tasks, in the dtype and on the device of ``like``.

        Every state tensor has the task axis first.
        """
        return {}

    @abstractmethod
    def factor(self, weights: Tree, hyper: Hyper, state: Tree, context: StepContext) -> tuple[Tensor, Tree]:
        """The factor, () or (T,), and the next state."""


class ScheduleFamily(ABC):
    """A registry row. Its genes are named ``schedule.…``, active when gene ``schedule`` has its name.

    ``is_common`` says that campaigns draw it without naming it.
    """

    name: str
    summary: str
    is_common: ClassVar[bool] = True
    learned: ClassVar[bool] = False

    @property
    @abstractmethod
    def space(self) -> Space:
        """The schedule's own genes, without conditions (they are added where the space is assembled)."""

    @abstractmethod
    def build(self, genes: Genes) -> Schedule:
        """The schedule of these genes; only structural genes may shape it."""

    @abstractmethod
    def formula(self, genes: Genes) -> str:
        """The factor s(k) as one line of Unicode text."""
