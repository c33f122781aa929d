"""Control: a small network is trained to steer a simulated body, through the dynamics or from rewards alone.

The loss is the mean cost of a step, that is the negative return, normalised. Initial states and the noise of
actions are rows, so all candidates see the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.tasks.architectures import deal
from evometa.tasks.base import Batch, Split, TaskBatch, TaskFamily
from evometa.tasks.dynamics import ENVIRONMENTS, Environment, State
from evometa.tasks.leading_axes import AllAtOnce
from evometa.tasks.mlp_model import MLP
from evometa.tasks.options import check_choice, check_choices, check_integer, check_number, check_request
from evometa.tasks.pools import POOL_SEED
from evometa.tasks.sampling import balanced

Gradient = Literal["differentiable", "score_function"]

#: Of the mean cost of a step: a cart-pole that stands at 2° all the time has about 1e-2.
NOISE_FLOOR = 1e-4
#: The shortest episodes of a family have this share of the longest's steps.
SHORTEST = 0.5


@dataclass(frozen=True)
class Steering:
    """A policy for one environment: actions limit·tanh(μ(s) + noise·ε), μ a tanh perceptron.

    A batch has ``start (…, B, n_drawn)`` in [−1, 1], ``noise (…, B, H, n_actions)`` from a standard normal,
    ``n_steps (…)`` up to H, and the physical parameters ``(…)``.
    """

    environment: str
    gradient: Gradient
    width: int
    depth: int
    horizon: int
    noise: float

    @property
    def _body(self) -> Environment:
        return ENVIRONMENTS[self.environment]

    @cached_property
    def _perceptron(self) -> MLP:
        sizes = (self._body.n_observed, *[self.width] * self.depth, self._body.n_actions)
        return MLP(sizes, "tanh", "xavier", "values")

    @property
    def layout(self) -> Layout:
        """Of the policy's tensors."""
        return self._perceptron.layout

    @property
    def description(self) -> str:
        """Environment, policy and how it is trained, in a few words."""
        title, how = self._body.title, self.gradient.replace("_", " ")
        return f"{title}, {self.horizon} steps, {how}, {self._perceptron.description}"

    def init_params(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """Initial parameters, ``(T, N)``."""
        return self._perceptron.init_params(n_tasks, generator)

    def loss(self, params: Tensor, batch: Batch) -> Tensor:
        """Mean cost of a step, ``(…)``, over the episodes of ``batch``."""
        if self.gradient == "score_function":
            return self._with_score(params, batch)
        return self._costs(self._roll_out(params, batch, self.noise), batch).sum(-1).mean(-1)

    def valid_loss(self, params: Tensor, batch: Batch) -> Tensor:
        """Mean penalty of a step, ``(…)``, without noise: where Gymnasium has the body, by its rewards."""
        episodes = self._roll_out(params, batch, 0.0)
        penalties = self._body.penalties(episodes.states, episodes.actions, self._physics(batch))
        return (penalties * self._shares(batch)).sum(-1).mean(-1)

    def _with_score(self, params: Tensor, batch: Batch) -> Tensor:
        """The costs as they are, and as their derivative the estimate by the score function (REINFORCE).

        The dynamics are not differentiated. Foerster et al. 2018, "DiCE: the infinitely differentiable Monte
        Carlo estimator", so that derivatives of it are right as well; the baseline (Mao et al. 2019) is, at
        each step the mean of what the other episodes of the batch still cost.
        """
        episodes = self._roll_out(params.detach(), batch, self.noise)
        costs = self._costs(episodes, batch)
        to_go = costs.flip(-1).cumsum(-1).flip(-1)
        n_others = costs.shape[-2] - 1
        others = (to_go.sum(-2, keepdim=True) - to_go) / n_others if n_others else torch.zeros_like(to_go)
        seen, drawn = (torch.stack(values, dim=-2) for values in (episodes.seen, episodes.drawn))
        means = self._policy(params, seen.flatten(-3, -2)).reshape(drawn.shape)
        log_density = -((drawn - means) / self.noise).square().sum(-1) / 2
        estimate = costs * _magic(log_density.cumsum(-1)) + others * (1 - _magic(log_density))
        return estimate.sum(-1).mean(-1)

    def _policy(self, params: Tensor, seen: Tensor) -> Tensor:
        """μ ``(…, B, n_actions)`` of the observations ``(…, B, n_observed)``."""
        tensors, hidden = self.layout.views(params), seen
        for layer in range(self.depth + 1):
            hidden = torch.tanh(hidden) if layer else hidden
            hidden = hidden @ tensors[f"{layer}.weight"].mT + tensors[f"{layer}.bias"].unsqueeze(-2)
        return hidden

    def _roll_out(self, params: Tensor, batch: Batch, noise: float) -> _Episodes:
        body, physics = self._body, self._physics(batch)
        drawn = batch["start"].expand(*params.shape[:-1], *batch["start"].shape[-2:])
        state, episodes = body.start(drawn), _Episodes([], [], [], [])
        for errors in batch["noise"].unbind(-2):
            seen = body.observe(state)
            drawn = self._policy(params, seen) + noise * errors
            action = body.limit * torch.tanh(drawn)
            episodes.states.append(state)
            episodes.seen.append(seen)
            episodes.drawn.append(drawn)
            episodes.actions.append(action)
            state = body.step(state, action, physics)
        return episodes

    def _costs(self, episodes: _Episodes, batch: Batch) -> Tensor:
        """Each step's part of an episode's mean cost, ``(…, B, H)``."""
        physics, steps = self._physics(batch), zip(episodes.states, episodes.actions, strict=True)
        costs = [self._body.cost(state, action, physics) for state, action in steps]
        return torch.stack(costs, dim=-1) * self._shares(batch)

    def _physics(self, batch: Batch) -> dict[str, Tensor]:
        return {name: batch[name].unsqueeze(-1) for name in self._body.standard}

    def _shares(self, batch: Batch) -> Tensor:
        """What each step counts for, ``(…, 1, H)``: nothing after the task's last."""
        n_steps = batch["n_steps"][..., None, None]
        steps = torch.arange(self.horizon, dtype=n_steps.dtype, device=n_steps.device)
        return (steps < n_steps).to(n_steps.dtype) / n_steps


class _Episodes(NamedTuple):
    """What happened at each of H steps: entries as in :mod:`evometa.tasks.dynamics`."""

    states: list[State]
    seen: list[Tensor]
    drawn: list[Tensor]
    actions: list[Tensor]


def _magic(log_density: Tensor) -> Tensor:
    """1, whose derivatives are those of the density over the density."""
    return torch.exp(log_density - log_density.detach())


@lru_cache(maxsize=64)
def _steering(
    environment: str, gradient: Gradient, width: int, depth: int, horizon: int, noise: float
) -> Steering:
    """One for each description: tasks that are drawn at another time have the very same functions."""
    return Steering(environment, gradient, width, depth, horizon, noise)


@dataclass(frozen=True)
class Control(TaskFamily):
    """Train a policy for a cart-pole, a pendulum or a two-link reacher whose body is drawn for each task.

    The splits differ in the ranges of masses and lengths, and in initial states.

    Attributes:
        environments: which to sample from: "cart_pole", "pendulum", "reacher".
        gradient: "differentiable": through the dynamics; "score_function": from costs alone (REINFORCE).
        width: hidden units a layer of the policy.
        depth: number of hidden layers.
        horizon: most steps of an episode; each task has a length of its own, from half of it on.
        noise: standard deviation of the noise on a policy's actions, before they are squashed.
        batch_size: episodes an inner step.
        n_starts: initial states of a split, each with its noise, that its tasks are trained on.
        n_valid: those that are held out.
    """

    environments: tuple[str, ...] = tuple(ENVIRONMENTS)
    gradient: Gradient = "differentiable"
    width: int = 16
    depth: int = 1
    horizon: int = 40
    noise: float = 0.5
    batch_size: int = 32
    n_starts: int = 256
    n_valid: int = 64

    name = "control"
    summary = "policies for cart-pole, pendulum and a reaching arm, by differentiable physics or by REINFORCE"

    def __post_init__(self) -> None:
        check_choices(self.name, "environments", self.environments, tuple(ENVIRONMENTS))
        check_choice(self.name, "gradient", self.gradient, get_args(Gradient))
        for option in ("width", "depth", "horizon", "n_starts", "n_valid"):
            check_integer(self.name, option, getattr(self, option), 1)
        check_integer(self.name, "batch_size", self.batch_size, 1, self.n_starts)
        check_number(self.name, "noise", self.noise, 0.0, math.inf)

    def sample(self, split: Split, n_tasks: int, generator: torch.Generator) -> list[TaskBatch]:
        """``n_tasks`` tasks, one batch an environment, the tasks spread evenly over the environments."""
        check_request(self.name, split, n_tasks)
        drawn = balanced(self.environments, n_tasks, generator)
        return [self._batch(split, *entry, generator) for entry in deal(drawn, n_tasks).items()]

    def _batch(self, split: Split, environment: str, n_tasks: int, generator: torch.Generator) -> TaskBatch:
        body = ENVIRONMENTS[environment]
        steering = _steering(environment, self.gradient, self.width, self.depth, self.horizon, self.noise)
        physics = {
            name: low + (high - low) * torch.rand(n_tasks, generator=generator)
            for name, (low, high) in body.ranges[split].items()
        }
        shortest = math.ceil(SHORTEST * self.horizon)
        n_steps = torch.randint(shortest, self.horizon + 1, (n_tasks,), generator=generator)
        stream = torch_generator(POOL_SEED, "control", environment, split)
        n_rows = self.n_starts + self.n_valid
        rows = torch.arange(n_rows).expand(n_tasks, -1)
        return TaskBatch(
            family=self.name,
            description=steering.description,
            n_tasks=n_tasks,
            layout=steering.layout,
            loss=steering.loss,
            init_params=partial(steering.init_params, n_tasks),
            constants={**physics, "n_steps": n_steps.float()},
            rows={
                "start": 2 * torch.rand((n_rows, body.n_drawn), generator=stream) - 1,
                "noise": torch.randn((n_rows, self.horizon, body.n_actions), generator=stream),
            },
            train_rows=rows[:, : self.n_starts],
            valid_rows=rows[:, self.n_starts :],
            batch_size=self.batch_size,
            noise_floor=NOISE_FLOOR,
            final_window=10,
            loss_and_grad=AllAtOnce(steering.loss),
            valid_loss=steering.valid_loss,
        )
