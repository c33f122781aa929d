"""The MLP rules' kernel against the rule in PyTorch: values, gradients, isolation, when it serves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evometa import native
from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.rules.base import StepContext
from evometa.rules.feature_table import METZ, SHARED_FEATURES, VARYING_FEATURES
from evometa.rules.mlp import MLPFamily, MLPRule
from evometa.rules.mlp_kernel import HYPER, UNIT
from evometa.trees import Tree, stack, take, tree_map

#: matrices wider and narrower than a vector, a vector, a row, a scalar, a kernel of a convolution, nothing
LAYOUT = Layout.of(
    {"w": (7, 21), "n": (13, 3), "b": (21,), "e": (0, 3), "r": (1, 40), "s": (), "k": (2, 2, 3, 3)}
)
#: its channels are too many to be kept from one pass to the next
LARGE = Layout.of({"w": (61, 100), "b": (300,)})
EVERYTHING = {"features": VARYING_FEATURES, "shared_features": SHARED_FEATURES}
STRUCTURES: dict[str, dict[str, object]] = {
    "defaults": {},
    "one layer of everything on SGD": {"layers": 1, "output": "direct", "nominal": "sgd", **EVERYTHING},
    "three layers that scale Adam": {
        "layers": 3, "hidden": 7, "output": "rms_normalised", "nominal": "adam", "combine": "scale",
    },
    "32 units on Adam": {"hidden": 32, "nominal": "adam", "combine": "add", **EVERYTHING},
    "direct, scales Adam": {
        "hidden": 5, "output": "direct", "nominal": "adam", "combine": "scale", "shared_features": ("loss",),
    },
    "scales a mixture of gradient and slow average": {
        "hidden": 6, "output": "direct", "nominal": "adam", "combine": "scale", "nominal_beta1": 0.95,
        "nominal_beta2": 0.9, "nominal_gradient": 0.3, **EVERYTHING,
    },
    "normalised, of everything": {"hidden": 9, "output": "rms_normalised", **EVERYTHING},
    "no rows, no columns": {
        "features": ("gradient", "log_sign_average_0.5"), "nominal": "adam", "shared_features": (),
    },
    "no statistics": {"features": ("parameter",), "shared_features": ("progress",)},
    "rows only": {"features": ("row_0.9", "reciprocal_row_0.99"), "output": "direct", "nominal": "sgd"},
    "columns and factors": {"features": ("column_0.9", "factored_average_0.99"), "shared_features": ()},
}  # fmt: skip
each_structure = pytest.mark.parametrize("genes", STRUCTURES.values(), ids=STRUCTURES)
two_structures = pytest.mark.parametrize("genes", list(STRUCTURES.values())[2:4], ids=list(STRUCTURES)[2:4])


@pytest.fixture(autouse=True)
def _kernel_is_there() -> None:
    reason = native.why_unavailable(UNIT)
    if reason is not None:
        pytest.skip(f"no kernel here: {reason}")


@dataclass(frozen=True)
class Cohort:
    """P candidates of one structure between two steps."""

    rule: MLPRule
    layout: Layout
    weights: Tree
    hyper: Tree
    state: Tree
    params: Tensor
    factor: Tensor

    @classmethod
    def of(
        cls,
        n_candidates: int = 3,
        n_tasks: int = 2,
        dtype: torch.dtype = torch.float64,
        layout: Layout = LAYOUT,
        **genes: object,
    ) -> Cohort:
        rule = MLPFamily().build(MLPFamily().space.complete(genes))  # type: ignore[arg-type]
        drawn = torch_generator(0, "cohort")

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=drawn, dtype=torch.float64).to(dtype)

        fresh = [rule.init_weights(torch_generator(p)) for p in range(n_candidates)]
        params = normal(n_candidates, n_tasks, layout.size)
        return cls(
            rule,
            layout,
            tree_map(lambda value: value.to(dtype) + 0.2 * normal(*value.shape), stack(fresh)),
            {name: 0.05 + 0.02 * normal(n_candidates).abs() for name in HYPER},
            stack([rule.init_state({}, own, layout) for own in params]),
            params,
            1.0 + normal(n_candidates, n_tasks).abs(),
        )

    def member(self, p: int) -> Cohort:
        """Candidate p alone."""
        parts = [take(part, slice(p, p + 1)) for part in (self.weights, self.hyper, self.state)]
        return Cohort(self.rule, self.layout, *parts, self.params[p : p + 1], self.factor[p : p + 1])

    def context(self, k: int, loss: Tensor | None) -> StepContext:
        step = torch.tensor(float(k), dtype=self.params.dtype)
        return StepContext(self.layout, step, torch.tensor(10.0, dtype=self.params.dtype), loss)

    def by_kernel(self, grads: Tensor, loss: Tensor | None, k: int = 0, *, overwrite: bool = False) -> Cohort:
        assert self.rule.has_kernel(grads, self.params)
        context = self.context(k, loss)
        arguments = (self.weights, self.hyper, self.state, grads, self.params, context, self.factor)
        params, state = self.rule.advance(*arguments, overwrite=overwrite)
        return replace(self, params=params, state=state)

    def by_torch(self, grads: Tensor, loss: Tensor, k: int = 0) -> Cohort:
        def of_one(
            weights: Tree, hyper: Tree, state: Tree, grad: Tensor, param: Tensor, loss: Tensor, factor: Tensor
        ) -> tuple[Tensor, Tree]:
            step, state = self.rule.update(weights, hyper, state, grad, param, self.context(k, loss))
            return param + factor.unsqueeze(-1) * step, state

        factor = self.factor.expand(self.params.shape[:2])
        arguments = (self.weights, self.hyper, self.state, grads, self.params, loss, factor)
        params, state = torch.vmap(of_one)(*arguments)
        return replace(self, params=params, state=state)

    def tensors(self) -> Tree:
        return {"params": self.params, **self.state}

    def leaves(self) -> Cohort:
        """The same, with everything that the kernel is differentiable in as leaves of a graph."""
        return replace(
            self,
            weights=tree_map(lambda value: value.clone().requires_grad_(), self.weights),
            params=self.params.clone().requires_grad_(),
            factor=self.factor.clone().requires_grad_(),
        )

    def inputs(self) -> Tree:
        return {"params": self.params, "factor": self.factor, **self.weights}


def _observed(cohort: Cohort, k: int = 0) -> tuple[Tensor, Tensor]:
    """Gradients between 1e-7 and 10, and losses, of step k."""
    drawn = torch_generator(k, "observed")
    shape = cohort.params.shape
    grads = torch.randn(shape, generator=drawn, dtype=torch.float64)
    grads = grads * 10 ** torch.empty_like(grads).uniform_(-6, 1, generator=drawn)
    losses = torch.rand(shape[:2], generator=drawn, dtype=torch.float64) + 0.1
    return grads.to(cohort.params.dtype), losses.to(cohort.params.dtype)


def _largest_difference(ours: Tree, expected: Tree) -> float:
    """Relative to the largest entry of each tensor."""
    assert set(ours) == set(expected)
    return max(
        float((ours[name] - value).abs().max() / value.abs().max().clamp(min=1e-30))
        for name, value in expected.items()
    )


def _gradients(start: Cohort, n_steps: int, *, by_kernel: bool) -> Tree:
    """Of a random linear function of the params after ``n_steps``."""
    at = start
    for k in range(n_steps):
        at = at.by_kernel(*_observed(at, k), k) if by_kernel else at.by_torch(*_observed(at, k), k)
    drawn = torch_generator(0, "objective")
    objective = (at.params * torch.randn(at.params.shape, generator=drawn, dtype=at.params.dtype)).sum()
    inputs = start.inputs()
    found = torch.autograd.grad(objective, list(inputs.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(inputs, found, strict=True))


def _same(ours: Tree, expected: Tree) -> bool:
    return all(torch.equal(ours[name], value) for name, value in expected.items())


def _assert_equal_to_torch(cohort: Cohort, tolerance: float, n_steps: int) -> None:
    ours = plain = cohort
    with torch.no_grad():
        for k in range(n_steps):
            observed = _observed(cohort, k)
            ours, plain = ours.by_kernel(*observed, k), plain.by_torch(*observed, k)
    assert _largest_difference(ours.tensors(), plain.tensors()) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@each_structure
def test_twenty_steps_equal_the_rule_in_torch(
    genes: dict[str, object], dtype: torch.dtype, tolerance: float
) -> None:
    _assert_equal_to_torch(Cohort.of(dtype=dtype, **genes), tolerance, 20)


@pytest.mark.parametrize("output", ["direction_magnitude", "rms_normalised"])
def test_tensors_too_large_to_keep_their_channels(output: str) -> None:
    cohort = Cohort.of(1, 1, layout=LARGE, output=output)
    _assert_equal_to_torch(cohort, 1e-12, 3)
    leaves = cohort.leaves()
    both = [_gradients(leaves, 1, by_kernel=by_kernel) for by_kernel in (True, False)]
    assert _largest_difference(*both) < 1e-9


@settings(max_examples=25)
@given(
    n_rows=st.integers(1, 40),
    n_columns=st.integers(1, 40),
    n_hidden=st.integers(4, 32),
    features=st.sets(st.sampled_from(VARYING_FEATURES), min_size=1),
    shared=st.sets(st.sampled_from(SHARED_FEATURES)),
)
def test_any_shape_and_any_features(
    n_rows: int, n_columns: int, n_hidden: int, features: set[str], shared: set[str]
) -> None:
    layout = Layout.of({"w": (n_rows, n_columns), "b": (n_rows,)})
    genes = {"hidden": n_hidden, "features": tuple(features), "shared_features": tuple(shared)}
    cohort = Cohort.of(2, 1, layout=layout, **genes)
    _assert_equal_to_torch(cohort, 1e-12, 3)
    leaves = cohort.leaves()
    both = [_gradients(leaves, 2, by_kernel=by_kernel) for by_kernel in (True, False)]
    assert _largest_difference(*both) < 1e-9


@each_structure
def test_gradients_through_three_steps_equal_autograd(genes: dict[str, object]) -> None:
    start = Cohort.of(**genes).leaves()
    both = [_gradients(start, 3, by_kernel=by_kernel) for by_kernel in (True, False)]
    assert _largest_difference(*both) < 1e-9


def test_gradient_of_a_factor_that_tasks_share() -> None:
    start = Cohort.of()
    start = replace(start, factor=start.factor[:, :1]).leaves()
    both = [_gradients(start, 2, by_kernel=by_kernel) for by_kernel in (True, False)]
    assert both[0]["factor"].shape == (3, 1)
    assert _largest_difference(*both) < 1e-9


def test_gradients_and_their_statistics_are_constants() -> None:
    cohort = Cohort.of(**EVERYTHING).leaves()
    grads, losses = _observed(cohort)
    after = cohort.by_kernel(grads, losses.requires_grad_())
    assert after.params.requires_grad
    assert not any(value.requires_grad for value in after.state.values())


@each_structure
def test_in_place_equals_fresh(genes: dict[str, object]) -> None:
    cohort, twin = Cohort.of(**genes), Cohort.of(**genes)
    grads, losses = _observed(cohort)
    fresh = cohort.by_kernel(grads, losses)
    assert _same(cohort.tensors(), twin.tensors())
    edited = cohort.by_kernel(grads, losses, overwrite=True)
    assert _same(edited.tensors(), fresh.tensors())
    kept = [name for name in cohort.tensors() if name != "initial_loss"]
    assert all(edited.tensors()[name].data_ptr() == cohort.tensors()[name].data_ptr() for name in kept)


def test_what_a_graph_needs_is_not_overwritten() -> None:
    cohort = Cohort.of().leaves()
    before = cohort.params.detach().clone()
    after = cohort.by_kernel(*_observed(cohort), overwrite=True)
    assert torch.equal(cohort.params, before)
    later = after.by_kernel(*_observed(cohort, 1), 1)
    with torch.no_grad():
        after.by_kernel(*_observed(cohort, 1), 1, overwrite=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        later.params.sum().backward()


@two_structures
def test_a_candidate_does_not_notice_its_cohort(genes: dict[str, object]) -> None:
    cohort = Cohort.of(dtype=torch.float32, **genes)
    grads, losses = _observed(cohort)
    together = cohort.by_kernel(grads, losses)
    for p in range(3):
        alone = cohort.member(p).by_kernel(grads[p : p + 1], losses[p : p + 1])
        assert _same(alone.tensors(), together.member(p).tensors())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_broken_gradient_stays_in_its_run(value: float) -> None:
    cohort = Cohort.of(dtype=torch.float32)
    grads, losses = _observed(cohort)
    broken = grads.clone()
    broken[1, 0, 5] = value
    ours, expected = cohort.by_kernel(broken, losses), cohort.by_kernel(grads, losses)
    assert not bool(torch.isfinite(ours.params[1, 0, LAYOUT.segments[0].slice]).any())
    plain = cohort.by_torch(broken, losses)
    for name, tensor in ours.tensors().items():
        whole = torch.ones(tensor.shape[:2], dtype=torch.bool)
        whole[1, 0] = False
        assert torch.equal(tensor[whole], expected.tensors()[name][whole])
        assert torch.equal(torch.isfinite(tensor), torch.isfinite(plain.tensors()[name]))


def test_a_broken_run_leaves_other_candidates_gradients_alone() -> None:
    cohort = Cohort.of(**EVERYTHING)
    grads, losses = _observed(cohort)
    gradients = []
    for factor in (1.0, float("nan")):
        start = replace(cohort, factor=cohort.factor * torch.tensor([factor, 1.0, 1.0]).unsqueeze(1)).leaves()
        objective = start.by_kernel(grads, losses).params.sum()
        gradients.append(torch.autograd.grad(objective, list(start.weights.values())))
    for whole, broken in zip(*gradients, strict=True):
        assert torch.equal(whole[1:], broken[1:])


@each_structure
def test_zero_gradients_give_finite_steps_and_cotangents(genes: dict[str, object]) -> None:
    cohort = Cohort.of(dtype=torch.float32, **genes).leaves()
    after = cohort.by_kernel(torch.zeros_like(cohort.params), None)
    after = after.by_kernel(torch.zeros_like(cohort.params), None, 1)
    assert all(bool(torch.isfinite(value).all()) for value in after.tensors().values())
    found = torch.autograd.grad(after.params.sum(), list(cohort.inputs().values()))
    assert all(bool(torch.isfinite(value).all()) for value in found)


@two_structures
def test_any_strides_will_do(genes: dict[str, object]) -> None:
    cohort = Cohort.of(**genes)
    grads, losses = _observed(cohort)
    expected = cohort.by_kernel(grads, losses)

    def strided(value: Tensor) -> Tensor:
        return value.transpose(0, -1).contiguous().transpose(0, -1)

    weights, hyper, state = (tree_map(strided, tree) for tree in (cohort.weights, cohort.hyper, cohort.state))
    parts = {"weights": weights, "hyper": hyper, "state": state, "params": strided(cohort.params)}
    odd = replace(cohort, **parts, factor=strided(cohort.factor))
    assert _same(odd.by_kernel(strided(grads), strided(losses)).tensors(), expected.tensors())
    edited = odd.by_kernel(strided(grads), strided(losses), overwrite=True)
    assert _same(edited.tensors(), expected.tensors())
    both = [_gradients(start.leaves(), 2, by_kernel=True) for start in (cohort, odd)]
    assert _largest_difference(*both) < 1e-12


def test_no_tasks_and_no_coordinates_give_nothing() -> None:
    for cohort in (Cohort.of(2, 0), Cohort.of(2, 3, layout=Layout.of({"e": (0, 4)}))):
        after = cohort.leaves().by_kernel(*_observed(cohort))
        assert after.params.shape == cohort.params.shape
        after.params.sum().backward()


def test_tensors_that_do_not_fit_are_refused() -> None:
    cohort = Cohort.of()
    grads, losses = _observed(cohort)
    narrow = replace(cohort, state=cohort.state | {"momentum_0.9": cohort.state["momentum_0.9"][..., 1:]})
    mixed = replace(cohort, weights=tree_map(Tensor.float, cohort.weights))
    for broken in (narrow, mixed, replace(cohort, layout=LARGE)):
        with pytest.raises(RuntimeError, match="mlp_rule: "):
            broken.by_kernel(grads, losses)


def test_when_the_kernel_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = Cohort.of(features=METZ)
    grads, _ = _observed(cohort)
    assert cohort.rule.has_kernel(grads, cohort.params)
    assert not cohort.rule.has_kernel(grads.clone().requires_grad_(), cohort.params)
    assert not cohort.rule.has_kernel(grads.half(), cohort.params.half())
    assert not cohort.rule.has_kernel(grads.float(), cohort.params)
    with native.disabled():
        assert not cohort.rule.has_kernel(grads, cohort.params)
    monkeypatch.setenv("EVOMETA_NATIVE", "0")
    assert not cohort.rule.has_kernel(grads, cohort.params)
