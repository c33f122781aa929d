"""The recurrent rules' kernel against the rule in PyTorch: values, gradients, isolation, when it serves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from evometa import native
from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.rules.base import StepContext
from evometa.rules.recurrent import RecurrentFamily, RecurrentRule
from evometa.rules.recurrent_kernel import HYPER, UNIT
from evometa.trees import Tree, stack, take, tree_map

LAYOUT = Layout.of({"w": (7, 11), "empty": (0, 3), "b": (5,), "s": ()})
MANY = {
    "features": (
        "log_sign",
        "gradient",
        "parameter",
        "average_0.9",
        "log_sign_average_0.5",
        "rms_average_0.99",
    ),
    "shared_features": ("loss", "time", "progress"),
}
OUTPUTS = [
    {"output": "direct"},
    {"output": "direct", "nominal": "sgd", "combine": "scale", **MANY},
    {"output": "direction_magnitude", "nominal": "adam", "combine": "add"},
    {"output": "direction_magnitude", "nominal": "adam", "combine": "scale", **MANY},
    {"output": "rms_normalised", **MANY},
    {
        "output": "direct",
        "nominal": "adam",
        "combine": "scale",
        "nominal_beta1": 0.5,
        "nominal_beta2": 0.9,
        "nominal_gradient": 0.3,
        **MANY,
    },
    {"output": "rms_normalised", "nominal": "adam", "combine": "scale"},
]
STRUCTURES = [
    {"cell": cell, "layers": layers, "hidden": hidden, **output}
    for cell in ("vanilla", "gru", "lstm")
    for layers, hidden in ((1, 7), (2, 8), (2, 13))
    for output in OUTPUTS[layers - 1 :: 2]
]


@pytest.fixture(autouse=True)
def _kernel_is_there() -> None:
    reason = native.why_unavailable(UNIT)
    if reason is not None:
        pytest.skip(f"no kernel here: {reason}")


@dataclass(frozen=True)
class Cohort:
    """P candidates of one structure between two steps."""

    rule: RecurrentRule
    weights: Tree
    hyper: Tree
    state: Tree
    params: Tensor
    factor: Tensor

    @classmethod
    def of(
        cls, n_candidates: int = 3, n_tasks: int = 2, dtype: torch.dtype = torch.float64, **genes: object
    ) -> Cohort:
        space = RecurrentFamily().space
        rule = RecurrentFamily().build(space.complete(genes))  # type: ignore[arg-type]
        drawn = torch_generator(0, "cohort")

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=drawn, dtype=torch.float64).to(dtype)

        fresh = [rule.init_weights(torch_generator(p)) for p in range(n_candidates)]
        params = normal(n_candidates, n_tasks, LAYOUT.size)
        return cls(
            rule,
            tree_map(lambda value: value.to(dtype) + 0.2 * normal(*value.shape), stack(fresh)),
            {name: 0.05 + 0.02 * normal(n_candidates).abs() for name in HYPER},
            stack([rule.init_state({}, own, LAYOUT) for own in params]),
            params,
            1.0 + normal(n_candidates, n_tasks).abs(),
        )

    def member(self, p: int) -> Cohort:
        """Candidate p alone."""
        parts = [take(part, slice(p, p + 1)) for part in (self.weights, self.hyper, self.state)]
        return Cohort(self.rule, *parts, self.params[p : p + 1], self.factor[p : p + 1])

    def context(self, k: int, loss: Tensor | None) -> StepContext:
        step = torch.tensor(float(k), dtype=self.params.dtype)
        return StepContext(LAYOUT, step, torch.tensor(10.0, dtype=self.params.dtype), loss)

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
        carried = {name: self.state[name].clone().requires_grad_() for name in self.rule.network.carried}
        return replace(
            self,
            weights=tree_map(lambda value: value.clone().requires_grad_(), self.weights),
            state=self.state | carried,
            params=self.params.clone().requires_grad_(),
            factor=self.factor.clone().requires_grad_(),
        )

    def inputs(self) -> Tree:
        carried = {name: self.state[name] for name in self.rule.network.carried}
        return {"params": self.params, "factor": self.factor, **carried, **self.weights}


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


def _objective(cohort: Cohort, names: list[str]) -> Tensor:
    drawn = torch_generator(0, "objective")
    after = cohort.tensors()
    return sum(
        (after[name] * torch.randn(after[name].shape, generator=drawn, dtype=after[name].dtype)).sum()
        for name in names
    )  # type: ignore[return-value]


def _same(ours: Tree, expected: Tree) -> bool:
    return all(torch.equal(ours[name], value) for name, value in expected.items())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("genes", STRUCTURES, ids=str)
def test_twenty_steps_equal_the_rule_in_torch(
    genes: dict[str, object], dtype: torch.dtype, tolerance: float
) -> None:
    ours = plain = Cohort.of(dtype=dtype, **genes)
    with torch.no_grad():
        for k in range(20):
            observed = _observed(ours, k)
            ours, plain = ours.by_kernel(*observed, k), plain.by_torch(*observed, k)
    assert _largest_difference(ours.tensors(), plain.tensors()) < tolerance


@pytest.mark.parametrize("genes", STRUCTURES, ids=str)
def test_gradients_through_three_steps_equal_autograd(genes: dict[str, object]) -> None:
    gradients = []
    for native_step in (True, False):
        start = at = Cohort.of(**genes).leaves()
        for k in range(3):
            at = at.by_kernel(*_observed(at, k), k) if native_step else at.by_torch(*_observed(at, k), k)
        objective = _objective(at, ["params", *at.rule.network.carried])
        inputs = start.inputs()
        gradients.append(
            dict(zip(inputs, torch.autograd.grad(objective, list(inputs.values())), strict=True))
        )
    assert _largest_difference(*gradients) < 1e-9


@pytest.mark.parametrize("last", ["params", "hidden1", "memory0"])
def test_gradients_where_only_one_result_is_used(last: str) -> None:
    gradients = []
    for native_step in (True, False):
        start = Cohort.of(hidden=5).leaves()
        start = replace(start, factor=start.factor[:, :1].detach().requires_grad_())
        observed = _observed(start)
        at = start.by_kernel(*observed) if native_step else start.by_torch(*observed)
        inputs = {
            name: value
            for name, value in start.inputs().items()
            if not name.startswith("output") or last == "params"
        }
        found = torch.autograd.grad(
            _objective(at, [last]), list(inputs.values()), allow_unused=True, materialize_grads=True
        )
        gradients.append(dict(zip(inputs, found, strict=True)))
    assert _largest_difference(*gradients) < 1e-9


def test_gradients_and_their_statistics_are_constants() -> None:
    cohort = Cohort.of(features=("gradient", "average_0.9"), nominal="adam").leaves()
    after = cohort.by_kernel(*_observed(cohort))
    assert after.params.requires_grad
    assert after.state["hidden0"].requires_grad
    assert not after.state["momentum_0.9"].requires_grad
    assert not after.state["second_moment_0.999"].requires_grad


@pytest.mark.parametrize("genes", STRUCTURES[:: len(OUTPUTS) // 2], ids=str)
def test_in_place_equals_fresh(genes: dict[str, object]) -> None:
    cohort, twin = Cohort.of(**genes), Cohort.of(**genes)
    grads, losses = _observed(cohort)
    fresh = cohort.by_kernel(grads, losses)
    assert _same(cohort.tensors(), twin.tensors())
    edited = cohort.by_kernel(grads, losses, overwrite=True)
    assert _same(edited.tensors(), fresh.tensors())
    kept = [name for name in cohort.tensors() if name != "initial_loss"]
    assert all(edited.tensors()[name].data_ptr() == cohort.tensors()[name].data_ptr() for name in kept)


def test_overwriting_what_a_graph_needs_is_noticed() -> None:
    cohort = Cohort.of(hidden=4).leaves()
    after = cohort.by_kernel(*_observed(cohort))
    later = after.by_kernel(*_observed(cohort, 1), 1)
    with torch.no_grad():
        after.by_kernel(*_observed(cohort, 1), 1, overwrite=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        later.params.sum().backward()


@pytest.mark.parametrize("cell", ["vanilla", "gru", "lstm"])
def test_a_candidate_does_not_notice_its_cohort(cell: str) -> None:
    cohort = Cohort.of(dtype=torch.float32, cell=cell, output="rms_normalised", **MANY)
    grads, losses = _observed(cohort)
    together = cohort.by_kernel(grads, losses)
    for p in range(3):
        alone = cohort.member(p).by_kernel(grads[p : p + 1], losses[p : p + 1])
        assert _same(alone.tensors(), together.member(p).tensors())


@pytest.mark.parametrize("cell", ["vanilla", "gru", "lstm"])
def test_a_coordinate_does_not_notice_its_place(cell: str) -> None:
    """Neither its place within a block nor that the last block is not full."""
    cohort = Cohort.of(dtype=torch.float32, cell=cell, hidden=6, nominal="adam", **MANY)
    order = torch.randperm(LAYOUT.size, generator=torch_generator(0, "order"))
    grads, losses = _observed(cohort)
    moved = replace(cohort, params=cohort.params[..., order]).by_kernel(grads[..., order], losses)
    after = cohort.by_kernel(grads, losses).tensors()
    expected = {name: value if name == "initial_loss" else value[..., order] for name, value in after.items()}
    assert _same(moved.tensors(), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("output", ["direct", "rms_normalised"])
def test_a_broken_gradient_stays_in_its_run(output: str, value: float) -> None:
    cohort = Cohort.of(dtype=torch.float32, output=output, features=("gradient", "average_0.9"))
    grads, losses = _observed(cohort)
    expected = cohort.by_kernel(grads, losses).tensors()
    broken = grads.clone()
    broken[1, 0, 5] = value
    after = cohort.by_kernel(broken, losses).tensors()
    assert not bool(torch.isfinite(after["params"][1, 0, 5]))
    hit = torch.zeros(cohort.params.shape, dtype=torch.bool)
    hit[1, 0, 5 if output == "direct" else slice(None)] = True
    for name, tensor in after.items():
        mask = hit if tensor.dim() == 3 else hit.unsqueeze(1).expand_as(tensor)
        assert torch.equal(tensor[~mask], expected[name][~mask])


def test_a_broken_run_leaves_other_candidates_gradients_alone() -> None:
    cohort = Cohort.of(hidden=5, **MANY)
    grads, losses = _observed(cohort)
    gradients = []
    for factor in (1.0, float("nan")):
        start = replace(cohort, factor=cohort.factor * torch.tensor([factor, 1.0, 1.0]).unsqueeze(1)).leaves()
        broken = losses * torch.tensor([factor, 1.0, 1.0]).unsqueeze(1)
        objective = start.by_kernel(grads, broken).params.sum()
        gradients.append(torch.autograd.grad(objective, list(start.weights.values())))
    for whole, broken in zip(*gradients, strict=True):
        assert torch.equal(whole[1:], broken[1:])


@pytest.mark.parametrize("genes", STRUCTURES, ids=str)
def test_zero_gradients_give_finite_steps_and_cotangents(genes: dict[str, object]) -> None:
    cohort = Cohort.of(dtype=torch.float32, **genes).leaves()
    after = cohort.by_kernel(torch.zeros_like(cohort.params), None)
    after = after.by_kernel(torch.zeros_like(cohort.params), None, 1)
    assert all(bool(torch.isfinite(value).all()) for value in after.tensors().values())
    inputs = list(cohort.inputs().values())
    found = torch.autograd.grad(_objective(after, ["params", *after.rule.network.carried]), inputs)
    assert all(bool(torch.isfinite(value).all()) for value in found)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-2)])
@pytest.mark.parametrize("cell", ["vanilla", "gru", "lstm"])
def test_gates_saturate(cell: str, dtype: torch.dtype, tolerance: float) -> None:
    """Before the activations stand numbers of 10⁴ to 10⁵, and a rounding of 10⁻³ in float32."""
    cohort = Cohort.of(dtype=dtype, cell=cell, features=("log_sign", "gradient"))
    ours = plain = replace(cohort, weights=tree_map(lambda value: value * 1e4, cohort.weights))
    for k in range(3):
        observed = _observed(cohort, k)
        ours, plain = ours.by_kernel(*observed, k), plain.by_torch(*observed, k)
    for name in cohort.rule.network.carried:
        torch.testing.assert_close(ours.state[name], plain.state[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("output", ["direct", "rms_normalised"])
def test_any_strides_will_do(output: str) -> None:
    cohort = Cohort.of(n_candidates=2, n_tasks=3, output=output)
    grads, losses = _observed(cohort)
    expected = cohort.by_kernel(grads, losses).tensors()

    def strided(value: Tensor) -> Tensor:
        return value.transpose(0, -1).contiguous().transpose(0, -1)

    trees = [tree_map(strided, tree) for tree in (cohort.weights, cohort.hyper, cohort.state)]
    other = Cohort(cohort.rule, *trees, strided(cohort.params), strided(cohort.factor))
    assert _same(other.by_kernel(strided(grads), strided(losses)).tensors(), expected)
    shared = replace(cohort, factor=torch.ones((), dtype=torch.float64).expand(2, 1))
    unit = replace(cohort, factor=torch.ones(2, 3, dtype=torch.float64))
    assert _same(shared.by_kernel(grads, losses).tensors(), unit.by_kernel(grads, losses).tensors())


def test_wrong_shapes_raise() -> None:
    cohort = Cohort.of(hidden=4)
    wrong = cohort.weights | {"layer1.recurrent": cohort.weights["layer1.recurrent"][:, :-1]}
    with pytest.raises(RuntimeError, match="recurrent must be contiguous"):
        replace(cohort, weights=wrong).by_kernel(*_observed(cohort))
    with pytest.raises(RuntimeError, match="carried"):
        replace(cohort, state=cohort.state | {"memory0": cohort.state["memory0"][:, 1:]}).by_kernel(
            *_observed(cohort)
        )


def test_when_the_kernel_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = Cohort.of(hidden=4)
    rule, grads, params = cohort.rule, torch.zeros_like(cohort.params), cohort.params
    assert rule.has_kernel(grads, params)
    assert not rule.has_kernel(grads.clone().requires_grad_(), params)
    assert not rule.has_kernel(grads.half(), params.half())
    assert not rule.has_kernel(grads[:0], params[:0])
    served: list[bool] = []
    torch.vmap(lambda grad: served.append(rule.has_kernel(grad, grad)) or grad)(grads)  # type: ignore[func-returns-value]
    assert served == [False]
    with native.disabled():
        assert not rule.has_kernel(grads, params)
    monkeypatch.setenv("EVOMETA_NATIVE", "0")
    assert not rule.has_kernel(grads, params)
