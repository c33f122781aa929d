"""Optimization as a Markov decision process: batched trainings whose settings somebody else decides.

What is seen, what an action does and what it is rewarded with are the controllers' own
(:mod:`evometa.rules.controller`, :mod:`evometa.meta.reward`), so that a policy trained here is one of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from evometa.inner.cohort import Cohort
from evometa.inner.task_set import PreparedTasks
from evometa.layout import Layout
from evometa.meta.augmentation import Part
from evometa.meta.reward import Level, rewards
from evometa.meta.rollouts import seen_now
from evometa.meta.training import observed, start, train_losses, train_part
from evometa.rules.base import Hyper, StepContext, UpdateRule
from evometa.rules.controller import ControllerRule
from evometa.rules.learner import Learner
from evometa.trees import Tree


class DrivenRule(UpdateRule):
    """A controller without its policy: the weight ``moves (C, T)`` says by how many octaves settings move."""

    def __init__(self, controller: ControllerRule) -> None:
        self.controller = controller

    def init_weights(self, generator: torch.Generator) -> Tree:
        return {}

    def init_state(self, weights: Tree, params: Tensor, layout: Layout) -> Tree:
        return self.controller.init_state(weights, params, layout)

    def update(
        self, weights: Tree, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        _, seen = self.controller.observe(state, grads, context)
        step, moved = self.controller.act(weights["moves"], hyper, state, grads, params, context)
        return step, {**state, **seen, **moved}


class OptimizationProcess:
    """One episode: B trainings side by side, R of each of T tasks, from fresh models to the horizon.

    Training r·T + t is of task t. Those of one task begin with the same model and see the same minibatches.
    A training whose loss is not finite goes on to the end like the others, for nothing: it is seen as zeros,
    and no reward follows its loss.

    Args:
        learner: of a controller; its schedule must not be learned.
        parts: the tasks, with minibatches for ``horizon + 1`` steps.
        horizon: inner steps.
        n_rollouts: R.
    """

    def __init__(
        self, learner: Learner, parts: Sequence[PreparedTasks], horizon: int, n_rollouts: int = 1
    ) -> None:
        controller = learner.rule
        if not isinstance(controller, ControllerRule):
            raise TypeError(f"only controllers decide anything, got rule {learner.family!r}")
        self._controller = controller
        self._parts = tuple(Part(part.tasks, part.params, part.indices) for part in parts)
        params = self._parts[0].params
        hyper = {name: params.new_full((n_rollouts,), value) for name, value in learner.hyper.items()}
        moves = params.new_zeros((n_rollouts, len(controller.controls), 0))
        driven = learner.with_rule(DrivenRule(controller))
        self._cohort = Cohort(driven, {"rule.moves": moves}, hyper, n_rollouts)
        self._horizon = horizon
        self._states = start(self._cohort, self._parts)
        self._levels = tuple(
            Level.at_first(state.losses, part.tasks.noise_floor)
            for part, state in zip(self._parts, self._states, strict=True)
        )

    @property
    def step_number(self) -> int:
        """Inner steps made."""
        return self._states[0].carry.step

    @property
    def is_over(self) -> bool:
        """Whether the horizon is reached."""
        return self.step_number >= self._horizon

    @property
    def losses(self) -> Tensor:
        """Training losses now, ``(B,)``."""
        return torch.cat([state.losses for state in self._states], dim=1).flatten()

    @property
    def lost(self) -> Tensor:
        """Which trainings are lost, ``(B,)``."""
        return torch.cat([level.lost for level in self._levels], dim=1).flatten()

    @torch.no_grad()
    def observe(self) -> Tensor:
        """What the policy sees, ``(B, F)``; zeros of a training that is lost."""
        seen = [
            seen_now(self._controller, part, state, self._horizon)
            for part, state in zip(self._parts, self._states, strict=True)
        ]
        rows = torch.cat(seen, dim=1).flatten(0, 1)
        return torch.where(self.lost.unsqueeze(-1), torch.zeros_like(rows), rows)

    @torch.no_grad()
    def step(self, moves: Tensor) -> Tensor:
        """Move the settings by ``moves (B, C)`` octaves, train until the next decision; rewards ``(B,)``."""
        n_steps = min(self._controller.interval, self._horizon - self.step_number)
        by_rollout = torch.unflatten(moves, 0, (self._cohort.n_candidates, -1)).mT
        given = torch.split(by_rollout, [part.tasks.n_tasks for part in self._parts], dim=2)
        states, levels, earned = [], [], []
        for part, state, level, own in zip(self._parts, self._states, self._levels, given, strict=True):
            cohort = replace(self._cohort, weights={"rule.moves": own.contiguous()})
            trained = train_part(
                cohort, part, state, n_steps, self._horizon, observed, train_losses, given_up=True
            )
            each, after = rewards(level, trained.losses, part.tasks.noise_floor)
            states.append(trained.end)
            levels.append(after)
            earned.append(each.sum(dim=0))
        self._states, self._levels = tuple(states), tuple(levels)
        return torch.cat(earned, dim=1).flatten()
