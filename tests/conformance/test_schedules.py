"""The contract of schedules, run over every registered family."""

from __future__ import annotations

import pytest
import torch
from compute_device import DEVICE
from torch import Tensor

from evometa.genome.genes import Value
from evometa.layout import Layout
from evometa.rng import numpy_generator, torch_generator
from evometa.rules import RULES, SCHEDULES, Learner, measure_cost
from evometa.rules.base import LastStep, StepContext
from evometa.rules.schedule_base import Schedule, ScheduleFamily
from evometa.trees import Tree, stack, take, tree_map

LAYOUT = Layout.of({"w": (2,)})
N_TASKS = 3
N_STEPS = 6
HORIZON = 5  # one step fewer than are made: what lies beyond it is part of the contract
DRAWS = ("default", 0)
every_case = pytest.mark.parametrize(
    ("name", "draw"), [(name, draw) for name in SCHEDULES.names() for draw in DRAWS]
)


def _genes(family: ScheduleFamily, draw: str | int) -> dict[str, Value]:
    if draw == "default":
        return family.space.complete({})
    return family.space.sample(numpy_generator(0, "genes", family.name, draw))


def _build(name: str, draw: str | int, dtype: torch.dtype = torch.float64) -> tuple[Schedule, Tree, Tree]:
    """Schedule, weights moved off their start, and hyperparameters."""
    family = SCHEDULES[name]
    genes = _genes(family, draw)
    schedule = family.build(genes)
    continuous = family.space.continuous(genes)
    hyper = {k: torch.tensor(v, dtype=dtype, device=DEVICE) for k, v in continuous.items()}
    return schedule, _weights(schedule, dtype), hyper


def _weights(schedule: Schedule, dtype: torch.dtype, seed: int = 0) -> Tree:
    generator = torch_generator(seed, "weights")
    fresh = schedule.init_weights(generator)
    moved = {k: v + 0.3 * torch.randn(v.shape, generator=generator) for k, v in fresh.items()}
    return tree_map(lambda value: value.to(DEVICE, dtype), moved)


