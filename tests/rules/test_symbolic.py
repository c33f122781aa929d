"""Symbolic rules: known rules as formulas, what weights move, and what is computed once."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from evometa.export import EvolvedOptimizer
from evometa.genome.genome import Genome
from evometa.genome.space import Genes
from evometa.layout import Layout
from evometa.rng import numpy_generator, torch_generator
from evometa.rules import RULES, Learner, measure_cost
from evometa.rules.base import StepContext
from evometa.rules.seeds import BUILTIN, load_seeds
from evometa.rules.symbolic import GENE, SymbolicFamily
from evometa.rules.symbolic_algebra import simplified
from evometa.rules.symbolic_gene import KNOWN
from evometa.rules.symbolic_noise import noise
from evometa.trees import Tree

FAMILY = SymbolicFamily()
LAYOUT = Layout.of({"w": (3, 4), "b": (3,)})
N_STEPS, HORIZON = 12, 10
LR = 1e-2


def genes_of(text: str, lr: float = LR) -> Genes:
    return {"lr": lr, GENE: text}


def trained(
    family: str, genes: Genes, weights: Tree | None = None, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Params ``(T, N)`` after each step on a quadratic whose curvature spans four orders of magnitude."""
    own = RULES[family]
    rule = own.build(genes)
    weights = rule.init_weights(torch_generator(0)) if weights is None else weights
    weights = {name: value.to(dtype) for name, value in weights.items()}
    hyper = {name: torch.tensor(value, dtype=dtype) for name, value in own.space.continuous(genes).items()}
    params, found = start(2).to(dtype), []
    state = rule.init_state(weights, params, LAYOUT)
    for k in range(N_STEPS):
        context = StepContext(LAYOUT, torch.tensor(float(k)), torch.tensor(float(HORIZON)), None)
        step, state = rule.update(weights, hyper, state, grad(params), params, context)
        params = params + step
        found.append(params)
    return found


def grad(params: Tensor) -> Tensor:
    return torch.logspace(-2, 2, LAYOUT.size, dtype=torch.float64).to(params.dtype) * params


def start(n_tasks: int) -> Tensor:
    drawn = torch.randn((n_tasks, LAYOUT.size), generator=torch_generator(0, "params"), dtype=torch.float64)
    drawn[:, 3] = 0.0  # where the gradient stays zero
    return drawn


OPTIMIZERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda params: torch.optim.SGD(params, lr=LR),
    "momentum": lambda params: torch.optim.SGD(params, lr=LR, momentum=0.9),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=LR),
    "adam": lambda params: torch.optim.Adam(params, lr=LR),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_known_formulas_step_as_torch_optim(name: str, dtype: torch.dtype) -> None:
    params = start(2).to(dtype).requires_grad_()
    optimizer = OPTIMIZERS[name]([params])
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    for ours in trained("symbolic", genes_of(KNOWN[name]), dtype=dtype):
        params.grad = grad(params.detach())
        optimizer.step()
        torch.testing.assert_close(ours, params.detach(), rtol=tolerance, atol=tolerance)


