"""Perturbed trainings on the forward engine: what evolution strategies estimate meta-gradients from.

P candidates × n particles are one cohort of P·n, trained without a graph in pieces that suit the device:
particle j of candidate i is row i·n + j, with weights φᵢ + σᵢ·oⱼ. The offsets oⱼ are drawn once for all
candidates (common random numbers), so a candidate's estimate does not depend on who trains beside it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

import torch
from torch import Tensor

from evometa.genome.genes import Integer, LogReal
from evometa.genome.space import Space
from evometa.inner.cohort import Cohort
from evometa.layout import Layout
from evometa.meta.base import MetaGradient, MetaProblem, Session
from evometa.meta.episodes import Segment, segments
from evometa.meta.genes import per_candidate, whole
from evometa.meta.memory import pieces
from evometa.meta.meta_loss import Objective, mean_loss, meta_loss
from evometa.meta.recorded import Recordings
from evometa.meta.training import Training, start, train
from evometa.rng import torch_generator
from evometa.trees import Tree, tree_map

#: Genes of every estimator that perturbs weights.
PERTURBATION_SPACE = Space(
    (
        LogReal("meta.sigma", 1e-3, 0.3, 0.01, note="standard deviation of perturbations"),
        Integer("meta.pairs", 1, 256, 4, log=True, note="antithetic pairs of perturbations"),
    )
)


class PerturbedSession(Session):
    """Antithetic pairs φ ± σε of every candidate; their differences in meta-loss weigh directions.

    The estimate is Σₖ (L(φ + σεₖ) − L(φ − σεₖ)) dₖ / (2σ·pairs), where dₖ is εₖ or, for PES, the sum of
    particle k's perturbations so far.

    Args:
        n_unperturbed: further particles trained with the weights as they are.
    """

    def __init__(self, problem: MetaProblem, *, n_unperturbed: int) -> None:
        genes = problem.genes[0]
        self._problem = problem
        self._cohort = problem.cohort
        self._segments = segments(problem)
        self._objective = replace(Objective.of(genes), second_order=False)
        self._n_pairs = whole(genes, "meta.pairs")
        self._n_particles = 2 * self._n_pairs + n_unperturbed
        self._pieces: list[Tensor] = []
        self._recordings = Recordings()
        weights = self._cohort.weights
        self._layout = Layout.of({name: value.shape[1:] for name, value in weights.items()})
        self._sigma = per_candidate(problem.genes, "meta.sigma", next(iter(weights.values())))

    @torch.no_grad()
    def estimate(self, weights: Tree) -> MetaGradient:
        segment = next(self._segments)
        flat = self._layout.flatten(weights)
        epsilon = self._perturbations(segment).to(flat)
        judged, seen = self._train(flat, epsilon, segment)
        difference = judged[:, : self._n_pairs] - judged[:, self._n_pairs : 2 * self._n_pairs]
        directions = self._directions(epsilon, fresh=segment.start == 0)
        # One product a candidate: that of all would round by how many there are.
        sums = torch.stack([own @ directions for own in difference])
        grads = sums / (2 * self._n_pairs * self._sigma.unsqueeze(-1))
        n_inner_steps = segment.n_steps * segment.episode.n_tasks * self._n_particles
        return MetaGradient(self._layout.views(grads), seen.mean(dim=1), n_inner_steps)

    @abstractmethod
    def _directions(self, epsilon: Tensor, *, fresh: bool) -> Tensor:
        """What the pairs' differences speak for, ``(pairs, W)``; ``fresh``: an episode began."""

    @property
    @abstractmethod
    def _n_kept(self) -> int:
        """Most trainings of a candidate that are kept while others run."""

    @abstractmethod
    def _resumed(self, piece: int, rows: Tensor) -> Training:
        """Where the particles ``rows`` of a piece go on from, in a segment that is not an episode's first."""

    @abstractmethod
    def _keep(self, piece: int, rows: Tensor, training: Training) -> None:
        """Remember of a piece at its segment's end what the next segment goes on from."""

    @abstractmethod
    def _forget(self) -> None:
        """Called when an episode begins: where the last one stood is not needed any more."""

    def _end_segment(self) -> None:
        """Called when all pieces of a segment are done."""

    def _perturbations(self, segment: Segment) -> Tensor:
        """Standard normal ε of the segment, ``(pairs, W)``, drawn on the CPU."""
        generator = torch_generator(segment.episode.seed, "perturbations", segment.start)
        return torch.randn((self._n_pairs, self._layout.size), generator=generator)

    def _train(self, flat: Tensor, epsilon: Tensor, segment: Segment) -> tuple[Tensor, Tensor]:
        """Meta-losses and mean losses seen, each ``(P, n)``: pairs' plus sides, minus sides, unperturbed."""
        unperturbed = epsilon.new_zeros((self._n_particles - 2 * self._n_pairs, epsilon.shape[1]))
        offsets = torch.cat([epsilon, -epsilon, unperturbed])
        outcomes = []
        fresh = segment.start == 0
        if fresh:
            self._forget()
            self._pieces = pieces(self._problem, segment.episode.parts, self._n_particles, self._n_kept)
        for piece, rows in enumerate(self._pieces):
            candidate, particle = rows // self._n_particles, rows % self._n_particles
            perturbed = flat[candidate] + self._sigma[candidate].unsqueeze(-1) * offsets[particle]
            cohort = self._particles(perturbed, candidate)
            training = start(cohort, segment.episode.parts) if fresh else self._resumed(piece, rows)
            training, losses = train(cohort, segment, training, self._recordings.train, self._objective)
            self._keep(piece, rows, training)
            del training  # or this piece's would live on beside the next one's
            outcomes.append(torch.stack([meta_loss(losses, self._objective.kind), mean_loss(losses)]))
        self._end_segment()
        judged, seen = torch.cat(outcomes, dim=1).reshape(2, -1, self._n_particles)
        return judged, seen

    def _particles(self, perturbed: Tensor, candidate: Tensor) -> Cohort:
        """The cohort of particles with weights ``perturbed`` ``(n, W)`` and their candidates' genes."""
        return replace(
            self._cohort,
            weights=tree_map(Tensor.contiguous, self._layout.views(perturbed)),
            hyper=tree_map(lambda value: value[candidate], self._cohort.hyper),
            n_candidates=len(candidate),
        )
