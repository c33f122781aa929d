"""From network outputs to a step in JAX: the definitions of evometa.rules.output, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from benchmarks.jax_peer.model import Tensors
from benchmarks.jax_peer.signals import Signals
from evometa.rules.output import (
    ADAM_EPSILON,
    BETA1,
    BETA2,
    OUTPUT_EPSILON,
    ROOT_EPSILON,
    SCALE_BOUND,
    Output,
)

Array = jax.Array
Hyper = Mapping[str, Array]


def steps(output: Output, outputs: list[Tensors], hyper: Hyper, signals: Signals) -> Tensors:
    """The steps to add to params for the network's one or two ``outputs``, each of the shapes of params."""
    learned = [hyper["lr"] * _learned(output, list(o), hyper) for o in zip(*outputs, strict=True)]
    if output.nominal == "none":
        return tuple(learned)
    directions = _directions(output, signals)
    nominal = [hyper["nominal_lr"] * direction for direction in directions]
    if output.combine == "add":
        return tuple(n + u for n, u in zip(nominal, learned, strict=True))
    return tuple(
        n * jnp.exp(SCALE_BOUND * jnp.tanh(u / SCALE_BOUND)) for n, u in zip(nominal, learned, strict=True)
    )


def _learned(output: Output, own: list[Array], hyper: Hyper) -> Array:
    if output.parametrisation == "direction_magnitude":
        return own[0] * jnp.exp(hyper["magnitude_scale"] * own[1])
    if output.parametrisation == "rms_normalised":
        mean_square = jnp.mean(jnp.square(own[0]), axis=(1, 2), keepdims=True)
        return own[0] * jax.lax.rsqrt(mean_square + OUTPUT_EPSILON)
    return own[0]


def _directions(output: Output, signals: Signals) -> Tensors:
    if output.nominal == "sgd":
        return tuple(-g for g in signals.seen.grads)
    first, second = signals.corrected("momentum", (BETA1,)), signals.corrected("second_moment", (BETA2,))
    return tuple(
        -m[0] / (jnp.sqrt(v[0] + ROOT_EPSILON) + ADAM_EPSILON) for m, v in zip(first, second, strict=True)
    )
