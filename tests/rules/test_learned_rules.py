"""What every learned rule must do: batching, vmap, differentiation, any dtype and device, any genes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evometa.genome.genes import Value
from evometa.layout import Layout
from evometa.rng import numpy_generator, torch_generator
from evometa.rules.base import RuleFamily, StepContext, UpdateRule
from evometa.rules.feature_table import RECURRENT_FEATURES, SHARED_FEATURES, VARYING_FEATURES
from evometa.rules.mlp import MLPFamily
from evometa.rules.recurrent import RecurrentFamily
from evometa.trees import Tree, all_finite, stack, take, tree_map

LAYOUT = Layout.of({"w": (3, 4), "b": (3,), "scale": ()})
FAMILIES: dict[str, RuleFamily] = {family.name: family for family in (RecurrentFamily(), MLPFamily())}
#: together these go through every branch of features, cells and output stage
CASES: dict[str, tuple[str, dict[str, Value]]] = {
    "l2l": ("recurrent", {}),
    "gru": ("recurrent", {"cell": "gru", "layers": 1, "features": RECURRENT_FEATURES, "nominal": "sgd"}),
    "vanilla": (
        "recurrent",
        {"cell": "vanilla", "shared_features": SHARED_FEATURES, "nominal": "adam", "combine": "scale"},
    ),
    "lstm": ("recurrent", {"layers": 1, "shared_features": SHARED_FEATURES, "output": "rms_normalised"}),
    "metz": ("mlp", {}),
    "all": ("mlp", {"features": VARYING_FEATURES, "shared_features": SHARED_FEATURES, "nominal": "adam"}),
    "rms": ("mlp", {"output": "rms_normalised", "nominal": "sgd", "combine": "scale", "layers": 3}),
}


@dataclass(frozen=True)
class Candidate:
    rule: UpdateRule
    weights: Tree
    hyper: Tree


def _candidate(
    family: str, genes: dict[str, Value], seed: int = 0, dtype: torch.dtype = torch.float64
) -> Candidate:
    """A rule with random weights in every place, also where a fresh genome has zeros."""
    complete = FAMILIES[family].space.complete(genes)
    rule = FAMILIES[family].build(complete)
    generator = torch_generator(seed, "weights")
    weights = rule.init_weights(generator)
    weights = {n: 0.3 * torch.randn(w.shape, generator=generator, dtype=dtype) for n, w in weights.items()}
    continuous = FAMILIES[family].space.continuous(complete)
    hyper = {name: torch.tensor(value * (1 + seed), dtype=dtype) for name, value in continuous.items()}
    return Candidate(rule, weights, hyper)


def _context(step: int, loss: Tensor | None) -> StepContext:
    return StepContext(LAYOUT, torch.tensor(float(step)), torch.tensor(10.0), loss)


def _start(candidate: Candidate, n_tasks: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn((n_tasks, LAYOUT.size), generator=torch_generator(seed, "params"), dtype=dtype)


def _train(candidate: Candidate, params: Tensor, n_steps: int) -> tuple[Tensor, Tree]:
    """Some steps on f(θ) = Σ θ⁴/4 of every task."""
    state = candidate.rule.init_state(candidate.weights, params, LAYOUT)
    for step in range(n_steps):
        context = _context(step, params.pow(4).sum(-1) / 4)
        delta, state = candidate.rule.update(
            candidate.weights, candidate.hyper, state, params**3, params, context
        )
        params = params + delta
    return params, state


@pytest.fixture(params=CASES)
def candidate(request: pytest.FixtureRequest) -> Candidate:
    return _candidate(*CASES[request.param])


def test_state_keeps_names_shapes_and_dtype(candidate: Candidate) -> None:
    params = _start(candidate, 2)
    before = candidate.rule.init_state(candidate.weights, params, LAYOUT)
    _, after = _train(candidate, params, 2)
    assert {n: (v.shape, v.dtype) for n, v in before.items()} == {
        n: (v.shape, v.dtype) for n, v in after.items()
    }
    assert all(value.shape[0 if value.dim() == 1 else -2] == 2 for value in after.values())


def test_nothing_given_is_edited(candidate: Candidate) -> None:
    params = _start(candidate, 2)
    _, state = _train(candidate, params, 1)
    given_trees = (candidate.weights, candidate.hyper, state, {"params": params, "grads": params**3})
    copies = [tree_map(torch.clone, tree) for tree in given_trees]
    candidate.rule.update(
        candidate.weights,
        candidate.hyper,
        state,
        given_trees[3]["grads"],
        params,
        _context(1, params[:, 0].abs()),
    )
    for tree, copy in zip(given_trees, copies, strict=True):
        assert all(bool((tree[name] == copy[name]).all()) for name in tree)


def test_tasks_together_equal_one_by_one(candidate: Candidate) -> None:
    params = _start(candidate, 3)
    together, state = _train(candidate, params, 4)
    for task in range(3):
        alone, own = _train(candidate, params[task : task + 1], 4)
        torch.testing.assert_close(alone[0], together[task], rtol=0, atol=1e-13)
        for name, value in own.items():
            axis = 0 if value.dim() == 1 else -2
            torch.testing.assert_close(value, state[name].narrow(axis, task, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_vmap_over_candidates_equals_the_loop(case: str) -> None:
    candidates = [_candidate(*CASES[case], seed=seed) for seed in range(3)]
    rule = candidates[0].rule
    weights, hyper = stack([c.weights for c in candidates]), stack([c.hyper for c in candidates])
    params = torch.stack([_start(c, 2, seed) for seed, c in enumerate(candidates)])
    alone = [_train(c, own, 3) for c, own in zip(candidates, params, strict=True)]
    state = stack(
        [rule.init_state(c.weights, own, LAYOUT) for c, own in zip(candidates, params, strict=True)]
    )

    def update(
        w: Tree, h: Tree, s: Tree, g: Tensor, p: Tensor, loss: Tensor, step: Tensor
    ) -> tuple[Tensor, Tree]:
        context = StepContext(LAYOUT, step, torch.tensor(10.0), loss)
        return rule.update(w, h, s, g, p, context)

    batched = torch.vmap(update, in_dims=(0, 0, 0, 0, 0, 0, None))
    for step in range(3):
        losses = params.pow(4).sum(-1) / 4
        delta, state = batched(weights, hyper, state, params**3, params, losses, torch.tensor(float(step)))
        params = params + delta
    for index, (expected, expected_state) in enumerate(alone):
        torch.testing.assert_close(params[index], expected, rtol=0, atol=1e-12)
        for name, value in take(state, index).items():
            torch.testing.assert_close(value, expected_state[name], rtol=1e-11, atol=1e-12)


def test_meta_gradient_equals_finite_differences(candidate: Candidate) -> None:
    """Backpropagation through three steps, along a random direction of the weights."""
    params = _start(candidate, 2)
    generator = torch_generator(0, "direction")
    direction = {
        n: torch.randn(w.shape, generator=generator, dtype=w.dtype) for n, w in candidate.weights.items()
    }

    def meta_loss(shift: Tensor) -> Tensor:
        moved = {name: weight + shift * direction[name] for name, weight in candidate.weights.items()}
        return _train(replace(candidate, weights=moved), params, 3)[0].pow(4).sum()

    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(meta_loss(shift), shift)
    h = 1e-6
    with torch.no_grad():
        expected = (meta_loss(shift + h) - meta_loss(shift - h)) / (2 * h)
    torch.testing.assert_close(slope, expected, rtol=2e-4, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_zero_gradients_give_finite_steps_and_meta_gradients(case: str, dtype: torch.dtype) -> None:
    """Five steps with gradients that are zero and known to the graph: nothing may become NaN."""
    candidate = _candidate(*CASES[case], dtype=dtype)
    weights = {name: weight.requires_grad_(True) for name, weight in candidate.weights.items()}
    params = torch.zeros((2, LAYOUT.size), dtype=dtype, requires_grad=True)
    position, state = params, candidate.rule.init_state(weights, params.detach(), LAYOUT)
    for step in range(5):
        context = _context(step, torch.zeros(2, dtype=dtype))
        delta, state = candidate.rule.update(weights, candidate.hyper, state, 0 * position, position, context)
        assert delta.dtype == dtype
        position = position + delta
    assert bool(torch.isfinite(position).all())
    slopes = torch.autograd.grad(position.sum(), [params, *weights.values()], allow_unused=True)
    assert all(bool(torch.isfinite(slope).all()) for slope in slopes if slope is not None)


def test_fresh_weights_of_a_nominal_rule_receive_gradients() -> None:
    for family in FAMILIES.values():
        genes = family.space.complete({"nominal": "adam"})
        rule = family.build(genes)
        weights = {n: w.requires_grad_(True) for n, w in rule.init_weights(torch_generator(0)).items()}
        hyper = {name: torch.tensor(value) for name, value in family.space.continuous(genes).items()}
        params, _ = _train(Candidate(rule, weights, hyper), torch.ones(1, LAYOUT.size), 2)
        (slope,) = torch.autograd.grad(params.sum(), [weights["output.weight"]])
        assert bool((slope[0] != 0).any())


def test_runs_on_the_device_it_is_given(candidate: Candidate) -> None:
    """The meta device stands for any that is not the CPU: a tensor made elsewhere would clash."""
    weights, hyper = (
        tree_map(lambda v: v.to("meta", torch.float32), tree) for tree in (candidate.weights, candidate.hyper)
    )
    params = torch.zeros((2, LAYOUT.size), device="meta")
    state = candidate.rule.init_state(weights, params, LAYOUT)
    step, horizon = torch.tensor(0.0, device="meta"), torch.tensor(5.0, device="meta")
    context = StepContext(LAYOUT, step, horizon, torch.zeros(2, device="meta"))
    delta, after = candidate.rule.update(weights, hyper, state, params, params, context)
    assert {tensor.device.type for tensor in (delta, *state.values(), *after.values())} == {"meta"}


def test_without_a_loss_as_with_an_unchanged_one(candidate: Candidate) -> None:
    params = _start(candidate, 1)
    state = candidate.rule.init_state(candidate.weights, params, LAYOUT)
    steps = [
        candidate.rule.update(candidate.weights, candidate.hyper, state, params, params, _context(0, loss))[0]
        for loss in (None, torch.ones(1, dtype=torch.float64))
    ]
    torch.testing.assert_close(*steps, rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_any_genes_build_a_rule_that_runs(family: str, seed: int) -> None:
    genes = FAMILIES[family].space.sample(numpy_generator(seed))
    rule = FAMILIES[family].build(genes)
    weights = rule.init_weights(torch_generator(seed))
    continuous = FAMILIES[family].space.continuous(genes)
    hyper = {name: torch.tensor(value) for name, value in continuous.items()}
    candidate = Candidate(rule, weights, hyper)
    params, state = _train(candidate, 0.1 * torch.ones(2, LAYOUT.size), 3)
    assert all_finite({"params": params, **state})
    assert FAMILIES[family].structure(genes) == FAMILIES[family].structure({**genes, **continuous})
