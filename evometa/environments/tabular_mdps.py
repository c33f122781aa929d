"""Random tabular Markov decision processes, several short episodes a trial."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evometa.environments.trials import TrialFamily, Trials, whole_options


@dataclass(frozen=True)
class TabularMDPs(TrialFamily):
    """The processes of Duan et al. 2016, section 3.2 (after Osband, Russo & Van Roy 2013).

    Transitions are drawn from a flat Dirichlet distribution, the mean reward of every state and action from
    N(1, 1), and rewards from a normal distribution around it of variance 1. Episodes of ``length`` steps
    begin in state 0; the state is observed as a one-hot vector.
    """

    states: int = 10
    actions: int = 5
    episodes: int = 10
    length: int = 10

    name = "tabular_mdps"
    summary = "random tabular decision processes, several episodes of each"

    def __post_init__(self) -> None:
        whole_options(self, states=1, actions=2, episodes=1, length=1)

    @property
    def n_observations(self) -> int:
        return self.states

    @property
    def n_actions(self) -> int:
        return self.actions

    @property
    def n_episodes(self) -> int:
        return self.episodes

    @property
    def n_steps(self) -> int:
        return self.episodes * self.length

    def begin(self, n_tasks: int, n_rollouts: int, generator: torch.Generator) -> Trials:
        shape = (n_tasks, self.states, self.actions)
        shares = torch.empty((*shape, self.states)).exponential_(generator=generator)
        transitions = shares / shares.sum(dim=-1, keepdim=True)  # of exponentials: a flat Dirichlet draw
        means = 1.0 + torch.randn(shape, generator=generator)
        return TabularTrials(transitions, means, n_rollouts, self.length, generator)


class TabularTrials(Trials):
    """Trials of processes with ``transitions (T, S, A, S)`` and mean rewards ``means (T, S, A)``."""

    def __init__(
        self, transitions: Tensor, means: Tensor, n_rollouts: int, length: int, generator: torch.Generator
    ) -> None:
        self._cumulative, self._means = transitions.cumsum(dim=-1), means
        self._length, self._generator = length, generator
        self._task = torch.arange(len(means)).repeat(n_rollouts)
        self._state = torch.zeros_like(self._task)
        self._n_steps = 0

    def observe(self) -> Tensor:
        n_states = self._means.shape[1]
        return torch.nn.functional.one_hot(self._state, n_states).to(self._means.dtype)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        at = self._task, self._state, actions
        rewards = self._means[at] + torch.randn(len(actions), generator=self._generator)
        drawn = torch.rand((len(actions), 1), generator=self._generator)
        n_states = self._means.shape[1]
        self._state = (drawn > self._cumulative[at]).sum(dim=-1).clamp(max=n_states - 1)
        self._n_steps += 1
        ended = self._n_steps % self._length == 0
        if ended:
            self._state = torch.zeros_like(self._state)
        return rewards, torch.full_like(actions, ended, dtype=torch.bool)
