"""Costs: the counter against operations counted by hand, and the costs of known rules."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from evometa.genome.genes import Value
from evometa.layout import Layout
from evometa.rng import numpy_generator, torch_generator
from evometa.rules import RULES, Cost, Learner, measure_cost
from evometa.rules.base import StepContext
from evometa.rules.cost import (
    REFERENCE_LAYOUT,
    OperationCounter,
    count_rule,
    is_counted,
    note_counts,
    size_cost,
    state_floats_per_param,
)
from evometa.rules.learner_structure import learner_space
from evometa.trees import count

A = torch.ones(4, 5)
B = torch.ones(5, 6)
N = REFERENCE_LAYOUT.size
SCALARS = 20 / N  # a few operations on single numbers a step


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (lambda: A @ B, 2 * 4 * 5 * 6),
        (lambda: A @ B[:, 0], 2 * 4 * 5),
        (lambda: A[0] @ B[:, 0], 2 * 5),
        (lambda: torch.addmm(torch.ones(6), A, B), 2 * 4 * 5 * 6 + 4 * 6),
        (lambda: torch.bmm(A.expand(3, 4, 5), B.expand(3, 5, 6)), 3 * 2 * 4 * 5 * 6),
        (lambda: torch.nn.functional.linear(A, B.T, torch.ones(6)), 2 * 4 * 5 * 6 + 4 * 6),
        (lambda: A + 1, 20),
        (lambda: A + torch.ones(3, 4, 5).clone(), 60),
        (lambda: A.tanh(), 20),
        (lambda: A.sum(), 20),
        (lambda: A.mean(-1, keepdim=True), 20),
        (lambda: torch.lerp(A, A, 0.5), 60),
        (lambda: A.clone().add_(1), 20),
        (lambda: torch.where(A > 0, A, 0.0), 40),
        (lambda: torch.cat([A, A]).reshape(5, 8).T.contiguous()[None], 0),
        (lambda: torch.stack([torch.zeros_like(A), A.to(torch.float64)]).unbind(), 0),
    ],
)
def test_counter(operation: Callable[[], Tensor], expected: int) -> None:
    with OperationCounter() as counter:
        operation()
    assert counter.n_operations == expected


@pytest.mark.parametrize(
    ("family", "n_state", "flops"),
    [
        ("sgd", 0, 2),  # lr·g, and the schedule's factor
        ("momentum", 1, 4),  # μ·m + g as well
        ("nesterov", 1, 6),
        ("adagrad", 1, 8),  # g², sum, floor, root, eps, division
        ("adam", 2, 13),
    ],
)
def test_hand_designed_rules(family: str, n_state: float, flops: float) -> None:
    cost = measure_cost(Learner.of(family, {}))
    assert cost.state_floats_per_param == n_state
    assert cost.flops_per_param == pytest.approx(flops, abs=SCALARS)
    assert cost.n_weights == 0


def test_learned_schedule_costs_per_task_not_per_parameter() -> None:
    plain = measure_cost(Learner.of("sgd", {}))
    learned = measure_cost(Learner.of("sgd", {"schedule": "recurrent", "schedule.hidden": 8}))
    assert learned.state_floats_per_param == pytest.approx((8 + 2 + 3) / N)
    products = 2 * 24 * (8 + 8) + 2 * 8
    assert products / N < learned.flops_per_param - plain.flops_per_param < 2 * products / N
    assert learned.n_weights == 24 * (8 + 8 + 1) + 8 + 8 + 1


@pytest.mark.parametrize("family", RULES.built_in)
def test_sizes_are_told_without_an_update(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = Learner.of(family, {"schedule": "recurrent"})
    whole = measure_cost(learner)
    with monkeypatch.context() as patch:
        patch.setattr(type(learner.rule), "update", None)
        sizes = size_cost(learner)
    assert (sizes.state_floats_per_param, sizes.n_weights) == (whole.state_floats_per_param, whole.n_weights)
    assert np.isnan([sizes.flops_per_param, sizes.floats_written_per_param]).all()


def test_cost_belongs_to_the_structure() -> None:
    one = Learner.of("adam", {"lr": 1e-3})
    other = Learner.of("adam", {"lr": 0.5, "eps": 1e-3})
    assert measure_cost(one) is measure_cost(other)
    assert isinstance(measure_cost(one), Cost)


@pytest.mark.parametrize("family", RULES.built_in)
@pytest.mark.parametrize("number", range(3))
def test_the_parts_of_a_learner_cost_what_its_whole_update_costs(family: str, number: int) -> None:
    genes = learner_space(RULES[family]).sample(numpy_generator(number, "genes", family))
    learner = Learner.of(family, genes)
    generator = torch_generator(0, "weights")
    weights = learner.init_weights(generator)
    params, grads = torch.randn((2, 1, N), generator=generator)
    hyper = {name: torch.tensor(value) for name, value in learner.hyper.items()}
    context = StepContext(REFERENCE_LAYOUT, torch.tensor(1.0), torch.tensor(100.0), torch.ones(1))
    with torch.no_grad():
        state = learner.init_state(weights, params, REFERENCE_LAYOUT)
        with OperationCounter() as counter:
            learner.update(weights, hyper, state, grads, params, context)
    whole = Cost(count(state) / N, counter.n_operations / N, count(weights), counter.n_written / N)
    assert measure_cost(learner) == whole
    assert state_floats_per_param(learner) == whole.state_floats_per_param


@pytest.mark.parametrize(
    ("family", "genes"),
    [
        ("recurrent", {"hidden": 5}),
        ("recurrent", {"cell": "gru"}),
        ("recurrent", {"features": ("log_sign", "average_0.9")}),
        ("mlp", {"layers": 3}),
        ("mlp", {"shared_features": ("time", "progress")}),
        ("mlp", {"nominal": "adam"}),
        ("mlp", {"schedule": "recurrent"}),
    ],
)
def test_genes_of_the_structure_tell_costs_apart(family: str, genes: dict[str, Value]) -> None:
    plain, other = Learner.of(family, {"lr": 0.1}), Learner.of(family, {"lr": 0.2, **genes})
    assert measure_cost(plain) == measure_cost(Learner.of(family, {"lr": 0.3}))
    assert measure_cost(plain).flops_per_param != measure_cost(other).flops_per_param


def test_what_another_process_counted_is_taken_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evometa.rules.cost._COUNTED", {})  # what is noted here is wrong on purpose
    counted = count_rule(Learner.of("recurrent", {"hidden": 9}))
    learner = Learner.of("recurrent", {"hidden": 31, "schedule": "cosine"})
    assert not is_counted(learner)
    note_counts(learner, counted)
    assert is_counted(Learner.of("recurrent", {"hidden": 31, "schedule": "recurrent", "lr": 0.3}))
    assert measure_cost(learner).n_weights == counted.weights


@pytest.mark.parametrize("family", ["hierarchical", "attention", "graph"])
def test_what_is_done_once_a_tensor_does_not_grow_with_it(family: str) -> None:
    """As many tensors with more coordinates: each of these adds the same, and there is a part beside them."""
    space = RULES[family].space
    rule = RULES[family].build(space.complete({}))
    hyper = {name: torch.tensor(value) for name, value in space.continuous(space.complete({})).items()}
    weights, found = rule.init_weights(torch_generator(0)), {}
    for width in (8, 16, 24):
        layout = Layout.of({"w": (width, 4), "b": (width,)})
        zeros, one = torch.zeros(1, layout.size), torch.ones(())
        state, context = rule.init_state(weights, zeros, layout), StepContext(layout, one, one, torch.ones(1))
        with OperationCounter() as counter:
            rule.update(weights, hyper, state, zeros, zeros, context)
        found[layout.size] = counter.n_operations
    few, some, many = found.values()
    assert many - some == some - few
    assert few > some - few  # which is what as many coordinates take without the tensors' own part
