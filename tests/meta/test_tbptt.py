"""Truncated BPTT against closed-form meta-gradients, and as a meta-trainer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from evometa.evolution.search_space import full_space
from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.evaluate import evaluate
from evometa.inner.task_set import PreparedTasks, prepare, request
from evometa.inner.unroll import begin, loss_and_grad
from evometa.meta import ESTIMATORS, TaskStream
from evometa.meta.tbptt import Episode, segment
from evometa.rng import torch_generator
from evometa.rules.learner import Learner

CPU = torch.device("cpu")


class LearnedRate:
    """The smallest learner with a weight: gradient descent at the learned rate φ."""

    def init_state(self, weights: dict[str, Tensor], params: Tensor, layout: Any) -> dict[str, Tensor]:
        return {}

    def update(
        self,
        weights: dict[str, Tensor],
        hyper: Any,
        state: dict[str, Tensor],
        grads: Tensor,
        params: Tensor,
        context: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return -weights["rate"] * grads, state


@dataclass(frozen=True)
class Setting:
    cohort: Cohort
    part: PreparedTasks
    rates: Tensor

    def episode(self, horizon: int) -> Episode:
        carry = begin(self.cohort, self.part.tasks, self.part.params)
        at_params = loss_and_grad(self.part.tasks, carry.params, self.part.tasks.batch(None))
        return Episode((self.part,), [carry], [at_params], horizon)


@pytest.fixture
def setting() -> Setting:
    """Two candidates on four random quadratics, in float64."""
    (part,) = prepare(request("quadratic", {"dim": 5}, "meta_train", 4, 11, seed=3), CPU, torch.float64)
    rates = torch.tensor([0.01, 0.02], dtype=torch.float64, requires_grad=True)
    cohort = Cohort(LearnedRate(), {"rate": rates}, {}, 2)  # type: ignore[arg-type]
    return Setting(cohort, part, rates)


def closed_form(part: PreparedTasks, rate: float, n_steps: int, second_order: bool) -> Tensor:
    """d/dα of the mean over k = 1…K and over tasks of L(θ_k), by hand.

    L(θ) = ‖Wθ − y‖² has the constant Hessian H = 2WᵀW, so θ_k − θ* = (I − αH)^k (θ₀ − θ*). With the
    second-order term dθ_k/dα = −k (I − αH)^{k−1} H (θ₀ − θ*); with the gradient held fixed it is
    −Σ_{j<k} ∇L(θ_j).
    """
    total = torch.zeros((), dtype=torch.float64)
    batch = part.tasks.batch(None)
    for t in range(part.tasks.n_tasks):
        matrix, target = batch["W"][t], batch["y"][t]
        hessian = 2 * matrix.T @ matrix
        optimum = torch.linalg.lstsq(matrix, target).solution
        shrink = torch.eye(len(optimum), dtype=torch.float64) - rate * hessian
        offset = part.params[t] - optimum
        for k in range(1, n_steps + 1):
            grad_k = hessian @ torch.linalg.matrix_power(shrink, k) @ offset
            if second_order:
                sensitivity = -k * torch.linalg.matrix_power(shrink, k - 1) @ hessian @ offset
            else:
                powers = (torch.linalg.matrix_power(shrink, j) for j in range(k))
                sensitivity = -sum(hessian @ power @ offset for power in powers)
            total = total + grad_k @ sensitivity
    return total / (n_steps * part.tasks.n_tasks)


@pytest.mark.parametrize("second_order", [False, True])
def test_meta_gradient_equals_the_closed_form(setting: Setting, second_order: bool) -> None:
    objective, _, _ = segment(setting.cohort, setting.episode(10), 10, second_order=second_order, kind="mean")
    (gradient,) = torch.autograd.grad(objective.sum(), setting.rates)
    for index, rate in enumerate(setting.rates.tolist()):
        expected = closed_form(setting.part, rate, 10, second_order)
        assert float(gradient[index]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("second_order", [False, True])
def test_log_mean_is_the_gradient_of_the_logarithm(setting: Setting, second_order: bool) -> None:
    """One step from the start: d log(mean L)/dα = (d mean L/dα) / mean L."""
    kinds = {}
    for kind in ("mean", "log_mean"):
        objective, _, seen = segment(
            setting.cohort, setting.episode(10), 1, second_order=second_order, kind=kind
        )
        kinds[kind] = torch.autograd.grad(objective.sum(), setting.rates)[0]
    torch.testing.assert_close(kinds["log_mean"], kinds["mean"] / seen)


def test_truncation_cuts_the_graph_and_goes_on_from_there(setting: Setting) -> None:
    whole, end, _ = segment(setting.cohort, setting.episode(10), 10, second_order=False, kind="mean")
    first, middle, _ = segment(setting.cohort, setting.episode(10), 5, second_order=False, kind="mean")
    second, last, _ = segment(setting.cohort, middle, 5, second_order=False, kind="mean")
    torch.testing.assert_close(last.carries[0].params, end.carries[0].params)
    assert not middle.carries[0].params.requires_grad
    grads = [torch.autograd.grad(part.sum(), setting.rates)[0] for part in (whole, first, second)]
    assert not torch.allclose(grads[0], (grads[1] + grads[2]) / 2), (
        "what a truncation leaves out is not nothing"
    )


def learned(family: str, **genes: object) -> Candidate:
    space = full_space(family)
    complete = space.complete({"schedule": "constant", **genes})  # type: ignore[dict-item]
    weights = Learner.of(family, complete).init_weights(torch_generator(0, family))
    return Candidate(family, family, complete, weights)


STREAM = TaskStream("quadratic", '{"dim": 4}', n_tasks=16, horizon=20, seed=11)


@pytest.mark.parametrize("family", ["recurrent", "mlp"])
@pytest.mark.parametrize("second_order", [False, True])
def test_refinement_lowers_the_loss_on_tasks_not_seen(family: str, second_order: bool) -> None:
    candidate = learned(
        family,
        **{
            "meta.steps": 60,
            "meta.unroll_length": 20,
            "meta.truncation": 10,
            "meta.lr": 1e-2,
            "meta.second_order": second_order,
        },
    )
    refinement = ESTIMATORS["tbptt"].refine([candidate], [STREAM], CPU)
    assert refinement.n_inner_steps == 60 * 10 * 16
    assert len(refinement.meta_losses[0]) == 60
    unseen = request("quadratic", {"dim": 4}, "meta_valid", 32, 21, seed=5)
    before = evaluate([candidate], unseen, CPU).losses[0, :, -1]
    after = evaluate([replace(candidate, weights=refinement.weights[0])], unseen, CPU).losses[0, :, -1]
    assert after.mean() < 0.8 * before.mean()


def test_candidates_refined_together_come_out_as_if_alone() -> None:
    genes = {"meta.steps": 4, "meta.unroll_length": 20, "meta.truncation": 10}
    pair = [
        learned("recurrent", **genes, **{"meta.lr": 1e-3, "meta.clip": 0.2}),
        learned("recurrent", **genes, **{"meta.lr": 1e-2, "meta.clip": 5.0}),
    ]
    tbptt = ESTIMATORS["tbptt"]
    together = tbptt.refine(pair, [STREAM], CPU, torch.float64)
    for index, candidate in enumerate(pair):
        alone = tbptt.refine([candidate], [STREAM], CPU, torch.float64)
        for name, value in alone.weights[0].items():
            torch.testing.assert_close(together.weights[index][name], value, rtol=1e-9, atol=1e-12)


def test_a_candidate_without_a_finite_meta_gradient_keeps_its_weights() -> None:
    broken = learned("recurrent", **{"meta.steps": 3, "lr": 1.0})
    nan = {name: torch.full_like(value, torch.nan) for name, value in broken.weights.items()}
    healthy = learned("recurrent", **{"meta.steps": 3, "lr": 1.0})
    result = ESTIMATORS["tbptt"].refine([replace(broken, weights=nan), healthy], [STREAM], CPU)
    assert result.n_skipped == [3, 0]
    assert all(torch.isnan(value).all() for value in result.weights[0].values())
    assert all(torch.isfinite(value).all() for value in result.weights[1].values())
    assert any(not torch.equal(result.weights[1][name], healthy.weights[name]) for name in healthy.weights)
