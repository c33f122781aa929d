"""The contract of exported optimizers' state: saved, loaded, copied, replaced, as torch.optim's."""

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
from compute_device import ON_CPU
from evolved_optimizers import (
    CASES,
    SHAPES,
    Case,
    assert_close,
    assert_equal,
    assert_same,
    every_case,
    evolved,
    parameters,
    train,
    values,
)
from torch import nn

from evometa.export import buckets
from evometa.export.optimizer import SCHEDULE_KEY
from evometa.rules import SCHEDULES


def _resumed(way: str, case: Case, params: list[nn.Parameter], optimizer: Any, path: Path) -> Any:
    if way == "pickled":
        return pickle.loads(pickle.dumps((params, optimizer)))
    if way == "copied":
        return copy.deepcopy((params, optimizer))
    state = optimizer.state_dict()
    if way == "saved":
        torch.save(state, path)
        state = torch.load(path, weights_only=True)
    again = [nn.Parameter(parameter.detach().clone()) for parameter in params]
    other = evolved(case, again, horizon=99)
    before = copy.deepcopy(state)
    other.load_state_dict(state)
    assert_same(state, before)
    return again, other


@every_case
@pytest.mark.parametrize(
    ("way", "dtype"),
    [
        ("in memory", torch.float32),
        ("pickled", torch.float32),
        ("saved", torch.bfloat16),  # of which torch.optim would make the state bfloat16 as well
        ("copied", torch.bfloat16),
    ],
    ids=str,
)
def test_training_continues_bit_for_bit(case: Case, way: str, dtype: torch.dtype, tmp_path: Path) -> None:
    params = parameters(SHAPES, dtype)
    optimizer = evolved(case, params, lr=0.5, weight_decay=0.01)
    train(params, optimizer, range(3))
    params[1].grad = None  # now one is a step behind, and its bucket is split
    optimizer.step(loss=1.0)
    again, other = _resumed(way, case, params, optimizer, tmp_path / "state.pt")
    train(params, optimizer, range(4, 7))
    train(again, other, range(4, 7))
    assert_equal(params, again)
    assert_same(optimizer.state_dict(), other.state_dict())


@pytest.mark.parametrize("schedule", SCHEDULES.names())
def test_training_continues_under_every_schedule(schedule: str, tmp_path: Path) -> None:
    case: Case = ("momentum", "default")
    params = parameters(SHAPES)
    optimizer = evolved(case, params, schedule=schedule)
    train(params, optimizer, range(5))
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    again = [nn.Parameter(parameter.detach().clone()) for parameter in params]
    other = evolved(case, again, schedule=schedule, horizon=99)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    train(params, optimizer, range(5, 15))
    train(again, other, range(5, 15))
    assert_equal(params, again)


CONTINUE = """
import sys, torch
from evolved_optimizers import CASES, evolved, train
saved = torch.load(sys.argv[1], weights_only=True)
for case in CASES:
    params = [torch.nn.Parameter(value) for value in saved[str(case)]["params"]]
    optimizer = evolved(case, params)
    optimizer.load_state_dict(saved[str(case)]["optimizer"])
    train(params, optimizer, range(3, 6))
    saved[str(case)]["params"] = [value.detach() for value in params]
torch.save(saved, sys.argv[1])
"""


def test_training_continues_in_another_process(tmp_path: Path) -> None:
    saved, ended, path = {}, {}, tmp_path / "all.pt"
    for case in CASES:
        params = parameters(SHAPES)
        optimizer = evolved(case, params)
        train(params, optimizer, range(3))
        saved[str(case)] = {"params": values(params), "optimizer": optimizer.state_dict()}
        train(params, optimizer, range(3, 6))
        ended[str(case)] = params
    torch.save(saved, path)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, 'tests/support')\n{CONTINUE}", path]
    subprocess.run(command, check=True, cwd=root, timeout=120)
    found = torch.load(path, weights_only=True)
    for name, params in ended.items():
        assert_equal(params, found[name]["params"])


