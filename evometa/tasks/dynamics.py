"""Simulated bodies to control, in steps that PyTorch can differentiate and take for many at once.

A state is a tuple of tensors ``(…, B)``, one for each of its quantities; physical parameters are ``(…, 1)``,
so that they go with all B episodes of a task. Actions are forces or torques in their physical unit.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from evometa.tasks.base import Split

State = tuple[Tensor, ...]
Physics = Mapping[str, Tensor]


class Environment(ABC):
    """What is controlled: a cart with a pole, a pendulum, an arm.

    Attributes:
        title: one line a person reads.
        n_actions, n_observed: numbers of a policy's outputs and inputs.
        limit: the largest force or torque.
        standard: parameters of the textbook's version.
        ranges: of each parameter, in each split; drawn uniformly.
        n_drawn: how many uniform numbers an initial state takes.
    """

    title: ClassVar[str]
    n_actions: ClassVar[int]
    n_observed: ClassVar[int]
    n_drawn: ClassVar[int]
    limit: ClassVar[float]
    standard: ClassVar[Mapping[str, float]]
    ranges: ClassVar[Mapping[Split, Mapping[str, tuple[float, float]]]]

    @abstractmethod
    def start(self, drawn: Tensor) -> State:
        """Initial states from ``drawn (…, B, n_drawn)``, uniform in [−1, 1]."""

    @abstractmethod
    def observe(self, state: State) -> Tensor:
        """What a policy sees of ``state``: ``(…, B, n_observed)``."""

    @abstractmethod
    def step(self, state: State, action: Tensor, physics: Physics) -> State:
        """The state one step after ``action (…, B, n_actions)``."""

    @abstractmethod
    def cost(self, state: State, action: Tensor, physics: Physics) -> Tensor:
        """What it costs ``(…, B)`` to be in ``state`` and to do ``action``: smooth and positive."""

    def penalties(self, states: Sequence[State], actions: Sequence[Tensor], physics: Physics) -> Tensor:
        """What the H steps of an episode are judged by, ``(…, B, H)``; unless overridden, their costs."""
        steps = zip(states, actions, strict=True)
        return torch.stack([self.cost(state, action, physics) for state, action in steps], dim=-1)


class CartPole(Environment):
    """A pole on a cart; the state is (x, ẋ, θ, θ̇), θ = 0 upright.

    The dynamics are those of Barto, Sutton and Anderson 1983, as Gymnasium's CartPole-v1 has them (Florian
    2005, "Correct equations for the dynamics of the cart-pole system", without friction), by Euler's method,
    but the force may be any between ±10 N. An episode is not cut where the pole falls: the cost saturates.
    """

    title = "cart-pole"
    n_actions, n_observed, n_drawn, limit = 1, 4, 4, 10.0
    standard: ClassVar[Mapping[str, float]] = {"cart_mass": 1.0, "pole_mass": 0.1, "half_length": 0.5}
    ranges: ClassVar[Mapping[Split, Mapping[str, tuple[float, float]]]] = {
        "meta_train": {"cart_mass": (0.7, 1.3), "pole_mass": (0.05, 0.2), "half_length": (0.4, 0.7)},
        "meta_valid": {"cart_mass": (0.6, 1.4), "pole_mass": (0.05, 0.25), "half_length": (0.35, 0.75)},
        "meta_test": {"cart_mass": (0.5, 1.5), "pole_mass": (0.05, 0.3), "half_length": (0.3, 0.8)},
    }
    gravity, seconds = 9.8, 0.02
    #: Beyond them it has fallen.
    farthest, steepest = 2.4, 12 * 2 * math.pi / 360

    def start(self, drawn: Tensor) -> State:
        """All four in ±0.05."""
        return tuple(0.05 * value for value in drawn.unbind(-1))

    def observe(self, state: State) -> Tensor:
        """The state."""
        return torch.stack(state, dim=-1)

    def step(self, state: State, action: Tensor, physics: Physics) -> State:
        """See the class."""
        x, speed, angle, turn = state
        pole, length = physics["pole_mass"], physics["half_length"]
        total = physics["cart_mass"] + pole
        sin, cos = angle.sin(), angle.cos()
        push = (action[..., 0] + pole * length * turn.square() * sin) / total
        falls = (self.gravity * sin - cos * push) / (length * (4 / 3 - pole * cos.square() / total))
        moves = push - pole * length * falls * cos / total
        h = self.seconds
        return x + h * speed, speed + h * moves, angle + h * turn, turn + h * falls

    def cost(self, state: State, action: Tensor, physics: Physics) -> Tensor:
        """1 − exp(−½·((x/2.4)² + (θ/12°)²)): close to 1 where it has fallen."""
        x, _, angle, _ = state
        away = (x / self.farthest).square() + (angle / self.steepest).square()
        return -torch.expm1(-away / 2)

    def penalties(self, states: Sequence[State], actions: Sequence[Tensor], physics: Physics) -> Tensor:
        """1 at all steps that it begins fallen, else 0: what CartPole-v1's reward is short of 1."""
        x, _, angle, _ = (torch.stack(values, dim=-1) for values in zip(*states, strict=True))
        fallen = (x.abs() > self.farthest) | (angle.abs() > self.steepest)
        return fallen.to(x.dtype).cummax(dim=-1).values


