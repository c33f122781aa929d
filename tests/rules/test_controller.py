"""Controllers: the rule below as a special case, what they see by hand, what they decide, and when."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from evometa.genome.genes import Value
from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.rules import RULES
from evometa.rules.base import RuleFamily, StepContext, UpdateRule
from evometa.rules.controller import BASES, CONTROLLERS, MOST_OCTAVES, ControllerFamily, ControllerRule
from evometa.trees import Tree

CONTINUOUS, DISCRETE = CONTROLLERS
LAYOUT = Layout.of({"w": (3, 4), "b": (3,)})
CURVATURE = torch.logspace(-2, 0, LAYOUT.size)
N_TASKS, N_STEPS = 3, 12
both_kinds = pytest.mark.parametrize("family", CONTROLLERS, ids=lambda family: family.name)


class Case:
    """A controller with fresh weights and its continuous genes."""

    def __init__(self, family: ControllerFamily, dtype: torch.dtype = torch.float64, **genes: Value) -> None:
        self.rule: ControllerRule = family.build(family.space.complete(genes))
        self.hyper = _hyper(family, genes, dtype)
        fresh = self.rule.init_weights(torch_generator(0, "weights"))
        self.weights = {name: value.to(dtype) for name, value in fresh.items()}
        self.dtype = dtype

    def always(self, *outputs: float) -> Case:
        """The same, its policy blind and its outputs these."""
        self.weights["output.bias"] = torch.tensor(outputs, dtype=self.dtype)
        return self

    def states(self, n_steps: int = N_STEPS) -> list[tuple[Tensor, Tree]]:
        return trained(self.rule, self.weights, self.hyper, self.dtype, n_steps)


def trained(
    rule: UpdateRule, weights: Tree, hyper: Tree, dtype: torch.dtype, n_steps: int = N_STEPS
) -> list[tuple[Tensor, Tree]]:
    """Params and state before the first and after each step on quadratics."""
    params = torch.randn((N_TASKS, LAYOUT.size), generator=torch_generator(0, "params"), dtype=dtype)
    state = rule.init_state(weights, params, LAYOUT)
    found = [(params, state)]
    for k in range(n_steps):
        step, state = rule.update(weights, hyper, state, grad(params), params, context(k, params))
        params = params + step
        found.append((params, state))
    return found


def grad(params: Tensor) -> Tensor:
    return CURVATURE.to(params) * params


def loss(params: Tensor) -> Tensor:
    return 0.5 * (grad(params) * params).sum(-1)


def context(k: int, params: Tensor) -> StepContext:
    return StepContext(LAYOUT, params.new_tensor(float(k)), params.new_tensor(100.0), loss(params))


def _hyper(family: RuleFamily, genes: dict[str, Value], dtype: torch.dtype) -> Tree:
    complete = family.space.complete(genes)
    return {n: torch.tensor(v, dtype=dtype) for n, v in family.space.continuous(complete).items()}


@both_kinds
@pytest.mark.parametrize("base", BASES)
def test_untrained_it_is_the_rule_below_to_the_last_bit(family: ControllerFamily, base: str) -> None:
    case = Case(family, torch.float32, base=base, lr=0.02, interval=1)
    below = RULES[base]
    rule = below.build(below.space.complete({}))
    expected = trained(rule, {}, _hyper(below, {"lr": 0.02}, torch.float32), torch.float32)
    for (ours, _), (theirs, _) in zip(case.states(), expected, strict=True):
        assert torch.equal(ours, theirs)


@both_kinds
@pytest.mark.parametrize("interval", [1, 5])
def test_a_policy_that_always_raises_the_learning_rate_doubles_it_at_every_decision(
    family: ControllerFamily, interval: int
) -> None:
    case = Case(family, base="sgd", lr=1e-3, interval=interval)
    case.always(*([0.0, 0.0, 1.0] if family is DISCRETE else [50.0]))  # tanh(50) is 1
    found = case.states()
    for k in range(N_STEPS):
        octaves = min(k // interval + 1, MOST_OCTAVES)
        params = found[k][0]
        expected = params - 1e-3 * 2.0**octaves * grad(params)
        torch.testing.assert_close(found[k + 1][0], expected, rtol=1e-12, atol=0)


def test_a_discrete_one_halves_where_that_is_best_and_stops_at_the_bound() -> None:
    case = Case(DISCRETE, base="sgd", interval=1).always(0.0, 2.0, 1.0)
    octaves = [float(state["octaves"][0, 0]) for _, state in case.states()]
    assert octaves == [-float(k) for k in range(11)] + [-MOST_OCTAVES] * 2


def test_momentum_follows_its_own_output_and_stays_a_coefficient() -> None:
    genes: dict[str, Value] = {"base": "momentum", "lr": 1e-3, "one_minus_momentum": 0.3, "interval": 1}
    case = Case(CONTINUOUS, controls_momentum=True, **genes).always(0.0, 50.0)
    found = case.states(3)
    moment = torch.zeros_like(found[0][0])
    for k, one_minus_momentum in enumerate([0.6, 1.0, 1.0]):
        params = found[k][0]
        moment = (1 - one_minus_momentum) * moment + grad(params)
        torch.testing.assert_close(found[k + 1][0], params - 1e-3 * moment, rtol=1e-12, atol=1e-15)


@both_kinds
def test_what_it_sees_by_hand(family: ControllerFamily) -> None:
    """At the third step, in the order of the documented statistics."""
    case = Case(family, base="sgd", lr=0.1, interval=1)
    case.always(*([0.0, 1.0, 0.0] if family is DISCRETE else [-50.0]))
    (p0, _), (p1, _), (p2, state) = case.states(2)
    rows, _ = case.rule.observe(state, grad(p2), context(2, p2))
    cosine = [torch.cosine_similarity(grad(b), grad(a), dim=-1) for a, b in ((p0, p1), (p1, p2))]
    expected = [
        *_relative(loss(p0), loss(p1), loss(p2)),
        *_relative(*(grad(p).norm(dim=-1) for p in (p0, p1, p2))),
        cosine[1],
        0.1 * cosine[1] + 0.9 * 0.1 * cosine[0],
        torch.full((N_TASKS,), 0.02),
        torch.full((N_TASKS,), 0.2 * 2),
        torch.full((N_TASKS,), -2 / MOST_OCTAVES),
    ]
    torch.testing.assert_close(rows, torch.stack([row.double() for row in expected]))


def _relative(first: Tensor, second: Tensor, third: Tensor) -> list[Tensor]:
    """The six numbers of a loss or a norm: natural logarithms, scaled by 0.2."""
    logs = [(value / first).log() for value in (first, second, third)]
    averages = []
    for decay in (0.5, 0.9, 0.99):
        average = torch.zeros_like(first)
        for value in logs:
            average = decay * average + (1 - decay) * value
        averages.append(average)
    rows = [logs[2], logs[2] - logs[1], *(logs[2] - average for average in averages)]
    return [0.2 * row for row in rows] + [torch.ones_like(first)]


def test_a_gru_remembers_from_decision_to_decision() -> None:
    found = Case(CONTINUOUS, policy="gru", interval=5).states()
    hidden = [state["hidden"] for _, state in found]
    moved = [not torch.equal(before, after) for before, after in pairwise(hidden)]
    assert moved == [k % 5 == 0 for k in range(N_STEPS)]


@both_kinds
def test_the_policy_is_one_network_for_all_that_it_sees(family: ControllerFamily) -> None:
    case = Case(family, hidden=8)
    weights = {n: torch.randn(v.shape, generator=torch_generator(1, n)) for n, v in case.weights.items()}
    rows = torch.randn((17, N_TASKS), generator=torch_generator(0, "rows"))
    inputs = torch.cat(
        [weights[f"input.{n}"] for n in ("loss", "gradient", "alignment", "progress", "controls")], 1
    )
    hidden = torch.tanh(inputs @ rows + weights["hidden.bias"].unsqueeze(1))
    expected = weights["output.weight"] @ hidden + weights["output.bias"].unsqueeze(1)
    outputs, _ = case.rule.decide(weights, {}, rows, context(0, torch.zeros(1, 15)))
    torch.testing.assert_close(outputs, expected)
    if family is CONTINUOUS:
        torch.testing.assert_close(case.rule.moves(outputs), torch.tanh(expected))
    else:
        octaves = torch.tensor([0.0, -1.0, 1.0])[expected.argmax(dim=0)]
        assert torch.equal(case.rule.moves(outputs)[0], octaves)


@both_kinds
def test_with_a_choice_of_statistics_it_keeps_and_reads_no_more(family: ControllerFamily) -> None:
    rule = Case(family, base="sgd", statistics=("loss",)).rule
    state = rule.init_state({}, torch.zeros(1, LAYOUT.size), LAYOUT)
    assert sum(value.numel() for value in state.values()) < LAYOUT.size
    assert rule.tensorwise
    assert not Case(family).rule.tensorwise


@both_kinds
def test_its_words_and_formula_name_the_rule_below_and_the_decisions(family: ControllerFamily) -> None:
    genes = family.space.complete({"base": "nesterov", "interval": 10, "policy": "gru"})
    words, formula = family.describe(genes), family.formula(genes)
    assert "one step ahead" in words
    assert "Every 10 steps a GRU of 16 units" in words
    assert "2^e" in formula
    assert math.isclose(float(genes["lr"]), 3e-3)  # type: ignore[arg-type]
    assert "Δ = −0.003·(g + 0.9·m)" in formula
