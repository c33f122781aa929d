"""Truncated backpropagation through time, batched over the candidates of a cohort."""

from __future__ import annotations

from dataclasses import replace

from evometa.genome.genes import Choice
from evometa.genome.space import Genes, Space
from evometa.inner import graphs
from evometa.inner.cohort import Cohort
from evometa.meta.augmentation import Part
from evometa.meta.base import Estimator, MetaGradient, MetaProblem, Session
from evometa.meta.episodes import Episode, segments
from evometa.meta.footprint import Footprint
from evometa.meta.genes import whole
from evometa.meta.memory import groups_of, way_through
from evometa.meta.meta_loss import Objective, mean_loss
from evometa.meta.recorded import Recordings
from evometa.meta.replay import Way, backpropagate
from evometa.meta.training import Training, start
from evometa.rules.base import RuleFamily
from evometa.trees import Tree


class TruncatedBPTT(Estimator):
    """Backpropagation through the last ``meta.truncation`` inner steps (Werbos 1990; Williams & Peng 1990).

    With ``meta.second_order`` the inner gradient is differentiated too, else it is held fixed.
    """

    name = "tbptt"
    summary = "truncated backpropagation through the inner steps, with or without the second-order term"

    def serves(self, family: RuleFamily) -> bool:
        return family.differentiable

    @property
    def space(self) -> Space:
        return Space(
            (Choice("meta.second_order", (False, True), note="differentiate the inner gradient too"),)
        )

    def footprint(self, genes: Genes) -> Footprint:
        n_steps = whole(genes, "meta.truncation")
        return Footprint(n_trainings=1, n_live_steps=n_steps, second_order=bool(genes["meta.second_order"]))

    def begin(self, problem: MetaProblem) -> Session:
        return _Unrolling(problem)


class _Unrolling(Session):
    """Models in training, cut from the graph after every segment."""

    def __init__(self, problem: MetaProblem) -> None:
        genes = problem.genes[0]
        self._cohort = problem.cohort
        self._segments = segments(problem)
        self._objective = Objective.of(genes)
        self._max_bytes = problem.max_bytes
        self._truncation = whole(genes, "meta.truncation")
        self._groups: list[list[Part]] = []
        self._training: Training | None = ()
        self._way = Way(replays=False)
        self._recordings = Recordings(self._objective)

    def estimate(self, weights: Tree) -> MetaGradient:
        segment = next(self._segments)
        cohort = replace(self._cohort, weights=weights)
        if segment.start == 0:
            self._begin(cohort, segment.episode)
        n_steps, horizon = segment.n_steps, segment.episode.horizon
        if self._way.recorded and self._training is not None:
            parts = segment.episode.parts
            found = self._recordings.backpropagate(cohort, parts, self._training, n_steps, horizon)
        else:
            found = backpropagate(
                cohort, self._groups, self._training, n_steps, horizon, self._objective, self._way
            )
        self._training = found.training
        n_inner_steps = segment.n_steps * segment.episode.n_tasks
        return MetaGradient(found.grads, mean_loss(found.losses), n_inner_steps, str(self._way))

    def _begin(self, cohort: Cohort, episode: Episode) -> None:
        """Plan the episode, and start its models."""
        learner, n_steps = cohort.learner, min(self._truncation, episode.length)
        self._training = ()  # the last episode's models are done with
        learns_start = learner.initialisation is not None
        recordable = not learns_start and self._objective.judges_every_minibatch
        recorded = recordable and graphs.serves(episode.parts[0].params.device, episode.length)
        self._groups = groups_of(learner, episode.parts, n_steps, self._objective, recorded=recorded)
        self._way = way_through(
            learner,
            self._groups,
            cohort.n_candidates,
            n_steps,
            self._objective,
            self._max_bytes,
            recorded=recorded,
        )
        parts = [part for own in self._groups for part in own]
        # Where the start is learned, it is in the graph of the first segment.
        self._training = None if learns_start else start(cohort, parts)
