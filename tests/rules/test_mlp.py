"""The MLP rule against a plain version that normalises and multiplies tensor by tensor."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from evometa.genome.space import Genes
from evometa.layout import Layout
from evometa.rng import numpy_generator, torch_generator
from evometa.rules.base import StepContext
from evometa.rules.feature_table import METZ, WITHIN_TENSOR
from evometa.rules.features import FeatureSet, Inputs
from evometa.rules.mlp import MLPFamily, MLPRule
from evometa.rules.signals import matrices
from evometa.trees import Tree

FAMILY = MLPFamily()
LAYOUT = Layout.of({"w": (3, 4), "b": (3,), "scale": (), "kernel": (2, 2, 3)})
HYPER = {
    name: torch.tensor(value, dtype=torch.float64)
    for name, value in {"lr": 1e-3, "magnitude_scale": 1e-3, "nominal_lr": 0.01}.items()
}


def _rule(**genes: object) -> tuple[MLPRule, Genes]:
    complete = FAMILY.space.complete(genes)  # type: ignore[arg-type]
    return FAMILY.build(complete), complete


def _weights(rule: MLPRule) -> Tree:
    """Random weights with biases, so that every one of them counts."""
    generator = torch_generator(0, "weights")
    shapes = {name: value.shape for name, value in rule.init_weights(generator).items()}
    return {n: torch.randn(shape, generator=generator, dtype=torch.float64) for n, shape in shapes.items()}


def _draw(n_tasks: int) -> tuple[Tensor, Tensor]:
    draws = torch.randn((2, n_tasks, LAYOUT.size), generator=torch_generator(0, "x"), dtype=torch.float64)
    return draws[0] * 1e-3, draws[1]


def _context(step: float, loss: Tensor | None) -> StepContext:
    return StepContext(LAYOUT, torch.tensor(step, dtype=torch.float64), torch.tensor(20.0), loss)


def _plain_step(rule: MLPRule, weights: Tree, inputs: Inputs, task: int) -> Tensor:
    """One task's step: every channel on every coordinate, normalised, through the layers one by one."""
    features = rule.network.features
    steps = []
    for matrix in matrices(LAYOUT):
        channels, columns = [], []
        for scope in (*WITHIN_TENSOR, "task", "step"):
            if scope not in inputs:
                continue
            value = inputs[scope]
            columns += [weights[f"input.{name}"] for name in features.names(scope)]
            shape = (len(value), matrix.n_rows, matrix.n_columns)
            if scope == "coordinate":
                own = value[:, task, matrix.segment.slice].reshape(shape)
            elif scope == "row":
                own = value[:, task, matrix.rows].unsqueeze(-1).expand(shape)
            elif scope == "column":
                own = value[:, task, matrix.columns].unsqueeze(-2).expand(shape)
            else:
                own = (value[:, task] if scope == "task" else value).reshape(-1, 1, 1).expand(shape)
            if scope in WITHIN_TENSOR:
                own = own / (own.square().mean((1, 2), keepdim=True) + 1e-24).sqrt()
            channels.append(own.reshape(len(value), -1))
        hidden = torch.cat(channels)
        for layer in range(rule.network.n_layers):
            weight = weights[f"layer{layer}.weight"] if layer else torch.cat(columns, dim=1)
            hidden = (weight @ hidden + weights[f"layer{layer}.bias"].unsqueeze(1)).clamp(min=0)
        direction, magnitude = weights["output.weight"] @ hidden + weights["output.bias"].unsqueeze(1)
        steps.append(1e-3 * direction * torch.exp(1e-3 * magnitude))
    return torch.cat(steps)


@pytest.mark.parametrize(
    ("features", "shared", "n_layers"),
    [
        (METZ, ("time",), 2),
        (METZ, ("loss", "time", "progress"), 3),
        (("gradient", "log_sign"), (), 1),
        (("row_0.9", "column_0.99"), ("loss",), 1),
        (("row_0.9",), (), 2),
        (("reciprocal_column_0.9",), ("progress",), 1),
    ],
)
def test_equals_the_plain_version(features: tuple[str, ...], shared: tuple[str, ...], n_layers: int) -> None:
    rule, _ = _rule(features=features, shared_features=shared, layers=n_layers, hidden=5)
    weights = _weights(rule)
    grads, params = _draw(2)
    loss = torch.tensor([0.5, 2.0], dtype=torch.float64)
    state = rule.init_state(weights, params, LAYOUT)
    _, state = rule.update(weights, HYPER, state, grads, params, _context(0.0, loss))
    step, after = rule.update(weights, HYPER, state, grads + 1e-4, params, _context(1.0, 0.3 * loss))
    signals = rule.network.features.observe(state, grads + 1e-4, params, _context(1.0, 0.3 * loss))
    inputs = rule.network.features.inputs(signals)
    assert set(after) == set(state)
    for task in range(2):
        torch.testing.assert_close(
            step[task], _plain_step(rule, weights, inputs, task), rtol=1e-9, atol=1e-15
        )