class Pendulum(Environment):
    """A rod on a hinge that a weak motor has to swing up; the state is (θ, θ̇), θ = 0 upright.

    Dynamics and cost are those of Gymnasium's Pendulum-v1: ml²/3·θ̈ = mgl/2·sin θ + u, by semi-implicit Euler,
    |u| ≤ 2, |θ̇| ≤ 8.
    """

    title = "pendulum"
    n_actions, n_observed, n_drawn, limit = 1, 3, 2, 2.0
    standard: ClassVar[Mapping[str, float]] = {"mass": 1.0, "length": 1.0}
    ranges: ClassVar[Mapping[Split, Mapping[str, tuple[float, float]]]] = {
        "meta_train": {"mass": (0.7, 1.2), "length": (0.8, 1.2)},
        "meta_valid": {"mass": (0.6, 1.3), "length": (0.75, 1.25)},
        "meta_test": {"mass": (0.5, 1.4), "length": (0.7, 1.3)},
    }
    gravity, seconds, fastest = 10.0, 0.05, 8.0

    def start(self, drawn: Tensor) -> State:
        """θ in ±π, θ̇ in ±1."""
        return math.pi * drawn[..., 0], drawn[..., 1]

    def observe(self, state: State) -> Tensor:
        """cos θ, sin θ, θ̇."""
        angle, turn = state
        return torch.stack([angle.cos(), angle.sin(), turn], dim=-1)

    def step(self, state: State, action: Tensor, physics: Physics) -> State:
        """See the class."""
        (angle, turn), mass, length = state, physics["mass"], physics["length"]
        torque = action[..., 0].clamp(-self.limit, self.limit)
        falls = 3 * self.gravity / (2 * length) * angle.sin() + 3 / (mass * length.square()) * torque
        after = (turn + falls * self.seconds).clamp(-self.fastest, self.fastest)
        return angle + after * self.seconds, after

    def cost(self, state: State, action: Tensor, physics: Physics) -> Tensor:
        """θ² + θ̇²/10 + u²/1000, θ taken to ±π."""
        angle, turn = state
        nearest = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        torque = action[..., 0].clamp(-self.limit, self.limit)
        return nearest.square() + 0.1 * turn.square() + 0.001 * torque.square()


def _arm(masses: tuple[float, float], lengths: tuple[float, float]) -> dict[str, tuple[float, float]]:
    """Ranges of both links alike."""
    both = {"mass_1": masses, "mass_2": masses, "length_1": lengths, "length_2": lengths}
    return {**both, "damping": (0.1, 0.1)}


