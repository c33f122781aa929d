"""Options: learning rate, weight decay, horizon, parameter groups, schedulers, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from evometa.export import EvolvedOptimizer, load_optimizer
from evometa.genome.genome import Genome
from evometa.trees import Tree

Exported = Callable[..., tuple[Path, Genome, Tree]]
One = Callable[..., nn.Parameter]


def test_lr_multiplies_the_step_and_weight_decay_is_decoupled(exported: Exported, one: One) -> None:
    path, _, _ = exported("sgd", lr=0.1)
    plain, halved, decayed = one(2.0), one(2.0), one(2.0)
    load_optimizer(path, [plain]).step()
    load_optimizer(path, [halved], lr=0.5).step()
    load_optimizer(path, [decayed], lr=0.5, weight_decay=0.01).step()
    assert plain.item() == pytest.approx(2.0 - 0.1, abs=1e-15)
    assert halved.item() == pytest.approx(2.0 - 0.05, abs=1e-15)
    assert decayed.item() == pytest.approx(2.0 - 0.05 - 0.5 * 0.01 * 2.0, abs=1e-15)


def test_groups_have_their_own_options(exported: Exported, one: One) -> None:
    path, _, _ = exported("sgd", lr=0.1)
    a, b = one(2.0), one(2.0)
    optimizer = load_optimizer(path, [{"params": [a], "lr": 3.0}, {"params": b, "weight_decay": 0.5}])
    optimizer.step()
    assert a.item() == pytest.approx(2.0 - 0.3, abs=1e-15)
    assert b.item() == pytest.approx(2.0 - 0.1 - 0.5 * 2.0, abs=1e-15)


def test_named_parameters_and_a_tensor_lr_are_taken(exported: Exported, one: One) -> None:
    path, _, _ = exported("sgd", lr=0.1)
    p = one(2.0)
    optimizer = load_optimizer(path, [("weight", p)], lr=torch.tensor(2.0))
    optimizer.step()
    assert p.item() == pytest.approx(1.8, abs=1e-7)
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight"]


def test_learning_rate_schedulers_work(exported: Exported, one: One) -> None:
    path, _, _ = exported("sgd", lr=0.1)
    p = one(2.0)
    optimizer = load_optimizer(path, [p])
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    assert p.item() == pytest.approx(2.0 - 0.1 * (1 + 0.5 + 0.25), abs=1e-15)


@pytest.mark.parametrize("scheduler", ["OneCycleLR", "CyclicLR", "ReduceLROnPlateau", "SequentialLR"])
def test_a_scheduler_and_the_optimizer_resume_together(exported: Exported, scheduler: str, one: One) -> None:
    path, _, _ = exported("adam", "cosine")
    schedulers = torch.optim.lr_scheduler

    def make(optimizer: EvolvedOptimizer) -> Any:
        if scheduler == "OneCycleLR":
            return schedulers.OneCycleLR(optimizer, max_lr=1.0, total_steps=20, cycle_momentum=False)
        if scheduler == "CyclicLR":
            return schedulers.CyclicLR(optimizer, 0.1, 1.0, step_size_up=4, cycle_momentum=False)
        if scheduler == "ReduceLROnPlateau":
            return schedulers.ReduceLROnPlateau(optimizer, patience=1)
        parts = [schedulers.LinearLR(optimizer), schedulers.ExponentialLR(optimizer, 0.9)]
        return schedulers.SequentialLR(optimizer, parts, milestones=[4])

    def go(optimizer: EvolvedOptimizer, schedule: Any, n_steps: int) -> None:
        for _ in range(n_steps):
            optimizer.step()
            schedule.step(*([1.0] if scheduler == "ReduceLROnPlateau" else []))

    p = one()
    optimizer = load_optimizer(path, [p])
    schedule = make(optimizer)
    go(optimizer, schedule, 6)
    q = one(p.item())
    again = load_optimizer(path, [q])
    schedule_again = make(again)
    schedule_again.load_state_dict(schedule.state_dict())
    again.load_state_dict(optimizer.state_dict())
    go(optimizer, schedule, 6)
    go(again, schedule_again, 6)
    assert q.item() == p.item()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"lr": float("nan")}, "Invalid learning rate: nan"),
        ({"lr": float("inf")}, "Invalid learning rate: inf"),
        ({"lr": "fast"}, "Invalid learning rate: 'fast'"),
        ({"lr": torch.ones(2)}, "Invalid learning rate: tensor"),
        ({"weight_decay": -0.1}, "Invalid weight_decay value: -0.1"),
        ({"horizon": 0}, "Invalid horizon: 0"),
        ({"horizon": 10.5}, r"Invalid horizon: 10\.5"),
        ({"horizon": True}, "Invalid horizon: True"),
    ],
)
def test_wrong_options_are_refused(
    exported: Exported, options: dict[str, Any], message: str, one: One
) -> None:
    path, _, _ = exported("adam")
    with pytest.raises(ValueError, match=message) as caught:
        load_optimizer(path, [one()], **options)
    assert "\n" not in str(caught.value)


def test_options_of_other_optimizers_are_refused(exported: Exported, one: One) -> None:
    path, _, _ = exported("adam")
    with pytest.raises(TypeError, match="momentum"):
        load_optimizer(path, [one()], momentum=0.9)
    optimizer = load_optimizer(path, [one()])
    for group, message in (
        ({"params": [one()], "momentum": 0.9}, "unknown optimizer option 'momentum'"),
        ({"params": [one()], "weigth_decay": 0.9}, "did you mean 'weight_decay'"),
        ({"params": [one()], "lr": -1}, "Invalid learning rate: -1"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match="empty parameter list"):
        load_optimizer(path, [])
    with pytest.raises(TypeError, match="iterable of Tensors"):
        load_optimizer(path, one())


def test_the_users_horizon_stretches_the_schedule(exported: Exported, one: One) -> None:
    path, _, _ = exported("sgd", "exponential", horizon=4, **{"lr": 0.1, "schedule.final": 0.01})
    trained, longer = one(0.0), one(0.0)
    first, second = load_optimizer(path, [trained]), load_optimizer(path, [longer], horizon=8)
    for _ in range(6):
        first.step()
        second.step()
    factors = [0.01 ** min(k / 4, 1.0) for k in range(6)]  # beyond the horizon the last factor stays
    assert trained.item() == pytest.approx(-0.1 * sum(factors), rel=1e-12)
    assert longer.item() == pytest.approx(-0.1 * sum(0.01 ** (k / 8) for k in range(6)), rel=1e-12)
