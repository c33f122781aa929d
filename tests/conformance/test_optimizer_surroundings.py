"""The contract of exported optimizers among hooks, schedulers and compilers, on every rule and schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from evolved_optimizers import (
    SHAPES,
    Case,
    assert_close,
    assert_equal,
    every_case,
    evolved,
    genome_of,
    give_gradients,
    loss_at,
    parameters,
    train,
)

from evometa.errors import GenomeError
from evometa.rules import SCHEDULES
from evometa.schedule import EvolvedSchedule

#: Schedules that can do without the rule they were evolved with, and those that cannot.
FOLLOWING = [name for name, family in SCHEDULES if family.build(family.space.complete({})).follows_steps]
ALONE = [name for name in SCHEDULES.names() if name not in FOLLOWING]


@every_case
def test_hooks_are_called_in_their_order_and_may_change_what_passes(case: Case) -> None:
    params, told = parameters(SHAPES), parameters(SHAPES)
    optimizer, seen = evolved(case, params), list[str]()

    def before_step(_: Any, args: Any, kwargs: Any) -> Any:
        seen.append("step pre")
        return args, {**kwargs, "loss": 2.0}

    optimizer.register_step_pre_hook(before_step)
    optimizer.register_step_post_hook(lambda *_: seen.append("step post"))
    optimizer.register_state_dict_pre_hook(lambda *_: seen.append("state pre"))
    optimizer.register_state_dict_post_hook(lambda _, state: {"wrapped": state})
    optimizer.register_load_state_dict_pre_hook(lambda _, state: state["wrapped"])
    optimizer.register_load_state_dict_post_hook(lambda _: seen.append("loaded"))
    other = evolved(case, told)
    for k in range(3):
        give_gradients(params, k)
        give_gradients(told, k)
        optimizer.step(loss=5.0)
        other.step(loss=2.0)
        optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["step pre", "step post", "state pre", "loaded"] * 3
    assert_equal(params, told)


@every_case
@pytest.mark.parametrize("name", ["LambdaLR", "CosineAnnealingWarmRestarts"])
def test_schedulers_of_torch_set_the_learning_rate(case: Case, name: str) -> None:
    params, told = parameters(SHAPES), parameters(SHAPES)
    optimizer, other = evolved(case, params, lr=0.5), evolved(case, told)
    lr_scheduler = torch.optim.lr_scheduler
    scheduler = (
        lr_scheduler.LambdaLR(optimizer, lambda k: 1 / (k + 1))
        if name == "LambdaLR"
        else lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3)
    )
    for k in range(5):
        (other.param_groups[0]["lr"],) = scheduler.get_last_lr()
        train(params, optimizer, [k])
        train(told, other, [k])
        scheduler.step()
    assert_equal(params, told)


@pytest.mark.parametrize("schedule", ALONE)
@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop", "Adagrad", "NAdam", "Muon"])
def test_every_evolved_schedule_runs_around_every_kind_of_torch_optimizer(name: str, schedule: str) -> None:
    params, told = parameters([(3, 4)]), parameters([(3, 4)])
    make = getattr(torch.optim, name)
    optimizer, other = make(params, lr=0.1), make(told, lr=0.1)
    genome, weights = genome_of("sgd", 0, schedule)
    scheduler = EvolvedSchedule(optimizer, genome, weights, horizon=4)
    used = []
    for k in range(6):
        (rate,) = scheduler.get_last_lr()
        other.param_groups[0]["lr"] = rate
        used.append(float(rate))
        for params_of, stepper in ((params, optimizer), (told, other)):
            give_gradients(params_of, k)
            stepper.step()
        scheduler.step(loss=loss_at(k))
    assert_equal(params, told)
    assert (len(set(used)) > 1) == (schedule != "constant")


@pytest.mark.parametrize("schedule", FOLLOWING)
def test_a_schedule_that_follows_the_rules_own_steps_is_refused_around_another_optimizer(
    schedule: str,
) -> None:
    optimizer = torch.optim.SGD(parameters([(3, 4)]), lr=0.1)
    with pytest.raises(GenomeError, match=f"{schedule!r} follows the steps .* load both with"):
        EvolvedSchedule(optimizer, *genome_of("sgd", 0, schedule), horizon=4)


@every_case
def test_a_compiled_step_equals_a_plain_one(case: Case) -> None:
    params, plain = parameters(SHAPES), parameters(SHAPES)
    optimizer, other = evolved(case, params), evolved(case, plain)
    step = torch.compile(optimizer.step, backend="eager")
    for k in range(3):
        give_gradients(params, k)
        step(loss=loss_at(k))
    train(plain, other, range(3))
    assert_close(params, plain)
