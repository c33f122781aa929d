"""Two estimators at once, their meta-gradients summed with weights."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from evometa.genome.genes import Real
from evometa.genome.space import Genes, Space
from evometa.meta.base import Estimator, MetaGradient, MetaProblem, Session
from evometa.meta.footprint import Footprint
from evometa.meta.genes import per_candidate
from evometa.rules.base import RuleFamily
from evometa.trees import Tree


class Hybrid(Estimator):
    """(1 − m)·first + m·second for m = ``meta.mix``, both on the same segments of the same episodes.

    Backpropagation is precise over few steps, evolution strategies do not mind many (Metz et al. 2019, who
    weigh the two by their variances).
    """

    def __init__(self, first: Estimator, second: Estimator) -> None:
        self._first, self._second = first, second
        self.name = f"{first.name}+{second.name}"
        self.summary = f"weighted sum of the meta-gradients of {first.name} and {second.name}"

    def serves(self, family: RuleFamily) -> bool:
        return self._first.serves(family) and self._second.serves(family)

    @property
    def space(self) -> Space:
        mix = Real("meta.mix", 0.0, 1.0, 0.5, note="weight of the second estimator in a hybrid")
        return self._first.space.union(self._second.space, (mix,))

    def footprint(self, genes: Genes) -> Footprint:
        return self._first.footprint(genes) + self._second.footprint(genes)

    def begin(self, problem: MetaProblem) -> Session:
        like = next(iter(problem.cohort.weights.values()))
        mix = per_candidate(problem.genes, "meta.mix", like)
        half = replace(problem, max_bytes=None if problem.max_bytes is None else problem.max_bytes // 2)
        return _Mixing(self._first.begin(half), self._second.begin(half), mix)


class _Mixing(Session):
    """Both estimators' sessions, each with trainings of its own; ``mix`` ``(P,)`` is the second's weight."""

    def __init__(self, first: Session, second: Session, mix: Tensor) -> None:
        self._first, self._second, self._mix = first, second, mix

    def estimate(self, weights: Tree) -> MetaGradient:
        first, second = self._first.estimate(weights), self._second.estimate(weights)
        grads = {name: self._mixed(grad, second.grads[name]) for name, grad in first.grads.items()}
        losses = self._mixed(first.losses, second.losses)
        n_inner_steps = first.n_inner_steps + second.n_inner_steps
        return MetaGradient(grads, losses, n_inner_steps, first.way or second.way)

    def _mixed(self, one: Tensor, other: Tensor) -> Tensor:
        mix = self._mix.reshape(-1, *[1] * (one.dim() - 1))
        return (1 - mix) * one + mix * other
