"""Parameters that several processes hold: DDP, FSDP2 and its checkpoints in a group of one; cut tensors."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from evolved_optimizers import (
    CASES,
    Case,
    assert_close,
    assert_equal,
    every_case,
    evolved,
    give_gradients,
    loss_at,
    parameters,
    values,
)
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

pytestmark = [
    pytest.mark.skipif(not dist.is_available(), reason="needs torch.distributed"),
    pytest.mark.cpu_alone("its processes meet in a group for CPUs"),
]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[DeviceMesh]:
    """A gloo group of this process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.fixture
def first_of_two() -> Iterator[DeviceMesh]:
    """What the first of two processes sees; nothing is sent."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield init_device_mesh("cpu", (2,))
    dist.destroy_process_group()


def net() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    for own, drawn in zip(model.parameters(), parameters([(6, 4), (6,), (1, 6), (1,)]), strict=True):
        own.data.copy_(drawn)
    return model


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    (x,) = parameters([(8, 4)], seed=5)
    for k in steps:
        optimizer.zero_grad()
        loss = (model(x.detach()) - k).square().mean()
        loss.backward()
        optimizer.step(loss=loss)


def wholes(model: nn.Module) -> list[torch.Tensor]:
    return [p.full_tensor() if isinstance(p, DTensor) else p for p in values(model.parameters())]


@every_case
def test_fsdp_and_ddp_train_as_one_process_does(case: Case, alone: DeviceMesh) -> None:
    plain, sharded, replicated = net(), net(), nn.parallel.DistributedDataParallel(net())
    fully_shard(sharded, mesh=alone)
    assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
    for model in (plain, sharded, replicated):
        learn(model, evolved(case, model.parameters()), range(4))
    assert_equal(wholes(sharded), wholes(plain))
    assert_equal(wholes(replicated), wholes(plain))


@every_case
@pytest.mark.parametrize("full", [False, True], ids=["shards", "full"])
def test_distributed_checkpoints_continue_bit_for_bit(case: Case, full: bool, alone: DeviceMesh) -> None:
    options = StateDictOptions(full_state_dict=full)
    model = fully_shard(net(), mesh=alone)
    optimizer = evolved(case, model.parameters())
    learn(model, optimizer, range(3))
    state = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    again = fully_shard(net(), mesh=alone)
    again.load_state_dict(model.state_dict())
    other = evolved(case, again.parameters(), horizon=99)
    set_optimizer_state_dict(again, other, state, options=options)
    learn(model, optimizer, range(3, 6))
    learn(again, other, range(3, 6))
    assert_equal(wholes(again), wholes(model))


@every_case
def test_a_cut_tensor_is_stepped_by_elementwise_rules_and_refused_by_others(
    case: Case, first_of_two: DeviceMesh
) -> None:
    (whole,) = parameters([(6, 4)])
    part = nn.Parameter(
        DTensor.from_local(whole.detach()[:3].clone(), first_of_two, [Shard(0)], run_check=False)
    )
    replicated = nn.Parameter(
        DTensor.from_local(whole.detach().clone(), first_of_two, [Replicate()], run_check=False)
    )
    evolved(case, [replicated])  # each process has the whole
    elementwise = evolved(case, [whole])._learner.elementwise
    if not elementwise:
        with pytest.raises(ValueError, match=r"is cut into shards, but this .* takes statistics over whole"):
            evolved(case, [part])
        return
    optimizer, other = evolved(case, [whole]), evolved(case, [part])
    for k in range(3):
        give_gradients([whole], k)
        shard = whole.grad[:3].clone()
        part.grad = DTensor.from_local(shard, first_of_two, [Shard(0)], run_check=False)
        optimizer.step(loss=loss_at(k))
        other.step(loss=loss_at(k))
    assert_close([part.to_local()], [whole[:3]])


def test_some_rules_are_elementwise_and_some_are_not(first_of_two: DeviceMesh) -> None:
    (whole,) = parameters([(2, 2)])
    found = {case[0]: evolved(case, [whole])._learner.elementwise for case in CASES}
    assert found["adam"]
    assert not found["mlp"]
