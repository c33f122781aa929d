"""Batched inner training: equal to torch.optim, blind to its neighbours, reported as it was."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from compute_device import DEVICE
from torch import Tensor

from evometa.inner.cohort import Candidate, Cohort, by_structure
from evometa.inner.evaluate import evaluate
from evometa.inner.record import Status
from evometa.inner.task_set import prepare, request
from evometa.inner.unroll import unroll
from evometa.rng import numpy_generator, torch_generator
from evometa.rules.learner import Learner
from evometa.rules.learner_structure import learner_space
from evometa.rules.registry import RULES

DIGITS = {"widths": [6], "depths": [1], "tasks_per_architecture": 2}


def candidates(family: str, n: int) -> list[Candidate]:
    """``n`` candidates of one structure with different continuous genes and weights."""
    space = learner_space(RULES[family])
    base = space.sample(numpy_generator(1, family, 0))
    found = []
    for index in range(n):
        other = space.sample(numpy_generator(2, family, index))
        continuous = {name: other.get(name, value) for name, value in space.continuous(base).items()}
        genes = space.complete({**base, **space.shared({**base, **continuous})})
        weights = Learner.of(family, genes).init_weights(torch_generator(3, family, index))
        found.append(Candidate(f"{family}-{index}", family, genes, weights))
    return found


def test_training_equals_torch_optim_on_the_same_batches() -> None:
    wanted = request("digits", DIGITS, "meta_train", 2, 31, seed=9)
    genes = learner_space(RULES["adam"]).complete({"lr": 0.02, "schedule": "constant"})
    record = evaluate([Candidate("a", "adam", genes, {})], wanted, DEVICE, torch.float64)
    (part,) = prepare(wanted, DEVICE, torch.float64)
    for t in range(part.tasks.n_tasks):
        params = part.params[t].clone().requires_grad_()
        optimizer = torch.optim.Adam([params], lr=0.02)
        for k in range(31):
            assert part.indices is not None
            batch = part.tasks.batch(part.indices[:, k])
            loss = part.tasks.loss(params, {name: value[t] for name, value in batch.items()})
            assert loss.item() == pytest.approx(record.losses[0, t, k], rel=1e-6)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def test_a_diverging_candidate_leaves_the_others_as_they_are() -> None:
    space = learner_space(RULES["sgd"])
    tame = Candidate("tame", "sgd", space.complete({"lr": 1e-3, "schedule": "constant"}), {})
    wild = Candidate("wild", "sgd", space.complete({"lr": 10.0, "schedule": "constant"}), {})
    wanted = request("quadratic", {}, "meta_valid", 4, 200, seed=1)
    together = evaluate([tame, wild], wanted, DEVICE)
    alone = evaluate([tame], wanted, DEVICE)
    assert (together.status[1] == Status.DIVERGED.value).all()
    assert (together.status[0] == Status.COMPLETE.value).all()
    np.testing.assert_allclose(together.losses[0], alone.losses[0], rtol=1e-4)
    only_wild = evaluate([wild], wanted, DEVICE)
    assert np.isnan(only_wild.losses[0, :, -1]).all(), "an unroll with no finite run left stops early"


def test_final_losses_average_the_last_window_and_steps_are_counted() -> None:
    wanted = request("digits", DIGITS, "meta_valid", 2, 16, seed=2)
    record = evaluate(candidates("adam", 2), wanted, DEVICE)
    assert record.losses.shape == (2, 2, 16)
    np.testing.assert_allclose(record.final_losses, record.losses[..., -10:].mean(-1))
    assert record.n_inner_steps == 2 * 2 * 15
    assert np.isfinite(record.valid_losses).all()


def test_equal_requests_give_equal_tasks_and_different_seeds_different_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a = prepare(request("digits", DIGITS, "meta_train", 2, 5, seed=1), DEVICE)
    monkeypatch.setattr("evometa.inner.task_set._REMEMBERED", OrderedDict())
    b = prepare(request("digits", DIGITS, "meta_train", 2, 5, seed=1), DEVICE)
    c = prepare(request("digits", DIGITS, "meta_train", 2, 5, seed=2), DEVICE)
    assert a[0].indices is not None
    assert torch.equal(a[0].params, b[0].params)
    assert torch.equal(a[0].indices, b[0].indices)  # type: ignore[arg-type]
    assert not torch.equal(a[0].params, c[0].params)


def test_candidates_are_grouped_by_structure_not_by_numbers() -> None:
    mixed = [*candidates("adam", 2), *candidates("sgd", 1), *candidates("adam", 1)]
    groups = list(by_structure(mixed).values())
    assert groups == [[0, 1, 3], [2]]


def test_the_caller_s_tensors_are_not_edited() -> None:
    wanted = request("digits", DIGITS, "meta_train", 2, 6, seed=4)
    (part,) = prepare(wanted, DEVICE)
    before: list[Tensor] = [part.params.clone(), *(value.clone() for value in part.tasks.rows.values())]
    cohort = Cohort.of(candidates("recurrent", 2), DEVICE)
    weights = {name: value.clone() for name, value in cohort.weights.items()}
    unroll(cohort, part.tasks, part.params, part.indices, 5)
    assert all(
        torch.equal(old, new)
        for old, new in zip(before, [part.params, *part.tasks.rows.values()], strict=True)
    )
    assert all(torch.equal(weights[name], value) for name, value in cohort.weights.items())
