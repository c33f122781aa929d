"""Formula schedules against torch.optim.lr_scheduler, and properties that hold for all of them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from evometa.layout import Layout
from evometa.rng import numpy_generator
from evometa.rules.base import StepContext
from evometa.rules.schedules import FORMULA_SCHEDULES, MAX_FACTOR

FAMILIES = {family.name: family for family in FORMULA_SCHEDULES}
HORIZON = 100


def _factors(
    name: str,
    genes: Mapping[str, object],
    steps: range = range(HORIZON),
    horizon: int = HORIZON,
    dtype: torch.dtype = torch.float64,
) -> list[float]:
    family = FAMILIES[name]
    chosen = family.space.complete(genes)  # type: ignore[arg-type]
    schedule = family.build(chosen)
    hyper = {key: torch.tensor(value, dtype=dtype) for key, value in family.space.continuous(chosen).items()}
    layout = Layout.of({"w": (1,)})
    factors = []
    for k in steps:
        context = StepContext(layout, torch.tensor(k, dtype=dtype), torch.tensor(horizon, dtype=dtype), None)
        factor, state = schedule.factor({}, hyper, {}, context)
        assert factor.shape == ()
        assert state == {}
        factors.append(float(factor))
    return factors


def _torch_factors(make: object, n_steps: int = HORIZON) -> list[float]:
    """Learning rates of a torch schedule over a run that starts at 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = make(optimizer)  # type: ignore[operator]
    factors = []
    for _ in range(n_steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return factors


def test_constant() -> None:
    assert _factors("constant", {}) == [1.0] * HORIZON


def test_exponential_equals_torch() -> None:
    theirs = _torch_factors(lambda o: lr_scheduler.ExponentialLR(o, gamma=0.02 ** (1 / HORIZON)))
    assert _factors("exponential", {"schedule.final": 0.02}) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize(("interval", "n_steps"), [(0.3, 30), (0.1, 10), (0.07, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_step_equals_torch(interval: float, n_steps: int, dtype: torch.dtype) -> None:
    theirs = _torch_factors(lambda o: lr_scheduler.StepLR(o, step_size=n_steps, gamma=0.5))
    genes = {"schedule.interval": interval, "schedule.gamma": 0.5}
    assert _factors("step", genes, dtype=dtype) == pytest.approx(theirs, rel=1e-6)


def test_cosine_equals_torch() -> None:
    theirs = _torch_factors(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=HORIZON, eta_min=0.05))
    assert _factors("cosine", {"schedule.final": 0.05}) == pytest.approx(theirs, rel=1e-9)


def test_warmup_cosine_equals_torch() -> None:
    n_warmup = 20

    def make(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        ramp = lr_scheduler.LinearLR(optimizer, start_factor=1 / n_warmup, total_iters=n_warmup - 1)
        cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=HORIZON - n_warmup, eta_min=0.05)
        return lr_scheduler.SequentialLR(optimizer, [ramp, cosine], milestones=[n_warmup])

    genes = {"schedule.warmup": n_warmup / HORIZON, "schedule.final": 0.05}
    assert _factors("warmup_cosine", genes) == pytest.approx(_torch_factors(make), rel=1e-9)


def test_warmup_stable_decay_equals_torch() -> None:
    n_warmup, n_decay = 10, 40

    def make(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        parts = [
            lr_scheduler.LinearLR(optimizer, start_factor=1 / n_warmup, total_iters=n_warmup - 1),
            lr_scheduler.ConstantLR(optimizer, factor=1.0),
            lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.1, total_iters=n_decay),
        ]
        return lr_scheduler.SequentialLR(optimizer, parts, milestones=[n_warmup, HORIZON - n_decay])

    genes = {"schedule.warmup": 0.1, "schedule.decay": 0.4, "schedule.final": 0.1}
    assert _factors("warmup_stable_decay", genes) == pytest.approx(_torch_factors(make), rel=1e-9)


def test_piecewise_linear_goes_through_its_knots() -> None:
    genes = {f"schedule.value_{i}": value for i, value in enumerate([0.5, 2.0, 1.0, 0.1, 0.01])}
    genes |= {f"schedule.gap_{i}": gap for i, gap in enumerate([0.1, 0.3, 0.4, 0.2])}
    factors = _factors("piecewise_linear", genes, range(HORIZON + 1))
    assert [factors[k] for k in (0, 10, 40, 80, 100)] == pytest.approx([0.5, 2.0, 1.0, 0.1, 0.01])
    assert factors[5] == pytest.approx(1.25)
    assert factors[60] == pytest.approx(0.55)


def test_warmup_shorter_than_a_step_is_none() -> None:
    genes = {"schedule.final": 0.05}
    assert _factors("warmup_cosine", {**genes, "schedule.warmup": 0.0}) == pytest.approx(
        _factors("cosine", genes)
    )


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 10_000),
    horizon=st.integers(1, 3000),
    beyond=st.integers(0, 10_000),
)
def test_factor_is_bounded_and_holds_beyond_the_horizon(
    name: str, seed: int, horizon: int, beyond: int
) -> None:
    genes = FAMILIES[name].space.sample(numpy_generator(seed, "genes"))
    k = seed % horizon
    inside, end, after = (
        _factors(name, genes, range(step, step + 1), horizon, torch.float32)[0]
        for step in (k, horizon, horizon + beyond)
    )
    for factor in (inside, end, after):
        assert 0.0 <= factor <= MAX_FACTOR * (1 + 1e-6)
    assert after == pytest.approx(end, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(["exponential", "cosine", "step"]), seed=st.integers(0, 10_000))
def test_decays_never_rise(name: str, seed: int) -> None:
    genes = FAMILIES[name].space.sample(numpy_generator(seed, "genes"))
    factors = _factors(name, genes, range(0, HORIZON + 20, 7))
    assert factors == sorted(factors, reverse=True)


def test_formula_states_the_numbers() -> None:
    family = FAMILIES["warmup_cosine"]
    text = family.formula(family.space.complete({"schedule.warmup": 0.125, "schedule.final": 0.03}))
    assert text == (
        "min((k+1)/(0.125·H), 1)·[0.03 + (1 − 0.03)·(1 + cos πq)/2],  "
        "q = max(p − 0.125, 0)/(1 − 0.125),  p = min(k/H, 1)"
    )


def test_shared_genes_are_declared_alike() -> None:
    declared: dict[str, object] = {}
    for family in FORMULA_SCHEDULES:
        for gene in family.space:
            assert gene.name.startswith("schedule.")
            assert declared.setdefault(gene.name, gene) == gene
