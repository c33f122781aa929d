"""Contract of environments that are solved within a trial: RL² (Duan et al. 2016) learns to learn on them.

A trial is several episodes of one Markov decision process drawn from a family. Trials are batched: B of them
are stepped by one call, and random numbers come from the generator that they began with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from evometa.errors import EvometaError


class Trials(ABC):
    """B trials under way, of as many processes."""

    @abstractmethod
    def observe(self) -> Tensor:
        """What is seen now, ``(B, n_observations)``."""

    @abstractmethod
    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards ``(B,)`` of the ``actions (B,)``, and whether an episode ended with them, ``(B,)``.

        The next episode has begun then.
        """


class TrialFamily(ABC):
    """A distribution over processes, each tried for ``n_steps`` in all; its options are fields."""

    name: str
    summary: str

    @property
    @abstractmethod
    def n_observations(self) -> int:
        """Numbers that are seen at a step; 0 where there is nothing to see."""

    @property
    @abstractmethod
    def n_actions(self) -> int:
        """Actions to choose from."""

    @property
    @abstractmethod
    def n_steps(self) -> int:
        """Steps of a trial, over all its episodes."""

    @property
    @abstractmethod
    def n_episodes(self) -> int:
        """Episodes of a trial, all of equally many steps."""

    def unseen(self) -> TrialFamily:
        """The family of the processes that a policy is tested on: others of the same kind."""
        return self

    @abstractmethod
    def begin(self, n_tasks: int, n_rollouts: int, generator: torch.Generator) -> Trials:
        """``n_rollouts`` trials of ``n_tasks`` fresh processes each; trial r·n_tasks + t is of process t."""


def whole_options(family: TrialFamily, **least: int) -> None:
    """Raise EvometaError for an option of ``family`` that is no whole number or less than its ``least``."""
    for option, smallest in least.items():
        value = getattr(family, option)
        if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
            raise EvometaError(
                f"{family.name}: {option} is {value!r}, expected a whole number from {smallest} on"
            )
