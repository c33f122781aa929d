"""What people do to an optimizer between steps: what torch.optim.AdamW survives, an evolved one survives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compute_device import DEVICE
from evolved_optimizers import (
    SHAPES,
    Case,
    assert_close,
    assert_equal,
    every_case,
    evolved,
    give_gradients,
    parameters,
    train,
    values,
)
from torch import Tensor, nn


@every_case
def test_parameters_may_swap_groups(case: Case) -> None:
    params, plain = parameters(SHAPES), parameters(SHAPES)
    optimizer = evolved(case, [{"params": params[:2]}, {"params": params[2:], "lr": 0.0}])
    other = evolved(case, plain)
    train(params, optimizer, range(2))
    train(plain, other, range(2))
    assert_equal(params[2:], parameters(SHAPES)[2:])
    one, two = optimizer.param_groups
    one["params"], two["params"] = two["params"], one["params"]
    at = values(params[:2])
    train(params, optimizer, range(2, 4))
    assert_equal(params[:2], at)
    assert [int(optimizer.state[parameter]["step"]) for parameter in params] == [4] * 4


@every_case
def test_a_parameter_may_be_frozen_for_a_while(case: Case) -> None:
    params = parameters(SHAPES)
    optimizer = evolved(case, params)
    train(params, optimizer, range(2))
    at = values(params[:1])
    params[0].requires_grad_(False)
    params[0].grad = None
    train(params[1:], optimizer, range(2, 4))
    assert_equal(params[:1], at)
    params[0].requires_grad_(True)
    train(params, optimizer, range(4, 6))
    first = 4 if optimizer._learner.rule.tensorwise else 6
    assert [int(optimizer.state[parameter]["step"]) for parameter in params] == [first, 6, 6, 6]
    assert not torch.equal(params[0], at[0])


@every_case
def test_two_optimizers_may_share_parameters(case: Case) -> None:
    params = parameters(SHAPES)
    one, two = evolved(case, params), evolved(case, params, lr=0.0)
    alone = parameters(SHAPES)
    only = evolved(case, alone)
    for k in range(3):
        train(params, one, [k])
        train(params, two, [k])
        train(alone, only, [k])
    assert_equal(params, alone)


@every_case
def test_memory_and_strides_and_dtype_of_parameters_may_change(case: Case) -> None:
    params, plain = parameters(SHAPES), parameters(SHAPES)
    optimizer, other = evolved(case, params), evolved(case, plain)
    train(plain, other, range(6))
    train(params, optimizer, range(2))
    for parameter in params:
        parameter.data = parameter.detach().clone()
    train(params, optimizer, range(2, 4))
    params[0].data = params[0].detach().T.contiguous().T
    train(params, optimizer, range(4, 6))
    assert_close(params, plain)
    for parameter in params:
        parameter.grad = None
        parameter.data = parameter.detach().float()
    train(params, optimizer, range(6, 8))
    train(plain, other, range(6, 8))
    assert_close(params, [parameter.float() for parameter in plain], 1e-4)


@every_case
@pytest.mark.parametrize("shape", [(1,), (3, 4)], ids=str)
def test_another_shape_wants_another_state(case: Case, shape: tuple[int, ...]) -> None:
    params = parameters([shape, (2,)])
    optimizer = evolved(case, params)
    train(params, optimizer, range(2))
    sizes = {sum(value.numel() for value in optimizer.state[parameter].values()) for parameter in params}
    keeps_state = len(sizes) > 1  # of every coordinate
    params[0].grad = None
    params[0].data = torch.ones(5, 4, dtype=torch.float64, device=DEVICE)
    if keeps_state:
        with pytest.raises(RuntimeError, match=r"delete optimizer\.state\[parameter\] to begin it afresh"):
            train(params, optimizer, [2])
    del optimizer.state[params[0]]
    train(params, optimizer, range(2))
    assert int(optimizer.state[params[0]]["step"]) == 2
    assert not torch.equal(params[0], torch.ones(5, 4, dtype=torch.float64, device=DEVICE))


@every_case
@pytest.mark.parametrize("where", ["pre-hook", "post-hook", "closure", "sparse"])
def test_an_exception_in_a_step_costs_nothing(case: Case, where: str) -> None:
    params, plain = parameters(SHAPES), parameters(SHAPES)
    table = nn.Embedding(4, 2, sparse=True, dtype=torch.float64, device=DEVICE)
    unused = nn.Parameter(table.weight.detach().clone())
    optimizer, other = evolved(case, [*params, table.weight]), evolved(case, [*plain, unused])
    train(params, optimizer, range(2))
    train(plain, other, range(2))

    def fail(*_: Any) -> Tensor:
        raise KeyError(where)

    registers: dict[str, Callable[..., Any]] = {
        "pre-hook": optimizer.register_step_pre_hook,
        "post-hook": optimizer.register_step_post_hook,
    }
    handle = registers[where](fail) if where in registers else None
    give_gradients(params, 2)
    if where == "sparse":
        table(torch.tensor([1], device=DEVICE)).sum().backward()
    with pytest.raises((KeyError, RuntimeError), match=r"hook|closure|sparse"):
        optimizer.step(fail if where == "closure" else None, loss=1.0)
    if handle is not None:
        handle.remove()
    table.weight.grad = None
    if where == "post-hook":  # the step was made
        give_gradients(plain, 2)
        other.step(loss=1.0)
    assert_equal(params, plain)
    train(params, optimizer, range(3, 6))
    train(plain, other, range(3, 6))
    assert_equal(params, plain)


@every_case
def test_nan_gradients_stay_in_their_tensor(case: Case) -> None:
    params = parameters(SHAPES)
    optimizer = evolved(case, params)
    train(params, optimizer, range(2))
    give_gradients(params, 2)
    params[0].grad.fill_(float("nan"))
    optimizer.step(loss=1.0)
    if optimizer._learner.rule.tensorwise:
        assert all(bool(torch.isfinite(parameter).all()) for parameter in params[1:])
