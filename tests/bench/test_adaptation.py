"""Adaptation: held-out losses after k steps, as an exported optimizer makes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from evometa.bench.adaptation import Entrant, adapt, tuned
from evometa.bench.compare import Rival
from evometa.config import TaskSource
from evometa.errors import TaskError
from evometa.genome.genes import Value
from evometa.inner.cohort import Candidate
from evometa.inner.evaluate import evaluate
from evometa.inner.task_set import request
from evometa.rng import derive_seed, torch_generator
from evometa.rules import Learner

CPU = torch.device("cpu")
SINUSOIDS = TaskSource("sinusoid", options={"shots": 4, "width": 5, "depth": 1})
DIGITS = TaskSource("few_shot_digits", options={"width": 6, "depth": 1})
N_PARAMS = 16


def entrant(**genes: Value) -> Entrant:
    complete = {"lr": 0.02, "schedule": "constant", "init": "learned", **genes}
    weights = Learner.of("sgd", complete).init_weights(
        torch_generator(0), torch.randn(N_PARAMS, generator=torch_generator(1))
    )
    return Entrant("mine", Candidate("0", "sgd", complete, weights), horizon=2)


def test_losses_are_those_of_the_engine() -> None:
    mine = entrant()
    rows = adapt([mine], SINUSOIDS, [0, 1, 3], split="meta_test", n_tasks=6, seed=3, device=CPU)
    seed = derive_seed(3, "adapt", "held out")
    for row in rows[1:]:
        wanted = request("sinusoid", SINUSOIDS.options, "meta_test", 6, row.steps + 1, seed)
        expected = evaluate([mine.candidate], wanted, CPU).valid_losses.mean()
        assert row.loss.value == pytest.approx(expected, rel=1e-5)
        assert row.loss.low < row.loss.value < row.loss.high
        assert row.measure is row.difference is None
    assert [row.steps for row in rows] == [0, 1, 3]


def test_gradients_that_come_late_come_late_here_too() -> None:
    """The first step is made with none, and the second with the first's."""
    late = replace(SINUSOIDS, options={**SINUSOIDS.options, "augment": {"gradient_delay": 1}})
    rows = adapt([entrant()], late, [0, 1, 2], split="meta_test", n_tasks=6, seed=3, device=CPU)
    (usual,) = adapt([entrant()], SINUSOIDS, [1], split="meta_test", n_tasks=6, seed=3, device=CPU)
    assert rows[0].loss == rows[1].loss
    assert rows[2].loss.value == pytest.approx(usual.loss.value, rel=1e-6)


def test_learned_rates_are_held_back_beyond_the_steps_they_were_made_for() -> None:
    """With fresh rates the steps are those of the plain genome, of which nothing is held back."""
    plain, rated = (
        adapt([one], SINUSOIDS, [2, 3, 9], split="meta_test", n_tasks=6, seed=3, device=CPU)
        for one in (entrant(), entrant(**{"init.rates": "coordinate"}))
    )
    losses = np.array([[row.loss.value for row in rows] for rows in (plain, rated)])
    assert losses[0, 0] == losses[1, 0]
    assert abs(losses[1, 2] - losses[1, 1]) < abs(losses[0, 2] - losses[0, 1])


def test_a_tuned_rule_is_compared_task_by_task_by_the_familys_measure() -> None:
    rival = tuned(Rival("adam", {}), DIGITS, 2, n_tasks=4, n_points=3, seed=0, device=CPU)
    assert rival.label.startswith("adam (lr ")
    genes = {"lr": 0.1, "schedule": "constant"}
    first = Entrant("sgd", Candidate("0", "sgd", genes, {}), None)
    rows = adapt([first, rival], DIGITS, [0, 2], split="meta_test", n_tasks=6, seed=0, device=CPU)
    untrained, _, same, other = rows
    assert untrained.measure is not None
    assert 0.3 < untrained.measure.value <= 1
    assert same.difference is not None
    assert same.difference.value == 0, "both begin where the tasks do"
    assert other.measure is not None
    assert rows[1].measure is not None
    assert other.difference is not None
    assert other.difference.value == pytest.approx(other.measure.value - rows[1].measure.value)


def test_tasks_without_held_out_rows_are_refused() -> None:
    first = Entrant("sgd", Candidate("0", "sgd", {"schedule": "constant"}, {}), None)
    with pytest.raises(TaskError, match="hold no rows out of training"):
        adapt([first], TaskSource("quadratic"), [1], split="meta_test", n_tasks=2, seed=0, device=CPU)
