"""The native step of hand-designed rules against the rules' own update, mapped over candidates."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from evometa import native
from evometa.layout import Layout
from evometa.rng import numpy_generator, torch_generator
from evometa.rules.base import Hyper, StepContext
from evometa.rules.hand_designed import HAND_DESIGNED, HandDesignedRule
from evometa.trees import Tree, stack, take, tree_map

P, T, N = 3, 2, 37  # 37 coordinates fill no number of vectors
FAMILIES = {family.name: family for family in HAND_DESIGNED}
LAYOUT = Layout.of({"w": (N,)})


@pytest.fixture(scope="module", autouse=True)
def kernel() -> None:
    if not native.enabled() or shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("needs native kernels and a C++ compiler")
    assert native.why_unavailable("moments") is None


def cohort(name: str, dtype: torch.dtype, n: int = P) -> tuple[HandDesignedRule, Tree]:
    """A rule and the continuous genes ``(P,)`` of candidates drawn from its whole space."""
    family = FAMILIES[name]
    drawn = [family.space.continuous(family.space.sample(numpy_generator(1, name, i))) for i in range(n)]
    hyper = {key: torch.tensor([genes[key] for genes in drawn], dtype=dtype) for key in drawn[0]}
    return HandDesignedRule(family.row), hyper


def start(rule: HandDesignedRule, dtype: torch.dtype, n: int = P) -> tuple[Tensor, Tree]:
    params = torch.randn((n, T, N), generator=torch_generator(2), dtype=torch.float64).to(dtype)
    return params, stack([rule.init_state({}, one, LAYOUT) for one in params])


def gradients(n_steps: int, dtype: torch.dtype) -> Tensor:
    """``(K, P, T, N)`` over several magnitudes, the first coordinate's exactly zero."""
    generator = torch_generator(3)
    shape = (n_steps, P, T, N)
    scale = 10 ** (4 * torch.rand(shape, generator=generator, dtype=torch.float64) - 2)
    grads = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
    grads[..., 0] = 0.0
    return grads.to(dtype)


def context(step: int, dtype: torch.dtype) -> StepContext:
    return StepContext(LAYOUT, torch.tensor(step, dtype=dtype), torch.tensor(100.0, dtype=dtype), None)


def reference(
    rule: HandDesignedRule,
    hyper: Hyper,
    state: Tree,
    grads: Tensor,
    params: Tensor,
    here: StepContext,
    factor: Tensor,
) -> tuple[Tensor, Tree]:
    def update(hyper: Tree, state: Tree, grad: Tensor, param: Tensor) -> tuple[Tensor, Tree]:
        return rule.update({}, hyper, state, grad, param, here)

    steps, state = torch.vmap(update)(dict(hyper), state, grads, params)
    return params + factor.unsqueeze(-1) * steps, state


Step = Callable[..., tuple[Tensor, Tree]]


def native_step(rule: HandDesignedRule, *given: object, overwrite: bool = False) -> tuple[Tensor, Tree]:
    return rule.advance({}, *given, overwrite=overwrite)  # type: ignore[arg-type]


def trajectory(
    step: Step, name: str, dtype: torch.dtype, n_steps: int, *, from_zero: bool = False
) -> tuple[Tensor, Tree]:
    """Params ``(K, P, T, N)`` after each step and the last state; the factor differs between runs."""
    rule, hyper = cohort(name, dtype)
    params, state = start(rule, dtype)
    params = torch.zeros_like(params) if from_zero else params
    factor = torch.linspace(0.2, 1.0, P * T, dtype=dtype).reshape(P, T)
    path = []
    for k, grads in enumerate(gradients(n_steps, dtype)):
        params, state = step(rule, hyper, state, grads, params, context(k, dtype), factor)
        path.append(params)
    return torch.stack(path), state


@pytest.mark.parametrize("name", FAMILIES)
def test_twenty_steps_equal_the_mapped_update_in_float64(name: str) -> None:
    expected, expected_state = trajectory(reference, name, torch.float64, 20)
    path, state = trajectory(native_step, name, torch.float64, 20)
    torch.testing.assert_close(path, expected, rtol=1e-12, atol=1e-13)
    assert state.keys() == expected_state.keys()
    for key, value in expected_state.items():
        torch.testing.assert_close(state[key], value, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", FAMILIES)
def test_displacements_equal_the_float64_update_in_float32(name: str) -> None:
    """From zero, so that the size of params does not hide a wrong step."""
    expected, _ = trajectory(reference, name, torch.float64, 20, from_zero=True)
    path, _ = trajectory(native_step, name, torch.float32, 20, from_zero=True)
    largest = expected.abs().amax(0).clamp(min=1e-12)
    assert float(((path.double() - expected).abs() / largest).max()) < 2e-6


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("n_factors", [1, T])
def test_gradients_by_params_and_factor_equal_autograd(name: str, n_factors: int) -> None:
    rule, hyper = cohort(name, torch.float64)
    params, state = start(rule, torch.float64)
    state = tree_map(lambda value: value + 0.3, state)
    factor = torch.rand((P, n_factors), generator=torch_generator(4), dtype=torch.float64)
    along = torch.randn((P, T, N), generator=torch_generator(5), dtype=torch.float64)
    found = []
    for step in (reference, native_step):
        leaves = [params.clone().requires_grad_(), factor.clone().requires_grad_()]
        point, moments = leaves[0], state
        for k, grads in enumerate(gradients(3, torch.float64)):
            point, moments = step(rule, hyper, moments, grads, point, context(k, torch.float64), leaves[1])
        found.append((point, *torch.autograd.grad((point * along).sum(), leaves)))
    for got, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["sgd", "adamw", "nadam", "lion"])
