"""Hypergradient descent against autograd, against the recursion of its paper, and at work."""

from __future__ import annotations

import pytest
import torch
from evolved_optimizers import genome_of, give_gradients, parameters
from torch import Tensor

from evometa.export import EvolvedOptimizer
from evometa.genome.genes import Value
from evometa.inner.cohort import Candidate
from evometa.inner.evaluate import evaluate
from evometa.inner.task_set import request
from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.rules import Learner, measure_cost
from evometa.rules.base import LastStep, StepContext
from evometa.rules.learner import LAST_STEP
from evometa.trees import Tree, tree_map

LAYOUT = Layout.of({"w": (3, 2), "b": (2,)})
N_TASKS = 2
HORIZON = 30


class Bowls:
    """N_TASKS quadratics ½ Σ cᵢ·θᵢ², in float64."""

    def __init__(self) -> None:
        generator = torch_generator(0, "bowls")
        self.curvature = 0.2 + torch.rand((N_TASKS, LAYOUT.size), generator=generator, dtype=torch.float64)
        self.start = torch.randn((N_TASKS, LAYOUT.size), generator=generator, dtype=torch.float64)

    def loss(self, params: Tensor) -> Tensor:
        return 0.5 * (self.curvature * params.square()).sum(-1)

    def grads(self, params: Tensor) -> Tensor:
        return self.curvature * params


def learner_of(family: str, **genes: Value) -> tuple[Learner, Tree, Tree]:
    """A learner with hypergradient descent, and its weights and continuous genes in float64."""
    genome, weights = genome_of(family, "default", "hypergradient", **genes)
    learner = Learner.of(family, genome.genes)
    hyper = {name: torch.tensor(value, dtype=torch.float64) for name, value in learner.hyper.items()}
    return learner, tree_map(Tensor.double, weights), hyper


def factors_and_params(
    learner: Learner, weights: Tree, hyper: Tree, n_steps: int
) -> tuple[list[Tensor], list[Tensor], list[LastStep]]:
    """The factors on the steps of a training on bowls, the params before them, and what they were told."""
    bowls = Bowls()
    params, factors, visited, told = bowls.start, [], [], []
    state = learner.init_state(weights, params, LAYOUT)
    for k in range(n_steps):
        number, horizon = (torch.tensor(float(n), dtype=torch.float64) for n in (k, HORIZON))
        grads = bowls.grads(params)
        told.append(LastStep.of(grads, state[LAST_STEP]))
        context = StepContext(LAYOUT, number, horizon, bowls.loss(params))
        visited.append(params)
        step, state = learner.update(weights, hyper, state, grads, params, context)
        factors.append(state["schedule.factor"])
        params = params + step
    return factors, visited, told


@pytest.mark.parametrize("family", ["sgd", "adam", "lion", "mlp", "recurrent"])
def test_the_slope_is_autograds_derivative_of_one_step_by_its_factor(family: str) -> None:
    learner, weights, hyper = learner_of(family)
    _, visited, told = factors_and_params(learner, weights, hyper, 4)
    bowls = Bowls()
    for k in range(3):
        before = visited[k]
        # The step without its factor, made anew from where training stood.
        state = learner.init_state(weights, bowls.start, LAYOUT)
        for earlier in range(k + 1):
            number = torch.tensor(float(earlier), dtype=torch.float64)
            context = StepContext(
                LAYOUT, number, torch.tensor(float(HORIZON)).double(), bowls.loss(visited[earlier])
            )
            grads = bowls.grads(visited[earlier])
            _, state = learner.update(weights, hyper, state, grads, visited[earlier], context)
        factor = state["schedule.factor"].clone().requires_grad_()
        bowls.loss(before + factor.unsqueeze(-1) * state[LAST_STEP]).sum().backward()
        torch.testing.assert_close(told[k + 1].slope, factor.grad, rtol=1e-12, atol=1e-14)


