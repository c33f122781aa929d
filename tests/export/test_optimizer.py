"""The exported optimizer keeps the contract of torch.optim.Optimizer."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evometa.export import EvolvedOptimizer, load_optimizer
from evometa.export.optimizer import SCHEDULE_KEY
from evometa.genome.genome import Genome
from evometa.rng import torch_generator
from evometa.rules import RULES
from evometa.trees import Tree

Exported = Callable[..., tuple[Path, Genome, Tree]]
MakeNet = Callable[..., nn.Module]
Batches = list[tuple[Tensor, Tensor]]

LEARNED = [name for name, family in RULES if family.learned]
#: a hand-designed rule, one whose state is no moment, and every learned one, under schedules of both kinds
PAIRS = [("adam", "cosine"), ("nadam", "recurrent"), *((name, "recurrent") for name in LEARNED)]


def train(net: nn.Module, optimizer: EvolvedOptimizer, batches: Batches) -> None:
    """One step a batch, the loss passed on."""
    for x, y in batches:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x.to(next(net.parameters()).dtype)), y)
        loss.backward()
        optimizer.step(loss=loss)


def values(net: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in net.parameters()]


def all_equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def one(value: float = 1.0, grad: float = 1.0, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    """A 0-d parameter with a gradient."""
    parameter = nn.Parameter(torch.tensor(value, dtype=dtype))
    parameter.grad = torch.tensor(grad, dtype=dtype)
    return parameter


# --- options -------------------------------------------------------------------------------------------


def test_lr_multiplies_the_step_and_weight_decay_is_decoupled(exported: Exported) -> None:
    path, _, _ = exported("sgd", lr=0.1)
    plain, halved, decayed = one(2.0), one(2.0), one(2.0)
    load_optimizer(path, [plain]).step()
    load_optimizer(path, [halved], lr=0.5).step()
    load_optimizer(path, [decayed], lr=0.5, weight_decay=0.01).step()
    assert plain.item() == pytest.approx(2.0 - 0.1, abs=1e-15)
    assert halved.item() == pytest.approx(2.0 - 0.05, abs=1e-15)
    assert decayed.item() == pytest.approx(2.0 - 0.05 - 0.5 * 0.01 * 2.0, abs=1e-15)


def test_groups_have_their_own_options(exported: Exported) -> None:
    path, _, _ = exported("sgd", lr=0.1)
    a, b = one(2.0), one(2.0)
    optimizer = load_optimizer(path, [{"params": [a], "lr": 3.0}, {"params": b, "weight_decay": 0.5}])
    optimizer.step()
    assert a.item() == pytest.approx(2.0 - 0.3, abs=1e-15)
    assert b.item() == pytest.approx(2.0 - 0.1 - 0.5 * 2.0, abs=1e-15)


def test_named_parameters_and_a_tensor_lr_are_taken(exported: Exported) -> None:
    path, _, _ = exported("sgd", lr=0.1)
    p = one(2.0)
    optimizer = load_optimizer(path, [("weight", p)], lr=torch.tensor(2.0))
    optimizer.step()
    assert p.item() == pytest.approx(1.8, abs=1e-7)
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight"]


def test_learning_rate_schedulers_work(exported: Exported) -> None:
    path, _, _ = exported("sgd", lr=0.1)
    p = one(2.0)
    optimizer = load_optimizer(path, [p])
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    assert p.item() == pytest.approx(2.0 - 0.1 * (1 + 0.5 + 0.25), abs=1e-15)


@pytest.mark.parametrize("scheduler", ["OneCycleLR", "CyclicLR", "ReduceLROnPlateau", "SequentialLR"])
def test_a_scheduler_and_the_optimizer_resume_together(exported: Exported, scheduler: str) -> None:
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
def test_wrong_options_are_refused(exported: Exported, options: dict[str, Any], message: str) -> None:
    path, _, _ = exported("adam")
    with pytest.raises(ValueError, match=message) as caught:
        load_optimizer(path, [one()], **options)
    assert "\n" not in str(caught.value)


def test_options_of_other_optimizers_are_refused(exported: Exported) -> None:
    path, _, _ = exported("adam")
    with pytest.raises(TypeError, match="momentum"):
        load_optimizer(path, [one()], momentum=0.9)  # type: ignore[call-arg]
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


def test_the_users_horizon_stretches_the_schedule(exported: Exported) -> None:
    path, _, _ = exported("sgd", "exponential", horizon=4, **{"lr": 0.1, "schedule.final": 0.01})
    trained, longer = one(0.0), one(0.0)
    first, second = load_optimizer(path, [trained]), load_optimizer(path, [longer], horizon=8)
    for _ in range(6):
        first.step()
        second.step()
    factors = [0.01 ** min(k / 4, 1.0) for k in range(6)]  # beyond the horizon the last factor stays
    assert trained.item() == pytest.approx(-0.1 * sum(factors), rel=1e-12)
    assert longer.item() == pytest.approx(-0.1 * sum(0.01 ** (k / 8) for k in range(6)), rel=1e-12)


# --- steps ---------------------------------------------------------------------------------------------


def test_the_closure_is_called_with_gradients_on_and_its_loss_returned_and_used(
    exported: Exported, make_net: MakeNet, batches: Batches
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
    assert all_equal(values(by_closure), values(by_keyword))


def test_the_loss_reaches_what_reads_it_and_may_be_left_out(exported: Exported) -> None:
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


def test_a_loss_of_many_numbers_is_refused(exported: Exported) -> None:
    path, _, _ = exported("sgd")
    p = one(1.0)
    with pytest.raises(ValueError, match=r"loss has shape \(3,\), expected a single number"):
        load_optimizer(path, [p]).step(loss=torch.ones(3))
    assert p.item() == 1.0


def test_parameters_without_gradient_wait_with_their_own_step_count(exported: Exported) -> None:
    path, _, _ = exported("adam", lr=0.01)
    early, late, never = one(), one(), one()
    optimizer = load_optimizer(path, [early, late, never])
    late.grad = never.grad = None
    optimizer.step()
    first = early.item()
    late.grad = torch.tensor(1.0, dtype=torch.float64)
    optimizer.step()
    assert late.item() == first  # its first step, with the bias correction of a first step
    assert never.item() == 1.0
    assert never not in optimizer.state
    assert [int(optimizer.state[p]["step"]) for p in (early, late)] == [2, 1]
    assert int(optimizer.state_dict()["state"][SCHEDULE_KEY]["step"]) == 2


def test_a_step_without_any_gradient_is_no_step(exported: Exported) -> None:
    path, _, _ = exported("adam", "cosine")
    p = one()
    p.grad = None
    optimizer = load_optimizer(path, [p])
    optimizer.step()
    assert int(optimizer.state_dict()["state"][SCHEDULE_KEY]["step"]) == 0


def test_groups_added_later_share_the_schedule_and_count_their_own_steps(exported: Exported) -> None:
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


def test_0d_empty_integer_and_frozen_parameters_are_fine(exported: Exported) -> None:
    for family in RULES.names():
        path, _, _ = exported(family)
        scalar = one()
        empty = nn.Parameter(torch.zeros(0, 3))
        empty.grad = torch.zeros(0, 3)
        whole = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
        frozen = nn.Parameter(torch.ones(3), requires_grad=False)
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
        grads = torch.randn(5, 4, generator=torch_generator(0, "grads"))
        plain = nn.Parameter(torch.ones(5, 4))
        turned = nn.Parameter(torch.ones(4, 5).T)
        plain.grad, turned.grad = grads, grads.T.contiguous().T
        for p in (plain, turned):
            load_optimizer(path, [p]).step(loss=1.0)
        assert torch.equal(plain, turned)
        assert turned.stride() == (1, 5)


def test_sparse_gradients_and_complex_parameters_are_refused_with_a_reason(exported: Exported) -> None:
    path, _, _ = exported("adam")
    dense, table = one(), nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
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
    p = nn.Parameter(torch.randn(6, generator=generator).to(dtype))
    q = nn.Parameter(p.detach().float())
    optimizer, twin = load_optimizer(path, [p]), load_optimizer(path, [q])
    for _ in range(4):
        with torch.no_grad():
            q.copy_(p)  # both start every step from the same rounded parameters
        p.grad = torch.randn(6, generator=generator).to(dtype)
        q.grad = p.grad.float()
        optimizer.step(loss=1.0)
        twin.step(loss=1.0)
        assert torch.equal(p, q.to(dtype))
    assert all(value.dtype in (torch.float32, torch.int64) for value in optimizer.state[p].values())
    again = load_optimizer(path, [p])
    again.load_state_dict(optimizer.state_dict())
    for name, value in optimizer.state[p].items():
        assert torch.equal(again.state[p][name], value)


def test_gradient_scaling_works(exported: Exported) -> None:
    path, _, _ = exported("sgd", "recurrent", lr=0.1)
    scaled, plain = one(1.0, 3.0), one(1.0, 3.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer = load_optimizer(path, [scaled])
    scaled.grad = None
    scaler.scale(3.0 * scaled).backward()
    scaler.step(optimizer, loss=2.0)
    scaler.update()
    load_optimizer(path, [plain]).step(loss=2.0)
    assert scaled.item() == pytest.approx(plain.item(), abs=1e-12)


def test_hooks_run(exported: Exported) -> None:
    path, _, _ = exported("adam")
    optimizer = load_optimizer(path, [one()])
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    optimizer.step(loss=1.0)
    assert seen == ["before", "after"]


def test_the_step_leaves_no_graph(exported: Exported, make_net: MakeNet, batches: Batches) -> None:
    path, _, _ = exported(LEARNED[0], "recurrent")
    net = make_net()
    optimizer = load_optimizer(path, net.parameters())
    train(net, optimizer, batches[:2])
    for p in net.parameters():
        assert p.requires_grad
        assert p.grad_fn is None
        assert not any(value.requires_grad for value in optimizer.state[p].values())


# --- what it is given stays as it was ------------------------------------------------------------------


def test_groups_gradients_and_file_stay_as_they_were(
    exported: Exported, make_net: MakeNet, batches: Batches
) -> None:
    path, _, _ = exported("adam", "recurrent")
    content = path.read_bytes()
    net = make_net()
    params = list(net.parameters())
    groups = [{"params": params, "lr": 0.5}]
    optimizer = load_optimizer(path, groups)
    train(net, optimizer, batches[:3])
    assert groups == [{"params": params, "lr": 0.5}]
    assert len(params) == len(list(net.parameters()))
    assert path.read_bytes() == content
    grads = [p.grad.clone() for p in params if p.grad is not None]
    optimizer.step(loss=1.0)
    assert all_equal(grads, [p.grad for p in params if p.grad is not None])


@pytest.mark.parametrize(("family", "schedule"), PAIRS)
def test_a_state_dict_is_a_snapshot_and_loading_it_does_not_change_it(
    exported: Exported, make_net: MakeNet, batches: Batches, family: str, schedule: str
) -> None:
    path, _, _ = exported(family, schedule)
    net, other_net = make_net(), make_net()
    optimizer, other = load_optimizer(path, net.parameters()), load_optimizer(path, other_net.parameters())
    train(net, optimizer, batches[:2])
    taken = optimizer.state_dict()
    frozen = copy.deepcopy(taken)
    other.load_state_dict(taken)
    train(other_net, other, batches[:2])
    train(net, optimizer, batches[:2])
    assert taken["param_groups"] == frozen["param_groups"]
    for key, tree in frozen["state"].items():
        assert tree.keys() == taken["state"][key].keys()
        assert all(torch.equal(value, taken["state"][key][name]) for name, value in tree.items())


def test_the_weights_are_the_optimizers_own(exported: Exported) -> None:
    path, genome, weights = exported(LEARNED[0], "recurrent", horizon=50)
    p, q = one(), one()
    from_tensors = EvolvedOptimizer([p], genome, weights, horizon=50)
    for value in weights.values():
        value.zero_()  # a caller may reuse its tensors
    from_file = load_optimizer(path, [q])
    for optimizer in (from_tensors, from_file, from_tensors, from_file):
        optimizer.step(loss=1.0)
    assert p.item() == q.item() != 1.0


@pytest.mark.parametrize("family", RULES.names())
def test_state_does_not_live_in_the_memory_of_gradients(exported: Exported, family: str) -> None:
    path, _, _ = exported(family)

    def run(*, reuse: bool) -> list[float]:
        p = nn.Parameter(torch.ones(4))
        optimizer = load_optimizer(path, [p])
        for k in range(4):
            grads = torch.full((4,), float(k + 1))
            if reuse and p.grad is not None:
                p.grad.copy_(grads)  # as zero_grad(set_to_none=False) and backward do
            else:
                p.grad = grads
            optimizer.step(loss=1.0)
        return list(p.detach().tolist())

    assert run(reuse=True) == run(reuse=False)


# --- saving, copying, resuming -------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "schedule"), PAIRS)
@pytest.mark.parametrize("way", ["in memory", "file", "pickle", "deepcopy"])
def test_resumed_training_is_equal_bit_for_bit(
    exported: Exported,
    make_net: MakeNet,
    batches: Batches,
    tmp_path: Path,
    family: str,
    schedule: str,
    way: str,
) -> None:
    path, _, _ = exported(family, schedule)
    net = make_net()
    groups = [{"params": list(net.conv.parameters()), "lr": 0.5}, {"params": list(net.head.parameters())}]
    optimizer = load_optimizer(path, groups, weight_decay=0.01, horizon=12)
    train(net, optimizer, batches[:4])

    if way == "pickle":
        net_again, again = pickle.loads(pickle.dumps((net, optimizer)))
    elif way == "deepcopy":
        net_again, again = copy.deepcopy((net, optimizer))
    else:
        net_again = make_net(seed=1)
        net_again.load_state_dict(net.state_dict())
        fresh = [
            {"params": list(net_again.conv.parameters())},
            {"params": list(net_again.head.parameters())},
        ]
        again = load_optimizer(path, fresh)  # lr, weight decay and horizon come with the state
        state = optimizer.state_dict()
        if way == "file":
            torch.save(state, tmp_path / "state.pt")
            state = torch.load(tmp_path / "state.pt", weights_only=True)
        again.load_state_dict(state)

    train(net, optimizer, batches[4:10])
    train(net_again, again, batches[4:10])
    assert all_equal(values(net), values(net_again))
    late, late_again = one(), one()
    optimizer.add_param_group({"params": [late], "weight_decay": 0.0})
    again.add_param_group({"params": [late_again], "weight_decay": 0.0})
    optimizer.step()
    again.step()
    assert late.item() == late_again.item()


RESUME = """
import sys, torch
from evometa.export import load_optimizer
genome, checkpoint, result = sys.argv[1:]
saved = torch.load(checkpoint, weights_only=True)
p = torch.nn.Parameter(saved["p"])
optimizer = load_optimizer(genome, [p])
optimizer.load_state_dict(saved["optimizer"])
for k in range(5):
    p.grad = torch.sin(p.detach() * (k + 1))
    optimizer.step(loss=float(k + 1))
