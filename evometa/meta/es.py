"""Truncated evolution strategies: the meta-gradient of a smoothed meta-loss from forward trainings alone."""

from __future__ import annotations

from torch import Tensor

from evometa.genome.space import Genes, Space
from evometa.meta.base import Estimator, MetaProblem, Session
from evometa.meta.footprint import Footprint
from evometa.meta.genes import whole
from evometa.meta.particles import PERTURBATION_SPACE, PerturbedSession
from evometa.meta.training import Training, joined, mapped


class ES(Estimator):
    """Truncated ES with antithetic pairs (Vicol, Metz & Sohl-Dickstein 2021, algorithm 1).

    In every segment all particles go on from the same state; it is the unperturbed weights' own training
    that leads from segment to segment. What the weights did to that state in earlier segments is not
    accounted for: the truncation bias.
    """

    name = "es"
    summary = "evolution strategies: antithetic perturbations of the weights, forward trainings only"

    @property
    def space(self) -> Space:
        return PERTURBATION_SPACE

    def footprint(self, genes: Genes) -> Footprint:
        return Footprint(n_trainings=2 * whole(genes, "meta.pairs") + 1, n_live_steps=1)

    def begin(self, problem: MetaProblem) -> Session:
        return _Restarting(problem)


class _Restarting(PerturbedSession):
    """Keeps one training a candidate, that of its last particle, which is the unperturbed one."""

    def __init__(self, problem: MetaProblem) -> None:
        super().__init__(problem, n_unperturbed=1)
        self._training: Training = ()
        self._ended: list[Training] = []

    def _directions(self, epsilon: Tensor, *, fresh: bool) -> Tensor:
        return epsilon

    @property
    def _n_kept(self) -> int:
        """The one that a segment begins with, and the one that it ends with, twice while they are joined."""
        return 3

    def _forget(self) -> None:
        self._training = ()

    def _resumed(self, piece: int, rows: Tensor) -> Training:
        return _taken(self._training, rows // self._n_particles)

    def _keep(self, piece: int, rows: Tensor, training: Training) -> None:
        unperturbed = rows % self._n_particles == self._n_particles - 1
        self._ended.append(_taken(training, unperturbed.nonzero().flatten()))

    def _end_segment(self) -> None:
        self._training, self._ended = joined(self._ended), []


def _taken(training: Training, rows: Tensor) -> Training:
    return mapped(training, lambda value: value.index_select(0, rows))
