"""Hand-designed rules against torch.optim, and Lion and QHAdam against their equations in plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.rules.base import RuleFamily, StepContext
from evometa.rules.hand_designed import HAND_DESIGNED

N_STEPS = 50
N = 23
FAMILIES: dict[str, RuleFamily] = {family.name: family for family in HAND_DESIGNED}
Optimizer = Callable[[list[Tensor], dict[str, float]], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": lambda p, h: torch.optim.SGD(p, lr=h["lr"]),
    "momentum": lambda p, h: torch.optim.SGD(p, lr=h["lr"], momentum=1 - h["one_minus_momentum"]),
    "nesterov": lambda p, h: torch.optim.SGD(
        p, lr=h["lr"], momentum=1 - h["one_minus_momentum"], nesterov=True
    ),
    "rmsprop": lambda p, h: torch.optim.RMSprop(p, lr=h["lr"], alpha=1 - h["one_minus_beta2"], eps=h["eps"]),
    "adagrad": lambda p, h: torch.optim.Adagrad(p, lr=h["lr"], eps=h["eps"]),
    "adam": lambda p, h: torch.optim.Adam(p, lr=h["lr"], betas=_betas(h), eps=h["eps"]),
    "adamw": lambda p, h: torch.optim.AdamW(
        p, lr=h["lr"], betas=_betas(h), eps=h["eps"], weight_decay=h["weight_decay"]
    ),
    "nadam": lambda p, h: torch.optim.NAdam(
        p, lr=h["lr"], betas=_betas(h), eps=h["eps"], momentum_decay=h["momentum_decay"]
    ),
}

OTHER_GENES: dict[str, dict[str, float]] = {
    "sgd": {"lr": 0.7},
    "momentum": {"lr": 0.2, "one_minus_momentum": 0.01},
    "nesterov": {"lr": 0.2, "one_minus_momentum": 0.05},
    "rmsprop": {"lr": 0.05, "one_minus_beta2": 0.3, "eps": 1e-3},
    "adagrad": {"lr": 0.5, "eps": 1e-2},
    "adam": {"lr": 0.05, "one_minus_beta1": 0.3, "one_minus_beta2": 3e-5, "eps": 1e-3},
    "adamw": {"lr": 0.05, "one_minus_beta1": 0.02, "one_minus_beta2": 0.05, "eps": 1e-6, "weight_decay": 0.5},
    "nadam": {
        "lr": 0.05,
        "one_minus_beta1": 0.02,
        "one_minus_beta2": 0.05,
        "eps": 1e-6,
        "momentum_decay": 0.05,
    },
}


def _betas(hyper: Mapping[str, float]) -> tuple[float, float]:
    return 1 - hyper["one_minus_beta1"], 1 - hyper["one_minus_beta2"]


def _streams(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Initial params ``(N,)`` and gradients ``(N_STEPS, N)`` over several magnitudes, some exactly zero."""
    generator = torch_generator(0, "streams")
    params = torch.randn(N, generator=generator, dtype=dtype)
    scale = 10 ** (4 * torch.rand(N, generator=generator, dtype=dtype) - 2)
    grads = torch.randn(N_STEPS, N, generator=generator, dtype=dtype) * scale
    grads[:, 0] = 0.0
    return params, grads


def _trajectory(family: RuleFamily, genes: Mapping[str, object], params: Tensor, grads: Tensor) -> Tensor:
    """Params ``(N,)`` after each gradient ``(K, N)``."""
    chosen = family.space.complete(genes)  # type: ignore[arg-type]
    rule = family.build(chosen)
    hyper = {
        name: torch.tensor(value, dtype=params.dtype)
        for name, value in family.space.continuous(chosen).items()
    }
    layout = Layout.of({"w": (params.shape[0],)})
    theta = params.clone().unsqueeze(0)
    state = rule.init_state({}, theta, layout)
    path = []
    for k, gradient in enumerate(grads):
        context = StepContext(layout, torch.tensor(k, dtype=params.dtype), torch.tensor(100.0), None)
        step, state = rule.update({}, hyper, state, gradient.unsqueeze(0), theta, context)
        theta = theta + step
        path.append(theta[0])
    return torch.stack(path)


