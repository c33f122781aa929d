"""Trainings as trials: several of one task, in which the policy sets the learning rate.

An episode is a training from a fresh model and with fresh minibatches, as in ``evometa/Optimization-v0``; all
episodes of a trial are on the same task, so what one tells of it serves the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from evometa.environments.optimization import Episodes
from evometa.environments.trials import TrialFamily, Trials, whole_options
from evometa.errors import EvometaError
from evometa.genome.genes import Value
from evometa.rules.controller import MOVES
from evometa.rules.controller_policy import OBSERVATION_BOUND
from evometa.tasks import build_family
from evometa.tasks.base import Split


@dataclass(frozen=True)
class TrainingTrials(TrialFamily):
    """Trials of ``episodes`` trainings of ``horizon`` steps, their learning rate kept, halved or doubled.

    ``task`` and ``options`` name the tasks, and ``genes`` the rule below, as in ``evometa/Optimization-v0``.
    Processes are tasks of meta_train, :meth:`unseen` ones of meta_test.
    """

    task: str = "quadratic"
    options: dict[str, object] = field(default_factory=dict)
    genes: dict[str, Value] = field(default_factory=dict)
    horizon: int = 50
    episodes: int = 3
    split: Split = "meta_train"

    name = "trainings"
    summary = "trainings whose learning rate is controlled, several of each task"

    def __post_init__(self) -> None:
        whole_options(self, horizon=1, episodes=1)
        for option, kind in {"task": str, "options": dict, "genes": dict}.items():
            value = getattr(self, option)
            if not isinstance(value, kind):
                what = "the name of a task family" if kind is str else "a table"
                raise EvometaError(f"{self.name}: {option} is {value!r}, expected {what}")
        build_family(self.task, self.options)
        assert self._episodes  # what is wrong with the rest is told before anything is trained

    @cached_property
    def _episodes(self) -> Episodes:
        return Episodes(self.task, self.options, "discrete", self.genes, self.horizon, self.split)

    @property
    def n_observations(self) -> int:
        return int(self._episodes.observation_space.shape[0])

    @property
    def n_actions(self) -> int:
        return len(MOVES)

    @property
    def n_episodes(self) -> int:
        return self.episodes

    @property
    def n_steps(self) -> int:
        return self.episodes * math.ceil(self.horizon / self._episodes.interval)

    def unseen(self) -> TrialFamily:
        return replace(self, split="meta_test")

    def begin(self, n_tasks: int, n_rollouts: int, generator: torch.Generator) -> Trials:
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        return _Trainings(self._episodes, self.episodes, n_tasks, n_rollouts, seed)


class _Trainings(Trials):
    def __init__(self, episodes: Episodes, n_episodes: int, n_tasks: int, n_rollouts: int, seed: int) -> None:
        self._episodes, self._n_left = episodes, n_episodes
        self._of = n_tasks, seed, n_rollouts
        self._begin(0)

    def _begin(self, repetition: int) -> None:
        self._repetition = repetition
        self._n_left -= 1
        self._process = self._episodes.of(*self._of, repetition=repetition)

    def observe(self) -> Tensor:
        return self._process.observe().clamp(-OBSERVATION_BOUND, OBSERVATION_BOUND)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        moves = torch.tensor(MOVES, dtype=torch.float32)[actions].unsqueeze(1)
        rewards, ended = self._process.step(moves), self._process.is_over
        if ended and self._n_left:
            self._begin(self._repetition + 1)
        return rewards, torch.full_like(actions, ended, dtype=torch.bool)
