"""Exported optimizers on a GPU and between it and a CPU: what no machine without one can tell."""

from __future__ import annotations

import io
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
from torch import nn

from evometa.rng import torch_generator

pytestmark = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs --device cuda")
CPU = torch.device("cpu")


def on(device: torch.device, params: list[nn.Parameter]) -> list[nn.Parameter]:
    """Copies of parameters there."""
    return [nn.Parameter(parameter.detach().to(device, copy=True)) for parameter in params]


def through_a_file(state: Any, device: torch.device) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, map_location=device, weights_only=True)


@every_case
def test_training_is_that_on_a_cpu(case: Case) -> None:
    here, there = on(CPU, parameters(SHAPES)), parameters(SHAPES)
    train(here, evolved(case, here), range(6))
    optimizer = evolved(case, there)
    train(there, optimizer, range(6))
    assert_close(here, on(CPU, there))
    for parameter in there:
        kept = optimizer.state[parameter]
        assert all(value.device == parameter.device for name, value in kept.items() if name != "step")


@every_case
@pytest.mark.parametrize("moved", [True, False], ids=["map_location", "as it was saved"])
def test_a_state_goes_to_the_cpu_and_back(case: Case, moved: bool) -> None:
    """Loaded as it is, or moved by ``torch.load``, as on a machine without a GPU."""
    params = parameters(SHAPES)
    optimizer = evolved(case, params, lr=0.5, weight_decay=0.01)
    train(params, optimizer, range(3))
    here = on(CPU, params)
    on_cpu = evolved(case, here, horizon=99)
    on_cpu.load_state_dict(through_a_file(optimizer.state_dict(), CPU if moved else DEVICE))
    train(params, optimizer, range(3, 5))
    train(here, on_cpu, range(3, 5))
    assert_close(here, on(CPU, params))
    back = on(DEVICE, here)
    again = evolved(case, back)
    again.load_state_dict(through_a_file(on_cpu.state_dict(), DEVICE if moved else CPU))
    train(params, optimizer, range(5, 8))
    train(back, again, range(5, 8))
    assert_close(back, params)


@every_case
def test_parameters_may_be_on_both_devices(case: Case) -> None:
    """As of a model whose embedding stays on the host; each is trained as beside others of its device."""
    mixed = parameters(SHAPES)
    mixed = [*on(CPU, mixed[:2]), *mixed[2:]]
    plain = on(CPU, parameters(SHAPES))
    train(mixed, evolved(case, mixed), range(4))
    train(plain, evolved(case, [{"params": plain[:2]}, {"params": plain[2:]}]), range(4))
    assert [parameter.device.type for parameter in mixed] == ["cpu", "cpu", "cuda", "cuda"]
    assert_close(on(CPU, mixed), plain)


@every_case
def test_a_model_may_move_in_the_middle_of_training(case: Case) -> None:
    params, plain = on(CPU, parameters(SHAPES)), on(CPU, parameters(SHAPES))
    optimizer = evolved(case, params)
    train(plain, evolved(case, plain), range(5))
    train(params, optimizer, range(2))
    for parameter in params:
        parameter.grad = None
        parameter.data = parameter.data.to(DEVICE)
    train(params, optimizer, range(2, 5))
    assert all(parameter.device.type == "cuda" for parameter in params)
    assert_close(on(CPU, params), plain)


@pytest.mark.parametrize("case", [("adam", "default"), ("mlp", "default"), ("recurrent", "default")], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_mixed_precision_trains_a_model(case: Case, dtype: torch.dtype) -> None:
    """Autocast, and for float16 a gradient scaler whose first scale overflows."""
    generator = torch_generator(0, "mixed precision")
    x = torch.randn((64, 8), generator=generator).to(DEVICE)
    y = x.sum(1, keepdim=True).tanh()
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(DEVICE)
    for own, drawn in zip(model.parameters(), parameters([(16, 8), (16,), (1, 16), (1,)]), strict=True):
        own.data.copy_(0.3 * drawn)
    optimizer = evolved(case, model.parameters(), lr=0.1, schedule="constant", horizon=50)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**30, enabled=dtype == torch.float16)
    skipped = 0
    for _ in range(30):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype):
            loss = nn.functional.mse_loss(model(x), y)
        before, scale = values(model.parameters()), scaler.get_scale()
        scaler.scale(loss).backward()
        scaler.step(optimizer, loss=loss)
        scaler.update()
        if scaler.get_scale() < scale:
            skipped += 1
            assert_equal(model.parameters(), before)
        else:
            assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    assert (skipped > 0) == (dtype == torch.float16)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


@every_case
def test_a_step_waits_for_nothing(case: Case) -> None:
    """The host goes on while the GPU computes, as with any ``torch.optim`` optimizer."""
    params = parameters(SHAPES, torch.float32)
    optimizer = evolved(case, params)
    loss = torch.ones((), device=DEVICE)
    for k in range(3):
        give_gradients(params, k)
        optimizer.step(loss=loss)
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step(loss=loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert int(optimizer.state[params[0]]["step"]) == 4
