"""The learned schedule: its GRU against torch's, its start at 1, and what it does without a loss."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.rules.base import StepContext
from evometa.rules.schedule_learned import LOG_BOUND, N_INPUTS, RecurrentSchedule, RecurrentScheduleFamily
from evometa.trees import Tree

N_HIDDEN = 6
LAYOUT = Layout.of({"w": (1,)})


def _context(k: int, loss: Tensor | None) -> StepContext:
    return StepContext(LAYOUT, torch.tensor(float(k)), torch.tensor(50.0), loss)


def _start(schedule: RecurrentSchedule, n_tasks: int) -> tuple[Tree, Tree]:
    """Weights with a live output layer, and the first state."""
    generator = torch_generator(0, "weights")
    fresh = schedule.init_weights(generator)
    weights = {k: v + 0.3 * torch.randn(v.shape, generator=generator) for k, v in fresh.items()}
    weights["output.weight"] = torch.randn(N_HIDDEN, generator=generator)
    return weights, schedule.init_state(weights, n_tasks, torch.zeros(1))


def test_untrained_factor_is_exactly_one() -> None:
    schedule = RecurrentSchedule(N_HIDDEN)
    weights = schedule.init_weights(torch_generator(0, "weights"))
    state = schedule.init_state(weights, 3, torch.zeros(1))
    for k, loss in enumerate(torch.tensor([[3.0, 2.0, 1.0], [1e-9, 1e9, 0.0], [-4.0, 1.0, 1.0]])):
        factor, state = schedule.factor(weights, {}, state, _context(k, loss))
        assert torch.equal(factor, torch.ones(3))
    assert bool((state["hidden"] != 0).any())


def test_hidden_state_equals_torch_gru_cell() -> None:
    schedule = RecurrentSchedule(N_HIDDEN)
    weights, state = _start(schedule, 4)
    cell = torch.nn.GRUCell(N_INPUTS, N_HIDDEN)
    with torch.no_grad():
        cell.weight_ih.copy_(weights["cell.input"])
        cell.weight_hh.copy_(weights["cell.recurrent"])
        cell.bias_ih.copy_(weights["cell.bias"])
        cell.bias_hh.zero_()
        cell.bias_hh[2 * N_HIDDEN :] = weights["cell.recurrent_bias"]
    hidden = torch.zeros(4, N_HIDDEN)
    log_loss, averages, first = torch.zeros(4), torch.zeros(4, 3), None
    losses = torch.rand((5, 4), generator=torch_generator(0, "losses")) + 0.1
    for k, loss in enumerate(losses):
        first = loss if first is None else first
        change = (loss / first).log() - log_loss
        log_loss = log_loss + change
        averages = averages + torch.tensor([0.5, 0.1, 0.01]) * (log_loss.unsqueeze(-1) - averages)
        horizon = torch.full((4,), math.log10(50.0) / 5)
        inputs = torch.column_stack(
            [
                log_loss / 5,
                change / 5,
                (log_loss.unsqueeze(-1) - averages) / 5,
                torch.ones(4),
                torch.full((4,), k / 50),
                horizon,
            ]
        )
        hidden = cell(inputs, hidden)
        expected = torch.exp(
            LOG_BOUND * torch.tanh(hidden @ weights["output.weight"] + weights["output.bias"])
        )
        factor, state = schedule.factor(weights, {}, state, _context(k, loss))
        torch.testing.assert_close(state["hidden"], hidden, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(factor, expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=6), st.floats(0.1, 100.0))
def test_factor_is_bounded_for_any_loss(losses: list[float], scale: float) -> None:
    schedule = RecurrentSchedule(N_HIDDEN)
    weights, state = _start(schedule, 1)
    weights["output.weight"] = weights["output.weight"] * scale
    for k, loss in enumerate(losses):
        factor, state = schedule.factor(weights, {}, state, _context(k, torch.tensor([loss])))
        assert math.exp(-LOG_BOUND) * 0.999 <= float(factor) <= math.exp(LOG_BOUND) * 1.001


def test_scale_of_the_loss_does_not_matter() -> None:
    schedule = RecurrentSchedule(N_HIDDEN)
    weights, state = _start(schedule, 2)
    for k in range(5):
        loss = torch.tensor([2.0, 2000.0]) * 0.7**k
        factor, state = schedule.factor(weights, {}, state, _context(k, loss))
        assert float(factor[0]) == pytest.approx(float(factor[1]), rel=1e-5)


def test_missing_and_lost_losses_hold_the_statistics() -> None:
    schedule = RecurrentSchedule(N_HIDDEN)
    weights, state = _start(schedule, 2)
    for k in range(3):
        _, state = schedule.factor(weights, {}, state, _context(k, torch.tensor([5.0, 4.0]) * 0.5**k))
    nan = torch.full((2,), float("nan"))
    absent_factor, absent = schedule.factor(weights, {}, state, _context(3, None))
    lost_factor, lost = schedule.factor(weights, {}, state, _context(3, nan))
    assert torch.equal(absent_factor, lost_factor)
    for name in ("first_loss", "log_loss", "averages"):
        assert torch.equal(absent[name], state[name])
        assert torch.equal(lost[name], state[name])
    present_factor, _ = schedule.factor(weights, {}, state, _context(3, torch.tensor([0.1, 0.1])))
    assert not torch.allclose(present_factor, absent_factor)


def test_first_finite_loss_is_the_reference() -> None:
    schedule = RecurrentSchedule(N_HIDDEN)
    weights, state = _start(schedule, 2)
    _, state = schedule.factor(weights, {}, state, _context(0, torch.tensor([float("nan"), 8.0])))
    _, state = schedule.factor(weights, {}, state, _context(1, torch.tensor([2.0, 4.0])))
    assert state["first_loss"].tolist() == [2.0, 8.0]
    assert state["log_loss"].tolist() == pytest.approx([0.0, math.log(0.5)])


def test_hidden_size_is_structural() -> None:
    family = RecurrentScheduleFamily()
    small, large = (family.space.complete({"schedule.hidden": n}) for n in (4, 16))
    assert family.space.structural(small) != family.space.structural(large)
    weights = family.build(large).init_weights(torch_generator(0, "w"))
    assert weights["cell.recurrent"].shape == (48, 16)
