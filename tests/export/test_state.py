"""State: nothing given is changed, and training resumes bit for bit wherever it was saved."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from compute_device import DEVICE
from evolved_optimizers import assert_same
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector as flat

from evometa.export import EvolvedOptimizer, load_optimizer
from evometa.genome.genome import Genome
from evometa.genome.space import Genes, Space
from evometa.layout import Layout
from evometa.rules import RULES
from evometa.rules.base import Hyper, RuleFamily, StepContext, UpdateRule
from evometa.trees import Tree

Exported = Callable[..., tuple[Path, Genome, Tree]]
MakeNet = Callable[..., nn.Module]
Batches = list[tuple[Tensor, Tensor]]
One = Callable[..., nn.Parameter]
Train = Callable[[nn.Module, torch.optim.Optimizer, Batches], None]

LEARNED = [name for name, family in RULES if family.learned]
#: a hand-designed rule, one whose state is no moment, and every learned one, under schedules of both kinds
PAIRS = [("adam", "cosine"), ("nadam", "recurrent"), *((name, "recurrent") for name in LEARNED)]


def test_groups_gradients_and_file_stay_as_they_were(
    exported: Exported, make_net: MakeNet, batches: Batches, train: Train
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
    grads = [p.grad.clone() for p in params]
    optimizer.step(loss=1.0)
    assert all(torch.equal(p.grad, old) for p, old in zip(params, grads, strict=True))


@pytest.mark.parametrize(("family", "schedule"), PAIRS)
def test_a_state_dict_is_a_snapshot_and_loading_it_does_not_change_it(
    exported: Exported, make_net: MakeNet, batches: Batches, family: str, schedule: str, train: Train
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
    assert_same(taken, frozen)


def test_the_weights_are_the_optimizers_own(exported: Exported, one: One) -> None:
    path, genome, weights = exported(LEARNED[0], "recurrent", horizon=50)
    p, q = one(), one()
    from_tensors = EvolvedOptimizer([p], genome, weights, horizon=50)
    for value in weights.values():
        value.zero_()  # a caller may reuse its tensors
    from_file = load_optimizer(path, [q])
    for optimizer in (from_tensors, from_file, from_tensors, from_file):
        optimizer.step(loss=1.0)
    assert p.item() == q.item() != 1.0


class LastGradient(UpdateRule):
    """Steps along this gradient and the last one, which it keeps as it was given."""

    def init_weights(self, generator: torch.Generator) -> Tree:
        return {}

    def init_state(self, weights: Tree, params: Tensor, layout: Layout) -> Tree:
        return {"last": torch.zeros_like(params)}

    def update(
        self, weights: Tree, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        return -(grads + state["last"]), {"last": grads}


class LastGradientFamily(RuleFamily):
    name = "last_gradient"
    summary = "a rule as a plug-in may bring it"
    space = Space()

    def build(self, genes: Genes) -> LastGradient:
        return LastGradient()

    def describe(self, genes: Genes) -> str:
        return "Steps along this gradient and the last one."

    def formula(self, genes: Genes) -> str:
        return "Δ = −(gₖ + gₖ₋₁)"


def test_state_does_not_live_in_the_memory_of_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES._members, "last_gradient", LastGradientFamily())
    p = nn.Parameter(torch.zeros(2, device=DEVICE))
    p.grad = torch.zeros_like(p)
    optimizer = EvolvedOptimizer([p], Genome("1", "last_gradient", {}), {}, horizon=10)
    for k in range(3):
        p.grad.fill_(k)  # as backward after zero_grad(set_to_none=False) does
        optimizer.step()
    assert p.tolist() == [-4.0, -4.0]


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
    one: One,
    train: Train,
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
    assert torch.equal(flat(net.parameters()), flat(net_again.parameters()))
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
    p = nn.Parameter(torch.linspace(-1.0, 1.0, 7, device=DEVICE))
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


def test_clearing_the_state_starts_afresh(exported: Exported, one: One) -> None:
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


def test_a_fresh_optimizers_state_can_be_loaded(exported: Exported, one: One) -> None:
    path, _, _ = exported("sgd", "exponential", horizon=4, **{"lr": 0.1, "schedule.final": 0.01})
    p, q = one(), one()
    optimizer, again = load_optimizer(path, [p], horizon=9), load_optimizer(path, [q])
    again.load_state_dict(optimizer.state_dict())
    for _ in range(3):
        optimizer.step()
        again.step()
    assert p.item() == q.item()


def test_users_load_hooks_see_and_may_change_the_dictionary(exported: Exported, one: One) -> None:
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


def test_state_of_something_else_is_refused_and_leaves_the_optimizer_as_it_was(
    exported: Exported, one: One
) -> None:
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


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs --device cuda")
@pytest.mark.parametrize(("family", "schedule"), PAIRS)
def test_weights_follow_the_parameters_to_their_device(
    exported: Exported, make_net: MakeNet, batches: Batches, family: str, schedule: str, train: Train
) -> None:
    path, _, _ = exported(family, schedule)
    here, there = make_net().double().cpu(), make_net().double()
    on_cpu, on_cuda = load_optimizer(path, here.parameters()), load_optimizer(path, there.parameters())
    for x, y in batches[:5]:
        train(here, on_cpu, [(x.cpu(), y.cpu())])
        train(there, on_cuda, [(x, y)])
    for a, b in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=1e-9, atol=1e-9)
    assert all(value.device.type == "cuda" for name, value in on_cuda.state[b].items() if name != "step")
