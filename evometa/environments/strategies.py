"""Strategies for Bernoulli bandits from the literature: what a learned one is compared with.

All keep successes and failures of every arm; batched over trials. Their means are those of a uniform prior's
posterior, (successes + 1)/(pulls + 2), so that an arm not yet pulled counts ½.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from evometa.environments.bandits import BernoulliBandits
from evometa.environments.trials import TrialFamily

#: ``(successes (B, k), failures (B, k), pull number, generator) → values (B, k)``; the largest is pulled.
Values = Callable[[Tensor, Tensor, int, torch.Generator], Tensor]


def mean(successes: Tensor, failures: Tensor) -> Tensor:
    """The posterior mean of every arm."""
    return (successes + 1) / (successes + failures + 2)


def random(successes: Tensor, failures: Tensor, pull: int, generator: torch.Generator) -> Tensor:
    """Any arm."""
    return torch.rand(successes.shape, generator=generator)


def thompson(successes: Tensor, failures: Tensor, pull: int, generator: torch.Generator) -> Tensor:
    """A draw from each arm's posterior (Thompson 1933): of two gammas, Beta's share of the first."""
    one, other = (torch._standard_gamma(count + 1, generator=generator) for count in (successes, failures))
    return one / (one + other)


@dataclass(frozen=True)
class EpsilonGreedy:
    """The best mean, or any arm with probability ``epsilon``; ties are broken by chance."""

    epsilon: float

    def __call__(self, successes: Tensor, failures: Tensor, pull: int, generator: torch.Generator) -> Tensor:
        """See Values."""
        chance = torch.rand(successes.shape, generator=generator)
        blindly = torch.rand(len(successes), 1, generator=generator) < self.epsilon
        return torch.where(blindly, chance, mean(successes, failures) + 1e-6 * chance)


@dataclass(frozen=True)
class UCB1:
    """Mean plus ``scale``·√(2 log t / pulls) (Auer, Cesa-Bianchi & Fischer 2002), every arm once first."""

    scale: float

    def __call__(self, successes: Tensor, failures: Tensor, pull: int, generator: torch.Generator) -> Tensor:
        """See Values."""
        chance = torch.rand(successes.shape, generator=generator)
        pulls = successes + failures
        t = torch.tensor(float(pull + 1))
        return (
            mean(successes, failures)
            + self.scale * (2 * t.log() / pulls.clamp(min=0.5)).sqrt()
            + 1e-6 * chance
        )


#: What RL² is shown beside; the scale of UCB1 is one that suits short and long trials.
STRATEGIES: dict[str, Values] = {
    "random": random,
    "Thompson sampling": thompson,
    "greedy": EpsilonGreedy(0.0),
    "0.02-greedy": EpsilonGreedy(0.02),
    "UCB1, 0.1": UCB1(0.1),
}


@torch.no_grad()
def rewards(bandits: BernoulliBandits, strategy: Values, n_trials: int, generator: torch.Generator) -> Tensor:
    """What ``strategy`` earns by every pull of ``n_trials`` trials, ``(S, n_trials)``."""
    trials = bandits.begin(n_trials, 1, generator)
    successes, failures = torch.zeros((2, n_trials, bandits.arms))
    earned = []
    for pull in range(bandits.pulls):
        chosen = strategy(successes, failures, pull, generator).argmax(dim=1)
        paid, _ = trials.step(chosen)
        successes[torch.arange(n_trials), chosen] += paid
        failures[torch.arange(n_trials), chosen] += 1 - paid
        earned.append(paid)
    return torch.stack(earned)


@torch.no_grad()
def blind_rewards(
    family: TrialFamily, n_trials: int, generator: torch.Generator, action: int | None = None
) -> Tensor:
    """What any actions, or always ``action``, earn by each step of ``n_trials`` trials, ``(S, n_trials)``."""
    trials, earned = family.begin(n_trials, 1, generator), []
    for _ in range(family.n_steps):
        actions = torch.randint(family.n_actions, (n_trials,), generator=generator)
        earned.append(trials.step(actions if action is None else torch.full_like(actions, action))[0])
    return torch.stack(earned)
