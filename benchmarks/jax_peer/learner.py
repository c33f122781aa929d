"""Any genome as a JAX rule: the structure of its family, times its schedule's factor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.jax_peer.hand_designed import HandDesigned
from benchmarks.jax_peer.learned import PerParameterMLP, Recurrent
from benchmarks.jax_peer.model import Tensors
from benchmarks.jax_peer.signals import State, Step
from evometa.inner.cohort import Candidate
from evometa.rules.hand_designed_table import TABLE
from evometa.trees import under_prefix

Array = jax.Array
Weights = Mapping[str, Array]
Hyper = Mapping[str, Array]
_ROWS = {row.name: row for row in TABLE}


class Rule(Protocol):
    """One structure; see :class:`evometa.rules.base.UpdateRule`."""

    def init_state(self, params: Tensors) -> State:
        """State before the first step."""

    def update(self, weights: Weights, hyper: Hyper, state: State, seen: Step) -> tuple[Tensors, State]:
        """The steps to add to params, and the next state."""


def _exponential(hyper: Hyper, progress: Array) -> Array:
    return hyper["schedule.final"] ** progress


def _cosine(hyper: Hyper, progress: Array) -> Array:
    final = hyper["schedule.final"]
    return final + (1 - final) * 0.5 * (1 + jnp.cos(math.pi * progress))


def _constant(hyper: Hyper, progress: Array) -> Array:
    return jnp.ones(())


SCHEDULES: dict[str, Callable[[Hyper, Array], Array]] = {
    "constant": _constant,
    "exponential": _exponential,
    "cosine": _cosine,
}


class Learner:
    """Rule × schedule of a candidate's structure. Raises NotImplementedError for what has no JAX version."""

    def __init__(self, candidate: Candidate, *, unrolled: bool = False) -> None:
        genes = dict(candidate.learner.genes)
        if candidate.family == "recurrent":
            self.rule: Rule = Recurrent(genes, unrolled)
        elif candidate.family == "mlp":
            self.rule = PerParameterMLP(genes, unrolled)
        elif candidate.family in _ROWS:
            self.rule = HandDesigned(_ROWS[candidate.family])
        else:
            raise NotImplementedError(f"the rule family {candidate.family!r} has no JAX version")
        if genes["schedule"] not in SCHEDULES:
            raise NotImplementedError(f"the schedule {genes['schedule']!r} has no JAX version")
        self.schedule = SCHEDULES[str(genes["schedule"])]

    def init_state(self, params: Tensors) -> State:
        """State before the first step."""
        return self.rule.init_state(params)

    def update(self, weights: Weights, hyper: Hyper, state: State, seen: Step) -> tuple[Tensors, State]:
        """The params after the step, and the next state."""
        steps, after = self.rule.update(weights, hyper, state, seen)
        factor = self.schedule(hyper, jnp.minimum(seen.step / seen.horizon, 1.0))
        return tuple(p + step * factor for p, step in zip(seen.params, steps, strict=True)), after


def stacked(candidates: list[Candidate]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Weights and continuous genes of candidates of one structure, each ``(P, …)`` in float32."""
    trees = [under_prefix("rule", dict(candidate.weights)) for candidate in candidates]
    weights = {name: np.stack([tree[name].numpy() for tree in trees]) for name in trees[0]}
    learners = [candidate.learner for candidate in candidates]
    hyper = {
        name: np.array([learner.hyper[name] for learner in learners], dtype=np.float32)
        for name in learners[0].hyper
    }
    return weights, hyper
