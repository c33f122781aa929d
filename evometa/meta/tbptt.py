"""Truncated backpropagation through time, batched over the candidates of a cohort.

An episode trains fresh models for ``unroll_length`` steps; after every ``truncation`` steps the graph is
cut and one meta-update is made. Without the second-order term the inner gradient is taken as a constant:
the meta-gradient is then that of Σ_k w_k ⟨stop(∇L_k), θ_k⟩, so that the model is differentiated once a
step and never twice (Andrychowicz et al. 2016, section 2.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evometa.genome.genes import Choice
from evometa.genome.space import Genes, Space
from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.task_set import PreparedTasks, TaskRequest, prepare
from evometa.inner.unroll import UnrollState, advance, begin, loss_and_grad
from evometa.meta.base import Estimator, Refinement, TaskStream
from evometa.meta.meta_optimizer import MetaOptimizer
from evometa.rng import derive_seed


@dataclass(frozen=True)
class Episode:
    """Fresh models in training: one carry a task batch, with the losses and gradients at its parameters."""

    parts: tuple[PreparedTasks, ...]
    carries: list[UnrollState]
    at_params: list[tuple[Tensor, Tensor]]
    horizon: int


class TruncatedBPTT(Estimator):
    """Backpropagation through the last ``truncation`` inner steps."""

    name = "tbptt"
    summary = "truncated backpropagation through the inner steps, with or without the second-order term"

    @property
    def space(self) -> Space:
        return Space(
            (
                Choice("meta.unroll_length", (20, 50, 100, 10), note="inner steps of an episode"),
                Choice("meta.truncation", (10, 20, 5), note="inner steps between cuts of the graph"),
                Choice("meta.second_order", (False, True), note="differentiate the inner gradient too"),
                Choice("meta.loss", ("log_mean", "mean"), note="what is summed over the inner steps"),
            )
        )

    def structure(self, genes: Genes) -> tuple[object, ...]:
        names = ("meta.steps", "meta.unroll_length", "meta.truncation", "meta.second_order", "meta.loss")
        return tuple(genes[name] for name in names)

    def live_steps(self, genes: Genes) -> int:
        return int(genes["meta.truncation"])  # type: ignore[arg-type]

    def refine(
        self,
        candidates: Sequence[Candidate],
        streams: Sequence[TaskStream],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> Refinement:
        genes = candidates[0].genes
        n_meta_steps = int(genes["meta.steps"])  # type: ignore[arg-type]
        cohort = Cohort.of(candidates, device, dtype)
        optimizer = MetaOptimizer(cohort.weights, [candidate.genes for candidate in candidates])
        episode: Episode | None = None
        n_episodes = 0
        n_inner_steps = 0
        for _ in range(n_meta_steps):
            if episode is None:
                stream = streams[n_episodes % len(streams)]
                length = min(int(genes["meta.unroll_length"]), stream.horizon)  # type: ignore[arg-type]
                episode = _start(cohort, stream, n_episodes, length, device, dtype)
                n_episodes += 1
            n_steps = min(int(genes["meta.truncation"]), length - episode.carries[0].step)  # type: ignore[arg-type]
            live = replace(cohort, weights=optimizer.stacked())
            objective, episode, seen = segment(
                live,
                episode,
                n_steps,
                second_order=bool(genes["meta.second_order"]),
                kind=str(genes["meta.loss"]),
            )
            optimizer.step(objective, seen)
            n_inner_steps += n_steps * sum(part.tasks.n_tasks for part in episode.parts)
            if episode.carries[0].step >= length:
                episode = None
        return Refinement(optimizer.results(), n_inner_steps, optimizer.n_skipped, optimizer.meta_losses)


def _start(
    cohort: Cohort, stream: TaskStream, number: int, length: int, device: torch.device, dtype: torch.dtype
) -> Episode:
    """Draw the tasks of episode ``number`` and put fresh models at their initial parameters."""
    seed = derive_seed(stream.seed, "episode", number)
    wanted = TaskRequest(stream.use, stream.options, "meta_train", stream.n_tasks, length + 1, seed)
    parts = prepare(wanted, device, dtype)
    carries = [begin(cohort, part.tasks, part.params) for part in parts]
    at_params = [_measure(part, carry.params, 0) for part, carry in zip(parts, carries, strict=True)]
    return Episode(parts, carries, at_params, stream.horizon)


def _measure(part: PreparedTasks, params: Tensor, k: int) -> tuple[Tensor, Tensor]:
    batch = part.tasks.batch(None if part.indices is None else part.indices[:, k])
    return loss_and_grad(part.tasks, params, batch)


def segment(
    cohort: Cohort, episode: Episode, n_steps: int, *, second_order: bool, kind: str
) -> tuple[Tensor, Episode, Tensor]:
    """``n_steps`` inner steps with a graph.

    Returns the meta-objective of each candidate ``(P,)``, the episode at the segment's end (without a
    graph), and the mean loss each candidate saw ``(P,)``.
    """
    objective = torch.zeros(cohort.n_candidates, dtype=next(iter(cohort.weights.values())).dtype)
    objective = objective.to(next(iter(cohort.weights.values())).device)
    seen = torch.zeros_like(objective)
    carries, at_params = [], []
    n_tasks = sum(part.tasks.n_tasks for part in episode.parts)
    for part, carry, (losses, grads) in zip(episode.parts, episode.carries, episode.at_params, strict=True):
        share = part.tasks.n_tasks / n_tasks
        for _ in range(n_steps):
            carry = advance(cohort, part.tasks, carry, losses, grads, episode.horizon)
            if second_order:
                losses, grads = _measure(part, carry.params, carry.step)
                contribution = _meta_loss(losses, kind)
            else:
                with torch.no_grad():
                    losses, grads = _measure(part, carry.params, carry.step)
                contribution = _surrogate(losses, grads, carry.params, kind)
            objective = objective + share * contribution / n_steps
            seen = seen + share * losses.detach().mean(dim=1) / n_steps
        carries.append(carry.detached())
        at_params.append((losses.detach(), grads.detach()))
    return objective, replace(episode, carries=carries, at_params=at_params), seen


def _meta_loss(losses: Tensor, kind: str) -> Tensor:
    """One step's contribution, ``(P, T) → (P,)``; the logarithm is of the mean over tasks, not of each."""
    mean = losses.mean(dim=1)
    return mean.log() if kind == "log_mean" else mean


def _surrogate(losses: Tensor, grads: Tensor, params: Tensor, kind: str) -> Tensor:
    """Has the gradient of :func:`_meta_loss` in ``params``, the inner gradient being held fixed."""
    weight = 1.0 / losses.shape[1]
    inner = (grads * params).sum(dim=(1, 2)) * weight
    return inner / losses.mean(dim=1) if kind == "log_mean" else inner
