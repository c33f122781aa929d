"""Running statistics and input features in JAX: the definitions of evometa.rules.signals and feature_table.

Whatever varies within a tensor is a tuple with one array ``(C, T, r, c)`` for each tensor, C channels or
decays side by side; of rows it is ``(C, T, r, 1)``, of columns ``(C, T, 1, c)``, so that it broadcasts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.jax_peer.model import Tensors
from evometa.rules.feature_table import (
    LOG_SIGN_P,
    RECIPROCAL_EPSILON,
    ROOT_DECAY,
    TIME_SCALES,
    Feature,
    Scope,
    feature_named,
)
from evometa.rules.signals import EPSILON, MAX_LOSS_RATIO, Statistic

Array = jax.Array
#: A rule's state: arrays, and tuples of one array a tensor.
State = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """What a rule sees at one step: gradients and params, losses ``(T,)``, updates made and planned."""

    grads: Tensors
    params: Tensors
    loss: Array
    step: Array
    horizon: float


@dataclass(frozen=True)
class Selection:
    """The features that a rule reads, each with its decays, and the decays of each kind of statistic kept."""

    features: dict[Feature, tuple[float, ...]]
    kept: dict[str, tuple[float, ...]]

    @classmethod
    def of(cls, names: Iterable[str], extra: Iterable[Statistic]) -> Selection:
        """Of the names of a genome's features, and what its output needs besides."""
        found = [feature_named(name) for name in names]
        features = {feature: tuple(sorted(d for f, d in found if f is feature)) for feature, _ in found}
        statistics = {s for feature, decay in found for s in feature.statistics(decay)} | set(extra)
        kept = {kind: tuple(sorted(s.decay for s in statistics if s.kind == kind)) for kind in _OBSERVED}
        return cls(features, {kind: decays for kind, decays in kept.items() if decays})

    def of_scope(self, *scopes: Scope) -> list[tuple[Feature, tuple[float, ...]]]:
        """The features of some scopes with their decays."""
        return [(feature, decays) for feature, decays in self.features.items() if feature.scope in scopes]

    def init(self, params: Tensors) -> State:
        """The statistics before the first step."""
        state: State = {}
        for kind, decays in self.kept.items():
            like = [_OBSERVED[kind](p) for p in params]
            state[kind] = tuple(jnp.zeros((len(decays), *value.shape)) for value in like)
        if "initial_loss" in state:
            state["initial_loss"] = jnp.zeros(params[0].shape[0])
        return state


#: What each kind of statistic averages, of a gradient ``(T, r, c)``.
_OBSERVED: dict[str, Callable[[Array], Array]] = {
    "momentum": lambda g: g,
    "second_moment": jnp.square,
    "row_moment": lambda g: jnp.mean(jnp.square(g), axis=2, keepdims=True),
    "column_moment": lambda g: jnp.mean(jnp.square(g), axis=1, keepdims=True),
    "initial_loss": lambda g: g,
}


@dataclass
class Signals:
    """One step's inputs with the statistics after it."""

    seen: Step
    kept: dict[str, tuple[float, ...]]
    state: State = field(default_factory=dict)

    @classmethod
    def observe(cls, selection: Selection, before: State, seen: Step) -> Signals:
        """The signals of a step, statistics updated."""
        signals = cls(seen, selection.kept)
        for kind, decays in selection.kept.items():
            old = before[kind]
            if kind == "initial_loss":
                signals.state[kind] = jnp.where((old == 0) & (seen.loss > 0), seen.loss, old)
                continue
            rate = 1.0 - jnp.array(decays)[:, None, None, None]
            signals.state[kind] = tuple(
                o + rate * (_OBSERVED[kind](g) - o) for o, g in zip(old, seen.grads, strict=True)
            )
        return signals

    def corrected(self, kind: str, decays: Sequence[float]) -> Tensors:
        """Bias-corrected averages, a channel each."""
        logarithms = jnp.array([math.log(decay) for decay in decays])
        correction = (-1.0 / jnp.expm1((self.seen.step + 1.0) * logarithms))[:, None, None, None]
        kept = self.kept[kind]
        if tuple(decays) == kept:
            return tuple(value * correction for value in self.state[kind])
        chosen = [kept.index(decay) for decay in decays]
        return tuple(jnp.stack([value[i] for i in chosen]) * correction for value in self.state[kind])

    def mean_square(self) -> Tensors:
        """v̂."""
        return self.corrected("second_moment", (ROOT_DECAY,))

    def root_reciprocal(self) -> Tensors:
        """1/√v̂."""
        return tuple(jax.lax.rsqrt(v + EPSILON) for v in self.mean_square())

    def factored_reciprocal(self, decays: Sequence[float]) -> Tensors:
        """1/√v̂ by Adafactor's factors."""
        rows, columns = self.corrected("row_moment", decays), self.corrected("column_moment", decays)
        return tuple(
            jax.lax.rsqrt(r + EPSILON)
            * jnp.sqrt(jnp.mean(r, axis=2, keepdims=True) + EPSILON)
            * jax.lax.rsqrt(c + EPSILON)
            for r, c in zip(rows, columns, strict=True)
        )

    def log_loss(self) -> Array:
        """log of the loss relative to the first, ``(T,)``."""
        first = self.state["initial_loss"]
        ratio = self.seen.loss / jnp.where(first > 0, first, 1.0)
        return jnp.log(jnp.clip(ratio, 1 / MAX_LOSS_RATIO, MAX_LOSS_RATIO))


