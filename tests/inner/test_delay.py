"""Delayed gradients: the rule is given that of d steps before, however a training is made."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from compute_device import DEVICE

from evometa import native
from evometa.bench.baselines import BASELINES
from evometa.bench.training import train
from evometa.inner import reference
from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.evaluate import evaluate
from evometa.inner.memory import Demand, part_bytes
from evometa.inner.task_set import PreparedTasks, TaskRequest, prepare, request
from evometa.inner.unroll import unroll
from evometa.meta import TaskStream, meta_genes
from evometa.meta.augmentation import augment
from evometa.meta.replay import Objective, Way, backpropagate
from evometa.meta.training import observed, start, train_losses, train_part
from evometa.rules import RULES
from evometa.rules.learner_structure import learner_space

CPU = torch.device("cpu")
N_STEPS, DELAY = 8, 3
DIGITS = {"widths": [4], "depths": [1], "batch_size": 8, "tasks_per_architecture": 4, "inits": ["xavier"]}


def late(use: str, options: dict[str, Any], delay: int = DELAY) -> TaskRequest:
    wanted = {**options, "augment": {"gradient_delay": delay}}
    return request(use, wanted, "meta_train", 2, N_STEPS + 1, seed=5)


def sgd(*rates: float) -> list[Candidate]:
    space = learner_space(RULES["sgd"])
    return [Candidate(str(lr), "sgd", space.complete({"lr": lr, "schedule": "constant"}), {}) for lr in rates]


def part_of(wanted: TaskRequest) -> PreparedTasks:
    (part,) = prepare(wanted, CPU, torch.float64)
    return part


@pytest.mark.parametrize("delay", [1, DELAY, 20])
def test_gradient_descent_equals_a_loop_that_keeps_its_gradients(delay: int) -> None:
    """θₖ₊₁ = θₖ − η∇L(θₖ₋d), and θ₀ until there is one; with a kernel for the rule and without."""
    part = part_of(late("quadratic", {"dim": 3}, delay))
    rates = (1e-2, 3e-3)
    members = Cohort.of(sgd(*rates), CPU, torch.float64)
    found = unroll(members, part.tasks, part.params, None, N_STEPS).losses
    with native.disabled():
        mapped = unroll(members, part.tasks, part.params, None, N_STEPS).losses
    np.testing.assert_allclose(mapped, found, rtol=1e-12)
    batch = part.tasks.batch(None)
    for p, rate in enumerate(rates):
        for t in range(2):
            matrix, target = batch["W"][t], batch["y"][t]
            points, losses = [part.params[t]], []
            for k in range(N_STEPS + 1):
                losses.append(float((matrix @ points[k] - target).square().sum()))
                old = points[k - delay] if k >= delay else None
                step = 0.0 if old is None else 2 * matrix.T @ (matrix @ old - target)
                points.append(points[k] - rate * step)
            np.testing.assert_allclose(found[p, t], losses, rtol=1e-10)


@pytest.mark.parametrize("rule", ["adam", "recurrent", "mlp"])
def test_training_equals_the_plain_loop(rule: str, cohort_of: Any) -> None:
    """On minibatches, where kernels that make many steps in a call must leave it to others."""
    part = part_of(late("digits", DIGITS))
    candidates = cohort_of(rule, {}, n=2)
    record = unroll(Cohort.of(candidates, CPU, torch.float64), part.tasks, part.params, part.indices, N_STEPS)
    for p, candidate in enumerate(candidates):
        run = reference.train(reference.Subject.of(candidate, torch.float64), part, 1, N_STEPS)
        np.testing.assert_allclose(record.losses[p, 1], run.losses.numpy(), rtol=1e-9)
        assert np.all(record.losses[p, 1] > 0)


def test_without_delay_training_is_bitwise_what_it_was() -> None:
    plain = evaluate(sgd(0.1), request("digits", DIGITS, "meta_train", 2, N_STEPS + 1, seed=5), CPU).losses
    assert np.array_equal(evaluate(sgd(0.1), late("digits", DIGITS, 0), CPU).losses, plain)
    assert not np.allclose(evaluate(sgd(0.1), late("digits", DIGITS, 1), CPU).losses, plain)


def test_baselines_of_the_bench_get_late_gradients_too() -> None:
    wanted = late("quadratic", {"dim": 3})
    part, rates = part_of(wanted), (1e-2, 3e-3)
    found = train(BASELINES["sgd"], rates, wanted, CPU, torch.float64).record.losses
    ours = unroll(Cohort.of(sgd(*rates), CPU, torch.float64), part.tasks, part.params, None, N_STEPS)
    np.testing.assert_allclose(found, ours.losses, rtol=1e-10)


@pytest.mark.parametrize("second_order", [False, True])
def test_meta_gradients_equal_those_of_the_plain_loop(
    second_order: bool, cohort_of: Any, check_meta_gradients: Any
) -> None:
    options = {"dim": 3, "augment": {"gradient_delay": 2}}
    stream = TaskStream("quadratic", json.dumps(options, sort_keys=True), n_tasks=2, horizon=20, seed=3)
    check_meta_gradients(cohort_of("mlp", {"lr": 1e-3}, n=2), stream, second_order)


@pytest.mark.parametrize("second_order", [False, True])
def test_every_way_through_a_segment_gives_the_same_meta_gradient(second_order: bool, cohort_of: Any) -> None:
    part = augment(part_of(late("quadratic", {"dim": 3})), meta_genes({}), 0)
    members = Cohort.of(cohort_of("mlp", {"lr": 1e-3}, n=2), CPU, torch.float64)
    objective = Objective("mean", second_order)
    # Not from the start, so that there are gradients on their way when the segment begins.
    with torch.no_grad():
        (fresh,) = start(members, [part])
        begin = train_part(members, part, fresh, 4, 20, observed, train_losses).end
    ways = [Way(replays=False), Way(replays=True), Way(replays=True, steps_at_once=2)]
    found = [backpropagate(members, [[part]], (begin,), 4, 20, objective, way).grads for way in ways]
    assert any(bool((value != 0).any()) for value in found[0].values())
    for other in found[1:]:
        for name, value in found[0].items():
            assert torch.equal(other[name], value), name


def test_a_training_in_two_segments_equals_one_in_one(cohort_of: Any) -> None:
    """As estimators make it: what is on its way at the end of a segment arrives in the next."""
    part = augment(part_of(late("quadratic", {"dim": 3})), meta_genes({}), 0)
    members = Cohort.of(cohort_of("adam", {}, n=2), CPU, torch.float64)
    with torch.no_grad():
        (state,) = start(members, [part])
        first = train_part(members, part, state, 3, N_STEPS, observed, train_losses)
        second = train_part(members, part, first.end, N_STEPS - 3, N_STEPS, observed, train_losses)
    whole = unroll(members, part.tasks, part.params, None, N_STEPS).losses
    joined = torch.cat([state.losses.unsqueeze(0), first.losses, second.losses]).permute(1, 2, 0)
    assert np.array_equal(joined.numpy(), whole)


def test_memory_is_set_aside_for_what_is_on_its_way() -> None:
    plain = prepare(request("digits", DIGITS, "meta_train", 2, N_STEPS + 1, seed=5), CPU)[0]
    learner = sgd(0.1)[0].learner
    before, after = (
        part_bytes(learner, [part], Demand(), measured=True)[0]
        for part in (plain, prepare(late("digits", DIGITS), CPU)[0])
    )
    assert after.carried - before.carried == DELAY * before.gradient
    assert after.step >= before.step


def test_recorded_or_not_a_training_is_the_same() -> None:
    """On a GPU steps are recorded from eight on; a CPU makes both the same way."""
    wanted = late("digits", DIGITS)
    losses = evaluate(sgd(0.1, 0.01), wanted, DEVICE).losses
    np.testing.assert_allclose(losses, evaluate(sgd(0.1, 0.01), wanted, CPU).losses, rtol=1e-4)
