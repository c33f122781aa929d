"""The contract of update rules, run over every registered family."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest
import torch
from compute_device import DEVICE
from torch import Tensor

from evometa.genome.genes import LogReal, Real, Value
from evometa.genome.space import Genes
from evometa.layout import Layout
from evometa.rng import numpy_generator, torch_generator
from evometa.rules import RULES, Learner, measure_cost
from evometa.rules.base import RuleFamily, StepContext, UpdateRule
from evometa.trees import Tree, stack, take, tree_map

LAYOUT = Layout.of({"w": (3, 4), "b": (3,), "scale": ()})
N_TASKS = 3
N_STEPS = 4
#: Only learned families have genes that change the code that runs.
CASES = [
    (name, draw)
    for name, family in RULES
    for draw in (("default", 0, 1, 2) if family.learned else ("default", 0))
]
every_case = pytest.mark.parametrize(("name", "draw"), CASES)


def _genes(family: RuleFamily, draw: str | int) -> dict[str, Value]:
    if draw == "default":
        return family.space.complete({})
    return family.space.sample(numpy_generator(0, "genes", family.name, draw))


def _hyper(family: RuleFamily, genes: Genes, dtype: torch.dtype) -> Tree:
    return {
        name: torch.tensor(v, dtype=dtype, device=DEVICE)
        for name, v in family.space.continuous(genes).items()
    }


def _weights(rule: UpdateRule, dtype: torch.dtype, seed: int = 0) -> Tree:
    """Fresh weights moved off their start, where an output layer of zeros would hide everything."""
    generator = torch_generator(seed, "weights")
    fresh = rule.init_weights(generator)
    moved = {k: v + 0.1 * torch.randn(v.shape, generator=generator) for k, v in fresh.items()}
    return tree_map(lambda value: value.to(DEVICE, dtype), moved)


@dataclass
class Stream:
    """What a rule is fed: initial params ``(T, N)``, gradients ``(K, T, N)``, losses ``(K, T)`` or None."""

    params: Tensor
    grads: Tensor
    losses: Tensor | None

    @classmethod
    def drawn(cls, dtype: torch.dtype = torch.float64, seed: int = 0, n_tasks: int = N_TASKS) -> Stream:
        generator = torch_generator(seed, "stream")
        shape = (n_tasks, LAYOUT.size)
        params = torch.randn(shape, generator=generator, dtype=dtype)
        grads = torch.randn((N_STEPS, *shape), generator=generator, dtype=dtype)
        losses = torch.rand((N_STEPS, n_tasks), generator=generator, dtype=dtype) + 0.1
        return cls(*(value.to(DEVICE) for value in (params, grads, losses)))


@dataclass
class Case:
    """One rule with its weights and hyperparameters."""

    rule: UpdateRule
    weights: Tree
    hyper: Tree

    @classmethod
    def of(cls, name: str, draw: str | int, dtype: torch.dtype = torch.float64) -> Case:
        family = RULES[name]
        genes = _genes(family, draw)
        rule = family.build(genes)
        return cls(rule, _weights(rule, dtype), _hyper(family, genes, dtype))

    def run(
        self,
        stream: Stream,
        *,
        layout: Layout = LAYOUT,
        state: Tree | None = None,
        steps: Iterable[int] = range(N_STEPS),
    ) -> tuple[Tensor, Tree]:
        """The steps ``(K, T, N)`` and the last state; params move with the steps."""
        params = stream.params
        state = self.rule.init_state(self.weights, params, layout) if state is None else state
        made = []
        for k in steps:
            loss = None if stream.losses is None else stream.losses[k]
            step, state = self.rule.update(
                self.weights, self.hyper, state, stream.grads[k], params, _context(k, params, loss, layout)
            )
            params = params + step
            made.append(step)
        return torch.stack(made), state


def _context(k: int, like: Tensor, loss: Tensor | None, layout: Layout = LAYOUT) -> StepContext:
    return StepContext(layout, like.new_tensor(k), like.new_tensor(10.0), loss)


def _assert_trees_close(one: Tree, other: Tree, tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=tolerance, atol=tolerance, msg=name)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes(name: str, draw: str | int, dtype: torch.dtype) -> None:
    case, stream = Case.of(name, draw, dtype), Stream.drawn(dtype)
    before = case.rule.init_state(case.weights, stream.params, LAYOUT)
    steps, after = case.run(stream)
    assert steps.shape == stream.grads.shape
    assert steps.dtype == dtype
    assert bool(torch.isfinite(steps).all())
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
    assert all(v.dtype == dtype for v in (*before.values(), *after.values()))
    for value in after.values():
        assert N_TASKS in (value.shape[0], value.shape[-2] if value.dim() > 1 else None)


@every_case
def test_tasks_in_a_batch_equal_tasks_alone(name: str, draw: str | int) -> None:
    case, stream = Case.of(name, draw), Stream.drawn()
    together, _ = case.run(stream)
    assert stream.losses is not None
    for t in range(N_TASKS):
        alone = Stream(stream.params[t : t + 1], stream.grads[:, t : t + 1], stream.losses[:, t : t + 1])
        steps, _ = case.run(alone)
        torch.testing.assert_close(together[:, t : t + 1], steps, rtol=1e-12, atol=1e-12)


@every_case
def test_candidates_under_vmap_equal_a_loop(name: str, draw: str | int) -> None:
    family = RULES[name]
    genes = _genes(family, draw)
    rule = family.build(genes)
    cases = []
    for p in range(3):
        hyper = {k: v * (1 - 0.2 * p) for k, v in _hyper(family, genes, torch.float64).items()}
        cases.append(Case(rule, _weights(rule, torch.float64, seed=p), hyper))
    streams = [Stream.drawn(seed=p) for p in range(3)]
    looped = [case.run(stream) for case, stream in zip(cases, streams, strict=True)]

    def run_one(
        weights: Tree, hyper: Tree, params: Tensor, grads: Tensor, losses: Tensor
    ) -> tuple[Tensor, Tree]:
        return Case(rule, weights, hyper).run(Stream(params, grads, losses))

    steps, state = torch.vmap(run_one)(
        stack([case.weights for case in cases]),
        stack([case.hyper for case in cases]),
        torch.stack([stream.params for stream in streams]),
        torch.stack([stream.grads for stream in streams]),
        torch.stack([stream.losses for stream in streams if stream.losses is not None]),
    )
    for p, (expected_steps, expected_state) in enumerate(looped):
        torch.testing.assert_close(steps[p], expected_steps, rtol=1e-12, atol=1e-12)
        _assert_trees_close(take(state, p), expected_state, 1e-12)


@every_case
def test_a_copied_state_continues_the_run(name: str, draw: str | int) -> None:
    case, stream = Case.of(name, draw), Stream.drawn()
    whole, final = case.run(stream)
    first, state = case.run(stream, steps=range(2))
    moved = Stream(stream.params + first.sum(0), stream.grads, stream.losses)
    second, resumed = case.run(moved, state=tree_map(torch.clone, state), steps=range(2, N_STEPS))
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=1e-12, atol=1e-12)
    _assert_trees_close(resumed, final, 1e-12)


@every_case
def test_fresh_state_goes_by_the_shape_of_params_alone(name: str, draw: str | int) -> None:
    """An exported optimizer makes it before it has looked at any."""
    case, stream = Case.of(name, draw), Stream.drawn()
    unset = torch.full_like(stream.params, torch.nan)
    fresh, other = (case.rule.init_state(case.weights, params, LAYOUT) for params in (stream.params, unset))
    assert all(torch.equal(fresh[key], other[key]) for key in fresh)


@every_case
def test_inputs_are_not_edited(name: str, draw: str | int) -> None:
    case, stream = Case.of(name, draw), Stream.drawn()
    _, state = case.run(stream, steps=range(1))
    assert stream.losses is not None
    given = {
        **{f"weights.{k}": v for k, v in case.weights.items()},
        **{f"hyper.{k}": v for k, v in case.hyper.items()},
        **{f"state.{k}": v for k, v in state.items()},
        "params": stream.params,
        "grads": stream.grads,
        "losses": stream.losses,
    }
    copies = tree_map(torch.clone, given)
    case.run(stream, state=state, steps=range(1, 3))
    for key, value in given.items():
        assert torch.equal(value, copies[key]), key


@every_case
def test_deterministic(name: str, draw: str | int) -> None:
    one, other = Case.of(name, draw), Case.of(name, draw)
    steps, state = one.run(Stream.drawn())
    again, state_again = other.run(Stream.drawn())
    assert torch.equal(steps, again)
    assert all(torch.equal(state[k], state_again[k]) for k in state)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_gradients_give_finite_steps(name: str, draw: str | int, dtype: torch.dtype) -> None:
    case, stream = Case.of(name, draw, dtype), Stream.drawn(dtype)
    for params in (stream.params, torch.zeros_like(stream.params)):
        steps, state = case.run(Stream(params, torch.zeros_like(stream.grads), stream.losses))
        assert bool(torch.isfinite(steps).all())
        assert all(bool(torch.isfinite(value).all()) for value in state.values())


@every_case
def test_tensors_apart_equal_the_flat_vector(name: str, draw: str | int) -> None:
    """An exported optimizer may step each parameter tensor by itself, unless the rule says otherwise."""
    case, stream = Case.of(name, draw), Stream.drawn()
    flat, whole = case.run(stream)
    apart, states = [], []
    for segment in LAYOUT.segments:
        part = Stream(stream.params[:, segment.slice], stream.grads[..., segment.slice], stream.losses)
        steps, state = case.run(part, layout=Layout.of({segment.name: segment.shape}))
        apart.append(steps)
        states.append(state)
    same = torch.allclose(flat, torch.cat(apart, dim=-1), rtol=1e-6, atol=0.0)
    if case.rule.tensorwise:
        torch.testing.assert_close(flat, torch.cat(apart, dim=-1), rtol=1e-12, atol=1e-12)
    elif same:  # so far: what all tensors share must tell them from a whole model, or it is one for nothing
        shared = [name for name, value in whole.items() if value.shape == states[0][name].shape]
        assert any(not torch.allclose(whole[name], states[0][name]) for name in shared)


@every_case
def test_elementwise_rules_step_a_part_of_a_tensor_as_in_the_whole(name: str, draw: str | int) -> None:
    case, stream = Case.of(name, draw), Stream.drawn()
    whole, _ = case.run(stream)
    part = Stream(stream.params[:, :5], stream.grads[..., :5], stream.losses)
    steps, _ = case.run(part, layout=Layout.of({"w": (5,)}))
    if case.rule.elementwise:  # no rule must claim it
        torch.testing.assert_close(whole[..., :5], steps, rtol=1e-12, atol=1e-12)


@every_case
def test_works_without_a_loss(name: str, draw: str | int) -> None:
    case, stream = Case.of(name, draw), Stream.drawn()
    steps, _ = case.run(Stream(stream.params, stream.grads, None))
    assert bool(torch.isfinite(steps).all())


@every_case
def test_beyond_the_horizon_steps_stay_finite(name: str, draw: str | int) -> None:
    case, stream = Case.of(name, draw), Stream.drawn()
    state = case.rule.init_state(case.weights, stream.params, LAYOUT)
    step, _ = case.rule.update(
        case.weights,
        case.hyper,
        state,
        stream.grads[0],
        stream.params,
        _context(100_000, stream.params, None),
    )
    assert bool(torch.isfinite(step).all())


@pytest.mark.parametrize(
    ("name", "draw"), [case for case in CASES if RULES[case[0]].learned and RULES[case[0]].differentiable]
)
def test_meta_gradient_is_finite_and_reaches_the_weights(name: str, draw: str | int) -> None:
    """Backpropagation through an unroll on a quadratic, second order, with a coordinate at its optimum."""
    case, stream = Case.of(name, draw), Stream.drawn()
    case.weights = tree_map(lambda value: value.requires_grad_(), case.weights)
    curvature = torch.linspace(0.0, 2.0, LAYOUT.size, dtype=torch.float64, device=DEVICE)
    params, total = stream.params, torch.zeros((), dtype=torch.float64, device=DEVICE)
    state = case.rule.init_state(case.weights, params, LAYOUT)
    for k in range(N_STEPS):
        losses = (curvature * params.square()).sum(-1)
        step, state = case.rule.update(
            case.weights, case.hyper, state, 2 * curvature * params, params, _context(k, params, losses)
        )
        params = params + step
        total = total + (curvature * params.square()).sum()
    found = torch.autograd.grad(total, list(case.weights.values()), allow_unused=True)
    assert all(bool(torch.isfinite(value).all()) for value in found if value is not None)
    assert any(value is not None and bool((value != 0).any()) for value in found)


@every_case
def test_fresh_weights_are_float32_and_named_by_the_generator_alone(name: str, draw: str | int) -> None:
    family = RULES[name]
    rule = family.build(_genes(family, draw))
    one, same = (rule.init_weights(torch_generator(0, "w")) for _ in range(2))
    assert bool(one) == family.learned
    assert all(value.dtype == torch.float32 and value.device.type == "cpu" for value in one.values())
    assert all(torch.equal(one[key], same[key]) for key in one)


@every_case
def test_words_and_cost(name: str, draw: str | int) -> None:
    family = RULES[name]
    genes = _genes(family, draw)
    assert family.summary
    assert family.name == name
    assert family.describe(genes).strip()
    assert family.formula(genes).strip()
    cost = measure_cost(Learner.of(name, genes))
    assert cost.flops_per_param > 0
    assert cost.state_floats_per_param >= 0
    assert (cost.n_weights > 0) == family.learned


@every_case
def test_continuous_genes_do_not_split_a_cohort(name: str, draw: str | int) -> None:
    family = RULES[name]
    genes = _genes(family, draw)
    lowest = {gene.name: gene.low for gene in family.space if isinstance(gene, Real | LogReal)}
    other = family.space.complete({**genes, **{name: lowest[name] for name in genes if name in lowest}})
    assert hash(family.structure(genes)) == hash(family.structure(other))
    assert family.structure(genes) == family.structure(other)


@pytest.mark.parametrize("name", RULES.names())
def test_steps_are_finite_at_the_bounds_of_the_genes(name: str) -> None:
    """Bounds are where divisions by zero hide."""
    family = RULES[name]
    genes = family.space.complete({})
    for bound in ("low", "high"):
        continuous = [
            gene for gene in family.space if isinstance(gene, Real | LogReal) and gene.name in genes
        ]
        extreme = {gene.name: getattr(gene, bound) for gene in continuous}
        chosen = family.space.complete({**genes, **extreme})
        rule = family.build(chosen)
        case = Case(rule, _weights(rule, torch.float64), _hyper(family, chosen, torch.float64))
        steps, _ = case.run(Stream.drawn())
        assert bool(torch.isfinite(steps).all())
