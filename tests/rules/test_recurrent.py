"""The recurrent rule: L2L as a special case, how its features enter, and its words and formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from evometa.genome.space import Genes
from evometa.genome.variation import inherit
from evometa.layout import Layout
from evometa.rng import numpy_generator, torch_generator
from evometa.rules import recurrent
from evometa.rules.base import StepContext
from evometa.rules.recurrent import RecurrentFamily, RecurrentRule
from evometa.trees import Tree

FAMILY = RecurrentFamily()
LAYOUT = Layout.of({"w": (3, 4), "b": (3,)})
HYPER = {
    name: torch.tensor(value, dtype=torch.float64) for name, value in {"lr": 0.1, "nominal_lr": 0.01}.items()
}


def _rule(**genes: object) -> tuple[RecurrentRule, Genes]:
    complete = FAMILY.space.complete(genes)  # type: ignore[arg-type]
    return FAMILY.build(complete), complete


def _weights(rule: RecurrentRule, seed: int = 0) -> Tree:
    return {name: value.double() for name, value in rule.init_weights(torch_generator(seed)).items()}


def _train(rule: RecurrentRule, weights: Tree, grads: Tensor, *, loss: Tensor | None = None) -> list[Tensor]:
    """The steps that the rule makes on given gradients ``(K, T, N)``."""
    params = torch.zeros_like(grads[0])
    state = rule.init_state(weights, params, LAYOUT)
    steps = []
    for k, gradient in enumerate(grads):
        context = StepContext(LAYOUT, torch.tensor(float(k)), torch.tensor(10.0), loss)
        step, state = rule.update(weights, HYPER, state, gradient, params, context)
        params = params + step
        steps.append(step)
    return steps


def _grads(n_steps: int, n_tasks: int) -> Tensor:
    generator = torch_generator(0, "grads")
    grads = torch.randn((n_steps, n_tasks, LAYOUT.size), generator=generator, dtype=torch.float64)
    return grads * 10 ** torch.empty_like(grads).uniform_(-7, 1, generator=generator)


def test_defaults_are_l2l() -> None:
    """Andrychowicz et al. 2016: two-layer LSTM on (log|g|/p, sgn g) or (−1, eᵖ·g), output times 0.1."""
    rule, genes = _rule()
    assert {
        k: genes[k] for k in ("cell", "layers", "hidden", "features", "shared_features", "output", "lr")
    } == {
        "cell": "lstm",
        "layers": 2,
        "hidden": 20,
        "features": ("log_sign",),
        "shared_features": (),
        "output": "direct",
        "lr": 0.1,
    }
    weights = _weights(rule)
    network = nn.LSTM(2, 20, num_layers=2).double()
    with torch.no_grad():
        for layer, source in enumerate((weights["input.log_sign"], weights["layer1.input"])):
            getattr(network, f"weight_ih_l{layer}").copy_(source)
            getattr(network, f"weight_hh_l{layer}").copy_(weights[f"layer{layer}.recurrent"])
            getattr(network, f"bias_ih_l{layer}").copy_(weights[f"layer{layer}.bias"])
            getattr(network, f"bias_hh_l{layer}").zero_()
    grads = _grads(20, 2)
    large = grads.abs() >= math.exp(-10)
    first = torch.where(large, grads.abs().log() / 10, -torch.ones_like(grads))
    second = torch.where(large, grads.sign(), math.exp(10) * grads)
    hidden, _ = network(torch.stack([first, second], dim=-1).flatten(1, 2))
    expected = 0.1 * (hidden @ weights["output.weight"].T + weights["output.bias"])
    for step, theirs in zip(_train(rule, weights, grads), expected, strict=True):
        torch.testing.assert_close(step.flatten(), theirs.flatten(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", ["vanilla", "gru", "lstm"])
def test_shared_features_enter_like_any_other_input(cell: str) -> None:
    """Time, progress and loss through the bias or one row = the same numbers on every coordinate."""
    shared = ("loss", "time", "progress")
    rule, _ = _rule(cell=cell, layers=1, hidden=6, features=("gradient",), shared_features=shared)
    weights = _weights(rule)
    loss = torch.tensor([0.5, 2.0], dtype=torch.float64)
    grads = _grads(2, 2)
    params = torch.zeros_like(grads[0])
    state = rule.init_state(weights, params, LAYOUT)
    contexts = [StepContext(LAYOUT, torch.tensor(k), torch.tensor(10.0), loss / (1 + k)) for k in (0.0, 1.0)]
    _, state = rule.update(weights, HYPER, state, grads[0], params, contexts[0])
    step, after = rule.update(weights, HYPER, state, grads[1], params, contexts[1])

    scales = [1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5]
    channels = [math.log(0.5) / 10, *(math.tanh(1 / scale - 1) for scale in scales), 0.1]
    rows = torch.tensor([*channels], dtype=torch.float64).reshape(-1, 1).expand(-1, grads[1].numel())
    own = {
        name.removeprefix("layer0."): value for name, value in weights.items() if name.startswith("layer0.")
    }
    own["input"] = torch.cat([weights[f"input.{name}"] for name in ("gradient", *shared)], dim=1)
    memory = state["memory0"].flatten(1) if rule.network.cell.has_memory else None
    buffer = torch.cat([grads[1].reshape(1, -1), rows])
    hidden, _ = rule.network.cell(own, buffer, state["hidden0"].flatten(1), memory)
    torch.testing.assert_close(after["hidden0"].flatten(1), hidden, rtol=0, atol=1e-7)
    outputs = weights["output.weight"] @ hidden + weights["output.bias"]
    torch.testing.assert_close(step.flatten(), 0.1 * outputs[0], rtol=0, atol=1e-8)


@pytest.mark.parametrize("chunk", [1, 7, 29, 30])
def test_chunks_do_not_change_the_steps(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, _ = _rule(shared_features=("loss", "time"))
    weights, grads, loss = _weights(rule), _grads(3, 2), torch.ones(2, dtype=torch.float64)
    whole = _train(rule, weights, grads, loss=loss)
    monkeypatch.setattr(recurrent, "CHUNK", chunk)
    for ours, expected in zip(_train(rule, weights, grads, loss=loss), whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-14)


def test_coordinates_do_not_see_each_other() -> None:
    rule, _ = _rule(features=("gradient", "log_sign", "rms_average_0.9"), layers=1)
    weights, grads = _weights(rule), _grads(3, 1)
    order = torch.randperm(LAYOUT.size, generator=torch_generator(0, "order"))
    permuted = _train(rule, weights, grads[..., order])
    for ours, expected in zip(permuted, _train(rule, weights, grads), strict=True):
        torch.testing.assert_close(ours, expected[..., order], rtol=0, atol=1e-15)


def test_state_is_hidden_memory_and_statistics() -> None:
    rule, _ = _rule(hidden=6, features=("average_0.5",), nominal="adam")
    state = rule.init_state({}, torch.zeros(2, LAYOUT.size), LAYOUT)
    statistics = {"momentum_0.5", "momentum_0.9", "second_moment_0.999"}
    assert set(state) == {"hidden0", "hidden1", "memory0", "memory1", *statistics}
    assert state["memory1"].shape == (6, 2, LAYOUT.size)


def test_a_new_feature_keeps_the_other_weights() -> None:
    before, _ = _rule(features=("log_sign",))
    after, _ = _rule(features=("log_sign", "average_0.9"))
    old = before.init_weights(torch_generator(0))
    inherited, _ = inherit(old, after.init_weights(torch_generator(1)))
    assert set(inherited) - set(old) == {"input.average_0.9"}
    assert all(bool((inherited[name] == value).all()) for name, value in old.items())


def test_same_generator_gives_the_same_weights() -> None:
    rule, _ = _rule()
    first, again, other = (rule.init_weights(torch_generator(seed)) for seed in (3, 3, 4))
    assert all(bool((first[name] == again[name]).all()) for name in first)
    assert not bool((first["layer0.recurrent"] == other["layer0.recurrent"]).all())
    assert all(value.dtype == torch.float32 for value in first.values())


def test_words_and_formula() -> None:
    _, l2l = _rule()
    assert FAMILY.describe(l2l) == (
        "An LSTM with two layers of 20 units, the same for every coordinate, reads log and sign of the "
        "gradient; its output times 0.1 is the step."
    )
    assert FAMILY.formula(l2l).splitlines() == [
        "x = [log|g|/10, sgn g]",
        "i, f, o = σ(W₁·[x, h₁, 1]),  a = tanh(V₁·[x, h₁, 1])",
        "c₁ ← f∘c₁ + i∘a,  h₁ ← o∘tanh(c₁)",
        "i, f, o = σ(W₂·[h₁, h₂, 1]),  a = tanh(V₂·[h₁, h₂, 1])",
        "c₂ ← f∘c₂ + i∘a,  h₂ ← o∘tanh(c₂)",
        "o = W·h₂ + b",
        "Δ = 0.1·o₀",
    ]
    _, gru = _rule(cell="gru", layers=1, features=("average_0.5", "average_0.9"), nominal="sgd")
    assert FAMILY.formula(gru).splitlines() == [
        "x = [m̂(β) for β = 0.5, 0.9]",
        "m̂(β) = ⟨g⟩",
        "⟨y⟩ = Σⱼ βʲ·yₖ₋ⱼ / Σⱼ βʲ",
        "r, z = σ(W₁·[x, h₁, 1])",
        "a = tanh(V₁·[x, 1] + r∘(U₁·[h₁, 1]))",
        "h₁ ← (1 − z)∘a + z∘h₁",
        "o = W·h₁ + b",
        "u = 0.1·o₀",
        "n = −0.01·g",
        "Δ = n + u",
    ]


def test_every_draw_of_the_space_has_words_and_a_formula() -> None:
    for index in range(20):
        genes = FAMILY.space.sample(numpy_generator(0, index))
        assert FAMILY.describe(genes).endswith(".")
        assert FAMILY.formula(genes).splitlines()[-1].startswith("Δ = ")