class Reacher(Environment):
    """An arm of two links on a table that has to hold its tip at a target (x, y): (q₁, q₂, q̇₁, q̇₂, x, y).

    The links are uniform rods of masses mᵢ and lengths lᵢ; q₂ is measured from the first. With the kinetic
    energy as Lagrangian, M(q)·q̈ + c(q, q̇) + d·q̇ = τ, where, with k = m₂·l₁·l₂/2,
    M₁₁ = m₁l₁²/3 + m₂l₁² + m₂l₂²/3 + 2k·cos q₂, M₁₂ = m₂l₂²/3 + k·cos q₂, M₂₂ = m₂l₂²/3,
    c₁ = −k·sin q₂·(2q̇₁ + q̇₂)·q̇₂, c₂ = k·sin q₂·q̇₁². By semi-implicit Euler; the damping is d = 0.1 N·m·s.
    """

    title = "reacher"
    n_actions, n_observed, n_drawn, limit = 2, 10, 6, 1.0
    standard: ClassVar[Mapping[str, float]] = {
        "mass_1": 1.0, "mass_2": 1.0, "length_1": 0.5, "length_2": 0.5, "damping": 0.1
    }  # fmt: skip
    ranges: ClassVar[Mapping[Split, Mapping[str, tuple[float, float]]]] = {
        "meta_train": _arm((0.7, 1.3), (0.4, 0.6)),
        "meta_valid": _arm((0.6, 1.4), (0.38, 0.62)),
        "meta_test": _arm((0.5, 1.5), (0.35, 0.65)),
    }
    seconds = 0.05

    def start(self, drawn: Tensor) -> State:
        """Joints anywhere, at speeds in ±0.1; the target in a ring from 0.2 to 0.7 around the base."""
        q1, q2, v1, v2, angle, far = drawn.unbind(-1)
        distance = 0.45 + 0.25 * far
        x, y = distance * (math.pi * angle).cos(), distance * (math.pi * angle).sin()
        return math.pi * q1, math.pi * q2, 0.1 * v1, 0.1 * v2, x, y

    def observe(self, state: State) -> Tensor:
        """cos and sin of both angles, both speeds, the target, and the target as the first link sees it."""
        q1, q2, v1, v2, x, y = state
        c1, s1 = q1.cos(), q1.sin()
        ahead, aside = c1 * x + s1 * y, c1 * y - s1 * x
        return torch.stack([c1, s1, q2.cos(), q2.sin(), v1, v2, x, y, ahead, aside], dim=-1)

    def step(self, state: State, action: Tensor, physics: Physics) -> State:
        """See the class."""
        q1, q2, v1, v2, x, y = state
        a1, a2 = self.acceleration((q1, q2, v1, v2), action, physics)
        h = self.seconds
        v1, v2 = v1 + h * a1, v2 + h * a2
        return q1 + h * v1, q2 + h * v2, v1, v2, x, y

    def mass_matrix(self, q2: Tensor, physics: Physics) -> tuple[Tensor, Tensor, Tensor]:
        """M₁₁, M₁₂ and M₂₂."""
        m1, m2, l1, l2 = (physics[name] for name in ("mass_1", "mass_2", "length_1", "length_2"))
        far, bent = m2 * l2.square() / 3, m2 * l1 * l2 / 2 * q2.cos()
        return m1 * l1.square() / 3 + m2 * l1.square() + far + 2 * bent, far + bent, far.expand_as(bent)

    def acceleration(self, moving: State, torque: Tensor, physics: Physics) -> tuple[Tensor, Tensor]:
        """q̈₁ and q̈₂ in the state (q₁, q₂, q̇₁, q̇₂) under ``torque (…, B, 2)``."""
        _, q2, v1, v2 = moving
        m11, m12, m22 = self.mass_matrix(q2, physics)
        swing = physics["mass_2"] * physics["length_1"] * physics["length_2"] / 2 * q2.sin()
        damping = physics["damping"]
        f1 = torque[..., 0] + swing * (2 * v1 + v2) * v2 - damping * v1
        f2 = torque[..., 1] - swing * v1.square() - damping * v2
        determinant = m11 * m22 - m12.square()
        return (m22 * f1 - m12 * f2) / determinant, (m11 * f2 - m12 * f1) / determinant

    def cost(self, state: State, action: Tensor, physics: Physics) -> Tensor:
        """Squared distance of tip and target, and a hundredth of the squared torques."""
        q1, q2, _, _, x, y = state
        l1, l2 = physics["length_1"], physics["length_2"]
        off_x = l1 * q1.cos() + l2 * (q1 + q2).cos() - x
        off_y = l1 * q1.sin() + l2 * (q1 + q2).sin() - y
        return off_x.square() + off_y.square() + 0.01 * action.square().sum(-1)


ENVIRONMENTS: dict[str, Environment] = {
    "cart_pole": CartPole(),
    "pendulum": Pendulum(),
    "reacher": Reacher(),
}
