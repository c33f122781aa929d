"""REINFORCE (Williams 1992): the likelihood-ratio gradient of the return of a controller that explores."""

from __future__ import annotations

from torch import Tensor

from evometa.meta.base import MetaProblem, Session
from evometa.meta.policy_gradient import PolicyGradient, PolicySession
from evometa.meta.rollouts import Experience
from evometa.trees import Tree


class Reinforce(PolicyGradient):
    """Fresh rollouts for every estimate: at fixed weights its mean is the gradient of the mean return."""

    name = "reinforce"
    summary = "policy gradient of controllers: rollouts with drawn actions, baseline by the task's others"

    def begin(self, problem: MetaProblem) -> Session:
        return _Reinforcing(problem)


class _Reinforcing(PolicySession):
    def _experience(self, weights: Tree) -> tuple[Experience, int]:
        experience = self._rollouts.explore(weights, self._scale)
        return experience, experience.n_inner_steps

    def _loss(self, log_probability: Tensor, advantage: Tensor, experience: Experience) -> Tensor:
        return -(log_probability * advantage).sum(dim=0).mean(dim=-1)