def test_gradient_descent_has_the_learning_rates_of_the_paper() -> None:
    """α ← α + β·⟨∇ₖ, ∇ₖ₋₁⟩ (Baydin et al. 2018, equation 7), with α = lr·s."""
    lr, rate = 0.05, 0.3
    genes: dict[str, Value] = {"schedule.form": "additive", "schedule.hyper_lr": rate}
    factors, visited, _ = factors_and_params(*learner_of("sgd", lr=lr, **genes), HORIZON)
    bowls = Bowls()
    alpha, beta = torch.full((N_TASKS,), lr, dtype=torch.float64), rate * lr**2
    theta, previous = bowls.start, torch.zeros_like(bowls.start)
    for factor, params in zip(factors, visited, strict=True):
        grads = bowls.grads(theta)
        alpha = alpha + beta * (grads * previous).sum(-1)
        torch.testing.assert_close(lr * factor, alpha, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(params, theta, rtol=1e-12, atol=1e-14)
        theta, previous = theta - alpha.unsqueeze(-1) * grads, grads


def test_the_multiplicative_form_goes_by_the_angle_alone() -> None:
    genes: dict[str, Value] = {"schedule.form": "multiplicative", "schedule.hyper_lr": 0.1}
    factors, visited, _ = factors_and_params(*learner_of("sgd", lr=0.05, **genes), 5)
    bowls = Bowls()
    grads = [bowls.grads(params) for params in visited]
    for k in range(1, 5):
        cosine = torch.nn.functional.cosine_similarity(grads[k], -grads[k - 1], dim=-1)
        torch.testing.assert_close(factors[k], factors[k - 1] * (1 - 0.1 * cosine), rtol=1e-12, atol=0)


def test_at_a_minimum_nothing_moves() -> None:
    learner, weights, hyper = learner_of("adam")
    params = torch.ones((1, LAYOUT.size))
    state = learner.init_state(weights, params, LAYOUT)
    for k in range(3):
        context = StepContext(LAYOUT, torch.tensor(float(k)), torch.tensor(10.0), torch.ones(1))
        step, state = learner.update(weights, hyper, state, torch.zeros_like(params), params, context)
        assert torch.equal(step, torch.zeros_like(step))
        assert state["schedule.factor"].tolist() == [1.0]


@pytest.mark.parametrize("family", ["sgd", "adam"])
def test_a_rate_that_is_far_too_small_recovers(family: str) -> None:
    wanted = request("quadratic", {"dim": 3}, "meta_valid", 8, 101, 0)
    genes = {"lr": 1e-4 if family == "sgd" else 1e-3, "schedule": "hypergradient", "schedule.hyper_lr": 0.1}
    device = torch.device("cpu")
    ends = [
        evaluate([Candidate("x", family, own, {})], wanted, device).losses[0, :, -1].mean()
        for own in (genes, {"lr": genes["lr"]})
    ]
    assert ends[0] < 0.5 * ends[1]


def test_an_exported_optimizer_follows_its_groups_and_buckets_as_one_model() -> None:
    """One that climbs has both signs turned, and steps and gradients of all groups count in one sum.

    Half the optimizer's learning rate on twice the rule's is the same.
    """
    genes: dict[str, Value] = {"schedule.form": "additive", "schedule.hyper_lr": 0.05}
    genome, weights = genome_of("sgd", "default", "hypergradient", lr=0.01, **genes)
    shapes = [(3, 4), (3,), (2, 3)]
    twice, _ = genome_of("sgd", "default", "hypergradient", lr=0.02, **genes)
    together, apart, climbing, halved = (parameters(shapes) for _ in range(4))
    optimizers = [
        EvolvedOptimizer(together, genome, weights, horizon=9),
        EvolvedOptimizer([{"params": [p]} for p in apart], genome, weights, horizon=9),
        EvolvedOptimizer(climbing, genome, weights, horizon=9, maximize=True),
        EvolvedOptimizer(halved, twice, weights, lr=0.5, horizon=9),
    ]
    for k in range(4):
        for params, optimizer in zip((together, apart, climbing, halved), optimizers, strict=True):
            give_gradients(params, k)
            if params is climbing:
                for parameter in params:
                    parameter.grad = -parameter.grad
            optimizer.step()
        factors = [o.state_dict()["param_groups"][0]["schedule"]["schedule.factor"] for o in optimizers]
        assert k == 0 or float(factors[0]) != 1.0
        for factor in factors[1:]:
            torch.testing.assert_close(factor, factors[0], rtol=1e-12, atol=0)
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_what_it_keeps_and_computes_is_accounted() -> None:
    plain, followed = (
        measure_cost(Learner.of("sgd", {"schedule": schedule})) for schedule in ("constant", "hypergradient")
    )
    assert 1.0 <= followed.state_floats_per_param - plain.state_floats_per_param < 1.01
    assert followed.flops_per_param >= plain.flops_per_param + 3  # three products, and their sums