def _torch_trajectory(make: Optimizer, hyper: Mapping[str, float], params: Tensor, grads: Tensor) -> Tensor:
    theta = params.clone().requires_grad_()
    optimizer = make([theta], dict(hyper))
    path = []
    for gradient in grads:
        theta.grad = gradient.clone()
        optimizer.step()
        path.append(theta.detach().clone())
    return torch.stack(path)


@pytest.fixture
def float64_default() -> Iterator[None]:
    """torch.optim keeps its step counts and momentum products in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("which", ["default", "other"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_torch_in_float64(name: str, which: str, float64_default: None) -> None:
    family = FAMILIES[name]
    genes = family.space.complete(OTHER_GENES[name] if which == "other" else {})
    params, grads = _streams(torch.float64)
    ours = _trajectory(family, genes, params, grads)
    theirs = _torch_trajectory(OPTIMIZERS[name], family.space.continuous(genes), params, grads)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("which", ["default", "other"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_equal_torch_in_float32(name: str, which: str) -> None:
    """The displacement, not the position: the params' own size must not hide a wrong step."""
    family = FAMILIES[name]
    genes = family.space.complete(OTHER_GENES[name] if which == "other" else {})
    params, grads = _streams(torch.float32)
    params = torch.zeros_like(params)
    ours = _trajectory(family, genes, params, grads)
    theirs = _torch_trajectory(
        OPTIMIZERS[name], family.space.continuous(genes), params.double(), grads.double()
    )
    largest = theirs.abs().amax(dim=0).clamp(min=1e-12)
    assert float(((ours.double() - theirs).abs() / largest).max()) < 1e-6


def _lion(
    params: list[float], grads: list[list[float]], lr: float, beta1: float, beta2: float, decay: float
) -> list[float]:
    """Lion as its paper writes it (Chen et al. 2023, algorithm 2), coordinate by coordinate."""
    theta, moment = list(params), [0.0] * len(params)
    for gradient in grads:
        for i, g in enumerate(gradient):
            mixture = beta1 * moment[i] + (1 - beta1) * g
            direction = (mixture > 0) - (mixture < 0)
            theta[i] -= lr * (direction + decay * theta[i])
            moment[i] = beta2 * moment[i] + (1 - beta2) * g
    return theta


@pytest.mark.parametrize(
    "genes",
    [{}, {"lr": 0.03, "one_minus_beta1": 0.05, "one_minus_moment_decay": 0.002, "weight_decay": 0.3}],
)
def test_lion_equals_its_equations(genes: dict[str, float]) -> None:
    family = FAMILIES["lion"]
    chosen = family.space.continuous(family.space.complete(genes))
    params, grads = _streams(torch.float64)
    expected = _lion(
        params.tolist(),
        grads.tolist(),
        chosen["lr"],
        1 - chosen["one_minus_beta1"],
        1 - chosen["one_minus_moment_decay"],
        chosen["weight_decay"],
    )
    ours = _trajectory(family, genes, params, grads)[-1]
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def _qhadam(
    params: list[float],
    grads: list[list[float]],
    lr: float,
    betas: tuple[float, float],
    eps: float,
    nu: float,
) -> list[float]:
    """QHAdam as its paper writes it (Ma & Yarats 2019, section 3) with ν₂ = 1, coordinate by coordinate."""
    theta, first, second = list(params), [0.0] * len(params), [0.0] * len(params)
    for k, gradient in enumerate(grads, start=1):
        for i, g in enumerate(gradient):
            first[i] = betas[0] * first[i] + (1 - betas[0]) * g
            second[i] = betas[1] * second[i] + (1 - betas[1]) * g * g
            blend = (1 - nu) * g + nu * first[i] / (1 - betas[0] ** k)
            theta[i] -= lr * blend / (math.sqrt(second[i] / (1 - betas[1] ** k)) + eps)
    return theta


