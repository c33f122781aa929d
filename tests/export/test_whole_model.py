"""Exported rules that relate the tensors of a model to each other step all of it at once."""

from __future__ import annotations

import copy
import importlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from compute_device import DEVICE, ON_CPU
from evolved_optimizers import assert_close, assert_equal, give_gradients, parameters, train, values
from joint_rule import DECAY, JointFamily
from standalone_driver import trained
from tapes import Tapes
from torch import Tensor, nn

from evometa.export import EvolvedOptimizer, buckets, recorded
from evometa.export.standalone import export_standalone
from evometa.genome.genome import Genome
from evometa.inner import graphs
from evometa.layout import Layout
from evometa.rules import RULES, Learner
from evometa.rules.base import StepContext
from evometa.rules.learner_structure import learner_space

SHAPES = [(3, 4), (3,), (), (2, 3)]
LR = 0.25


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES._members, "joint", JointFamily())


def genome() -> Genome:
    genes = learner_space(RULES["joint"]).complete({"lr": LR, "schedule": "constant"})
    return Genome("000-001", "joint", genes)


def joint(params: Any, lr: float = 1.0, **options: Any) -> EvolvedOptimizer:
    return EvolvedOptimizer(params, genome(), {}, lr, **{"horizon": 9, **options})


class Plain:
    """The rule in plain Python; gradients are given at every step, None for a tensor that has none."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = values(params)
        self.momenta = [torch.zeros_like(value) for value in self.params]

    def step(self, grads: Sequence[Tensor | None], scales: Sequence[float]) -> None:
        whole = [torch.zeros_like(m) if g is None else g for m, g in zip(self.momenta, grads, strict=True)]
        length = sum(float(grad.square().sum()) for grad in whole) ** 0.5
        for place, (grad, scale) in enumerate(zip(whole, scales, strict=True)):
            self.momenta[place] = DECAY * self.momenta[place] + (1 - DECAY) * grad
            if grads[place] is not None:
                self.params[place] -= scale * LR * self.momenta[place] / (length + 1e-8)


def lose(params: Sequence[Tensor], places: Sequence[int]) -> None:
    for place in places:
        params[place].grad = None


def test_it_steps_as_in_a_campaign() -> None:
    params = parameters(SHAPES)
    layout = Layout.of({str(place): parameter.shape for place, parameter in enumerate(params)})
    learner, own = Learner.of("joint", genome().genes), genome().genes
    assert own["lr"] == LR
    flat = torch.cat([parameter.detach().flatten() for parameter in params]).unsqueeze(0)
    state, hyper = learner.init_state({}, flat, layout), {"lr": torch.tensor(LR, device=DEVICE)}
    optimizer = joint(params)
    for k in range(4):
        give_gradients(params, k)
        grads = torch.cat([parameter.grad.flatten() for parameter in params]).unsqueeze(0)
        context = StepContext(layout, flat.new_tensor(k), flat.new_tensor(9.0), None)
        step, state = learner.update({}, hyper, state, grads, flat, context)
        flat = flat + step
        optimizer.step()
        assert torch.equal(torch.cat([parameter.detach().flatten() for parameter in params]), flat[0])
    assert torch.equal(optimizer.state[params[3]]["rule.norms"][0], state["rule.norms"][0, 3:])
    assert torch.equal(optimizer.state[params[0]]["rule.length"], state["rule.length"])


@pytest.mark.parametrize("room", [2**18, 5])
def test_groups_are_one_model_with_options_of_their_own(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "_CPU_COORDINATES", room)
    monkeypatch.setattr(buckets, "_COORDINATES", room)
    params = parameters(SHAPES)
    plain = Plain(params)
    lrs, decays = [0.5, 0.5, 2.0, 2.0], [0.1, 0.1, 0.0, 0.0]
    groups = [{"params": params[:2], "lr": 0.5, "weight_decay": 0.1}, {"params": params[2:]}]
    optimizer = joint(groups, lr=2.0)
    for k in range(4):
        give_gradients(params, k)
        before = values(plain.params)
        plain.step([parameter.grad for parameter in params], lrs)
        for place, value in enumerate(plain.params):
            value -= lrs[place] * decays[place] * before[place]
        optimizer.step()
    assert_close(params, plain.params, 1e-12)


def test_some_groups_may_climb() -> None:
    params, turned = parameters(SHAPES), parameters(SHAPES)
    optimizer = joint([{"params": params[:2], "maximize": True}, {"params": params[2:]}])
    other = joint([{"params": turned[:2]}, {"params": turned[2:]}])
    for k in range(3):
        give_gradients(params, k)
        give_gradients(turned, k)
        for parameter in turned[:2]:
            parameter.grad.neg_()
        kept = values(parameter.grad for parameter in params)
        optimizer.step()
        other.step()
        assert_equal((parameter.grad for parameter in params), kept)
    assert_equal(params, turned)


def test_without_a_gradient_a_parameter_stays_and_counts_with_zero() -> None:
    params = parameters(SHAPES)
    frozen = nn.Parameter(torch.ones(3, dtype=torch.float64, device=DEVICE), requires_grad=False)
    whole = nn.Parameter(torch.tensor([1, 2], device=DEVICE), requires_grad=False)
    plain = Plain(params)
    optimizer = joint([*params, frozen, whole], weight_decay=0.1)
    for k, missing in enumerate([[], [1], [0, 3], [], [1]]):
        give_gradients(params, k)
        lose(params, missing)
        before, versions = values(params), [parameter._version for parameter in params]
        plain.step([parameter.grad for parameter in params], [1.0] * 4)
        for place, value in enumerate(plain.params):
            value -= 0.0 if place in missing else 0.1 * before[place]
        optimizer.step()
        assert all(params[place]._version == versions[place] for place in missing)
    assert_close(params, plain.params, 1e-12)
    assert (frozen.tolist(), whole.tolist()) == ([1.0] * 3, [1, 2])
    assert [int(optimizer.state[parameter]["step"]) for parameter in params] == [5] * 4


def test_what_is_frozen_from_the_start_is_no_part_of_the_model() -> None:
    params, alone = parameters(SHAPES), parameters(SHAPES)
    before = params[1].detach().clone()
    params[1].requires_grad_(False)
    optimizer, other = joint(params), joint([alone[0], *alone[2:]])
    for k in range(3):
        give_gradients(params, k)
        give_gradients(alone, k)
        params[1].grad = None
        optimizer.step()
        other.step()
    assert torch.equal(params[1], before)
    assert_equal([params[0], *params[2:]], [alone[0], *alone[2:]])


def test_where_nothing_has_a_gradient_nothing_happens() -> None:
    params = parameters(SHAPES)
    optimizer = joint(params)
    train(params, optimizer, [0])
    lose(params, range(4))
    before = copy.deepcopy(optimizer.state_dict()["state"])
    at = values(params)
    optimizer.step()
    assert_equal(params, at)
    assert torch.equal(optimizer.state_dict()["state"][0]["rule.length"], before[0]["rule.length"])


def test_what_joins_later_is_a_model_of_its_own() -> None:
    early, late, alone = parameters(SHAPES), parameters(SHAPES[:2], seed=1), parameters(SHAPES[:2], seed=1)
    undisturbed = parameters(SHAPES)
    optimizer, other = joint(early), joint(undisturbed)
    train(early, optimizer, range(2))
    optimizer.add_param_group({"params": late})
    for k in range(2, 5):
        give_gradients(early, k)
        give_gradients(late, k)
        optimizer.step()
    train(undisturbed, other, range(5))
    train(alone, joint(alone), range(2, 5))
    assert_equal(early, undisturbed)
    assert_equal(late, alone)


def test_a_checkpoint_of_several_groups_continues_bit_for_bit() -> None:
    params = parameters(SHAPES)
    optimizer = joint([{"params": params[:2], "lr": 0.5}, {"params": params[2:]}])
    train(params, optimizer, range(3))
    lose(params, [1])
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = [nn.Parameter(value) for value in values(params)]
    other = joint([{"params": again[:2], "lr": 0.5}, {"params": again[2:]}])
    other.load_state_dict(torch.load(file, weights_only=True))
    train(params, optimizer, range(4, 7))
    train(again, other, range(4, 7))
    assert_equal(params, again)


def test_several_dtypes_and_devices_are_refused_before_anything_moves() -> None:
    params = parameters(SHAPES[:1]) + parameters(SHAPES[1:], torch.float32)
    optimizer, before = joint(params), values(params)
    with pytest.raises(
        RuntimeError, match=r"'joint' rule steps all .* in torch.float64 and on .* in torch.fl"
    ):
        train(params, optimizer, [0])
    assert_equal(params, before)
    there = [params[1], nn.Parameter(torch.empty(3, device="meta"))]
    with pytest.raises(RuntimeError, match=r"and on meta in torch.float32; bring them to one device"):
        train(there, joint(there), [0])
    halves = [*parameters(SHAPES[:1], torch.bfloat16), *parameters(SHAPES[1:], torch.float32)]
    train(halves, joint(halves), [0])  # both are computed in float32


def test_a_model_too_large_to_be_recorded_is_stepped_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = parameters(SHAPES)
    train(plain, joint(plain), range(5))
    monkeypatch.setattr(graphs, "serves", lambda device, n_steps=None: True)
    if ON_CPU:
        monkeypatch.setattr(graphs, "CudaGraphs", lambda device, shares_memory: Tapes(device))
    for most in (4, 2**23):
        monkeypatch.setattr(recorded, "MOST_COORDINATES", most)
        params = parameters(SHAPES)
        train(params, joint([{"params": params[:1]}, {"params": params[1:]}]), range(5))
        assert_close(params, plain)


def test_its_standalone_file_steps_as_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_standalone(tmp_path / "joint_best.py", genome(), {}, horizon=9, provenance={})
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("joint_best")
    monkeypatch.delitem(sys.modules, "joint_best")
    found, expected = (
        trained(make, torch.float32, interrupted=interrupted)
        for make, interrupted in ((module.EvolvedOptimizer, True), (joint, False))
    )
    assert torch.equal(found, expected)
