"""RL² (Duan et al. 2016): a recurrent policy that learns within a trial, trained by policy gradient.

What it sees at every step is the observation, the action before, its reward, and whether an episode ended
with it. Its state lives as long as the trial, over all its episodes: what it has learned about this process.

The gradient is that of :mod:`evometa.meta.ppo`, on several trials of each process: what one earned from a
step on is compared with the others, so that how generous the process is does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from evometa.environments.trials import TrialFamily
from evometa.genome.genes import Value
from evometa.meta.meta_optimizer import MetaOptimizer
from evometa.meta.policy_gradient import advantages, drawn, log_probability
from evometa.meta.ppo import clipped_loss
from evometa.meta.rollouts import Experience, gradients, policy_outputs
from evometa.rng import derive_seed, torch_generator
from evometa.rules.controller_policy import Policy
from evometa.trees import Tree, tree_map

_Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Training:
    """How a policy is trained.

    Attributes:
        hidden: units of the GRU.
        updates: times that trials are drawn.
        tasks: processes of each time.
        rollouts: trials of each process.
        epochs: clipped steps on the same trials.
        clip_ratio: how far an action's probability may move in them.
        lr: learning rate of Adam, decayed by a cosine.
        clip: largest norm of a gradient.
        discount: of a step, in what is compared with the other trials.
        first_steps: steps of the first trials, at most those of a whole one: they grow to it over the first
            half of the updates, since what pays late is learned by those who know what pays early.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    hidden: _Count = 32
    updates: _Count = 250
    tasks: _Count = 32
    rollouts: Annotated[int, Field(ge=2)] = 16
    epochs: _Count = 3
    clip_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.2
    lr: Annotated[float, Field(gt=0)] = 1e-2
    clip: Annotated[float, Field(gt=0)] = 1.0
    discount: Annotated[float, Field(ge=0, le=1)] = 1.0
    first_steps: _Count = 10

    def n_steps(self, update: int, longest: int) -> int:
        """Steps of the trials of an update: so many times more every update, until they are whole."""
        shortest = min(self.first_steps, longest)
        grown = min(1.0, 2 * update / self.updates)
        return min(round(shortest * math.pow(longest / shortest, grown)), longest)


class RL2:
    """A policy for one family of processes."""

    def __init__(self, family: TrialFamily, hidden: int) -> None:
        rows = {"observation": family.n_observations, "action": family.n_actions, "reward": 1, "ended": 1}
        rows = {name: count for name, count in rows.items() if count}
        self.family = family
        self.policy = Policy("gru", hidden, family.n_actions, rows)

    @torch.no_grad()
    def explore(
        self,
        weights: Tree,
        n_tasks: int,
        n_rollouts: int,
        seed: int,
        *,
        n_steps: int | None = None,
        greedy: bool = False,
    ) -> Experience:
        """Trials with ``weights`` of one policy: their P is 1, their decisions are all steps of a trial.

        Actions are drawn from the policy; with ``greedy`` the likeliest is taken. They are cut short to
        ``n_steps``.
        """
        family, generator = self.family, torch_generator(seed, "trials")
        n_steps = n_steps or family.n_steps
        trials = family.begin(n_tasks, n_rollouts, generator)
        n_trials = n_tasks * n_rollouts
        state = self.policy.init_state(torch.zeros(n_trials, 1))
        hidden = {name: value.unsqueeze(0) for name, value in state.items()}
        before = torch.zeros(n_trials, family.n_actions + 2)
        seen, acted, rewards = [], [], []
        for _ in range(n_steps):
            rows = torch.cat([trials.observe(), before], dim=1)
            outputs, state = self.policy.outputs(weights, state, rows.T)
            noise = torch.rand(outputs.shape, generator=generator).clamp(1e-7, 1 - 1e-7)
            chosen = outputs.argmax(dim=0) if greedy else drawn(outputs, noise)
            reward, ended = trials.step(chosen)
            before = torch.zeros_like(before)
            before[torch.arange(n_trials), chosen] = 1.0
            before[:, -2], before[:, -1] = reward, ended.to(reward.dtype)
            seen.append(rows)
            acted.append(chosen.to(rows.dtype).unsqueeze(1))
            rewards.append(reward)
        seen.append(torch.cat([trials.observe(), before], dim=1))
        return Experience(
            seen=torch.stack(seen).unsqueeze(1),
            acted=torch.stack(acted).unsqueeze(1),
            rewards=torch.stack(rewards).unsqueeze(1),
            alive=torch.ones(n_steps + 1, 1, n_trials),
            hidden=hidden,
            ended=True,
            n_rollouts=n_rollouts,
            losses=torch.zeros(1),
            n_inner_steps=n_trials * n_steps,
        )

    def train(self, how: Training, seed: int, report: Callable[[int, float], None]) -> Tree:
        """Fresh weights, trained; ``report`` is told the mean reward of a step in every update."""
        fresh = self.policy.init_weights(torch_generator(seed, "weights"))
        genes: dict[str, Value] = {
            "meta.steps": how.updates * how.epochs,
            "meta.lr": how.lr,
            "meta.lr_decay": "cosine",
            "meta.clip": how.clip,
            "meta.averaging": "none",
        }
        optimizer = MetaOptimizer(tree_map(lambda value: value.unsqueeze(0), fresh), [genes])
        for update in range(how.updates):
            own = tree_map(lambda value: value[0], optimizer.weights)
            experience = self.explore(
                own,
                how.tasks,
                how.rollouts,
                derive_seed(seed, "update", update),
                n_steps=how.n_steps(update, self.family.n_steps),
            )
            report(update, float(experience.rewards.mean()))
            advantage = advantages(experience, how.discount)
            with torch.no_grad():
                before = self.log_probability(optimizer.weights, experience)
            loss = partial(self._loss, experience, advantage, before, how.clip_ratio)
            for _ in range(how.epochs):
                optimizer.step(gradients(optimizer.weights, loss))
        return optimizer.results()[0]

    def _loss(
        self, experience: Experience, advantage: Tensor, before: Tensor, clip_ratio: float, weights: Tree
    ) -> Tensor:
        ratio = self.log_probability(weights, experience) - before
        return clipped_loss(ratio, advantage, torch.tensor([[clip_ratio]]))

    def log_probability(self, weights: Tree, experience: Experience) -> Tensor:
        """Of what was done, ``(D, P, B)``, under ``weights``, each ``(P, …)``."""
        outputs = policy_outputs(self.policy, weights, experience.seen[:-1], experience.hidden)
        return log_probability("discrete", outputs, experience.acted, torch.ones(1, 1))

    def rewards(self, weights: Tree, n_trials: int, seed: int, *, greedy: bool = True) -> Tensor:
        """What the policy earns by every step of trials of ``n_trials`` processes, ``(S, n_trials)``."""
        return self.explore(weights, n_trials, 1, seed, greedy=greedy).rewards[:, 0]