def test_defaults_are_the_adafac_mlp() -> None:
    rule, genes = _rule()
    assert (genes["layers"], genes["hidden"], genes["output"]) == (2, 4, "direction_magnitude")
    assert (genes["lr"], genes["magnitude_scale"], genes["nominal"]) == (1e-3, 1e-3, "none")
    weights = rule.init_weights(torch_generator(0))
    n_inputs = sum(weight.shape[1] for name, weight in weights.items() if name.startswith("input."))
    assert n_inputs == 39
    assert sum(weight.numel() for weight in weights.values()) == 39 * 4 + 4 + 4 * 4 + 4 + 4 * 2 + 2


def test_steps_do_not_depend_on_the_scale_of_the_gradient() -> None:
    """Metz et al. 2022: every input is normalised; reciprocal roots saturate and are left out here."""
    features = tuple(name for name in METZ if not name.startswith("reciprocal"))
    rule, _ = _rule(features=features)
    weights = _weights(rule)
    grads, params = _draw(1)
    state = rule.init_state(weights, params, LAYOUT)
    step, _ = rule.update(weights, HYPER, state, grads, params, _context(0.0, None))
    for scale in (1e-1, 1e6):
        scaled, _ = rule.update(weights, HYPER, state, scale * grads, params, _context(0.0, None))
        torch.testing.assert_close(scaled, step, rtol=1e-3, atol=0)


def test_hidden_layers_keep_the_size_of_their_inputs() -> None:
    rule, _ = _rule(hidden=32, layers=3)
    weights = rule.init_weights(torch_generator(0))
    first = torch.cat([weights[f"input.{name}"] for name in rule.network.features.n_channels], dim=1)
    for weight in (first, weights["layer1.weight"], weights["layer2.weight"]):
        assert float(weight.square().sum(1).mean()) == pytest.approx(2.0, rel=0.15)
    assert math.isclose(float(weights["layer0.bias"].abs().sum()), 0.0)


def test_words_and_formula() -> None:
    _, genes = _rule()
    assert FAMILY.describe(genes) == (
        "A per-parameter MLP with 2 hidden layers of 4 units reads, normalised over each tensor, 39 numbers, "
        "among them the gradient, the parameter, the mean square gradient, the reciprocal root of the mean "
        "square gradient; its output, a direction times the exponential of a magnitude, times 0.001 is the "
        "step."
    )
    _, small = _rule(
        features=("gradient", "row_0.9"), shared_features=("progress",), layers=1, nominal="adam"
    )
    assert FAMILY.formula(small).splitlines() == [
        "x = [g, k/K; r(β) for β = 0.9]",
        "m̂(β) = ⟨g⟩",
        "v̂ = ⟨g²⟩ with β = 0.999",
        "r(β) = ⟨mean of g² over a row⟩",
        "⟨y⟩ = Σⱼ βʲ·yₖ₋ⱼ / Σⱼ βʲ",
        "x̃ = x/rms(x) over each tensor; k, K and L as they are",
        "h₁ = max(0, W₁·x̃ + b₁)",
        "o = W·h₁ + b",
        "u = 0.001·o₀·exp(0.001·o₁)",
        "n = −0.01·m̂(0.9)/(√v̂ + 10⁻⁸)",
        "Δ = n + u",
    ]


def test_every_draw_of_the_space_has_words_and_a_formula() -> None:
    for index in range(20):
        genes = FAMILY.space.sample(numpy_generator(0, index))
        assert FAMILY.describe(genes).endswith(".")
        assert FAMILY.formula(genes).splitlines()[-1].startswith("Δ = ")
        assert set(FeatureSet.of(genes).n_channels) >= set(genes["features"])  # type: ignore[arg-type]
