"""Persistent evolution strategies: ES that remembers what its perturbations did in earlier segments."""

from __future__ import annotations

from torch import Tensor

from evometa.genome.space import Genes, Space
from evometa.meta.base import Estimator, MetaProblem, Session
from evometa.meta.footprint import Footprint
from evometa.meta.genes import whole
from evometa.meta.particles import PERTURBATION_SPACE, PerturbedSession
from evometa.meta.training import Training


class PES(Estimator):
    """PES with antithetic pairs (Vicol, Metz & Sohl-Dickstein 2021, algorithm 2).

    Every particle's training goes on from its own state through all segments of an episode, and its
    difference in meta-loss speaks for the sum of its perturbations since the episode began. At fixed
    weights the sum over segments is an unbiased estimate of the whole episode's smoothed meta-gradient.
    """

    name = "pes"
    summary = "persistent evolution strategies: unbiased over truncations, for long horizons"

    @property
    def space(self) -> Space:
        return PERTURBATION_SPACE

    def footprint(self, genes: Genes) -> Footprint:
        return Footprint(n_trainings=2 * whole(genes, "meta.pairs"), n_live_steps=1)

    def begin(self, problem: MetaProblem) -> Session:
        return _Persisting(problem)


class _Persisting(PerturbedSession):
    """Keeps every particle's training and the sum of its perturbations while an episode lasts."""

    def __init__(self, problem: MetaProblem) -> None:
        super().__init__(problem, n_unperturbed=0)
        self._trainings: dict[int, Training] = {}
        self._accumulated: Tensor | None = None

    def _directions(self, epsilon: Tensor, *, fresh: bool) -> Tensor:
        self._accumulated = epsilon if fresh or self._accumulated is None else self._accumulated + epsilon
        return self._accumulated

    @property
    def _n_kept(self) -> int:
        return self._n_particles

    def _forget(self) -> None:
        self._trainings.clear()

    def _resumed(self, piece: int, rows: Tensor) -> Training:
        return self._trainings.pop(piece)

    def _keep(self, piece: int, rows: Tensor, training: Training) -> None:
        self._trainings[piece] = training