torch.save(p.detach(), result)
"""


def test_training_resumes_in_another_process(exported: Exported, tmp_path: Path) -> None:
    path, _, _ = exported(LEARNED[0], "recurrent")
    p = nn.Parameter(torch.linspace(-1.0, 1.0, 7))
    optimizer = load_optimizer(path, [p], horizon=9)
    for k in range(10):
        if k == 5:
            torch.save({"p": p.detach(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint.pt")
        p.grad = torch.sin(p.detach() * (k % 5 + 1))
        optimizer.step(loss=float(k % 5 + 1))
    command = [
        sys.executable,
        "-c",
        RESUME,
        str(path),
        str(tmp_path / "checkpoint.pt"),
        str(tmp_path / "p.pt"),
    ]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], timeout=120)
    assert torch.equal(torch.load(tmp_path / "p.pt", weights_only=True), p.detach())


def test_clearing_the_state_starts_afresh(exported: Exported) -> None:
    path, _, _ = exported("adam", "recurrent")
    p = one()
    optimizer = load_optimizer(path, [p], horizon=7)
    optimizer.step(loss=1.0)
    first = p.item()
    optimizer.step(loss=2.0)
    optimizer.state.clear()
    with torch.no_grad():
        p.fill_(1.0)
    optimizer.step(loss=1.0)
    assert p.item() == first


def test_a_fresh_optimizers_state_can_be_loaded(exported: Exported) -> None:
    path, _, _ = exported("sgd", "exponential", horizon=4, **{"lr": 0.1, "schedule.final": 0.01})
    p, q = one(), one()
    optimizer, again = load_optimizer(path, [p], horizon=9), load_optimizer(path, [q])
    again.load_state_dict(optimizer.state_dict())
    for _ in range(3):
        optimizer.step()
        again.step()
    assert p.item() == q.item()


def test_users_load_hooks_see_and_may_change_the_dictionary(exported: Exported) -> None:
    path, _, _ = exported("adam")
    p = one()
    optimizer = load_optimizer(path, [p])
    optimizer.step()
    wrapped = {"optimizer": optimizer.state_dict()}
    q = one()
    again = load_optimizer(path, [q])
    again.register_load_state_dict_pre_hook(lambda _, given: given["optimizer"])
    again.load_state_dict(wrapped)
    assert torch.equal(again.state[q]["rule.first"], optimizer.state[p]["rule.first"])


def test_state_of_something_else_is_refused_and_leaves_the_optimizer_as_it_was(exported: Exported) -> None:
    path, _, _ = exported("adam")
    p = one()
    optimizer = load_optimizer(path, [p])
    optimizer.step()
    before = optimizer.state_dict()

    torch_adam = torch.optim.Adam([one()])
    torch_adam.step()
    sgd = load_optimizer(exported("momentum")[0], [one()])
    sgd.step()
    scheduled = load_optimizer(exported("adam", "recurrent")[0], [one()])
    scheduled.step()
    wide = nn.Parameter(torch.ones(3, dtype=torch.float64))
    wide.grad = torch.ones_like(wide)
    wider = load_optimizer(path, [wide])
    wider.step()
    two = load_optimizer(path, [one(), one()])
    for given, message in (
        (torch_adam.state_dict(), "not saved by an evolved optimizer"),
        ({}, "not saved by an evolved optimizer"),
        (sgd.state_dict(), r"state of parameter 0 holds \['rule.first', 'step'\]"),
        (scheduled.state_dict(), "state of the schedule holds"),
        (wider.state_dict(), r"state 'rule.first' of parameter 0 has shape \[1, 3\], .* keeps \[1, 1\]"),
        (two.state_dict(), "doesn't match the size"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            optimizer.load_state_dict(given)
        assert "\n" not in str(caught.value)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert after["state"].keys() == before["state"].keys()
    optimizer.step()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("family", "schedule"), PAIRS)
def test_weights_follow_the_parameters_to_their_device(
    exported: Exported, make_net: MakeNet, batches: Batches, family: str, schedule: str
) -> None:
    path, _, _ = exported(family, schedule)
    here, there = make_net().double(), make_net().double().cuda()
    on_cpu, on_cuda = load_optimizer(path, here.parameters()), load_optimizer(path, there.parameters())
    for x, y in batches[:5]:
        train(here, on_cpu, [(x, y)])
        train(there, on_cuda, [(x.cuda(), y.cuda())])
    for a, b in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=1e-9, atol=1e-9)
    assert all(value.device.type == "cuda" for name, value in on_cuda.state[b].items() if name != "step")
