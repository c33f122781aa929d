"""What a candidate gets does not depend on the chunk it is in, to the last bit wherever a kernel serves it.

PyTorch alone rounds matrix products by their shapes, and so by how many candidates there are. On a GPU that
holds for the tasks' own products as well.
"""

from __future__ import annotations

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from compute_device import DEVICE, ON_CPU
from evolved_optimizers import CASES

from evometa import native
from evometa.genome.genes import Value
from evometa.inner.cohort import Candidate
from evometa.inner.evaluate import evaluate
from evometa.inner.record import Status, UnrollRecord
from evometa.inner.task_set import TaskRequest, request
from evometa.meta import ESTIMATORS, Refinement, TaskStream, meta_genes, refine
from evometa.rng import numpy_generator, torch_generator
from evometa.rules import RULES, Learner
from evometa.rules.learner_structure import learner_space

N_CANDIDATES = 3
#: Two architectures, small ones: what is compared does not depend on how large they are.
DIGITS: dict[str, object] = {"widths": [6, 7], "depths": [1]}
#: One has no data; the other has two architectures and minibatches.
TASKS = {
    "quadratic": request("quadratic", {"dim": 10}, "meta_train", 4, 9, seed=3),
    "digits": request("digits", {"batch_size": 16, **DIGITS}, "meta_train", 4, 6, seed=3),
}
STREAMS = {
    "quadratic": TaskStream("quadratic", '{"dim": 10}', n_tasks=4, horizon=7, seed=11),
    "digits": TaskStream(
        "digits",
        json.dumps({"tasks_per_architecture": 1, "batch_size": 4, **DIGITS}),
        n_tasks=2,
        horizon=6,
        seed=1,
    ),
}
on_each_family_of_tasks = pytest.mark.parametrize("tasks", TASKS)


def candidates(family: str, draw: str | int, **others: Value) -> list[Candidate]:
    """Of one structure, with other weights and learning rates."""
    space = learner_space(RULES[family])
    genes = space.complete({}) if draw == "default" else space.sample(numpy_generator(0, family, draw))
    meta = {name: value for name, value in others.items() if name.startswith("meta.")}
    own = {name: value for name, value in others.items() if name not in meta}
    genes = space.complete({**genes, "schedule": "constant", **own})
    found = []
    for number in range(N_CANDIDATES):
        own = dict(genes)
        if "lr" in own:
            own["lr"] = min(float(own["lr"]) * 3.0**number, float(space["lr"].high))  # type: ignore[arg-type, attr-defined]
        weights = Learner.of(family, own).init_weights(torch_generator(number, family))
        found.append(Candidate(str(number), family, {**own, **meta}, weights))
    return found


def in_chunks(members: list[Candidate], size: int) -> list[list[Candidate]]:
    return [members[start : start + size] for start in range(0, len(members), size)]


def numbers(records: list[UnrollRecord]) -> np.ndarray:
    """Losses and held-out losses of all candidates."""
    each = [np.concatenate([record.losses, record.valid_losses[..., None]], axis=-1) for record in records]
    return np.concatenate(each)


def trained_in_chunks(
    members: list[Candidate], wanted: TaskRequest, dtype: torch.dtype, sizes: tuple[int, ...]
) -> list[np.ndarray]:
    """By chunks of as many candidates, and of all."""
    return [
        numbers([evaluate(chunk, wanted, DEVICE, dtype) for chunk in in_chunks(members, size)])
        for size in (*sizes, N_CANDIDATES)
    ]


@on_each_family_of_tasks
@pytest.mark.parametrize(
    "kernels",
    [pytest.param(True, marks=pytest.mark.cpu_alone("kernels")), False],
    ids=["kernels", "torch"],
)
@pytest.mark.parametrize(
    ("name", "draw"),
    CASES,
)
def test_a_training_is_the_same_in_every_chunk(name: str, draw: str | int, kernels: bool, tasks: str) -> None:
    members = candidates(name, draw)
    probe = torch.zeros((1, 1, 1), device=DEVICE)
    if kernels and RULES[name].learned and not members[0].learner.rule.has_kernel(probe, probe):
        pytest.skip("there is no kernel here")
    with nullcontext() if kernels else native.disabled():
        rule = members[0].learner.rule
        without_products = rule.elementwise and not RULES[name].learned
        exact = rule.has_kernel(probe, probe) or (ON_CPU and without_products)
        # Learning rates may be such that a training multiplies every rounding.
        dtype, sizes = (torch.float32, (1, 2)) if exact else (torch.float64, (2,))
        *parts, whole = trained_in_chunks(members, TASKS[tasks], dtype, sizes)
    for found in parts:
        if exact:
            np.testing.assert_array_equal(found, whole)
        else:
            np.testing.assert_allclose(found, whole, rtol=1e-6)


def test_a_candidate_that_diverges_is_recorded_alike_with_and_without_others() -> None:
    """Alone it ends early, beside others it goes on, and its loss may be finite again."""
    members = candidates("sgd", "default", lr=4.5e-2, schedule="cosine")
    wanted = request("quadratic", {"dim": 10}, "meta_train", 1, 65, seed=3)
    together = evaluate(members, wanted, DEVICE)
    assert set(together.status[:, 0]) == {Status.COMPLETE.value, Status.DIVERGED.value}
    for number, member in enumerate(members):
        alone = evaluate([member], wanted, DEVICE)
        # a GPU rounds the products of the tasks, too, by how many there are
        rtol = 0 if ON_CPU else 1e-4
        np.testing.assert_allclose(alone.losses[0], together.losses[number], rtol=rtol)
        np.testing.assert_allclose(alone.valid_losses[0], together.valid_losses[number], rtol=rtol)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(
    ("estimator", "rule"),
    [
        (name, rule)
        for name, estimator in ESTIMATORS
        for rule in ("mlp", "recurrent")
        if estimator.serves(RULES[rule]) and not estimator.needs_initialisation
    ],
)
def test_meta_training_is_the_same_in_every_chunk(estimator: str, rule: str, stream: str) -> None:
    """First order; a second order is PyTorch's alone."""
    own: dict[str, Value] = (
        {"meta.second_order": False}
        if "meta.second_order" in dict(ESTIMATORS[estimator].space.complete({}))
        else {}
    )
    meta = meta_genes(
        {"meta.estimator": estimator, "meta.steps": 3, "meta.unroll_length": 10, "meta.truncation": 5, **own}
    )
    if ESTIMATORS[estimator].footprint(meta).second_order:
        pytest.skip("there is no way without a second order")
    members = candidates(rule, "default", hidden=4, layers=1, **meta)
    probe = torch.zeros((1, 1, 1), device=DEVICE)
    if not members[0].learner.rule.has_kernel(probe, probe):
        pytest.skip("there is no kernel on this machine")

    def refined(size: int) -> list[Refinement]:
        return [refine(chunk, [STREAMS[stream]], DEVICE) for chunk in in_chunks(members, size)]

    (whole,) = refined(N_CANDIDATES)
    for size in (1, 2):
        parts = [weights for part in refined(size) for weights in part.weights]
        for found, expected in zip(parts, whole.weights, strict=True):
            assert all(torch.equal(found[key], value) for key, value in expected.items()), size