def _losses(dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    drawn = torch.rand((N_STEPS, N_TASKS), generator=torch_generator(seed, "losses"), dtype=dtype)
    return drawn.to(DEVICE) + 0.1


def _context(k: int, loss: Tensor | None, dtype: torch.dtype = torch.float64) -> StepContext:
    step, horizon = (torch.tensor(n, dtype=dtype, device=DEVICE) for n in (k, HORIZON))
    # Any sums will do, as long as those of a task are its own.
    last = None if loss is None else LastStep(torch.sin(9 * loss), 1 + loss, loss.square())
    return StepContext(LAYOUT, step, horizon, loss, last)


def _run(
    schedule: Schedule,
    weights: Tree,
    hyper: Tree,
    losses: Tensor | None,
    *,
    n_tasks: int = N_TASKS,
    dtype: torch.dtype = torch.float64,
    state: Tree | None = None,
    steps: range = range(N_STEPS),
) -> tuple[Tensor, Tree]:
    """Factors ``(K, T)`` and the last state."""
    if state is None:
        state = schedule.init_state(weights, n_tasks, torch.zeros((n_tasks, 1), dtype=dtype, device=DEVICE))
    made = []
    for k in steps:
        loss = None if losses is None else losses[k]
        factor, state = schedule.factor(weights, hyper, state, _context(k, loss, dtype))
        assert factor.shape in ((), (n_tasks,))
        made.append(factor.expand(n_tasks))
    return torch.stack(made), state


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factors_are_positive_finite_and_of_the_given_dtype(
    name: str, draw: str | int, dtype: torch.dtype
) -> None:
    factors, state = _run(*_build(name, draw, dtype), _losses(dtype), dtype=dtype)
    assert factors.dtype == dtype
    assert bool(torch.isfinite(factors).all())
    assert bool((factors >= 0).all())
    assert all(value.dtype == dtype and value.shape[0] == N_TASKS for value in state.values())


@every_case
def test_tasks_in_a_batch_equal_tasks_alone(name: str, draw: str | int) -> None:
    parts, losses = _build(name, draw), _losses()
    together, _ = _run(*parts, losses)
    for t in range(N_TASKS):
        alone, _ = _run(*parts, losses[:, t : t + 1], n_tasks=1)
        torch.testing.assert_close(together[:, t : t + 1], alone, rtol=1e-12, atol=1e-12)


@every_case
def test_candidates_under_vmap_equal_a_loop(name: str, draw: str | int) -> None:
    schedule, _, hyper = _build(name, draw)
    weights = [_weights(schedule, torch.float64, seed=p) for p in range(3)]
    hypers = [{k: v * (1 - 0.2 * p) for k, v in hyper.items()} for p in range(3)]
    losses = [_losses(seed=p) for p in range(3)]
    looped = [_run(schedule, w, h, loss) for w, h, loss in zip(weights, hypers, losses, strict=True)]

    def run_one(one_weights: Tree, one_hyper: Tree, loss: Tensor) -> tuple[Tensor, Tree]:
        return _run(schedule, one_weights, one_hyper, loss)

    factors, state = torch.vmap(run_one)(stack(weights), stack(hypers), torch.stack(losses))
    for p, (expected, expected_state) in enumerate(looped):
        torch.testing.assert_close(factors[p], expected, rtol=1e-12, atol=1e-12)
        for key, value in take(state, p).items():
            torch.testing.assert_close(value, expected_state[key], rtol=1e-12, atol=1e-12)


@every_case
def test_a_copied_state_continues_the_run(name: str, draw: str | int) -> None:
    parts, losses = _build(name, draw), _losses()
    whole, _ = _run(*parts, losses)
    first, state = _run(*parts, losses, steps=range(2))
    second, _ = _run(*parts, losses, state=tree_map(torch.clone, state), steps=range(2, N_STEPS))
    assert torch.equal(torch.cat([first, second]), whole)


@every_case
def test_inputs_are_not_edited(name: str, draw: str | int) -> None:
    (schedule, weights, hyper), losses = _build(name, draw), _losses()
    _, state = _run(schedule, weights, hyper, losses, steps=range(1))
    given = [*weights.values(), *hyper.values(), *state.values(), losses]
    copies = [value.clone() for value in given]
    schedule.factor(weights, hyper, state, _context(1, losses[1]))
    assert all(torch.equal(value, copy) for value, copy in zip(given, copies, strict=True))


@every_case
def test_without_a_loss_and_with_lost_ones_factors_stay_finite(name: str, draw: str | int) -> None:
    parts, losses = _build(name, draw), _losses()
    without, _ = _run(*parts, None)
    assert bool(torch.isfinite(without).all())
    losses[0, 0], losses[2, 1], losses[3, 2] = float("nan"), float("inf"), -float("inf")
    factors, state = _run(*parts, losses)
    assert bool(torch.isfinite(factors).all())
    assert all(bool(torch.isfinite(value).all()) for value in state.values())


@every_case
def test_meta_gradient_is_finite(name: str, draw: str | int) -> None:
    schedule, weights, hyper = _build(name, draw)
    if not weights:
        assert not SCHEDULES[name].learned
        return
    weights = tree_map(lambda value: value.requires_grad_(), weights)
    losses = _losses()
    losses[1, 0] = float("nan")
    losses.requires_grad_()
    factors, _ = _run(schedule, weights, hyper, losses)
    found = torch.autograd.grad(factors.sum(), [*weights.values(), losses])
    assert all(bool(torch.isfinite(value).all()) for value in found)
    assert all(bool((value != 0).any()) for value in found)


@every_case
def test_words_cost_and_structure(name: str, draw: str | int) -> None:
    family = SCHEDULES[name]
    genes = _genes(family, draw)
    assert family.summary
    assert family.name == name
    assert len(family.formula(genes).splitlines()) == 1
    learner = Learner.of("sgd", {**RULES["sgd"].space.complete({}), "schedule": name, **genes})
    assert measure_cost(learner).flops_per_param > 0
    assert (measure_cost(learner).n_weights > 0) == family.learned
    lowest = {gene: family.space[gene].low for gene in family.space.continuous(genes)}  # type: ignore[attr-defined]
    other = Learner.of("sgd", {**dict(learner.genes), **lowest})
    assert hash(other.structure) == hash(learner.structure)
    assert other.structure == learner.structure