@pytest.mark.parametrize(
    "genes",
    [{}, {"lr": 0.03, "one_minus_beta1": 0.05, "one_minus_beta2": 0.1, "eps": 1e-3, "gradient_share": 0.45}],
)
def test_qhadam_equals_its_equations(genes: dict[str, float]) -> None:
    family = FAMILIES["qhadam"]
    chosen = family.space.continuous(family.space.complete(genes))
    params, grads = _streams(torch.float64)
    nu = 1 - chosen["gradient_share"]
    expected = _qhadam(params.tolist(), grads.tolist(), chosen["lr"], _betas(chosen), chosen["eps"], nu)
    ours = _trajectory(family, genes, params, grads)[-1]
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-12)


def test_qhadam_without_a_share_of_the_gradient_is_adam() -> None:
    params, grads = _streams(torch.float64)
    genes = {"lr": 0.01, "one_minus_beta1": 0.1}
    adam = _trajectory(FAMILIES["adam"], genes, params, grads)
    ours = _trajectory(FAMILIES["qhadam"], {**genes, "gradient_share": 0.0}, params, grads)
    torch.testing.assert_close(ours, adam, rtol=1e-12, atol=1e-12)


def test_momentum_without_memory_is_sgd() -> None:
    params, grads = _streams(torch.float64)
    sgd = _trajectory(FAMILIES["sgd"], {"lr": 0.1}, params, grads)
    for name in ("momentum", "nesterov"):
        ours = _trajectory(FAMILIES[name], {"lr": 0.1, "one_minus_momentum": 1.0}, params, grads)
        assert torch.equal(ours, sgd)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["rmsprop", "adagrad", "adam", "nadam", "qhadam", "lion"]),
    scale=st.floats(1e-3, 1e3),
)
def test_adaptive_rules_ignore_the_scale_of_gradients(name: str, scale: float) -> None:
    genes = {"eps": 1e-12} if "eps" in FAMILIES[name].space else {}
    generator = torch_generator(0, "scales")
    grads = torch.randn(20, N, generator=generator, dtype=torch.float64)
    start = torch.zeros(N, dtype=torch.float64)
    one = _trajectory(FAMILIES[name], genes, start, grads)
    other = _trajectory(FAMILIES[name], genes, start, grads * scale)
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_meta_gradient_through_zero_gradients_is_finite(name: str) -> None:
    """A dead unit's gradient stays exactly 0; the derivative of its step must not become NaN."""
    family = FAMILIES[name]
    genes = family.space.complete({})
    hyper = {key: torch.tensor(value) for key, value in family.space.continuous(genes).items()}
    rule = family.build(genes)
    layout = Layout.of({"w": (3,)})
    grads = torch.tensor([[0.0, 1.0, -2.0]], requires_grad=True)
    params = torch.ones(1, 3, requires_grad=True)
    state = rule.init_state({}, params, layout)
    context = StepContext(layout, torch.tensor(0.0), torch.tensor(10.0), None)
    step, _ = rule.update({}, hyper, state, grads, params, context)
    found = torch.autograd.grad((step + params).sum(), [grads, params])
    assert all(bool(torch.isfinite(value).all()) for value in found)


@pytest.mark.parametrize("name", FAMILIES)
def test_words_and_formula_state_the_numbers(name: str) -> None:
    family = FAMILIES[name]
    genes = family.space.complete({"lr": 0.01234})
    assert "0.01234" in family.describe(genes)
    assert "Δ = −0.01234·" in family.formula(genes)


def test_formula_of_adam() -> None:
    family = FAMILIES["adam"]
    assert family.formula(family.space.complete({})).splitlines() == [
        "g = ∇L(θ)",
        "m ← 0.9·m + 0.1·g",
        "v ← 0.999·v + 0.001·g²",
        "Δ = −0.003·m/(1 − 0.9^(k+1)) / (√(v/(1 − 0.999^(k+1))) + 1e-08)",
    ]


def test_genes_that_mean_the_same_have_one_name() -> None:
    assert set(FAMILIES["adam"].space.names()) < set(FAMILIES["adamw"].space.names())
    assert set(FAMILIES["rmsprop"].space.names()) < set(FAMILIES["adam"].space.names())
    assert all(family.space.names()[0] == "lr" for family in FAMILIES.values())
