"""Augmented families: what they change, and that they change nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from evometa.errors import TaskError
from evometa.inner import reference
from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.evaluate import evaluate
from evometa.inner.task_set import PreparedTasks, prepare, request
from evometa.inner.unroll import unroll
from evometa.rng import torch_generator
from evometa.rules import RULES
from evometa.rules.learner_structure import learner_space
from evometa.tasks import TaskBatch, build_family

CPU = torch.device("cpu")
DIGITS = {"widths": [4], "depths": [1], "train_size": 100, "batch_size": 10, "tasks_per_architecture": 8}
QUADRATIC = {"dim": 4}
N_STEPS = 5


def sampled(use: str, options: dict[str, Any], n_tasks: int = 4, **augment: Any) -> TaskBatch:
    wanted = {**options, "augment": augment} if augment else options
    (batch,) = build_family(use, wanted).sample("meta_train", n_tasks, torch_generator(0))
    return batch


def drawn(use: str, options: dict[str, Any], **augment: Any) -> PreparedTasks:
    wanted = {**options, "augment": augment} if augment else options
    return prepare(request(use, wanted, "meta_train", 2, N_STEPS + 1, 3), CPU, torch.float64)[0]


def candidates(*rates: float, family: str = "sgd") -> list[Candidate]:
    space = learner_space(RULES[family])
    return [
        Candidate(str(rate), family, space.complete({"lr": rate, "schedule": "constant"}), {})
        for rate in rates
    ]


@pytest.mark.parametrize(("use", "options"), [("quadratic", QUADRATIC), ("rosenbrock", {"dims": [4]})])
def test_gradient_noise_leaves_the_value_and_has_mean_zero_and_its_scale(use: str, options: Any) -> None:
    plain, noisy = sampled(use, options), sampled(use, options, gradient_noise=0.5)
    stream = noisy.index_stream(2000, torch_generator(1))
    assert stream is not None
    params = plain.init_params(torch_generator(0))
    first = noisy.batch(stream[:, 0])
    assert torch.equal(vmap(noisy.loss)(params, first), vmap(plain.loss)(params, plain.batch(None)))
    steps = {**first, "draws": stream.transpose(0, 1)}  # (K, T, 1)
    over_steps = vmap(
        vmap(grad(noisy.loss)), (None, {name: 0 if name == "draws" else None for name in steps})
    )
    found = (over_steps(params, steps) - vmap(grad(plain.loss))(params, plain.batch(None))).double()
    n = found.numel()
    assert abs(float(found.mean())) < 4 * 0.5 / math.sqrt(n)
    assert float(found.std()) == pytest.approx(0.5, rel=4 / math.sqrt(2 * n))
    # another step's and another task's noise, and another coordinate's, are others
    flat = found.flatten(1)
    correlations = torch.corrcoef(flat.T) - torch.eye(flat.shape[1])
    assert float(correlations.abs().max()) < 5 / math.sqrt(len(flat))
    assert float((flat[1:] * flat[:-1]).mean().abs()) < 4 * 0.25 / math.sqrt(flat[1:].numel())


def test_gradient_noise_is_the_same_for_all_candidates_and_other_in_every_repetition() -> None:
    """Common random numbers: two candidates that are equal stay equal, step for step, in any company."""
    wanted = request("quadratic", {**QUADRATIC, "augment": {"gradient_noise": 1.0}}, "meta_train", 2, 9, 5)
    together = evaluate(candidates(1e-3, 2e-3, 1e-3), wanted, CPU).losses
    assert np.array_equal(together[0], together[2])
    assert np.array_equal(evaluate(candidates(2e-3), wanted, CPU).losses[0], together[1])
    quiet = evaluate(candidates(1e-3), request("quadratic", QUADRATIC, "meta_train", 2, 9, 5), CPU).losses
    assert np.array_equal(quiet[0, :, 0], together[0, :, 0])  # the same tasks and starts
    assert not np.allclose(quiet[0, :, 2:], together[0, :, 2:])


@pytest.mark.parametrize(
    "augment",
    [
        {"gradient_noise": 0.3},
        {"label_noise": 0.3, "batch_size": [5, 20]},
        {"gradient_noise": 0.3, "reparametrisation": "coordinate"},
    ],
    ids=["noise", "rows", "noise, rescaled"],
)
@pytest.mark.parametrize(("use", "options"), [("quadratic", QUADRATIC), ("digits", DIGITS)])
def test_training_equals_the_plain_loop(use: str, options: Any, augment: dict[str, Any]) -> None:
    if use == "quadratic" and "label_noise" in augment:
        pytest.skip("has no labels")
    part = drawn(use, options, **augment)
    members = candidates(1e-2, 1e-3, family="adam")
    record = unroll(Cohort.of(members, CPU, torch.float64), part.tasks, part.params, part.indices, N_STEPS)
    for p, member in enumerate(members):
        subject = reference.Subject.of(member, torch.float64)
        for t in range(part.tasks.n_tasks):
            run = reference.train(subject, part, t, N_STEPS)
            np.testing.assert_allclose(record.losses[p, t], run.losses.numpy(), rtol=1e-9)
            held_out = reference.valid_loss(part, t, run.params)
            np.testing.assert_allclose(record.valid_losses[p, t], held_out.numpy(), rtol=1e-9)


def test_label_noise_replaces_its_share_of_train_targets_for_good() -> None:
    plain, noisy = sampled("digits", DIGITS), sampled("digits", DIGITS, label_noise=0.3)
    assert plain.train_rows is not None
    assert noisy.train_rows is not None
    moved = noisy.train_rows != plain.train_rows
    assert moved.sum(1).tolist() == [30] * 4
    assert torch.equal(noisy.rows["x"][noisy.train_rows], plain.rows["x"][plain.train_rows])
    before, after = plain.rows["y"][plain.train_rows], noisy.rows["y"][noisy.train_rows]
    changed = before != after
    assert not bool((changed & ~moved).any())
    # of ten classes, a target drawn at random differs nine times in ten
    assert 0.75 < float(changed[moved].float().mean()) < 1.0
    assert len({tuple(row.tolist()) for row in moved}) == 4  # other rows in every task
    held_out, untouched = noisy.valid_batch(), plain.valid_batch()
    assert held_out is not None
    assert untouched is not None
    assert all(torch.equal(held_out[name], untouched[name]) for name in untouched)


def test_batch_sizes_are_log_uniform_within_their_range_and_the_rows() -> None:
    options = {"widths": [4], "depths": [1], "tasks_per_architecture": 1, "train_size": 64}
    family = build_family("digits", {**options, "augment": {"batch_size": [4, 256]}})
    sizes = [
        batch.batch_size for s in range(40) for batch in family.sample("meta_train", 4, torch_generator(s))
    ]
    assert min(sizes) < 6
    assert max(sizes) == 64
    assert float(np.median(sizes)) == pytest.approx(32, rel=0.5)


def test_reparametrised_tasks_are_the_plain_ones_in_other_units() -> None:
    plain = sampled("quadratic", QUADRATIC)
    scaled = sampled("quadratic", QUADRATIC, reparametrisation="coordinate", reparametrisation_range=100.0)
    start, other = (batch.init_params(torch_generator(0)) for batch in (plain, scaled))
    scale: Tensor = start / other
    assert float(scale.max()) > 3
    assert 0.0099 < float(scale.min()) < 0.3
    torch.testing.assert_close(
        vmap(scaled.loss)(other, scaled.batch(None)), vmap(plain.loss)(start, plain.batch(None))
    )
    torch.testing.assert_close(
        vmap(grad(scaled.loss))(other, scaled.batch(None)),
        scale * vmap(grad(plain.loss))(start, plain.batch(None)),
    )


def test_without_anything_to_do_tasks_are_as_they_were() -> None:
    plain, same = sampled("digits", DIGITS), build_family("digits", {**DIGITS, "augment": {}})
    (batch,) = same.sample("meta_train", 4, torch_generator(0))
    assert batch.train_rows is not None
    assert plain.train_rows is not None
    assert torch.equal(batch.train_rows, plain.train_rows)
    assert batch.for_kernels is not None
    assert (same.name, batch.description) == ("digits", plain.description)


@pytest.mark.parametrize(
    ("use", "augment", "text"),
    [
        ("digits", 3, r"'digits': option 'augment' is 3; allowed: a table"),
        ("digits", {"noise": 1}, r"'digits': unknown option of 'augment'.*'noise'"),
        ("digits", {"label_noise": 1.5}, r"'augment.label_noise' is 1.5; allowed: a number above 0"),
        ("digits", {"gradient_noise": "1"}, r"'augment.gradient_noise' is '1'"),
        ("digits", {"batch_size": [9, 3]}, r"'augment.batch_size' is \(9, 3\); allowed: a pair of integers"),
        ("digits", {"gradient_delay": -1}, r"'augment.gradient_delay' is -1; allowed: an integer from 0 to"),
        ("digits", {"batch_size": 8}, r"'augment.batch_size' is 8"),
        ("digits", {"reparametrisation": "all"}, r"'augment.reparametrisation' is 'all'; .*'tensor'"),
        ("digits", {"reparametrisation_range": 1.0}, r"'augment.reparametrisation_range' is 1.0"),
    ],
)
def test_refuses_options_with_what_is_allowed(use: str, augment: Any, text: str) -> None:
    with pytest.raises(TaskError, match=text):
        build_family(use, {"augment": augment})


@pytest.mark.parametrize(
    ("augment", "text"),
    [
        ({"label_noise": 0.5}, r"'quadratic': option 'augment.label_noise' is for tasks that have rows with"),
        ({"batch_size": [1, 2]}, r"'quadratic': option 'augment.batch_size' is for tasks that have rows to"),
    ],
)
def test_refuses_tasks_without_what_is_to_be_changed(augment: Any, text: str) -> None:
    with pytest.raises(TaskError, match=text):
        sampled("quadratic", QUADRATIC, **augment)
