"""All ways through a segment against one graph over all tasks, and against one another bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from compute_device import DEVICE
from torch import Tensor

from evometa import native
from evometa.genome.genes import Value
from evometa.inner.cohort import Candidate, Cohort
from evometa.meta import TaskStream, meta_genes
from evometa.meta.augmentation import Part
from evometa.meta.episodes import Episode, draw_episode
from evometa.meta.meta_loss import Objective
from evometa.meta.replay import Backpropagated, Way, backpropagate
from evometa.meta.training import (
    observed,
    observed_constants,
    start,
    train_losses,
    train_part,
    train_surrogate,
)
from evometa.rng import torch_generator
from evometa.rules import Learner

#: The second in pieces of 2, 2 and 1 steps.
WAYS = [Way(replays=True), Way(replays=True, steps_at_once=2)]
LEARNERS: dict[str, tuple[str, dict[str, Value]]] = {
    "mlp": ("mlp", {"hidden": 4, "schedule": "constant"}),
    "gru": ("recurrent", {"cell": "gru", "hidden": 4, "layers": 1, "schedule": "cosine"}),
    "lstm": ("recurrent", {"cell": "lstm", "hidden": 4, "layers": 2, "schedule": "recurrent"}),
    "sgd": ("sgd", {"lr": 1e-3, "schedule": "recurrent", "schedule.hidden": 4}),
}
#: Two architectures, of three tasks and of one.
STREAM = TaskStream("digits", '{"tasks_per_architecture": 3, "batch_size": 8}', 4, horizon=12, seed=1)
N_STEPS = 5
FIRST, SECOND = Objective("log_mean", second_order=False), Objective("log_mean", second_order=True)
MEAN = Objective("mean", second_order=False)


def cohort_of(name: str, n_candidates: int, dtype: torch.dtype) -> Cohort:
    family, genes = LEARNERS[name]
    learner = Learner.of(family, genes)
    trees = [learner.init_weights(torch_generator(seed, name)) for seed in range(n_candidates)]
    return Cohort.of([Candidate(f"{i}", family, genes, tree) for i, tree in enumerate(trees)], DEVICE, dtype)


def episode(dtype: torch.dtype) -> Episode:
    genes = meta_genes({"meta.estimator": "tbptt", "meta.loss_scaling": "log_uniform"})
    return draw_episode(STREAM, 0, genes, DEVICE, dtype)


def in_groups(parts: tuple[Part, ...]) -> list[list[Part]]:
    cuts = [(slice(0, 2), slice(2, 3)) if part.tasks.n_tasks > 1 else (slice(0, 1),) for part in parts]
    return [[part.of(tasks) for tasks in cut] for part, cut in zip(parts, cuts, strict=True)]


def through_two_segments(
    cohort: Cohort, played: Episode, objective: Objective, way: Way
) -> list[Backpropagated]:
    groups = in_groups(played.parts)
    training = start(cohort, [part for own in groups for part in own])
    found: list[Backpropagated] = []
    for n_steps in (N_STEPS, 2):
        done = backpropagate(cohort, groups, training, n_steps, played.horizon, objective, way)
        training = done.training
        found.append(done)
    return found


def in_one_graph(cohort: Cohort, played: Episode, objective: Objective) -> list[Tensor]:
    """The first segment's meta-gradient by a single backward pass."""
    leaves = {name: value.clone().requires_grad_() for name, value in cohort.weights.items()}
    total = torch.zeros((), device=DEVICE)
    with objective.scope():
        for part, state in zip(played.parts, start(cohort, played.parts), strict=True):
            through = (observed, train_losses), (observed_constants, train_surrogate)
            own = replace(cohort, weights=leaves)
            trained = train_part(
                own, part, state, N_STEPS, played.horizon, *through[not objective.second_order]
            )
            weight = 1 / trained.losses.mean(dim=2, keepdim=True) if objective.kind == "log_mean" else 1
            total = total + (weight * trained.values).sum() / (played.n_tasks * N_STEPS)
    return list(torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True))


def numbers(found: Backpropagated) -> Iterator[Tensor]:
    yield from found.grads.values()
    yield from found.losses
    for state in found.training:
        yield from state.tensors()


#: Kernels have no second order.
CASES = [
    pytest.param(FIRST, True, id="first-kernels", marks=pytest.mark.cpu_alone("kernels")),
    pytest.param(FIRST, False, id="first-torch"),
    pytest.param(MEAN, True, id="mean-kernels", marks=pytest.mark.cpu_alone("kernels")),
    pytest.param(SECOND, False, id="second-torch"),
]
every_case = pytest.mark.parametrize(("objective", "kernels"), CASES)


@every_case
@pytest.mark.parametrize("name", LEARNERS)
def test_every_way_gives_the_same_bits(name: str, objective: Objective, kernels: bool) -> None:
    """Two segments, two architectures, groups of tasks, two candidates."""
    with nullcontext() if kernels else native.disabled():
        cohort, played = cohort_of(name, 2, torch.float32), episode(torch.float32)
        plain = through_two_segments(cohort, played, objective, Way(replays=False))
        assert any(bool(grad.abs().max() > 0) for grad in plain[0].grads.values())
        for way in WAYS:
            for one, other in zip(plain, through_two_segments(cohort, played, objective, way), strict=True):
                assert all(torch.equal(a, b) for a, b in zip(numbers(one), numbers(other), strict=True)), way


@every_case
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("name", LEARNERS)
def test_replay_by_groups_equals_one_graph_over_all_tasks(
    name: str, objective: Objective, dtype: torch.dtype, tolerance: float, kernels: bool
) -> None:
    with nullcontext() if kernels else native.disabled():
        cohort, played = cohort_of(name, 1, dtype), episode(dtype)
        expected = in_one_graph(cohort, played, objective)
        found = through_two_segments(cohort, played, objective, WAYS[0])[0].grads
    scale = max(float(grad.abs().max()) for grad in expected)
    for mine, theirs in zip(found.values(), expected, strict=True):
        assert float((mine - theirs).abs().max()) <= tolerance * scale
