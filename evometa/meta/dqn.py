"""Deep Q-learning (Mnih et al. 2015) of discrete controllers: replay, a target network, double estimates.

A controller's outputs are the values of its actions: what is to come of rewards after each, discounted by
decision. The best next action is told by the controller and valued by the target network (double Q-learning,
van Hasselt, Guez & Silver 2016), so that none is preferred for being overrated. Recurrent ones learn from
whole segments, from the state in which these began (Hausknecht & Stone 2015; Kapturowski et al. 2019).
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from evometa.genome.genes import Integer, LogReal, Real
from evometa.genome.space import Genes, Space
from evometa.meta.base import Estimator, MetaGradient, MetaProblem, Session
from evometa.meta.footprint import Footprint
from evometa.meta.genes import per_candidate, whole
from evometa.meta.ppo import EPOCHS
from evometa.meta.rollouts import Experience, Rollouts, gradients, policy_outputs
from evometa.rng import numpy_generator
from evometa.rules.base import RuleFamily
from evometa.rules.controller import ControllerFamily, ControllerRule, discrete_moves
from evometa.trees import Tree, tree_map, under_prefix

#: Segments that one estimate learns from, the latest among them.
_N_REPLAYED = 4
#: Of all estimates; exploration falls to its floor meanwhile.
_SHARE_OF_FALL = 0.5


class DQN(Estimator):
    """The gradient of the temporal-difference error on segments of a replay buffer.

    Explores ε-greedily, at first blindly, and learns ``meta.epochs`` times before it explores the next
    segment. Every ``meta.target_every`` estimates the weights are copied to the target network.
    """

    name = "dqn"
    summary = "Q-learning of discrete controllers: ε-greedy rollouts, replay, a target network"

    def serves(self, family: RuleFamily) -> bool:
        return isinstance(family, ControllerFamily) and family.actions == "discrete"

    @property
    def space(self) -> Space:
        return Space(
            (
                EPOCHS,
                Real("meta.epsilon", 0.01, 1.0, 0.2, note="share of actions drawn blindly, at last"),
                LogReal("meta.one_minus_discount", 1e-3, 0.5, 1e-2, note="1 − discount of a decision"),
                Integer("meta.replay", 1, 256, 32, log=True, note="segments that are remembered"),
                Integer("meta.target_every", 1, 256, 16, log=True, note="meta-updates between target copies"),
            )
        )

    def footprint(self, genes: Genes) -> Footprint:
        return Footprint(n_trainings=1, n_live_steps=1)

    def begin(self, problem: MetaProblem) -> Session:
        return _Replaying(problem)


class _Replaying(Session):
    """The replay buffer and the target weights."""

    def __init__(self, problem: MetaProblem) -> None:
        genes = problem.genes[0]
        like = next(iter(problem.cohort.weights.values()))
        self._rollouts = Rollouts(problem, greedily, 1)
        self._floor = per_candidate(problem.genes, "meta.epsilon", like)
        self._n_estimates = whole(genes, "meta.steps")
        discount = 1 - per_candidate(problem.genes, "meta.one_minus_discount", like)
        self._discount = discount.unsqueeze(-1)
        self._n_epochs = whole(genes, "meta.epochs")
        self._target_every = whole(genes, "meta.target_every")
        self._buffer: deque[Experience] = deque(maxlen=whole(genes, "meta.replay"))
        self._target: Tree = {}
        self._n_made = 0
        self._seed = problem.streams[0].seed

    def estimate(self, weights: Tree) -> MetaGradient:
        if self._n_made % self._target_every == 0:
            self._target = tree_map(torch.clone, weights)
        n_inner_steps = 0
        if self._n_made % self._n_epochs == 0:
            blindly = epsilon(self._n_made / self._n_estimates, self._floor)
            self._buffer.append(self._rollouts.explore(weights, blindly))
            n_inner_steps = self._buffer[-1].n_inner_steps
        replayed = self._replayed()
        grads = gradients(weights, lambda own: self._loss(own, replayed))
        self._n_made += 1
        return MetaGradient(grads, self._buffer[-1].losses, n_inner_steps)

    def _replayed(self) -> list[Experience]:
        """Some of the buffer, each once; which is the same for all candidates."""
        generator = numpy_generator(self._seed, "replay", self._n_made)
        n_others = min(_N_REPLAYED, len(self._buffer)) - 1
        chosen = generator.permutation(len(self._buffer) - 1)[:n_others].tolist()
        return [self._buffer[-1], *(self._buffer[place] for place in chosen)]

    def _loss(self, weights: Tree, replayed: list[Experience]) -> Tensor:
        """Half the mean squared error over the decisions of all segments, (P,).

        Squared, where Mnih et al. bound an error's derivative: a loss of the whole training is rare and is to
        count for all it costs, and values under a bound follow the median.
        """
        policy, target = self._rollouts.controller.policy, under_prefix("rule", self._target)
        errors, counts = [], []
        for one in replayed:
            values = policy_outputs(policy, under_prefix("rule", weights), one.seen, one.hidden)
            with torch.no_grad():
                theirs = policy_outputs(policy, target, one.seen, one.hidden)
                targets = td_targets(values.detach(), theirs, one, self._discount)
            found = values[:-1].gather(-1, one.acted.long()).squeeze(-1)
            error = 0.5 * (found - targets).square() * one.alive[:-1]
            errors.append(error.sum(dim=(0, 2)))
            counts.append(one.alive[:-1].sum(dim=(0, 2)))
        return torch.stack(errors).sum(dim=0) / torch.stack(counts).sum(dim=0).clamp(min=1.0)


def td_targets(online: Tensor, target: Tensor, experience: Experience, discount: Tensor) -> Tensor:
    """``r + discount·Q'(s', argmax Q(s'))``, ``(D, P, B)``, of values ``(D + 1, P, B, A)`` of both networks.

    Double Q-learning (van Hasselt, Guez & Silver 2016, equation 4). Nothing is to come after the horizon, or
    of a training that is lost. ``discount``: to ``(P, B)``.
    """
    best = online[1:].argmax(dim=-1, keepdim=True)
    to_come = target[1:].gather(-1, best).squeeze(-1) * experience.alive[1:]
    if experience.ended and len(to_come):
        to_come = torch.cat([to_come[:-1], torch.zeros_like(to_come[-1:])])
    return experience.rewards + discount * to_come


def epsilon(progress: float, floor: Tensor) -> Tensor:
    """The share of actions drawn blindly: from 1 in a straight line to ``floor`` halfway, and then that."""
    return torch.maximum(floor, 1 - (1 - floor) * (progress / _SHARE_OF_FALL))


def greedily(
    controller: ControllerRule, outputs: Tensor, noise: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """The best actions ``(1, T)`` or, with probability ``scale``, any, and their octaves."""
    blindly = noise[-1] < scale
    chosen = torch.where(blindly, noise[:-1].argmax(dim=0), outputs.argmax(dim=0))
    return chosen.to(outputs.dtype).unsqueeze(0), discrete_moves(chosen, outputs)
