"""Paired comparisons whose outcome is known beforehand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from evometa.bench import Comparison, Rival, compare
from evometa.config import TaskSource
from evometa.errors import TaskError
from evometa.inner.cohort import Candidate
from evometa.objectives.baseline import baseline_candidate

CPU = torch.device("cpu")
SOURCE = TaskSource(use="quadratic", n_tasks=4, horizon=20, options={"dim": 4})
MOMENTUM = Rival("momentum", {})


def against_momentum(candidate: Candidate, seed: int = 0) -> Comparison:
    return compare(
        candidate, MOMENTUM, SOURCE, split="meta_test", n_tasks=64, n_points=9, seed=seed, device=CPU
    )


def test_a_rule_against_itself_is_undecided() -> None:
    tuned = against_momentum(baseline_candidate("momentum", 1e-3)).learning_rate
    found = against_momentum(baseline_candidate("momentum", tuned))
    assert found.difference == 0.0
    assert found.interval == (0.0, 0.0)
    assert found.verdict == "undecided"
    assert found.wins == 0.0
    assert found.wins_interval == pytest.approx((0.0, 1.96**2 / (64 + 1.96**2)), abs=1e-4)  # Wilson 1927


def test_better_and_worse_are_told_by_the_side_of_zero() -> None:
    worse = against_momentum(baseline_candidate("sgd", 1e-4))
    assert worse.verdict == "worse"
    assert 0 < worse.interval[0] < worse.difference < worse.interval[1]
    assert worse.difference == pytest.approx(worse.genome_mean - worse.rival_mean)
    tuned = baseline_candidate("momentum", against_momentum(baseline_candidate("sgd", 1e-4)).learning_rate)
    rolling = Rival("momentum", {"one_minus_momentum": 1e-3})
    better = compare(tuned, rolling, SOURCE, split="meta_test", n_tasks=64, n_points=9, seed=0, device=CPU)
    assert better.verdict == "better"
    assert better.interval[1] < 0
    assert better.wins > 0.5
    assert better.wins_interval[0] < better.wins <= better.wins_interval[1]


def test_a_diverging_genome_counts_with_its_initial_loss() -> None:
    found = against_momentum(baseline_candidate("sgd", 10.0))
    assert 0 < found.n_lost <= 64
    assert found.verdict == "worse"


def test_equal_seeds_give_equal_comparisons_and_genes_of_the_rival_count() -> None:
    candidate = baseline_candidate("adam", 0.1)
    assert against_momentum(candidate) == against_momentum(candidate)
    assert against_momentum(candidate).rival_mean != against_momentum(candidate, seed=1).rival_mean
    heavy = replace(MOMENTUM, genes={"one_minus_momentum": 0.01})
    assert heavy.label == "momentum:one_minus_momentum=0.01"
    other = compare(candidate, heavy, SOURCE, split="meta_test", n_tasks=64, n_points=9, seed=0, device=CPU)
    assert other.rival_mean != against_momentum(candidate).rival_mean


def test_a_finer_grid_finds_a_rate_between_and_is_no_worse_where_it_was_tuned() -> None:
    split: dict[str, Any] = {"split": "meta_test", "n_tasks": 16, "seed": 0, "device": CPU}
    constant = baseline_candidate("sgd", 0.01)
    coarse = compare(constant, Rival("sgd", {}), SOURCE, n_points=9, **split)
    fine = compare(constant, Rival("sgd", {}), SOURCE, n_points=33, per_decade=16, **split)
    steps = math.log10(fine.learning_rate / coarse.learning_rate) * 16
    assert steps == pytest.approx(round(steps))
    assert 0 < abs(round(steps)) < 4


def test_tasks_without_a_finite_first_loss_cannot_be_compared_on() -> None:
    options = {"fault": "is hard to start in its second task"}
    source = TaskSource(use="faulty_tasks:Faulty", n_tasks=4, horizon=5, options=options)
    with pytest.raises(TaskError, match="1 of 4 faulty tasks: the loss is not finite before the first step"):
        compare(
            baseline_candidate("adam", 0.1),
            MOMENTUM,
            source,
            split="meta_test",
            n_tasks=4,
            n_points=3,
            seed=0,
            device=CPU,
        )
