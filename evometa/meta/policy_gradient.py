"""What estimators by policy gradient have in common: actions drawn from a controller's policy, advantages.

A discrete controller's outputs, divided by the temperature ``meta.exploration``, are the logits of its
actions; a continuous one's are the means of normal distributions of that standard deviation, whose draws
become octaves as its own outputs do. So what explores is the controller, spread around its best action or its
mean.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from evometa.genome.genes import Integer, LogReal
from evometa.genome.space import Genes, Space
from evometa.meta.base import Estimator, MetaGradient, MetaProblem, Session
from evometa.meta.footprint import Footprint
from evometa.meta.genes import per_candidate, whole
from evometa.meta.rollouts import Experience, Rollouts, gradients, policy_outputs
from evometa.rules.base import RuleFamily
from evometa.rules.controller import Actions, ControllerFamily, ControllerRule, discrete_moves
from evometa.trees import Tree, under_prefix

#: Genes of every estimator by policy gradient.
POLICY_SPACE = Space(
    (
        Integer("meta.rollouts", 2, 256, 8, log=True, note="trainings of every task that explore"),
        LogReal("meta.exploration", 0.05, 2.0, 0.5, note="temperature, or standard deviation, of actions"),
    )
)


class PolicyGradient(Estimator):
    """An estimator that explores with the controller's own policy."""

    def serves(self, family: RuleFamily) -> bool:
        return isinstance(family, ControllerFamily)

    @property
    def space(self) -> Space:
        return POLICY_SPACE

    def footprint(self, genes: Genes) -> Footprint:
        return Footprint(n_trainings=whole(genes, "meta.rollouts"), n_live_steps=1)


class PolicySession(Session):
    """Rollouts of the policy, and a loss of them that is differentiated by the weights."""

    def __init__(self, problem: MetaProblem) -> None:
        like = next(iter(problem.cohort.weights.values()))
        self._scale = per_candidate(problem.genes, "meta.exploration", like)
        self._rollouts = Rollouts(problem, draw, whole(problem.genes[0], "meta.rollouts"))

    def estimate(self, weights: Tree) -> MetaGradient:
        experience, n_inner_steps = self._experience(weights)
        advantage = advantages(experience)
        grads = gradients(
            weights, lambda own: self._loss(self._log_probability(own, experience), advantage, experience)
        )
        return MetaGradient(grads, experience.losses, n_inner_steps)

    @abstractmethod
    def _experience(self, weights: Tree) -> tuple[Experience, int]:
        """What is learned from, and the inner steps made for it."""

    @abstractmethod
    def _loss(self, log_probability: Tensor, advantage: Tensor, experience: Experience) -> Tensor:
        """What is to fall, (P,), of the probabilities that the policy gives what was done, ``(D, P, B)``."""

    def _log_probability(self, weights: Tree, experience: Experience) -> Tensor:
        controller = self._rollouts.controller
        seen = experience.seen[: len(experience.acted)]
        if not len(seen):
            return experience.rewards
        outputs = policy_outputs(controller.policy, under_prefix("rule", weights), seen, experience.hidden)
        return log_probability(controller.actions, outputs, experience.acted, self._scale.reshape(-1, 1))


def draw(controller: ControllerRule, outputs: Tensor, noise: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Actions ``(C, T)`` drawn from the policy, and their octaves, by uniform ``noise (A + 1, T)``."""
    if controller.actions == "discrete":
        chosen = drawn(outputs / scale, noise[:-1])
        return chosen.to(outputs.dtype).unsqueeze(0), discrete_moves(chosen, outputs)
    acted = outputs + scale * torch.special.ndtri(noise[:-1])
    return acted, controller.moves(acted)


def drawn(logits: Tensor, noise: Tensor) -> Tensor:
    """Places ``(T,)`` drawn with probability softmax of ``logits (A, T)``, by uniform noise of that shape."""
    gumbel = -torch.log(-torch.log(noise))  # the largest of logits plus these is such a draw (Gumbel 1954)
    return (logits + gumbel).argmax(dim=0)


def log_probability(actions: Actions, outputs: Tensor, acted: Tensor, scale: Tensor) -> Tensor:
    """Of actions ``(…, C)`` under a policy that gives ``outputs (…, A)``; ``scale`` broadcasts to ``(…)``.

    Of continuous ones up to a constant.
    """
    if actions == "discrete":
        logits = torch.log_softmax(outputs / scale.unsqueeze(-1), dim=-1)
        return logits.gather(-1, acted.long()).squeeze(-1)
    return -0.5 * ((acted - outputs) / scale.unsqueeze(-1)).square().sum(dim=-1)


def advantages(experience: Experience, discount: float = 1.0) -> Tensor:
    """How much better than the other rollouts of its task each went on from every decision, ``(D, P, B)``.

    The sum of rewards from there on, those to come discounted, minus the mean of the others' (a leave-one-out
    baseline, which leaves the gradient's mean as it is; Kool, van Hoof & Welling 2019). Nothing for a
    training already lost.
    """
    if not len(experience.rewards):
        return experience.rewards
    to_go = [torch.zeros_like(experience.rewards[0])]
    for reward in experience.rewards.flip(0):
        to_go.append(reward + discount * to_go[-1])
    own = torch.unflatten(torch.stack(to_go[:0:-1]), 2, (experience.n_rollouts, -1))
    others = (own.sum(dim=2, keepdim=True) - own) / (experience.n_rollouts - 1)
    return torch.flatten(own - others, 2) * experience.alive[:-1]
