"""Bernoulli bandits: k arms, each paying 1 with a chance drawn from U(0, 1), pulled n times in a trial."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evometa.environments.trials import TrialFamily, Trials, whole_options


@dataclass(frozen=True)
class BernoulliBandits(TrialFamily):
    """The multi-armed bandits of Duan et al. 2016, section 3.1: nothing is observed but the rewards."""

    arms: int = 5
    pulls: int = 10

    name = "bandits"
    summary = "Bernoulli bandits whose chances of paying are uniform"

    def __post_init__(self) -> None:
        whole_options(self, arms=2, pulls=1)

    @property
    def n_observations(self) -> int:
        return 0

    @property
    def n_actions(self) -> int:
        return self.arms

    @property
    def n_episodes(self) -> int:
        return self.pulls

    @property
    def n_steps(self) -> int:
        return self.pulls

    def begin(self, n_tasks: int, n_rollouts: int, generator: torch.Generator) -> Trials:
        return _Pulls(torch.rand((n_tasks, self.arms), generator=generator).repeat(n_rollouts, 1), generator)


class _Pulls(Trials):
    def __init__(self, chances: Tensor, generator: torch.Generator) -> None:
        self._chances, self._generator = chances, generator

    def observe(self) -> Tensor:
        return self._chances.new_zeros((len(self._chances), 0))

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        chance = self._chances.gather(1, actions.unsqueeze(1)).squeeze(1)
        paid = torch.rand(chance.shape, generator=self._generator) < chance
        return paid.to(chance.dtype), torch.ones_like(paid)
