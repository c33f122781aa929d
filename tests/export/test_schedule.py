"""The schedule of an exported genome around the user's own optimizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from compute_device import DEVICE
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, SequentialLR

import evometa
from evometa.errors import GenomeError
from evometa.export import load_optimizer
from evometa.genome.genome import Genome
from evometa.layout import Layout
from evometa.rules import RULES, SCHEDULES, Learner
from evometa.rules.base import StepContext
from evometa.rules.learner import GUARD_POWER
from evometa.schedule import EvolvedSchedule, load
from evometa.trees import Tree

HORIZON, N_STEPS = 15, 20  # beyond the horizon as well
FORMULAS = [name for name, family in SCHEDULES if family.build(family.space.complete({})).elementwise]
LEARNED_SCHEDULES = [name for name, family in SCHEDULES if family.learned]
LEARNED_RULES = [name for name, family in RULES if family.learned]

Exported = Callable[..., tuple[Path, Genome, Tree]]
One = Callable[..., nn.Parameter]


def sgd(lr: float = 1.0) -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1, device=DEVICE))], lr=lr)


def rates(
    optimizer: torch.optim.Optimizer, schedule: EvolvedSchedule, losses: list[float | None]
) -> list[float]:
    """The learning rate of each step; after it the schedule is told its loss."""
    used = []
    for loss in losses:
        used.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step(loss=loss)
    return used


def factors(genome: Genome, weights: Tree, losses: list[float | None]) -> list[float]:
    """Those of the learner in float64, which is given these losses."""
    learner = Learner.of(genome.family, genome.genes)
    weights = {name: value.double() for name, value in weights.items()}
    hyper = {name: torch.tensor(value, dtype=torch.float64) for name, value in learner.hyper.items()}
    state = learner.init_schedule_state(weights, 1, torch.empty((), dtype=torch.float64))
    found = []
    for k, loss in enumerate(losses):
        step, horizon = (torch.tensor(float(n), dtype=torch.float64) for n in (k, HORIZON))
        known = None if loss is None else torch.tensor([loss], dtype=torch.float64)
        factor, state = learner.factor(
            weights, hyper, state, StepContext(Layout.of({}), step, horizon, known)
        )
        found.append(float(factor))
    return found


@pytest.mark.parametrize("name", FORMULAS)
def test_a_schedule_around_sgd_is_the_evolved_sgd(exported: Exported, one: One, name: str) -> None:
    path, _, _ = exported("sgd", name, lr=0.1)
    ours, theirs = one(0.0), one(0.0)
    evolved = load_optimizer(path, [ours], horizon=HORIZON)
    optimizer = torch.optim.SGD([theirs], lr=0.1)
    schedule = evometa.schedule.load(path, optimizer, horizon=HORIZON)
    for _ in range(N_STEPS):
        evolved.step()
        optimizer.step()
        schedule.step()
        assert theirs.item() == pytest.approx(ours.item(), rel=1e-12)
    assert ours.item() != 0.0


@pytest.mark.parametrize("name", LEARNED_SCHEDULES)
def test_a_learned_schedule_reads_each_loss_one_step_later(exported: Exported, name: str) -> None:
    path, genome, weights = exported("momentum", name)
    optimizer = sgd()
    losses: list[float | None] = [4.0, 2.0, None, 1.0, float("nan"), 0.5, 0.25, 8.0]
    found = rates(optimizer, load(path, optimizer, horizon=HORIZON), losses)
    assert found == pytest.approx(factors(genome, weights, [None, *losses[:-1]]), rel=1e-12)
    again = sgd()
    silent = rates(again, load(path, again, horizon=HORIZON), [None] * len(losses))
    assert silent == pytest.approx(factors(genome, weights, [None] * len(losses)), rel=1e-12)
    assert silent != found


@pytest.mark.parametrize("name", LEARNED_SCHEDULES)
def test_past_the_horizon_a_learned_schedule_fades_out(exported: Exported, name: str) -> None:
    path, genome, weights = exported("momentum", name)
    optimizer = sgd()
    losses: list[float | None] = [4.0 / (k + 1) for k in range(4 * HORIZON)]
    found = rates(optimizer, load(path, optimizer, horizon=HORIZON), losses)
    shares = [min(1.0, HORIZON / (k + 1)) ** GUARD_POWER for k in range(len(losses))]
    free = factors(genome, weights, [None, *losses[:-1]])
    assert found == pytest.approx([share * factor for share, factor in zip(shares, free, strict=True)])
    assert found[HORIZON - 1] == pytest.approx(free[HORIZON - 1], rel=1e-12)
    assert found[-1] < free[-1] / 2


@pytest.mark.parametrize("name", [*FORMULAS, *LEARNED_SCHEDULES])
def test_it_continues_where_its_state_was_taken(exported: Exported, tmp_path: Path, name: str) -> None:
    path, _, _ = exported("adam", name)
    optimizer, again = sgd(0.5), sgd(0.5)
    schedule = load(path, optimizer, horizon=HORIZON)
    losses: list[float | None] = [3.0, 2.5, 2.0, 1.0]
    rates(optimizer, schedule, losses)
    torch.save(
        {"schedule": schedule.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt"
    )
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = load(path, again)  # another horizon, until the saved one comes with the state
    resumed.load_state_dict(saved["schedule"])
    again.load_state_dict(saved["optimizer"])
    whole, rest = rates(optimizer, schedule, losses), rates(again, resumed, losses)
    assert whole == rest
    assert resumed.get_last_lr() == schedule.get_last_lr()


def test_every_group_keeps_its_own_rate_and_tensor_rates_stay_tensors(exported: Exported, one: One) -> None:
    path, _, _ = exported("sgd", "exponential", **{"schedule.final": 0.01})
    rate = torch.tensor(0.5)
    optimizer = torch.optim.Adam([{"params": [one()], "lr": 0.1}, {"params": [one()], "lr": rate}])
    schedule = load(path, optimizer, horizon=4)
    for _ in range(2):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.01**0.5)
    assert optimizer.param_groups[1]["lr"] is not None
    assert isinstance(optimizer.param_groups[1]["lr"], torch.Tensor)
    assert float(optimizer.param_groups[1]["lr"]) == pytest.approx(0.5 * 0.01**0.5)


def test_it_can_follow_a_scheduler_of_pytorch(exported: Exported) -> None:
    path, genome, weights = exported("sgd", "cosine", **{"schedule.final": 0.01})
    optimizer = sgd()
    warmup = ConstantLR(optimizer, factor=0.5, total_iters=3)
    both = SequentialLR(optimizer, [warmup, load(path, optimizer, horizon=HORIZON)], milestones=[3])
    used = []
    for _ in range(8):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        both.step()
    assert used == pytest.approx([0.5] * 3 + factors(genome, weights, [None] * 5))


@pytest.mark.parametrize("family", LEARNED_RULES)
def test_a_schedule_of_a_learned_rule_is_refused(exported: Exported, family: str) -> None:
    path, _, _ = exported(family, "cosine")
    with pytest.raises(GenomeError, match=rf"{path}: its rule '{family}' is learned, .*load_optimizer"):
        load(path, sgd())


def test_what_is_wrong_is_said_in_one_line(exported: Exported, tmp_path: Path) -> None:
    path, _, _ = exported("sgd", "cosine")
    with pytest.raises(GenomeError, match=r"nothing\.safetensors"):
        load(tmp_path / "nothing.safetensors", sgd())
    with pytest.raises(ValueError, match="Invalid horizon: 0"):
        load(path, sgd(), horizon=0)
    with pytest.raises(TypeError, match="is not an Optimizer"):
        load(path, [nn.Parameter(torch.zeros(1))])  # type: ignore[arg-type]
    schedule = load(path, sgd())
    learned = load(exported("sgd", LEARNED_SCHEDULES[0])[0], sgd())
    for given, message in (
        (ConstantLR(sgd()).state_dict(), "not saved by an evolved schedule"),
        (learned.state_dict(), "state of the schedule holds"),
    ):
        with pytest.raises(ValueError, match=message):
            schedule.load_state_dict(given)