@every_case
def test_a_state_is_taken_by_buckets_that_are_cut_otherwise(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = parameters(SHAPES)
    optimizer = evolved(case, params)
    train(params, optimizer, range(3))
    state = optimizer.state_dict()
    again = [nn.Parameter(parameter.detach().clone()) for parameter in params]
    train(params, optimizer, range(3, 6))
    room = "_CPU_COORDINATES" if ON_CPU else "_COORDINATES"
    monkeypatch.setattr(buckets, room, 5)  # less than the largest tensor
    other = evolved(case, again)
    other.load_state_dict(state)
    train(again, other, range(3, 6))
    assert_close(params, again)
    assert_same(
        {k: v.shape for k, v in optimizer.state[params[0]].items()},
        {k: v.shape for k, v in other.state[again[0]].items()},
    )


def _replaced(optimizer: Any) -> None:
    """As Lightning does when it moves state to a device."""
    for parameter, state in list(optimizer.state.items()):
        optimizer.state[parameter] = {name: value.clone() for name, value in state.items()}


def _tensors_replaced(optimizer: Any) -> None:
    """As most training scripts do when they move state to a device."""
    for state in optimizer.state.values():
        for name, value in state.items():
            state[name] = value.clone()


@every_case
@pytest.mark.parametrize("replace", [_replaced, _tensors_replaced])
def test_state_replaced_from_outside_is_the_state(case: Case, replace: Callable[[Any], None]) -> None:
    params, undisturbed = parameters(SHAPES), parameters(SHAPES)
    optimizer, other = evolved(case, params), evolved(case, undisturbed)
    train(undisturbed, other, range(6))
    train(params, optimizer, range(3))
    replace(optimizer)
    train(params, optimizer, range(3, 5))
    replace(optimizer)
    train(params, optimizer, range(5, 6))
    assert_close(params, undisturbed)


@every_case
def test_state_set_back_from_outside_is_set_back(case: Case) -> None:
    """What the client puts there counts, not what the optimizer had."""
    params = parameters(SHAPES)
    optimizer = evolved(case, params)
    train(params, optimizer, range(2))
    kept = copy.deepcopy({place: optimizer.state[parameter] for place, parameter in enumerate(params)})
    kept_whole, at = copy.deepcopy(optimizer.state[SCHEDULE_KEY]), values(params)
    train(params, optimizer, range(2, 4))
    first = values(params)
    for place, (parameter, value) in enumerate(zip(params, at, strict=True)):
        parameter.data.copy_(value)
        for name in kept[place]:
            optimizer.state[parameter][name] = kept[place][name]
    optimizer.state[SCHEDULE_KEY] = kept_whole
    train(params, optimizer, range(2, 4))
    assert_close(params, first)


@every_case
def test_a_step_count_edited_in_place_is_heeded(case: Case) -> None:
    params, again = parameters(SHAPES), parameters(SHAPES)
    optimizer, other = evolved(case, params), evolved(case, again)
    for mine, own in ((params, optimizer), (again, other)):
        train(mine, own, range(3))
        for parameter in mine[1:]:
            own.state[parameter]["step"] -= 1
    saved = other.state_dict()
    fresh = evolved(case, again)
    fresh.load_state_dict(saved)
    train(params, optimizer, range(3, 5))
    train(again, fresh, range(3, 5))
    assert [int(optimizer.state[parameter]["step"]) for parameter in params] == [5, 4, 4, 4]
    assert_close(params, again)


@every_case
def test_clearing_the_state_starts_afresh(case: Case) -> None:
    params, fresh = parameters(SHAPES), parameters(SHAPES)
    optimizer = evolved(case, params)
    train(params, optimizer, range(3))
    optimizer.state.clear()
    for parameter, value in zip(params, fresh, strict=True):
        parameter.data.copy_(value)
    train(params, optimizer, range(3))
    train(fresh, evolved(case, fresh), range(3))
    assert_equal(params, fresh)


@every_case
def test_a_removed_group_stays_as_it_is_and_the_others_go_on(case: Case) -> None:
    params, whole = parameters(SHAPES), parameters(SHAPES)
    optimizer = evolved(case, [{"params": params[:2]}, {"params": params[2:]}])
    train(params, optimizer, range(3))
    at = values(params[:2])
    for parameter in optimizer.param_groups.pop(0)["params"]:
        del optimizer.state[parameter]
    train(params, optimizer, range(3, 6))
    train(whole, evolved(case, [{"params": whole[:2]}, {"params": whole[2:]}]), range(6))
    assert_equal(params[:2], at)
    if optimizer._learner.rule.tensorwise:
        assert_close(params[2:], whole[2:])
    else:  # the model is another one from there on
        assert all(bool(torch.isfinite(parameter).all()) for parameter in params)
    assert optimizer.state_dict()["param_groups"][0]["params"] == [0, 1]
