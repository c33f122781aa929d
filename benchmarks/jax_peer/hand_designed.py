"""Hand-designed rules in JAX: the rows of evometa.rules.hand_designed_table, coordinate by coordinate."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from benchmarks.jax_peer.model import Tensors
from benchmarks.jax_peer.signals import State, Step
from evometa.rules.hand_designed_table import Row

Array = jax.Array
Hyper = Mapping[str, Array]
_WARM_UP_BASE = 0.96


class HandDesigned:
    """The rule of one row of the table."""

    def __init__(self, row: Row) -> None:
        self.row = row

    def init_state(self, params: Tensors) -> State:
        """Zero moments of the shapes of params."""
        state: State = {}
        if self.row.first != "none":
            state["first"] = tuple(jnp.zeros_like(p) for p in params)
        if self.row.second != "none":
            state["second"] = tuple(jnp.zeros_like(p) for p in params)
        if self.row.schedules_momentum:
            state["momentum_product"] = jnp.ones(())
        return state

    def update(self, weights: object, hyper: Hyper, state: State, seen: Step) -> tuple[Tensors, State]:
        """The steps to add to params, and the next state."""
        row = self.row
        new: State = {}
        if row.first != "none":
            new["first"] = tuple(
                self._first(hyper, m, g) for m, g in zip(state["first"], seen.grads, strict=True)
            )
        if row.second != "none":
            new["second"] = tuple(
                self._second(hyper, v, g) for v, g in zip(state["second"], seen.grads, strict=True)
            )
        if row.schedules_momentum:
            new["momentum_product"] = state["momentum_product"] * _momentum(hyper, seen.step + 1)
        steps = [self._step(index, hyper, state, new, seen) for index in range(len(seen.params))]
        return tuple(steps), new

    def _first(self, hyper: Hyper, moment: Array, grads: Array) -> Array:
        if self.row.first == "sum":
            return moment * (1 - hyper["one_minus_momentum"]) + grads
        return moment + hyper[self.row.first_decay] * (grads - moment)

    def _second(self, hyper: Hyper, moment: Array, grads: Array) -> Array:
        if self.row.second == "total":
            return moment + jnp.square(grads)
        return moment + hyper["one_minus_beta2"] * (jnp.square(grads) - moment)

    def _step(self, index: int, hyper: Hyper, state: State, new: State, seen: Step) -> Array:
        row, scale, eps = self.row, -hyper["lr"], hyper.get("eps", jnp.zeros(()))
        direction = self._direction(index, hyper, state, new, seen)
        if row.direction == "moment" and row.bias_corrected:
            scale = scale / _correction(hyper["one_minus_beta1"], seen.step)
        if row.second != "none":
            if row.bias_corrected:
                root = jnp.sqrt(_correction(hyper["one_minus_beta2"], seen.step))
                scale, eps = scale * root, eps * root
            second = jnp.maximum(new["second"][index], jnp.finfo(jnp.float32).tiny)
            direction = direction / (jnp.sqrt(second) + eps)
        if row.sign:
            direction = jnp.sign(direction)
        step = direction * scale
        if row.decays_weights:
            step = step - seen.params[index] * (hyper["lr"] * hyper["weight_decay"])
        return step

    def _direction(self, index: int, hyper: Hyper, state: State, new: State, seen: Step) -> Array:
        grads = seen.grads[index]
        match self.row.direction:
            case "gradient":
                return grads
            case "moment":
                return new["first"][index]
            case "mixture":
                moment = state["first"][index]
                return moment + hyper["one_minus_beta1"] * (grads - moment)
        if not self.row.schedules_momentum:
            return grads + new["first"][index] * (1 - hyper["one_minus_momentum"])
        now, then = _momentum(hyper, seen.step + 1), _momentum(hyper, seen.step + 2)
        product = new["momentum_product"]
        return grads * ((1 - now) / (1 - product)) + new["first"][index] * (then / (1 - product * then))


def _correction(one_minus_beta: Array, step: Array) -> Array:
    return -jnp.expm1((step + 1) * jnp.log1p(-one_minus_beta))


def _momentum(hyper: Hyper, count: Array) -> Array:
    return (1 - hyper["one_minus_beta1"]) * (1 - 0.5 * _WARM_UP_BASE ** (count * hyper["momentum_decay"]))
