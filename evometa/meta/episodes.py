"""Episodes: the inner trainings of a refinement, drawn by number from named seeds and cut into segments.

An episode trains fresh models for at most ``meta.unroll_length`` steps of a training planned for ``horizon``
steps; there is one meta-update after every ``meta.truncation`` steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch

from evometa.genome.space import Genes
from evometa.inner.task_set import TaskRequest, prepare
from evometa.meta.augmentation import Part, augment
from evometa.meta.base import MetaProblem, TaskStream
from evometa.meta.genes import whole
from evometa.rng import derive_seed, numpy_generator


@dataclass(frozen=True)
class Episode:
    """One inner problem, the same for all candidates and particles.

    Attributes:
        parts: its tasks, one batch an architecture.
        length: inner steps made.
        horizon: planned length of the training, which schedules are told; at least ``length``.
        seed: root of whatever else is drawn for this episode.
    """

    parts: tuple[Part, ...]
    length: int
    horizon: int
    seed: int

    @property
    def n_tasks(self) -> int:
        """Tasks of all parts."""
        return sum(part.tasks.n_tasks for part in self.parts)


@dataclass(frozen=True)
class Segment:
    """``n_steps`` inner steps of an episode from step ``start`` on: what a meta-gradient is of."""

    episode: Episode
    start: int
    n_steps: int


def segments(problem: MetaProblem, *, uncut: bool = False) -> Iterator[Segment]:
    """The segments of episode after episode, without end; one that starts at 0 begins with fresh models.

    With ``uncut`` each is a whole episode.
    """
    genes = problem.genes[0]
    truncation = whole(genes, "meta.unroll_length" if uncut else "meta.truncation")
    for number in count():
        stream = problem.streams[number % len(problem.streams)]
        episode = draw_episode(stream, number, genes, problem.device, problem.dtype)
        for start in range(0, episode.length, truncation):
            yield Segment(episode, start, min(truncation, episode.length - start))


def draw_episode(
    stream: TaskStream, number: int, genes: Genes, device: torch.device, dtype: torch.dtype
) -> Episode:
    """Episode ``number``: its horizon, tasks, initial parameters, minibatches and augmentations."""
    wanted = episode_request(stream, number, genes)
    seed, length = wanted.seed, wanted.n_steps - 1
    parts = tuple(
        augment(prepared, genes, derive_seed(seed, "augmentation", index))
        for index, prepared in enumerate(prepare(wanted, device, dtype))
    )
    return Episode(parts, length, _horizon(stream.horizon, genes, seed), seed)


def episode_request(stream: TaskStream, number: int, genes: Genes) -> TaskRequest:
    """The tasks of episode ``number``, with one minibatch more than it has steps."""
    seed = derive_seed(stream.seed, "episode", number)
    length = min(whole(genes, "meta.unroll_length"), _horizon(stream.horizon, genes, seed))
    return TaskRequest(
        stream.use, stream.options, "meta_train", stream.n_tasks, length + 1, seed, stream.compiled
    )


def _horizon(longest: int, genes: Genes, seed: int) -> int:
    """The stream's, or log-uniform from ``meta.horizon_low`` to it (VeLO, Metz et al. 2022)."""
    if genes["meta.horizon"] == "fixed":
        return longest
    shortest = min(whole(genes, "meta.horizon_low"), longest)
    draw = float(numpy_generator(seed, "horizon").random())
    return min(int(shortest * ((longest + 1) / shortest) ** draw), longest)
