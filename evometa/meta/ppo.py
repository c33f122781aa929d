"""Proximal policy optimization (Schulman et al. 2017): several estimates from the same rollouts, clipped."""

from __future__ import annotations

import torch
from torch import Tensor

from evometa.genome.genes import Integer, Real
from evometa.genome.space import Space
from evometa.meta.base import MetaProblem, Session
from evometa.meta.genes import per_candidate, whole
from evometa.meta.policy_gradient import PolicyGradient, PolicySession
from evometa.meta.rollouts import Experience
from evometa.trees import Tree

#: Of every estimator that learns several times from what it explored once.
EPOCHS = Integer("meta.epochs", 1, 16, 4, log=True, note="meta-updates made of each segment that explores")


class PPO(PolicyGradient):
    """The clipped objective (equation 7) of advantages as REINFORCE has them.

    While the weights are those that explored, its gradient is REINFORCE's; afterwards what an action's
    probability has changed by counts up to a factor of ``1 ± meta.clip_ratio``.
    """

    name = "ppo"
    summary = "policy gradient of controllers: several clipped steps on the same rollouts"

    @property
    def space(self) -> Space:
        clip = Real("meta.clip_ratio", 0.05, 0.5, 0.2, note="how far an action's probability may move")
        return super().space.union((EPOCHS, clip))

    def begin(self, problem: MetaProblem) -> Session:
        return _Clipping(problem)


class _Clipping(PolicySession):
    def __init__(self, problem: MetaProblem) -> None:
        super().__init__(problem)
        self._n_epochs = whole(problem.genes[0], "meta.epochs")
        self._clip = per_candidate(problem.genes, "meta.clip_ratio", self._scale).reshape(-1, 1)
        self._epoch = 0
        self._kept: Experience | None = None
        self._before = torch.zeros(())

    def _experience(self, weights: Tree) -> tuple[Experience, int]:
        n_inner_steps = 0
        if self._kept is None or self._epoch == self._n_epochs:
            self._kept, self._epoch = self._rollouts.explore(weights, self._scale), 0
            with torch.no_grad():
                self._before = self._log_probability(weights, self._kept)
            n_inner_steps = self._kept.n_inner_steps
        self._epoch += 1
        return self._kept, n_inner_steps

    def _loss(self, log_probability: Tensor, advantage: Tensor, experience: Experience) -> Tensor:
        return clipped_loss(log_probability - self._before, advantage, self._clip)


def clipped_loss(log_ratio: Tensor, advantage: Tensor, clip: Tensor) -> Tensor:
    """Minus the clipped objective of decisions ``(D, P, B)``, (P,); ``clip`` broadcasts to ``(P, B)``."""
    ratio = log_ratio.exp()
    clipped = torch.minimum(torch.maximum(ratio, 1 - clip), 1 + clip)
    return -torch.minimum(ratio * advantage, clipped * advantage).sum(dim=0).mean(dim=-1)
