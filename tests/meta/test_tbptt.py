"""Truncated BPTT against meta-gradients written down by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evometa.meta import ESTIMATORS


@pytest.mark.parametrize("second_order", [False, True])
def test_every_segment_of_an_episode_equals_the_closed_form(setting: Any, second_order: bool) -> None:
    """Each segment goes on from the params that the last one reached, and is cut from its graph."""
    found = setting.estimates("tbptt", loss="mean", second_order=second_order)
    expected = setting.exact(through_gradient=second_order)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    if second_order:
        whole = setting.exact(truncated=False)
        torch.testing.assert_close(found[0], whole[0], rtol=1e-10, atol=1e-10)
        assert not torch.allclose(found[1:], whole[1:], rtol=1e-2), (
            "what truncation leaves out is not nothing"
        )


@pytest.mark.parametrize("second_order", [False, True])
def test_float32_equals_the_closed_form(setting: Any, second_order: bool) -> None:
    problem = setting.problem(loss="mean", second_order=second_order)
    single = {name: value.float() for name, value in problem.cohort.weights.items()}
    cohort = type(problem.cohort)(problem.cohort.learner, single, {}, 2)
    session = ESTIMATORS["tbptt"].begin(
        type(problem)(cohort, problem.genes, problem.streams, problem.device, torch.float32)
    )
    found = session.estimate(single).grads
    expected = setting.exact(through_gradient=second_order)[0]
    torch.testing.assert_close(found["rule.rate"].double().cpu(), expected[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["rule.shrinkage"].double().cpu(), expected[:, 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("second_order", [False, True])
def test_log_mean_is_the_gradient_of_the_logarithm(setting: Any, second_order: bool) -> None:
    """d log L̄/dφ = (dL̄/dφ)/L̄, shown by segments of one step."""
    grads, losses = {}, {}
    for loss in ("mean", "log_mean"):
        problem = setting.problem(loss=loss, truncation=1, second_order=second_order)
        session = ESTIMATORS["tbptt"].begin(problem)
        found = [session.estimate(problem.cohort.weights) for _ in range(3)]
        grads[loss] = torch.stack([estimate.grads["rule.rate"] for estimate in found])
        losses[loss] = torch.stack([estimate.losses for estimate in found])
    torch.testing.assert_close(losses["log_mean"], losses["mean"])
    torch.testing.assert_close(grads["log_mean"], grads["mean"] / losses["mean"])