def test_qhadam_is_the_hand_designed_one() -> None:
    theirs = trained("qhadam", RULES["qhadam"].space.complete({"lr": LR}))
    for one, other in zip(trained("symbolic", genes_of(KNOWN["qhadam"])), theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def test_lion_is_the_hand_designed_one() -> None:
    theirs = trained("lion", RULES["lion"].space.complete({"lr": LR, "weight_decay": 0.2}))
    ours = trained("symbolic", genes_of(f"add({KNOWN['lion']}, mul(0.2, p))"))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def test_power_sign_is_that_of_the_paper() -> None:
    """Bello et al. 2017, section 6: g·exp(sign(g)·sign(m)), m a running average of g."""
    params, mean = start(2), torch.zeros(2, LAYOUT.size, dtype=torch.float64)
    for ours in trained("symbolic", genes_of(KNOWN["power_sign"])):
        gradient = grad(params)
        mean = 0.9 * mean + 0.1 * gradient
        params = params - LR * gradient * math.e ** (gradient.sign() * mean.sign())
        torch.testing.assert_close(ours, params, rtol=1e-12, atol=1e-15)


def test_seeds_that_are_checked_in_are_the_known_rules() -> None:

    seeds = {seed.name: seed.genes[GENE] for seed in load_seeds([Path(BUILTIN)]) if seed.family == "symbolic"}
    assert seeds == {f"symbolic_{name}": text for name, text in KNOWN.items() if name != "rmsprop"}


def test_weights_at_their_start_change_nothing_and_later_what_the_genes_then_say() -> None:
    genes = genes_of("add(div(mhat(0.9), add(sqrt(vhat(0.999)), 0.001)), mul(0.1, m(0.9)))")
    rule = FAMILY.build(genes)
    drawn = torch_generator(0, "moved")
    moved = {
        name: 0.5 * torch.randn(value.shape, generator=drawn)
        for name, value in rule.init_weights(drawn).items()
    }
    absorbed, left = FAMILY.absorbed(genes, moved, FAMILY.space)
    assert absorbed != genes
    assert FAMILY.structure(absorbed) == FAMILY.structure(genes)
    assert all(not value.any() for value in left.values())
    by_weights, by_genes = trained("symbolic", genes, moved), trained("symbolic", absorbed)
    for one, other in zip(by_weights, by_genes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    same, _ = FAMILY.absorbed(genes, rule.init_weights(drawn), FAMILY.space)
    assert same == genes
    held = FAMILY.space.restricted({"lr": LR, GENE: genes[GENE]})
    kept, left = FAMILY.absorbed(genes, moved, held)
    assert held.complete(kept) == kept == {**absorbed, "lr": LR}
    for one, other in zip(by_weights, trained("symbolic", kept, left), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_meta_gradients_are_those_of_finite_differences() -> None:
    genes = genes_of("add(div(mhat(0.9), add(sqrt(vhat(0.99)), 0.01)), mul(0.5, tanh(m(0.9))))")
    rule = FAMILY.build(genes)
    fresh = rule.init_weights(torch_generator(0))
    weights = {name: value.double().requires_grad_() for name, value in fresh.items()}

    def loss(*values: Tensor) -> Tensor:
        last = trained("symbolic", genes, dict(zip(weights, values, strict=True)))[3]
        return (last * grad(last)).sum()

    assert torch.autograd.gradcheck(loss, tuple(weights.values()))


def test_what_weights_ask_for_stays_within_the_bounds_of_genes() -> None:
    genes = genes_of("mul(0.5, m(0.9))")
    for sign in (-1.0, 1.0):
        weights = {
            "log_rate": sign * torch.full((1,), 80.0),
            "log_factors": sign * torch.full((1,), 80.0),
            "logit_shifts": sign * torch.full((1,), 80.0),
        }
        absorbed, _ = FAMILY.absorbed(genes, weights, FAMILY.space)
        assert FAMILY.space.complete(absorbed) == absorbed


def test_a_part_that_stands_twice_is_computed_once() -> None:
    part = "sqrt(tanh(square(m(0.9))))"
    once = measure_cost(Learner.of("symbolic", {GENE: f"add(g, {part})"}))
    twice = measure_cost(Learner.of("symbolic", {GENE: f"add({part}, {part})"}))
    assert twice.flops_per_param == once.flops_per_param
    assert twice.state_floats_per_param == once.state_floats_per_param == 1.0


def test_noise_has_mean_0_and_variance_1_and_is_that_of_step_and_place() -> None:
    layout = Layout.of({"a": (40, 50), "b": (2000,)})
    like = torch.zeros(1, dtype=torch.float64)
    drawn = torch.stack([noise(layout, torch.tensor(float(k)), like) for k in range(20)])
    one, other = drawn.split(2000, dim=1)
    assert torch.equal(one, other)
    n = one.numel()
    assert abs(float(one.mean())) < 4 / math.sqrt(n)
    assert float(one.var()) == pytest.approx(1.0, abs=4 * math.sqrt(0.8 / n))
    steps = torch.corrcoef(one)  # of 20 steps, off the diagonal as of independent draws
    assert float((steps - torch.eye(20)).abs().max()) < 5 / math.sqrt(2000)
    neighbours = torch.corrcoef(torch.stack([one[:, 1:].flatten(), one[:, :-1].flatten()]))[0, 1]
    assert abs(float(neighbours)) < 4 / math.sqrt(n)


def test_noise_in_an_exported_optimizer_is_that_of_the_campaign() -> None:
    """Which has all of a model's tensors in one vector; the optimizer has them apart or a few together."""
    learner = Learner.of("symbolic", {GENE: "add(g, mul(progress, noise))", "schedule": "constant"})
    weights = learner.init_weights(torch.Generator())
    views = LAYOUT.views(start(1)[0])
    params = [torch.nn.Parameter(view.clone()) for view in views.values()]
    genome = Genome("x", "symbolic", dict(learner.genes))
    optimizer = EvolvedOptimizer(params, genome, weights, horizon=HORIZON)
    flat, state = start(1), learner.init_state(weights, start(1), LAYOUT)
    hyper = {name: torch.tensor(value, dtype=torch.float64) for name, value in learner.hyper.items()}
    for k in range(N_STEPS):
        context = StepContext(LAYOUT, flat.new_tensor(k), flat.new_tensor(HORIZON), None)
        step, state = learner.update(weights, hyper, state, grad(flat), flat, context)
        for param, gradient in zip(params, LAYOUT.views(grad(flat)[0]).values(), strict=True):
            param.grad = gradient.clone()
        optimizer.step()
        flat = flat + step
    for param, expected in zip(params, LAYOUT.views(flat[0]).values(), strict=True):
        torch.testing.assert_close(param.detach(), expected, rtol=1e-12, atol=1e-12)


def test_a_formula_is_not_held_back_past_the_horizon() -> None:
    assert Learner.of("symbolic", {"schedule": "constant"}).guard(100, 10) == 1.0
    assert Learner.of("symbolic", {"schedule": "recurrent"}).guard(100, 10) < 1.0


@pytest.mark.parametrize("number", range(8))
def test_simplified_formulas_take_the_same_steps(number: int) -> None:
    generator = numpy_generator(number, "expression")
    text = str(FAMILY.space[GENE].sample(generator))
    # what cancels out, in several ways
    for padded in (text, f"add(sub(g, g), {text})", f"neg(neg(mul(2.0, mul(0.5, {text}))))"):
        plain = simplified(padded)
        assert len(plain) <= len(padded)
        one, other = trained("symbolic", genes_of(padded, 1e-4)), trained("symbolic", genes_of(plain, 1e-4))
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9, equal_nan=True)
    assert len(simplified(f"add(sub(g, g), {text})")) <= len(text)


def test_protected_operators_are_not_simplified_as_if_they_were_bare() -> None:
    assert simplified("div(g, g)") == "div(g, g)"  # 0 where g is 0
    assert simplified("exp(log(g))") == "exp(log(g))"  # |g|
    assert simplified("square(sqrt(g))") == "square(sqrt(g))"
    assert simplified("div(g, 4.0)") == "div(g, 4.0)"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("add(g, mul(sub(p, p), noise))", "g"),
        ("abs(neg(v(0.9)))", "v(0.9)"),
        ("sign(sign(m(0.9)))", "sign(m(0.9))"),
        ("max(g, max(g, p))", "max(g, p)"),
        ("mul(2.0, mul(3.0, g))", "mul(6.0, g)"),
        ("add(sqrt(g), sqrt(g))", "mul(2.0, sqrt(g))"),
    ],
)
def test_what_cancels_out_is_left_out(text: str, plain: str) -> None:
    assert simplified(text) == plain


def test_words_and_formula() -> None:
    assert FAMILY.formula(genes_of(KNOWN["adam"])).splitlines() == [
        "m(β) ← β·m(β) + (1 − β)·g",
        "v(β) ← β·v(β) + (1 − β)·g²",
        "m̂ = m/(1 − βⁿ)",
        "v̂ = v/(1 − βⁿ)",
        "n = k + 1, the number of this update",
        "Δ = −0.01·m̂(0.9)/(√v̂(0.999) + 10⁻⁸)",
    ]
    assert FAMILY.describe(genes_of(KNOWN["adam"])) == (
        "A formula of running averages of the gradient and running averages of its square, with learning "
        "rate 0.01; its 4 numbers are meta-trained."
    )
    text = "mul(sub(div(p, mul(2.5e-6, count)), neg(square(sqrt(g)))), pow(abs(sum(0.95)), progress))"
    assert FAMILY.formula(genes_of(text)).splitlines()[-1] == (
        "Δ = −0.01·((√g)² + θ/(2.5·10⁻⁶·n))·sign(|b(0.95)|)·||b(0.95)||^p"
    )
