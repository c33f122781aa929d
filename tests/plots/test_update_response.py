"""Responses of rules whose answer to a gradient is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evometa.inner.task_set import prepare, request
from evometa.objectives.baseline import baseline_candidate
from evometa.plots.update_response import (
    N_REPEATS,
    Probe,
    gradient_grid,
    measured_probe,
    plot_update_response,
    repeated_steps,
    update_response_data,
)
from evometa.store import CampaignStore

PROBE = Probe(scale=0.5, low=0.1, high=2.0, loss=1.0, horizon=100, seed=3)


def test_the_grid_is_symmetric_and_holds_zero() -> None:
    grid = gradient_grid()
    np.testing.assert_array_equal(grid, -grid[::-1])
    assert (np.diff(grid) > 0).all()
    assert grid[len(grid) // 2] == 0
    assert (grid[0], grid[-1]) == (-1000, 1000)


def test_sgd_answers_in_proportion_every_time() -> None:
    grid = gradient_grid()
    steps = repeated_steps(baseline_candidate("sgd", 0.1), PROBE, grid)
    assert steps.shape == (N_REPEATS, len(grid))
    np.testing.assert_allclose(steps, np.tile(-0.1 * 0.5 * grid, (N_REPEATS, 1)), rtol=1e-5)


def test_momentum_gathers_what_repeats() -> None:
    grid = gradient_grid()
    steps = repeated_steps(baseline_candidate("momentum", 0.1), PROBE, grid)
    gathered = (1 - 0.9 ** np.arange(1, N_REPEATS + 1)) / 0.1  # momentum's default of 0.9
    np.testing.assert_allclose(steps, -0.1 * 0.5 * grid * gathered[:, None], rtol=1e-4)


def test_adam_looks_at_the_sign_only() -> None:
    grid = gradient_grid()
    steps = repeated_steps(baseline_candidate("adam", 0.1), PROBE, grid)
    np.testing.assert_allclose(steps, np.tile(-0.1 * np.sign(grid), (N_REPEATS, 1)), rtol=1e-3)


def test_the_probe_is_measured_on_the_tasks() -> None:
    wanted = request("quadratic", {"dim": 4}, "meta_valid", 6, 13, 5)
    (part,) = prepare(wanted, torch.device("cpu"))
    w, y, x = part.tasks.constants["W"], part.tasks.constants["y"], part.params
    residual = torch.einsum("tij,tj->ti", w, x) - y
    grads = 2 * torch.einsum("tij,ti->tj", w, residual)
    probe = measured_probe(wanted)
    assert probe.scale == pytest.approx(float(grads.square().mean().sqrt()), rel=1e-5)
    assert probe.loss == pytest.approx(float(residual.square().sum(1).mean()), rel=1e-5)
    assert probe.horizon == 12
    share = (
        ((grads.abs() >= probe.low * probe.scale) & (grads.abs() <= probe.high * probe.scale)).double().mean()
    )
    assert float(share) == pytest.approx(0.8, abs=0.1)


def test_the_figure_compares_evolved_and_tuned_rules(small: CampaignStore) -> None:
    data = update_response_data(small)
    assert [response.role for response in data.responses][-2:] == ["adam", "other"]
    assert data.responses[0].role == "best"
    rate = {row.rule: row.learning_rate for row in small.baselines()}["sgd"]
    expected = -rate * data.gradients * data.probe.scale
    np.testing.assert_allclose(data.responses[-1].first, expected, rtol=1e-4)
    left, right = plot_update_response(data).axes
    assert left.get_ylabel() == "step (change of the parameter)"
    assert len(left.get_lines()) == len(right.get_lines()) == len(data.responses) + 1
