"""Meta-LSTM rules: SGD as a special case, the paper's equations, and their words and formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from evometa.genome.space import Genes
from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.rules.base import StepContext
from evometa.rules.meta_lstm import MetaLSTMFamily, MetaLSTMRule
from evometa.trees import Tree

FAMILY = MetaLSTMFamily()
LAYOUT = Layout.of({"w": (3, 4), "b": (3,)})
N_STEPS = 20


def _rule(**genes: object) -> tuple[MetaLSTMRule, Genes, Tree]:
    complete = FAMILY.space.complete(genes)  # type: ignore[arg-type]
    hyper = {
        name: torch.tensor(value, dtype=torch.float64)
        for name, value in FAMILY.space.continuous(complete).items()
    }
    return FAMILY.build(complete), complete, hyper


def _weights(rule: MetaLSTMRule) -> Tree:
    return {name: value.double() for name, value in rule.init_weights(torch_generator(0)).items()}


def _grad(params: Tensor) -> Tensor:
    """Of a quadratic whose curvature spans four orders of magnitude."""
    return torch.logspace(-2, 2, LAYOUT.size, dtype=torch.float64) * params


def _trained(rule: MetaLSTMRule, weights: Tree, hyper: Tree, params: Tensor) -> list[Tensor]:
    """Params ``(T, N)`` before the first and after each of the steps."""
    state, found = rule.init_state(weights, params, LAYOUT), [params]
    for k in range(N_STEPS):
        context = StepContext(LAYOUT, torch.tensor(float(k)), torch.tensor(float(N_STEPS)), _loss(params))
        step, state = rule.update(weights, hyper, state, _grad(params), params, context)
        params = params + step
        found.append(params)
    return found


def _loss(params: Tensor) -> Tensor:
    return 0.5 * (params * _grad(params)).sum(-1)


def _start(n_tasks: int) -> Tensor:
    return torch.randn((n_tasks, LAYOUT.size), generator=torch_generator(0, "params"), dtype=torch.float64)


@pytest.mark.parametrize("learning_rate", [1e-3, 7e-3])
def test_with_a_constant_input_gate_and_an_open_forget_gate_it_is_sgd(learning_rate: float) -> None:
    rule, _, hyper = _rule(initial_lr=learning_rate)
    weights = _weights(rule)
    weights["gates.bias"] = torch.tensor([0.0, 1e3], dtype=torch.float64)  # σ(1000) is 1
    theirs = _start(1)[0].requires_grad_()
    optimizer = torch.optim.SGD([theirs], lr=learning_rate)
    for ours in _trained(rule, weights, hyper, _start(1)):
        torch.testing.assert_close(ours[0], theirs.detach(), rtol=1e-12, atol=0)
        theirs.grad = _grad(theirs.detach())
        optimizer.step()


def test_untrained_it_is_sgd_with_decoupled_weight_decay() -> None:
    rule, _, hyper = _rule(initial_lr=3e-3, initial_decay=2e-2)
    expected = _start(2)
    for ours in _trained(rule, _weights(rule), hyper, _start(2)):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
        expected = (1 - 2e-2) * expected - 3e-3 * _grad(expected)


def test_steps_are_those_of_the_papers_equations() -> None:
    """Coordinate by coordinate: an LSTM reads ∇ and L, and the gates read what it says, θ and themselves."""
    rule, _, hyper = _rule(hidden=5, initial_lr=3e-3, initial_decay=2e-2)
    drawn = torch_generator(0, "moved")
    weights = {
        name: value + 0.3 * torch.randn(value.shape, generator=drawn, dtype=torch.float64)
        for name, value in _weights(rule).items()
    }
    cell = nn.LSTMCell(3, 5).double()
    with torch.no_grad():
        cell.weight_ih.copy_(torch.cat([weights["input.log_sign"], weights["input.loss"]], dim=1))
        cell.weight_hh.copy_(weights["layer0.recurrent"])
        cell.bias_ih.copy_(weights["layer0.bias"])
        cell.bias_hh.zero_()
    params = _start(1)
    ours = _trained(rule, weights, hyper, params)
    offsets = [hyper["initial_lr"].logit(), -hyper["initial_decay"].logit()]
    carried = [(torch.zeros(1, 5, dtype=torch.float64),) * 2 for _ in range(LAYOUT.size)]
    gates = torch.zeros(LAYOUT.size, 2, dtype=torch.float64)
    first = float(_loss(params))
    for k in range(N_STEPS):
        grads, loss, after = _grad(params)[0], float(_loss(params)), params.clone()
        for n in range(LAYOUT.size):
            log = grads[n].abs().log() / 10  # no gradient here is below e⁻¹⁰
            read = torch.stack([log, grads[n].sign(), torch.tensor(loss / first).log().double() / 10])
            with torch.no_grad():
                carried[n] = cell(read.unsqueeze(0), carried[n])
            for gate in (0, 1):
                before = torch.cat([carried[n][0][0], params[0, n : n + 1], gates[n, gate : gate + 1]])
                own = torch.cat(
                    [weights["gates.weight"][gate]]
                    + [weights[f"gates.{name}"][gate : gate + 1] for name in ("parameter", "previous")]
                )
                gates[n, gate] = torch.sigmoid(own @ before + weights["gates.bias"][gate] + offsets[gate])
            after[0, n] = gates[n, 1] * params[0, n] - gates[n, 0] * grads[n]
        params = after
        torch.testing.assert_close(ours[k + 1], params, rtol=1e-5, atol=1e-8)


def test_genes_of_the_gates_do_not_touch_the_weights() -> None:
    """What was learned is kept where a campaign moves the point that the gates start from."""
    (one, genes, _), (other, moved, _) = _rule(initial_lr=1e-3), _rule(initial_lr=1e-1, initial_decay=1e-3)
    assert FAMILY.structure(genes) == FAMILY.structure(moved)
    weights, same = _weights(one), _weights(other)
    assert weights.keys() == same.keys()
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_words_and_formula() -> None:
    _, genes, _ = _rule()
    assert FAMILY.describe(genes) == (
        "SGD whose learning rate (at first 0.01) and weight decay (at first 1e-06) are gates, of every "
        "coordinate and at every step: they look at the parameter, their last value and an LSTM of 20 units "
        "that reads log and sign of the gradient, the training loss relative to the first."
    )
    assert FAMILY.formula(genes).splitlines()[-1] == "Δ = (f − 1)∘θ − i∘g"
