"""Costs: the counter against operations counted by hand, and the costs of known rules."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from evometa.rules import Cost, Learner, measure_cost
from evometa.rules.cost import REFERENCE_LAYOUT, OperationCounter

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


def test_cost_belongs_to_the_structure() -> None:
    one = Learner.of("adam", {"lr": 1e-3})
    other = Learner.of("adam", {"lr": 0.5, "eps": 1e-3})
    assert measure_cost(one) is measure_cost(other)
    assert isinstance(measure_cost(one), Cost)
