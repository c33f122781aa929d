"""Schedules as drawn against closed forms and against the training they steer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from evometa.campaign import read_front
from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.task_set import TaskRequest, prepare, request
from evometa.inner.unroll import advance, begin, loss_and_grad
from evometa.plots.lr_schedule import lr_schedule_data, plot_lr_schedule, schedule_factors
from evometa.rng import torch_generator
from evometa.rules.base import StepContext
from evometa.rules.learner import Learner
from evometa.store import CampaignStore
from evometa.trees import take, tree_map

HORIZON = 8


@pytest.fixture
def wanted() -> TaskRequest:
    """Three quadratics."""
    return request("quadratic", {"dim": 3}, "meta_valid", 3, HORIZON + 1, 11)


def sgd(**genes: float | str | int) -> Candidate:
    return Candidate("x", "sgd", {"lr": 0.01, **genes}, {})


def test_formula_schedules_are_their_formulas_on_every_task(wanted: TaskRequest) -> None:
    p = np.arange(HORIZON) / HORIZON
    cosine = sgd(schedule="cosine", **{"schedule.final": 0.1})
    expected = 0.1 + 0.9 * (1 + np.cos(math.pi * p)) / 2
    np.testing.assert_allclose(schedule_factors(cosine, wanted), np.tile(expected, (3, 1)), rtol=1e-5)
    constant = schedule_factors(sgd(schedule="constant"), wanted)
    np.testing.assert_array_equal(constant, np.ones((3, HORIZON)))


def test_a_learned_schedule_is_replayed_as_it_acted_in_training(wanted: TaskRequest) -> None:
    genes = {"lr": 0.02, "schedule": "recurrent", "schedule.hidden": 4}
    learner = Learner.of("sgd", genes)
    drawn = torch_generator(1, "weights")
    fresh = learner.init_weights(drawn)  # its factor is 1 whatever it reads
    weights = {name: value + torch.randn(value.shape, generator=drawn) for name, value in fresh.items()}
    candidate = Candidate("x", "sgd", genes, weights)
    cohort = Cohort.of([candidate], torch.device("cpu"))
    (part,) = prepare(wanted, torch.device("cpu"))
    carry = begin(cohort, part.tasks.layout, part.params, delay=0)
    expected = []
    with torch.no_grad():
        for k in range(HORIZON):
            losses, grads = loss_and_grad(part.tasks, carry.params, part.tasks.batch(None))
            context = StepContext(part.tasks.layout, torch.tensor(float(k)), torch.tensor(8.0), losses[0])
            own = tree_map(lambda value: value.clone(), take(carry.state, 0))
            expected.append(learner.factor(*cohort.member(0), own, context)[0])
            carry = advance(cohort, part.tasks.layout, carry, losses, grads, HORIZON)
    found = schedule_factors(candidate, wanted)
    np.testing.assert_allclose(found, torch.stack(expected, dim=-1).numpy(), rtol=1e-4)
    assert found.std(axis=0).max() > 1e-3  # it does read the loss, which differs between tasks


def test_there_is_a_curve_a_member_and_one_of_them_is_the_best(small: CampaignStore) -> None:
    data = lr_schedule_data(small, n_tasks=2)
    front = read_front(small)
    assert [curve.genome_id for curve in data.curves] == [genome.id for genome in front.genomes]
    assert [curve.schedule for curve in data.curves] == [str(g.genes["schedule"]) for g in front.genomes]
    assert [curve.role for curve in data.curves].count("best") == 1
    for curve in data.curves:
        assert curve.median.shape == (10,)
        assert (curve.low <= curve.median).all()
        assert (curve.median <= curve.high).all()


def test_a_constant_schedule_is_a_level_line_in_a_wide_axis(single: CampaignStore) -> None:
    data = lr_schedule_data(single, n_tasks=2)
    axes = plot_lr_schedule(data).axes[0]
    (line,) = [line for line in axes.get_lines() if len(line.get_xdata())]
    assert set(line.get_ydata()) == {1.0}
    low, high = axes.get_ylim()
    assert low <= 0.2
    assert high >= 2.0
