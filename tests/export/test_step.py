"""One step: what it moves, in which precision, with which loss, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compute_device import DEVICE
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector as flat

from evometa.export import load_optimizer
from evometa.export.optimizer import SCHEDULE_KEY
from evometa.genome.genome import Genome
from evometa.rng import torch_generator
from evometa.rules import RULES
from evometa.trees import Tree

Exported = Callable[..., tuple[Path, Genome, Tree]]
MakeNet = Callable[..., nn.Module]
Batches = list[tuple[Tensor, Tensor]]
One = Callable[..., nn.Parameter]
Train = Callable[[nn.Module, torch.optim.Optimizer, Batches], None]

LEARNED = [name for name, family in RULES if family.learned]
#: a hand-designed rule, one whose state is no moment, and every learned one, under schedules of both kinds
PAIRS = [("adam", "cosine"), ("nadam", "recurrent"), *((name, "recurrent") for name in LEARNED)]


def test_the_closure_is_called_with_gradients_on_and_its_loss_returned_and_used(
    exported: Exported, make_net: MakeNet, batches: Batches, train: Train
) -> None:
    path, _, _ = exported("adam", "recurrent")
    by_closure, by_keyword = make_net(), make_net()
    one_way = load_optimizer(path, by_closure.parameters())
    x, y = batches[0][0].float(), batches[0][1]

    def closure() -> Tensor:
        one_way.zero_grad()
        loss = nn.functional.cross_entropy(by_closure(x), y)
        loss.backward()
        return loss

    for _ in range(5):
        with torch.no_grad():
            loss = one_way.step(closure)
        assert isinstance(loss, Tensor)
    train(by_keyword, load_optimizer(path, by_keyword.parameters()), [(x, y)] * 5)
    assert torch.equal(flat(by_closure.parameters()), flat(by_keyword.parameters()))


def test_the_loss_reaches_what_reads_it_and_may_be_left_out(exported: Exported, one: One) -> None:
    path, _, _ = exported("sgd", "recurrent", lr=0.1)

    def after(losses: list[Any]) -> float:
        p = one(0.0)
        optimizer = load_optimizer(path, [p])
        for loss in losses:
            assert optimizer.step(loss=loss) is None
        return p.item()

    falling = after([4.0, 2.0, 1.0])
    assert falling == after([torch.tensor(4.0, dtype=torch.float64), torch.tensor([2.0]), 1])
    assert falling != after([1.0, 2.0, 4.0])
    silent = after([None, None, None])
    assert silent < 0.0
    assert silent != falling


def test_a_loss_of_many_numbers_is_refused(exported: Exported, one: One) -> None:
    path, _, _ = exported("sgd")
    p = one(1.0)
    with pytest.raises(ValueError, match=r"loss has shape \(3,\), expected a single number"):
        load_optimizer(path, [p]).step(loss=torch.ones(3))
    assert p.item() == 1.0


def test_parameters_without_gradient_wait_with_their_own_step_count(exported: Exported, one: One) -> None:
    path, _, _ = exported("adam", lr=0.01)
    early, late, never = one(), one(), one()
    optimizer = load_optimizer(path, [early, late, never])
    late.grad = never.grad = None
    optimizer.step()
    first = early.item()
    late.grad = torch.ones_like(late)
    optimizer.step()
    assert late.item() == first  # its first step, with the bias correction of a first step
    assert never.item() == 1.0
    assert never not in optimizer.state
    assert [int(optimizer.state[p]["step"]) for p in (early, late)] == [2, 1]
    assert int(optimizer.state_dict()["param_groups"][0][SCHEDULE_KEY]["step"]) == 2


def test_a_step_without_any_gradient_is_no_step(exported: Exported, one: One) -> None:
    path, _, _ = exported("adam", "cosine")
    p = one()
    p.grad = None
    optimizer = load_optimizer(path, [p])
    optimizer.step()
    assert int(optimizer.state_dict()["param_groups"][0][SCHEDULE_KEY]["step"]) == 0


def test_groups_added_later_share_the_schedule_and_count_their_own_steps(
    exported: Exported, one: One
) -> None:
    path, _, _ = exported("adam", "exponential", horizon=4, **{"lr": 0.01, "schedule.final": 0.01})
    a, b = one(), one()
    optimizer = load_optimizer(path, [a])
    optimizer.step()
    first = a.item()
    optimizer.step()
    optimizer.add_param_group({"params": [b], "lr": 2.0})
    optimizer.step()
    factor = 0.01 ** (2 / 4)
    assert b.item() - 1.0 == pytest.approx(2.0 * factor * (first - 1.0), rel=1e-9)
    assert a.item() < first


def test_0d_empty_integer_and_frozen_parameters_are_fine(exported: Exported, one: One) -> None:
    for family in RULES.names():
        path, _, _ = exported(family)
        scalar = one()
        empty = nn.Parameter(torch.zeros(0, 3, device=DEVICE))
        empty.grad = torch.zeros_like(empty)
        whole = nn.Parameter(torch.tensor([1, 2], device=DEVICE), requires_grad=False)
        frozen = nn.Parameter(torch.ones(3, device=DEVICE), requires_grad=False)
        optimizer = load_optimizer(path, [empty, scalar, whole, frozen])
        optimizer.step(loss=1.0)
        optimizer.step()
        assert torch.isfinite(scalar)
        assert empty.shape == (0, 3)
        assert whole.tolist() == [1, 2]
        assert frozen.tolist() == [1.0, 1.0, 1.0]


def test_parameters_of_any_strides_are_updated_alike(exported: Exported) -> None:
    for family in RULES.names():
        path, _, _ = exported(family)
        grads = torch.randn(5, 4, generator=torch_generator(0, "grads")).to(DEVICE)
        plain = nn.Parameter(torch.ones(5, 4, device=DEVICE))
        turned = nn.Parameter(torch.ones(4, 5, device=DEVICE).T)
        plain.grad, turned.grad = grads, grads.T.contiguous().T
        for p in (plain, turned):
            load_optimizer(path, [p]).step(loss=1.0)
        assert torch.equal(plain, turned)
        assert turned.stride() == (1, 5)


def test_sparse_gradients_and_complex_parameters_are_refused_with_a_reason(
    exported: Exported, one: One
) -> None:
    path, _, _ = exported("adam")
    dense, table = one(), nn.Embedding(4, 2, sparse=True, device=DEVICE)
    table(torch.tensor([1], device=DEVICE)).sum().backward()
    optimizer = load_optimizer(path, [dense, table.weight])
    with pytest.raises(RuntimeError, match=r"do not support sparse gradients.*use sparse=False"):
        optimizer.step()
    assert dense.item() == 1.0  # refused before anything moved
    wave = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"torch\.complex64, but .*torch\.view_as_real"):
        load_optimizer(path, [wave])
    with pytest.raises(ValueError, match=r"torch\.complex64"):
        optimizer.add_param_group({"params": [wave]})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("family", "schedule"), PAIRS)
def test_half_precision_is_computed_in_float32(
    exported: Exported, family: str, schedule: str, dtype: torch.dtype
) -> None:
    path, _, _ = exported(family, schedule)
    generator = torch_generator(0, "half")
    p = nn.Parameter(torch.randn(6, generator=generator).to(DEVICE, dtype))
    q = nn.Parameter(p.detach().float())
    optimizer, twin = load_optimizer(path, [p]), load_optimizer(path, [q])
    for _ in range(4):
        with torch.no_grad():
            q.copy_(p)  # both start every step from the same rounded parameters
        p.grad = torch.randn(6, generator=generator).to(DEVICE, dtype)
        q.grad = p.grad.float()
        optimizer.step(loss=1.0)
        twin.step(loss=1.0)
        assert torch.equal(p, q.to(dtype))
    assert all(value.dtype in (torch.float32, torch.int64) for value in optimizer.state[p].values())
    again = load_optimizer(path, [p])
    again.load_state_dict(optimizer.state_dict())
    for name, value in optimizer.state[p].items():
        assert torch.equal(again.state[p][name], value)


def test_gradient_scaling_works(exported: Exported, one: One) -> None:
    path, _, _ = exported("sgd", "recurrent", lr=0.1)
    scaled, plain = one(1.0, 3.0), one(1.0, 3.0)
    scaler = torch.amp.GradScaler(DEVICE.type, init_scale=8.0)
    optimizer = load_optimizer(path, [scaled])
    scaled.grad = None
    scaler.scale(3.0 * scaled).backward()
    scaler.step(optimizer, loss=2.0)
    scaler.update()
    load_optimizer(path, [plain]).step(loss=2.0)
    assert scaled.item() == pytest.approx(plain.item(), abs=1e-12)


def test_hooks_run(exported: Exported, one: One) -> None:
    path, _, _ = exported("adam")
    optimizer = load_optimizer(path, [one()])
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    optimizer.step(loss=1.0)
    assert seen == ["before", "after"]


def test_the_step_leaves_no_graph(
    exported: Exported, make_net: MakeNet, batches: Batches, train: Train
) -> None:
    path, _, _ = exported(LEARNED[0], "recurrent")
    net = make_net()
    optimizer = load_optimizer(path, net.parameters())
    train(net, optimizer, batches[:2])
    for p in net.parameters():
        assert p.requires_grad
        assert p.grad_fn is None
        assert not any(value.requires_grad for value in optimizer.state[p].values())