def channels(feature: Feature, decays: Sequence[float], signals: Signals) -> Tensors:
    """The channels of a feature that varies within a tensor, decay by decay."""
    seen = signals.seen
    match feature.kind:
        case "gradient":
            return _single(seen.grads)
        case "parameter":
            return _single(seen.params)
        case "log_sign":
            return _log_sign(_single(seen.grads))
        case "second_moment":
            return signals.mean_square()
        case "reciprocal_root":
            return _reciprocal(signals.mean_square())
        case "rms_gradient":
            return _product(seen.grads, signals.root_reciprocal())
        case "average":
            return signals.corrected("momentum", decays)
        case "log_sign_average":
            return _log_sign(signals.corrected("momentum", decays))
        case "rms_average":
            return _product(signals.corrected("momentum", decays), signals.root_reciprocal())
        case "factored_gradient":
            return _product(seen.grads, signals.factored_reciprocal(decays))
        case "factored_average":
            return _product(signals.corrected("momentum", decays), signals.factored_reciprocal(decays))
        case "row" | "column":
            return signals.corrected(f"{feature.kind}_moment", decays)
        case "reciprocal_row" | "reciprocal_column":
            kind = feature.kind.removeprefix("reciprocal_")
            return _reciprocal(signals.corrected(f"{kind}_moment", decays))
    raise NotImplementedError(f"the feature {feature.kind!r} has no JAX version")


def shared_channels(feature: Feature, signals: Signals) -> Array:
    """The channels of a feature that all coordinates share: ``(C,)`` of the step or ``(1, T)`` of tasks."""
    seen = signals.seen
    match feature.kind:
        case "time":
            return jnp.tanh(seen.step / jnp.array(TIME_SCALES) - 1.0)
        case "progress":
            return jnp.minimum(seen.step / seen.horizon, 1.0)[None]
        case "loss":
            return signals.log_loss()[None] / LOG_SIGN_P
    raise NotImplementedError(f"the feature {feature.kind!r} has no JAX version")


def _single(tensors: Tensors) -> Tensors:
    return tuple(tensor[None] for tensor in tensors)


def _product(a: Tensors, b: Tensors) -> Tensors:
    return tuple(x * y for x, y in zip(a, b, strict=True))


def _reciprocal(tensors: Tensors) -> Tensors:
    return tuple(jax.lax.rsqrt(x + RECIPROCAL_EPSILON) for x in tensors)


def _log_sign(tensors: Tensors) -> Tensors:
    """Of every channel its logarithm and its sign, one after the other."""
    found = []
    for x in tensors:
        magnitude = jnp.log(jnp.maximum(jnp.abs(x), math.exp(-LOG_SIGN_P))) / LOG_SIGN_P
        sign = jnp.clip(x * math.exp(LOG_SIGN_P), -1.0, 1.0)
        found.append(jnp.stack([magnitude, sign], axis=1).reshape(-1, *x.shape[1:]))
    return tuple(found)
