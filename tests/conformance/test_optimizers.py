"""The contract of exported optimizers' steps: as torch.optim's, on every registered rule and schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compute_device import DEVICE, ON_CPU
from evolved_optimizers import (
    SHAPES,
    Case,
    assert_close,
    assert_equal,
    every_case,
    evolved,
    give_gradients,
    loss_at,
    parameters,
    train,
    values,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from evometa.export import buckets


@every_case
def test_groups_have_their_own_learning_rate_and_decoupled_weight_decay(case: Case) -> None:
    plain, own = parameters(SHAPES), parameters(SHAPES)
    start = values(plain)
    groups = [{"params": own[:2], "lr": 0.5}, {"params": own[2:], "weight_decay": 0.1}]
    train(plain, evolved(case, plain), [0])
    train(own, evolved(case, groups, lr=0.25, weight_decay=0.01), [0])
    for place, (before, after, found) in enumerate(zip(start, plain, own, strict=True)):
        lr, decay = (0.5, 0.01) if place < 2 else (0.25, 0.1)
        expected = before + lr * (after - before) - lr * decay * before
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_tensor_learning_rate_is_heeded_when_it_changes_and_widens_nothing(
    case: Case, dtype: torch.dtype
) -> None:
    plain, own = parameters(SHAPES, dtype), parameters(SHAPES, dtype)
    rate = torch.tensor([0.5], dtype=torch.float64)
    by_number, by_tensor = evolved(case, plain, lr=0.5), evolved(case, own, lr=rate, weight_decay=0.0)
    train(plain, by_number, [0])
    train(own, by_tensor, [0])
    rate.fill_(0.125)
    by_number.param_groups[0]["lr"] = 0.125
    train(plain, by_number, [1])
    train(own, by_tensor, [1])
    assert_close(own, plain, 1e-6 if dtype == torch.float32 else 1e-12)


@every_case
def test_a_late_group_begins_its_own_training(case: Case) -> None:
    early, late, alone = parameters(SHAPES), parameters(SHAPES, seed=1), parameters(SHAPES, seed=1)
    optimizer = evolved(case, early, schedule="constant")
    train(early, optimizer, range(3))
    optimizer.zero_grad()
    optimizer.add_param_group({"params": late, "lr": 0.5})
    train(late, optimizer, range(3))
    train(alone, evolved(case, alone, schedule="constant", lr=0.5), range(3))
    assert_close(late, alone)


def assert_trained_as_if_alone(case: Case, pattern: list[list[bool]]) -> None:
    """Each parameter by the steps for which it has a gradient; ``pattern`` says so step by step.

    With a rule that is not tensorwise it counts with a gradient of zero for the others.
    """
    together, apart = parameters(SHAPES), parameters(SHAPES)
    optimizer = evolved(case, [{"params": together[:3]}, {"params": together[3:]}], schedule="constant")
    if not optimizer._learner.rule.tensorwise:
        whole = evolved(case, apart, schedule="constant")
        for k, present in enumerate(pattern):
            _step_without(together, optimizer, k, present)
            _step_with_zeros(apart, whole, k, present)
        assert_close(together, apart)
        return
    alone = [evolved(case, [parameter], schedule="constant") for parameter in apart]
    for k, present in enumerate(pattern):
        _step_without(together, optimizer, k, present)
        give_gradients(apart, k)
        for one, is_there in zip(alone, present, strict=True):
            if is_there:
                one.step(loss=2.0)
    assert_close(together, apart)


def _step_without(params: list[nn.Parameter], optimizer: Any, k: int, present: list[bool]) -> None:
    """Where a parameter is not ``present``, it has no gradient."""
    give_gradients(params, k)
    for parameter, is_there in zip(params, present, strict=True):
        if not is_there:
            parameter.grad = None
    optimizer.step(loss=2.0)


def _step_with_zeros(params: list[nn.Parameter], optimizer: Any, k: int, present: list[bool]) -> None:
    """Where a parameter is not ``present``, its gradient is zero, and it is put back."""
    if not any(present):
        return
    give_gradients(params, k)
    before = values(params)
    for parameter, is_there in zip(params, present, strict=True):
        if not is_there:
            parameter.grad.zero_()
    optimizer.step(loss=2.0)
    for parameter, is_there, value in zip(params, present, before, strict=True):
        if not is_there:
            parameter.data.copy_(value)


#: Nobody, all, one that comes late, one that stays away for a step and for two, and some that swap.
COMING_AND_GOING = ["----", "xxx-", "x-xx", "xx-x", "-x-x", "xxxx", "x--x"]


@every_case
def test_gradients_come_and_go(case: Case) -> None:
    assert_trained_as_if_alone(case, [[there == "x" for there in step] for step in COMING_AND_GOING])


@pytest.mark.parametrize("rule", ["adam", "recurrent", "controller"])
@settings(max_examples=20)
@given(pattern=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=2, max_size=7))
def test_gradients_come_and_go_in_any_pattern(rule: str, pattern: list[list[bool]]) -> None:
    assert_trained_as_if_alone((rule, "default"), pattern)


@every_case
def test_zero_gradients_are_gradients(case: Case) -> None:
    params = parameters(SHAPES)
    optimizer = evolved(case, params)
    for parameter in params:
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(3):
        optimizer.step()
    assert all(bool(torch.isfinite(parameter).all()) for parameter in params)
    assert [int(optimizer.state[parameter]["step"]) for parameter in params] == [3] * 4


@every_case
def test_the_closure_is_called_once_with_gradients_on_and_its_loss_is_read(case: Case) -> None:
    params, told = parameters(SHAPES), parameters(SHAPES)
    optimizer, other = evolved(case, params), evolved(case, told)
    calls = []

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        calls.append(len(calls))
        give_gradients(params, calls[-1])
        return torch.tensor(loss_at(calls[-1]), dtype=torch.float64)

    returned = [optimizer.step(closure) for _ in range(4)]
    train(told, other, range(4))
    assert [float(loss) for loss in returned if loss is not None] == [loss_at(k) for k in range(4)]
    assert_equal(params, told)


@every_case
def test_maximize_descends_the_negative(case: Case) -> None:
    up, down = parameters(SHAPES), parameters(SHAPES)
    climbing = evolved(case, up, maximize=True, weight_decay=0.01)
    falling = evolved(case, down, weight_decay=0.01)
    for k in range(4):
        give_gradients(up, k)
        give_gradients(down, k)
        for parameter in up:
            parameter.grad.neg_()
        given = values(parameter.grad for parameter in up)
        climbing.step(loss=-loss_at(k))
        falling.step(loss=loss_at(k))
        assert_equal((parameter.grad for parameter in up), given)
    assert_equal(up, down)


@every_case
def test_groups_may_climb_while_others_descend(case: Case) -> None:
    mixed, plain = parameters(SHAPES), parameters(SHAPES)
    groups = [{"params": mixed[:2], "maximize": True}, {"params": mixed[2:]}]
    optimizer = evolved(case, groups, schedule="constant")
    other = evolved(case, [{"params": plain[:2]}, {"params": plain[2:]}], schedule="constant")
    for k in range(3):
        give_gradients(mixed, k)
        give_gradients(plain, k)
        for parameter in plain[:2]:
            parameter.grad.neg_()
        optimizer.step()
        other.step()
    assert_equal(mixed, plain)


@every_case
def test_gradients_may_be_accumulated_and_clipped(case: Case) -> None:
    params, told = parameters(SHAPES), parameters(SHAPES)
    optimizer, other = evolved(case, params), evolved(case, told)
    for k in range(3):
        optimizer.zero_grad(set_to_none=k == 0)
        for part in range(2):
            sum((parameter * (part + k + 1.0)).sum() for parameter in params).backward()
        norm = nn.utils.clip_grad_norm_(params, 0.5)
        for parameter in told:
            parameter.grad = torch.full_like(parameter, 2.0 * k + 3.0) * 0.5 / (norm + 1e-6)
        optimizer.step(loss=1.0)
        other.step(loss=1.0)
    assert_close(params, told)


@every_case
def test_a_gradient_scaler_skips_steps_with_infinite_gradients(case: Case) -> None:
    params = parameters(SHAPES, torch.float32)
    optimizer = evolved(case, params)
    scaler = torch.amp.GradScaler(DEVICE.type, init_scale=8.0)
    train(params, optimizer, [0])
    before, state = values(params), optimizer.state_dict()
    optimizer.zero_grad()
    scaler.scale(sum((parameter * float("inf")).sum() for parameter in params)).backward()
    scaler.step(optimizer, loss=1.0)
    scaler.update()
    assert_equal(params, before)
    assert scaler.get_scale() == 4.0
    assert int(optimizer.state[params[0]]["step"]) == int(state["state"][0]["step"]) == 1
    optimizer.zero_grad()
    scaler.scale(sum((parameter * 2.0).sum() for parameter in params)).backward()
    scaler.step(optimizer, loss=1.0)
    assert int(optimizer.state[params[0]]["step"]) == 2


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_stepped_in_float32(case: Case, dtype: torch.dtype) -> None:
    params = parameters(SHAPES, dtype)
    twins = [nn.Parameter(parameter.detach().float()) for parameter in params]
    optimizer, other = evolved(case, params), evolved(case, twins)
    for k in range(3):
        give_gradients(params, k)
        for parameter, twin in zip(params, twins, strict=True):
            twin.data.copy_(parameter)  # both start each step from the same rounded parameters
            twin.grad = parameter.grad.float()
        optimizer.step(loss=loss_at(k))
        other.step(loss=loss_at(k))
        assert_equal(params, [twin.to(dtype) for twin in twins])
    kept = [value for parameter in params for value in optimizer.state[parameter].values()]
    assert {value.dtype for value in kept} <= {torch.float32, torch.int64}


#: 0-d, empty, a convolution over volumes, and tensors larger than a bucket of sixteen coordinates
ALL_SHAPES = [(), (0, 3), (2, 1, 3, 2, 2), (5,), (6, 7), (1, 1), (2, 3, 2, 2)]


@every_case
def test_tensors_of_any_shape_and_strides_are_stepped_as_if_alone(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, apart = parameters(ALL_SHAPES), parameters(ALL_SHAPES)
    params[4] = nn.Parameter(apart[4].detach().T.contiguous().T)
    params[6] = nn.Parameter(apart[6].detach().to(memory_format=torch.channels_last))
    frozen = nn.Parameter(torch.ones(3, dtype=torch.float64, device=DEVICE), requires_grad=False)
    whole = nn.Parameter(torch.tensor([1, 2], device=DEVICE), requires_grad=False)
    tensorwise = evolved(case, apart)._learner.rule.tensorwise
    alone = [evolved(case, own) for own in ([[p] for p in apart] if tensorwise else [[*apart, frozen]])]
    for room in (2**18, 16):
        monkeypatch.setattr(buckets, "_CPU_COORDINATES" if ON_CPU else "_COORDINATES", room)
        optimizer = evolved(case, [*params, frozen, whole])
        for one in alone:
            one.state.clear()
        for k in range(3):
            give_gradients(params, k)
            give_gradients(apart, k)
            optimizer.step(loss=loss_at(k))
            for one in alone:
                one.step(loss=loss_at(k))
        assert_close(params, apart)
    assert params[4].stride() == (1, 6)
    assert params[6].is_contiguous(memory_format=torch.channels_last)
    assert (frozen.tolist(), whole.tolist()) == ([1.0, 1.0, 1.0], [1, 2])


@every_case
def test_tied_weights_make_one_step(case: Case) -> None:
    model, twin = (
        nn.ModuleList([nn.Linear(3, 3, bias=False, dtype=torch.float64, device=DEVICE)] * n) for n in (2, 1)
    )
    twin[0].weight.data.copy_(model[0].weight)
    optimizer, other = evolved(case, model.parameters()), evolved(case, twin.parameters())
    for k in range(3):
        train(list(model.parameters()), optimizer, [k])
        train(list(twin.parameters()), other, [k])
    assert_equal([model[0].weight, model[1].weight], [twin[0].weight] * 2)


@every_case
def test_complex_parameters_and_sparse_gradients_are_refused_before_anything_moves(case: Case) -> None:
    wave = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"torch\.complex64, but .*torch\.view_as_real"):
        evolved(case, [wave])
    (dense,), table = parameters([(3,)]), nn.Embedding(4, 2, sparse=True, device=DEVICE)
    optimizer = evolved(case, [dense, table.weight])
    before = values([dense, table.weight])
    table(torch.tensor([1], device=DEVICE)).sum().backward()
    give_gradients([dense], 0)
    with pytest.raises(RuntimeError, match=r"do not support sparse gradients.*use sparse=False"):
        optimizer.step()
    assert_equal([dense, table.weight], before)
