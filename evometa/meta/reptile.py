"""Reptile: learned initialisations follow the params that training leads to, without any derivative."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from evometa.errors import GenomeError
from evometa.genome.space import Genes, Space
from evometa.meta.base import Estimator, MetaGradient, MetaProblem, Session
from evometa.meta.episodes import segments
from evometa.meta.footprint import Footprint
from evometa.meta.meta_loss import Objective, mean_loss
from evometa.meta.recorded import Recordings
from evometa.meta.training import start, train
from evometa.trees import Tree


class Reptile(Estimator):
    """φ − θ_K, the mean over tasks of where K steps from φ do not lead (Nichol, Achiam & Schulman 2018).

    K is a whole episode; ``meta.truncation`` and ``meta.loss`` do not count. Whatever else a genome has to
    learn stays as it is.
    """

    name = "reptile"
    summary = "a learned initialisation moves towards the params that training from it reaches"
    is_common = False
    needs_initialisation = True

    @property
    def space(self) -> Space:
        return Space()

    def footprint(self, genes: Genes) -> Footprint:
        return Footprint(n_trainings=1, n_live_steps=1)

    def begin(self, problem: MetaProblem) -> Session:
        if problem.cohort.learner.initialisation is None:
            raise GenomeError('meta.estimator = "reptile" trains genomes of init = "learned" alone')
        return _Following(problem)


class _Following(Session):
    """Trains fresh models in every estimate."""

    def __init__(self, problem: MetaProblem) -> None:
        self._cohort = problem.cohort
        self._segments = segments(problem, uncut=True)
        self._recordings = Recordings()
        self._objective = Objective("mean")

    @torch.no_grad()
    def estimate(self, weights: Tree) -> MetaGradient:
        segment = next(self._segments)
        parts = segment.episode.parts
        cohort = replace(self._cohort, weights=weights)
        training = start(cohort, parts)
        training, losses = train(cohort, segment, training, self._recordings.train, self._objective)
        reached = torch.zeros_like(weights["init.params"])
        for part, state in zip(parts, training, strict=True):
            params: Tensor = state.carry.params
            if part.param_scale is not None:
                params = params * part.param_scale
            # Each candidate's tasks side by side: sums over the second axis do not depend on P.
            reached = reached + params.sum(dim=1)
        n_tasks = segment.episode.n_tasks
        grads = {name: torch.zeros_like(value) for name, value in weights.items()}
        grads["init.params"] = weights["init.params"] - reached / n_tasks
        return MetaGradient(grads, mean_loss(losses), segment.n_steps * n_tasks)
