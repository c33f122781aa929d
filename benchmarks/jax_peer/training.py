"""Inner training and meta-gradients of one candidate in JAX; :mod:`programs` maps them over candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.jax_peer.learner import Learner
from benchmarks.jax_peer.model import Tensors, losses_and_grads, unflatten
from benchmarks.jax_peer.signals import State, Step

Array = jax.Array
Weights = Mapping[str, Array]


class Data(NamedTuple):
    """Initial params ``(T, N)``; every step's minibatch x ``(K + 1, T, D, B)`` and y ``(K + 1, T, B)``."""

    params: Array
    x: Array
    y: Array


class Carry(NamedTuple):
    """What continues between steps: params and the rule's state, losses and gradients at these params."""

    params: Tensors
    state: State
    losses: Array
    grads: Tensors


@dataclass(frozen=True)
class Trainer:
    """A candidate's structure on models of ``shapes``, told that ``horizon`` steps are planned."""

    learner: Learner
    shapes: tuple[tuple[int, int], ...]
    horizon: int

    def begin(self, data: Data) -> Carry:
        """Before the first step."""
        params = unflatten(data.params, self.shapes)
        losses, grads = losses_and_grads(params, data.x[0], data.y[0])
        return Carry(params, self.learner.init_state(params), losses, grads)

    def step(self, weights: Weights, hyper: Weights, carry: Carry, k: Array, x: Array, y: Array) -> Carry:
        """Update number k, then losses and gradients on the next minibatch."""
        seen = Step(carry.grads, carry.params, carry.losses, k, self.horizon)
        params, state = self.learner.update(weights, hyper, carry.state, seen)
        losses, grads = lax.stop_gradient(losses_and_grads(lax.stop_gradient(params), x, y))
        return Carry(params, state, losses, grads)

    def train(
        self, weights: Weights, hyper: Weights, carry: Carry, numbers: Array, x: Array, y: Array
    ) -> tuple[Carry, Array]:
        """Steps of the given numbers; where training stands and the losses after each, ``(K, T)``."""

        def body(carry: Carry, seen: tuple[Array, Array, Array]) -> tuple[Carry, Array]:
            carry = self.step(weights, hyper, carry, *seen)
            return carry, carry.losses

        return lax.scan(body, carry, (numbers, x, y))

    def forward(self, weights: Weights, hyper: Weights, data: Data) -> Array:
        """Losses ``(T, K + 1)``; entry K belongs to the trained params."""
        start = self.begin(data)
        numbers = jnp.arange(data.x.shape[0] - 1, dtype=jnp.float32)
        _, losses = self.train(weights, hyper, start, numbers, data.x[1:], data.y[1:])
        return jnp.concatenate([start.losses[None], losses]).T

    def meta_gradient(
        self, weights: Weights, hyper: Weights, data: Data, *, checkpoint: bool
    ) -> dict[str, Array]:
        """The gradient in the weights of the mean loss after each step, the inner gradients held fixed.

        As in evometa it is that of Σ_k ⟨stop(∇L_k), θ_k⟩, so that the model is differentiated once a step and
        never twice. ``checkpoint``: keep only what is carried between steps, compute the rest again.
        """
        n_steps = data.x.shape[0] - 1
        numbers = jnp.arange(n_steps, dtype=jnp.float32)

        def objective(weights: Weights) -> Array:
            def body(carry: Carry, seen: tuple[Array, Array, Array]) -> tuple[Carry, Array]:
                carry = self.step(weights, hyper, carry, *seen)
                parts = [jnp.vdot(g, p) for g, p in zip(carry.grads, carry.params, strict=True)]
                return carry, jnp.stack(parts).sum()

            repeated = jax.checkpoint(body) if checkpoint else body
            _, inner = lax.scan(repeated, self.begin(data), (numbers, data.x[1:], data.y[1:]))
            total: Array = inner.sum()
            return total / (n_steps * data.params.shape[0])

        grads: dict[str, Array] = jax.grad(objective)(dict(weights))
        return grads

    def segment_losses(self, weights: Weights, hyper: Weights, data: Data) -> Array:
        """Mean loss over tasks and steps of each segment, ``(S,)``; each has its own weights ``(S, …)``."""
        n_segments = next(iter(weights.values())).shape[0]
        n_steps = (data.x.shape[0] - 1) // n_segments
        numbers = jnp.arange(data.x.shape[0] - 1, dtype=jnp.float32)

        def cut(value: Array) -> Array:
            return value.reshape(n_segments, n_steps, *value.shape[1:])

        def body(carry: Carry, seen: tuple[Weights, Array, Array, Array]) -> tuple[Carry, Array]:
            own, *steps = seen
            carry, losses = self.train(own, hyper, carry, *steps)
            return carry, losses.mean()

        segments = (dict(weights), cut(numbers), cut(data.x[1:]), cut(data.y[1:]))
        _, means = lax.scan(body, self.begin(data), segments)
        return means