def test_in_place_equals_out_of_place_which_edits_nothing(name: str) -> None:
    rule, hyper = cohort(name, torch.float32)
    params, state = start(rule, torch.float32)
    grads, factor, here = gradients(1, torch.float32)[0], torch.ones(P, 1), context(4, torch.float32)
    before = params.clone(), tree_map(torch.clone, state)
    apart = native_step(rule, hyper, state, grads, params, here, factor)
    assert torch.equal(params, before[0])
    assert all(torch.equal(state[key], before[1][key]) for key in state)
    inside = native_step(rule, hyper, state, grads, params, here, factor, overwrite=True)
    assert inside[0].data_ptr() == params.data_ptr()
    assert torch.equal(inside[0], apart[0])
    assert all(torch.equal(inside[1][key], apart[1][key]) for key in state)


@pytest.mark.parametrize("name", ["adam", "nadam", "lion"])
def test_a_candidate_does_not_depend_on_its_cohort(name: str) -> None:
    rule, hyper = cohort(name, torch.float32)
    params, state = start(rule, torch.float32)
    grads, factor, here = gradients(1, torch.float32)[0], torch.ones(P, 1), context(4, torch.float32)
    together, states = native_step(rule, hyper, state, grads, params, here, factor)
    one = slice(1, 2)
    alone, own = native_step(
        rule, take(hyper, one), take(state, one), grads[one], params[one], here, factor[one]
    )
    assert torch.equal(alone, together[one])
    assert all(torch.equal(own[key], states[key][one]) for key in own)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adagrad", "adam"])
def test_a_gradient_that_is_not_finite_stays_in_its_coordinate(name: str, bad: float) -> None:
    rule, hyper = cohort(name, torch.float32)
    params, state = start(rule, torch.float32)
    grads, factor, here = gradients(1, torch.float32)[0], torch.ones(P, 1), context(0, torch.float32)
    clean, _ = native_step(rule, hyper, state, grads, params, here, factor)
    grads[1, 0, 5] = bad
    got, _ = native_step(rule, hyper, state, grads, params, here, factor)
    expected, _ = reference(rule, hyper, state, grads, params, here, factor)
    assert torch.equal(got[1, 0, 5].isfinite(), expected[1, 0, 5].isfinite())
    got[1, 0, 5] = clean[1, 0, 5] = 0.0
    assert torch.equal(got, clean)


def test_tensors_need_not_be_contiguous() -> None:
    rule, hyper = cohort("adam", torch.float64)
    params, state = start(rule, torch.float64)
    grads, here = gradients(1, torch.float64)[0], context(2, torch.float64)
    factor = torch.rand((P, T), dtype=torch.float64, generator=torch_generator(6))
    expected, _ = native_step(rule, hyper, state, grads, params, here, factor)
    scattered = [value.permute(2, 0, 1).contiguous().permute(1, 2, 0) for value in (grads, params)]
    moments = tree_map(lambda value: torch.zeros(()).double().expand_as(value), state)
    got, _ = native_step(rule, hyper, moments, *scattered, here, factor.mT.contiguous().mT)
    assert torch.equal(got, expected)


def test_fading_moments_become_zero_and_never_subnormal() -> None:
    rule, hyper = cohort("adam", torch.float32)
    hyper |= {"one_minus_beta1": torch.full((P,), 0.5), "one_minus_beta2": torch.full((P,), 0.5)}
    params, state = start(rule, torch.float32)
    state = tree_map(lambda value: value + 1e-37, state)
    for k in range(20):
        args = (torch.zeros_like(params), params, context(k, torch.float32), torch.ones(P, 1))
        params, state = native_step(rule, hyper, state, *args, overwrite=True)
        for value in state.values():
            assert bool(((value == 0) | (value >= torch.finfo(torch.float32).tiny)).all())
    assert bool((state["first"] == 0).all())
    assert bool(params.isfinite().all())


def test_serves_neither_graphs_of_gradients_nor_transforms_nor_other_types() -> None:
    rule, _ = cohort("adam", torch.float32)
    params, grads = torch.ones(P, T, N), torch.ones(P, T, N)
    assert rule.has_kernel(grads, params)
    assert rule.has_kernel(grads, params.clone().requires_grad_())
    assert not rule.has_kernel(grads.clone().requires_grad_(), params)
    assert not rule.has_kernel(grads.half(), params.half())
    assert not rule.has_kernel(grads.double(), params)
    with native.disabled():
        assert not rule.has_kernel(grads, params)


def test_the_operator_refuses_what_would_read_or_write_elsewhere() -> None:
    params, short = torch.ones(P, T, N), torch.ones(P, T, N - 1)
    numbers = [torch.ones(()) for _ in range(8)]
    operator = torch.ops.evometa.moments_step

    def call(
        moments: tuple[Tensor | None, Tensor | None],
        first: str = "average",
        grads: Tensor = params,
        numbers: list[Tensor] = numbers,
    ) -> None:
        operator(
            grads, params, moments[0], None, "moment", first, "none", False, numbers, params, moments[1], None
        )

    call((params, params))
    for bad in (
        {"moments": (short, params)},
        {"moments": (params, short)},
        {"moments": (None, None)},
        {"moments": (params, None)},
        {"moments": (params, params), "grads": short},
        {"moments": (params, params), "grads": params.double()},
        {"moments": (params, params), "grads": params.mT.contiguous().mT},
        {"moments": (params, params), "numbers": numbers[:7]},
        {"moments": (params, params), "numbers": [torch.ones(P + 1, 1, 1)] * 8},
        {"moments": (params, params), "numbers": [value.double() for value in numbers]},
        {"moments": (params, params), "first": "median"},
    ):
        with pytest.raises(RuntimeError):
            call(**bad)  # type: ignore[arg-type]
