"""The contract of exported optimizers past the planned horizon: what was never trained there fades out."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import evolved_optimizers
import pytest
import torch
from evolved_optimizers import (
    SHAPES,
    Case,
    assert_equal,
    assert_same,
    every_case,
    genome_of,
    give_gradients,
    loss_at,
    parameters,
    train,
    values,
)
from torch import Tensor, nn

from evometa.export import EvolvedOptimizer
from evometa.genome.genome import Genome
from evometa.rng import torch_generator
from evometa.rules import SCHEDULES, learner
from evometa.rules.learner import GUARD_POWER
from evometa.trees import Tree

#: Short, since every rule is trained far beyond it.
HORIZON = 4
FAR = 10 * HORIZON
FORMULAS = [name for name, family in SCHEDULES if not family.learned]


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Call its ``undo`` to have the guard back."""
    with monkeypatch.context() as patched:
        patched.setattr(learner, "GUARD_POWER", 0)
        yield patched


def evolved(case: Case, params: Any, **options: Any) -> EvolvedOptimizer:
    """The optimizer of a case with the short horizon."""
    return evolved_optimizers.evolved(case, params, **{"horizon": HORIZON, **options})


def distance(some: list[Tensor], others: list[Tensor]) -> float:
    return math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(some, others, strict=True)))


def lengths(case: Case) -> list[float]:
    """How far each of FAR steps goes, all from one place and by gradients that only the step decides."""
    params, found = parameters(SHAPES), []
    optimizer, start = evolved(case, params), values(params)
    for k in range(FAR):
        for parameter, value in zip(params, start, strict=True):
            parameter.data.copy_(value)
        train(params, optimizer, [k])
        found.append(distance(values(params), start))
    return found


@every_case
def test_within_the_horizon_nothing_is_held_back(case: Case, unguarded: pytest.MonkeyPatch) -> None:
    free, params = parameters(SHAPES), parameters(SHAPES)
    other, optimizer = evolved(case, free), evolved(case, params)
    train(free, other, range(HORIZON))
    at_the_horizon = values(free)
    train(free, other, [HORIZON])
    unguarded.undo()
    train(params, optimizer, range(HORIZON))
    assert_equal(params, at_the_horizon)
    train(params, optimizer, [HORIZON])
    assert distance(values(params), values(free)) > 0


@every_case
def test_past_the_horizon_the_kth_step_is_multiplied_by_its_share(
    case: Case, unguarded: pytest.MonkeyPatch
) -> None:
    """So the way from H to 10 H is bounded, whatever the genome would do."""
    free = lengths(case)
    unguarded.undo()
    found = lengths(case)
    shares = [min(1.0, HORIZON / k) ** GUARD_POWER for k in range(1, FAR + 1)]
    assert found == pytest.approx([share * way for share, way in zip(shares, free, strict=True)], rel=1e-6)
    assert 0 < sum(found[HORIZON:]) <= max(free[HORIZON:]) * HORIZON * math.log(FAR / HORIZON)


def explosive(family: str) -> tuple[Genome, Tree]:
    """A genome whose steps on a bowl are twice as long as what converges; weights are random and large.

    In that of sgd a learned schedule makes them so.
    """
    learned_rule = {"nominal": "sgd", "nominal_lr": 1.0, "output": "direct", "lr": 1e-3}
    if family == "sgd":
        genome, weights = genome_of(family, "default", "recurrent", lr=0.05)
        return genome, {**weights, "schedule.output.bias": torch.tensor(5.0)}
    genome, weights = genome_of(family, "default", "constant", **learned_rule)
    generator = torch_generator(0, "large", family)
    return genome, {name: 3.0 * torch.randn(w.shape, generator=generator) for name, w in weights.items()}


@pytest.mark.parametrize("family", ["mlp", "recurrent", "sgd"])
def test_a_genome_that_explodes_ends_finite(family: str, unguarded: pytest.MonkeyPatch) -> None:
    horizon, n_steps = 12, 120  # to overflow takes a while

    def reached() -> list[float]:
        """The loss of a bowl, θ ↦ 2·|θ|², at every step."""
        params = parameters([(4, 3), (3,)], torch.float32)
        optimizer, losses = EvolvedOptimizer(params, *explosive(family), horizon=horizon), list[float]()
        for _ in range(n_steps):
            loss = sum(2.0 * parameter.square().sum() for parameter in params)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step(loss=loss)
            losses.append(loss.item())
        return losses

    free = reached()
    assert free[horizon] > 1e6 * free[0]
    assert not math.isfinite(free[-1])
    unguarded.undo()
    held = reached()
    assert all(map(math.isfinite, held))
    assert held[-1] < held[horizon]


@pytest.mark.parametrize("schedule", FORMULAS)
def test_what_is_a_formula_throughout_goes_on_as_it_was(schedule: str, unguarded: pytest.MonkeyPatch) -> None:
    case: Case = ("adam", "default")
    free, params = parameters(SHAPES), parameters(SHAPES)
    train(free, evolved(case, free, schedule=schedule), range(3 * HORIZON))
    unguarded.undo()
    train(params, evolved(case, params, schedule=schedule), range(3 * HORIZON))
    assert_equal(params, free)


@every_case
def test_training_continues_past_the_horizon_bit_for_bit(case: Case, tmp_path: Path) -> None:
    """A loaded state brings its horizon and its count of steps, by which steps are held back."""
    params = parameters(SHAPES)
    optimizer = evolved(case, params)
    train(params, optimizer, range(HORIZON + 2))
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    again = [nn.Parameter(parameter.detach().clone()) for parameter in params]
    other = evolved(case, again, horizon=FAR)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    train(params, optimizer, range(HORIZON + 2, 3 * HORIZON))
    train(again, other, range(HORIZON + 2, 3 * HORIZON))
    assert_equal(params, again)
    assert_same(optimizer.state_dict(), other.state_dict())


@every_case
def test_the_steps_of_the_whole_model_count(case: Case) -> None:
    """A tensor that joins after the horizon begins afresh, but the model is where it is."""
    early, late = parameters([(3, 4)]), parameters([(3,), ()], seed=1)
    optimizer = evolved(case, early, schedule="constant")
    is_guarded = optimizer._learner.is_guarded
    train(early, optimizer, range(2 * HORIZON - 1))
    optimizer.zero_grad()
    optimizer.add_param_group({"params": late})
    alone, before = copy.deepcopy(late), values(late)
    fresh = evolved(case, alone, schedule="constant")
    for params, each in ((late, optimizer), (alone, fresh)):
        give_gradients(params, 0)
        each.step(loss=loss_at(0))
    share = 0.5**GUARD_POWER if is_guarded else 1.0
    for start, joined, first in zip(before, late, alone, strict=True):
        torch.testing.assert_close(joined - start, share * (first - start), rtol=1e-7, atol=1e-12)
