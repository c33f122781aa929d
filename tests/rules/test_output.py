"""Output stage: nominal steps against torch.optim, parametrisations against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from evometa.genome.genes import Value
from evometa.genome.space import Space
from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.rules.base import StepContext
from evometa.rules.features import FeatureSet
from evometa.rules.output import OUTPUT_EPSILON, Output, output_genes

LAYOUT = Layout.of({"w": (4, 3), "b": (3,)})
HYPER = {
    "lr": torch.tensor(0.3, dtype=torch.float64),
    "nominal_lr": torch.tensor(0.02, dtype=torch.float64),
    "nominal_gradient": torch.tensor(0.0, dtype=torch.float64),
    "magnitude_scale": torch.tensor(0.5, dtype=torch.float64),
}


def _outputs(output: Output, n_tasks: int = 2, seed: int = 0) -> Tensor:
    shape = (output.n_outputs, n_tasks, LAYOUT.size)
    return torch.randn(shape, generator=torch_generator(seed, "outputs"), dtype=torch.float64)


def _step(output: Output, outputs: Tensor, grads: Tensor) -> Tensor:
    features = FeatureSet(["gradient"], output.statistics)
    context = StepContext(LAYOUT, torch.tensor(0.0), torch.tensor(10.0), None)
    signals = features.observe(features.init_state(grads, LAYOUT), grads, torch.zeros_like(grads), context)
    return output.step(outputs, HYPER, signals)


def _grads(n_tasks: int = 2) -> Tensor:
    return torch.randn((n_tasks, LAYOUT.size), generator=torch_generator(0, "grads"), dtype=torch.float64)


@pytest.mark.parametrize("combine", ["add", "scale"])
@pytest.mark.parametrize("parametrisation", ["direct", "direction_magnitude", "rms_normalised"])
@pytest.mark.parametrize("nominal", ["sgd", "adam"])
def test_zero_outputs_leave_the_nominal_step(nominal: str, parametrisation: str, combine: str) -> None:
    output = Output(parametrisation, nominal, combine)
    features = FeatureSet(["gradient"], output.statistics)
    params = torch.randn((1, LAYOUT.size), generator=torch_generator(0, "params"), dtype=torch.float64)
    scales = torch.logspace(-3, 1, LAYOUT.size, dtype=torch.float64)
    theirs = params[0].clone().requires_grad_(True)
    optimizer = (torch.optim.SGD if nominal == "sgd" else torch.optim.Adam)([theirs], lr=0.02)
    state = features.init_state(params, LAYOUT)
    for step in range(50):
        grads = params * scales + math.sin(step)
        context = StepContext(LAYOUT, torch.tensor(float(step)), torch.tensor(50.0), None)
        signals = features.observe(state, grads, params, context)
        state = signals.state
        params = params + output.step(torch.zeros_like(_outputs(output, 1)), HYPER, signals)
        theirs.grad = theirs.detach() * scales + math.sin(step)
        optimizer.step()
        torch.testing.assert_close(params[0], theirs.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("beta1", [0.5, 0.95])
@pytest.mark.parametrize("beta2", [0.9, 0.999])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_nominal_step_is_qhadams(beta1: float, beta2: float, share: float) -> None:
    """Against Ma & Yarats' update, number by number, with ν₁ = 1 − share and ν₂ = 1."""
    output = Output("direct", "adam", beta1=beta1, beta2=beta2)
    features = FeatureSet(["rms_gradient"], output.statistics)
    hyper = HYPER | {"nominal_gradient": torch.tensor(share, dtype=torch.float64)}
    state = features.init_state(_grads(1), LAYOUT)
    means, squares = [0.0] * LAYOUT.size, [0.0] * LAYOUT.size
    for step in range(30):
        grads = _grads(1) * (1.0 + math.sin(step))
        context = StepContext(
            LAYOUT, torch.tensor(float(step), dtype=torch.float64), torch.tensor(30.0), None
        )
        signals = features.observe(state, grads, torch.zeros_like(grads), context)
        state = signals.state
        expected = []
        for i, g in enumerate(grads[0].tolist()):
            means[i] = beta1 * means[i] + (1 - beta1) * g
            squares[i] = beta2 * squares[i] + (1 - beta2) * g * g
            mean, square = means[i] / (1 - beta1 ** (step + 1)), squares[i] / (1 - beta2 ** (step + 1))
            expected.append(-0.02 * ((1 - share) * mean + share * g) / (math.sqrt(square) + 1e-8))
        step_taken = output.step(torch.zeros_like(_outputs(output, 1)), hyper, signals)
        torch.testing.assert_close(
            step_taken[0], torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0
        )


def test_features_are_divided_by_the_mean_square_of_the_nominal_step() -> None:
    names = ("second_moment", "rms_gradient", "reciprocal_root", "rms_average_0.9")
    own = FeatureSet(names, Output("direct", "adam", beta2=0.9).statistics)
    assert [s.name for s in own.statistics if s.kind == "second_moment"] == ["second_moment_0.9"]
    assert any("v̂ = ⟨g²⟩ with β = 0.9" in line for line in own.formula())
    grads = _grads()
    state = own.init_state(grads, LAYOUT)
    for step in range(2):
        context = StepContext(LAYOUT, torch.tensor(float(step)), torch.tensor(10.0), None)
        signals = own.observe(state, grads * (1.0 + step), torch.zeros_like(grads), context)
        state = signals.state
    mean_square = grads.square() * (0.9 * 0.1 + 0.1 * 4) / (1 - 0.9**2)
    channels = dict(zip(own.names("coordinate"), own.inputs(signals)["coordinate"], strict=True))
    torch.testing.assert_close(channels["second_moment"], mean_square, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        channels["rms_gradient"], 2.0 * grads / mean_square.sqrt(), rtol=1e-6, atol=1e-6
    )


def test_adam_without_gradient_does_not_move() -> None:
    output = Output("direct", "adam")
    step = _step(output, torch.zeros_like(_outputs(output)), torch.zeros_like(_grads()))
    assert bool((step == 0).all())


def test_direct() -> None:
    output = Output("direct", "none")
    outputs = _outputs(output)
    torch.testing.assert_close(_step(output, outputs, _grads()), 0.3 * outputs[0])


def test_direction_and_magnitude() -> None:
    output = Output("direction_magnitude", "none")
    outputs = _outputs(output)
    expected = 0.3 * outputs[0] * torch.exp(0.5 * outputs[1])
    torch.testing.assert_close(_step(output, outputs, _grads()), expected)


def test_rms_normalised_has_the_same_size_in_every_tensor_and_task() -> None:
    output = Output("rms_normalised", "none")
    outputs = _outputs(output) * torch.tensor([1.0, 100.0], dtype=torch.float64).reshape(1, 2, 1)
    outputs[..., 12:] *= 50
    for part in LAYOUT.views(_step(output, outputs, _grads())).values():
        root_mean_square = part.flatten(1).square().mean(1).sqrt()
        torch.testing.assert_close(
            root_mean_square, torch.full_like(root_mean_square, 0.3), rtol=1e-4, atol=0
        )
    tiny = _step(output, torch.full_like(outputs, 1e-9), _grads())
    assert float(tiny.abs().max()) < 1e-9 / math.sqrt(OUTPUT_EPSILON)


def test_learned_part_is_added() -> None:
    output = Output("direct", "sgd", "add")
    outputs, grads = _outputs(output), _grads()
    torch.testing.assert_close(_step(output, outputs, grads), -0.02 * grads + 0.3 * outputs[0])


def test_learned_part_scales_within_a_factor_of_ten() -> None:
    output = Output("direct", "sgd", "scale")
    outputs, grads = _outputs(output), _grads()
    bound = math.log(10)
    expected = -0.02 * grads * torch.exp(bound * torch.tanh(0.3 * outputs[0] / bound))
    torch.testing.assert_close(_step(output, outputs, grads), expected)
    factor = _step(output, 1e6 * outputs, grads) / (-0.02 * grads)
    torch.testing.assert_close(factor.log10().abs(), torch.ones_like(factor))


@pytest.mark.parametrize("nominal", ["sgd", "adam"])
def test_last_layer_starts_at_zero_on_a_nominal_step(nominal: str) -> None:
    weights = Output("direction_magnitude", nominal).init(torch_generator(0), 8)
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {"weight": (2, 8), "bias": (2,)}
    assert not any(bool(weight.any()) for weight in weights.values())


def test_last_layer_is_small_without_a_nominal_step() -> None:
    weight = Output("direct", "none").init(torch_generator(0), 400)["weight"]
    assert float(weight.std() * math.sqrt(400)) == pytest.approx(0.1, rel=0.1)


def test_genes_are_active_only_where_they_count() -> None:
    space = Space(output_genes(output="direct", lr=0.1))
    assert space.complete({}) == {"output": "direct", "lr": 0.1, "nominal": "none"}
    assert space.complete({"nominal": "adam", "output": "direction_magnitude"}) == {
        "output": "direction_magnitude",
        "lr": 0.1,
        "magnitude_scale": 1e-3,
        "nominal": "adam",
        "nominal_lr": 1e-2,
        "nominal_beta1": 0.9,
        "nominal_beta2": 0.999,
        "nominal_gradient": 0.0,
        "combine": "add",
    }
    assert space.complete({"nominal": "sgd"}).keys() == {"output", "lr", "nominal", "nominal_lr", "combine"}


@pytest.mark.parametrize(
    ("genes", "words", "lines"),
    [
        ({}, "its output times 0.1 is the step", ["Δ = 0.1·o₀"]),
        (
            {"nominal": "adam", "output": "rms_normalised"},
            "its output, divided by its root mean square over each tensor, times 0.1 is added to the step of "
            "Adam with learning rate 0.01",
            ["u = 0.1·o₀/rms(o₀)", "n = −0.01·m̂(0.9)/(√v̂ + 10⁻⁸)", "Δ = n + u"],
        ),
        (
            {"nominal": "adam", "nominal_beta1": 0.95, "nominal_beta2": 0.9, "nominal_gradient": 0.25},
            "its output times 0.1 is added to the step of Adam (decays 0.95 and 0.9; 0.25 of its numerator "
            "the gradient itself) with learning rate 0.01",
            ["u = 0.1·o₀", "n = −0.01·(0.75·m̂(0.95) + 0.25·g)/(√v̂ + 10⁻⁸)", "Δ = n + u"],
        ),
        (
            {"nominal": "sgd", "combine": "scale", "output": "direction_magnitude"},
            "the exponential of its output, a direction times the exponential of a magnitude, times 0.1 "
            "(kept within 1/10 and 10) scales the step of SGD with learning rate 0.01",
            ["u = 0.1·o₀·exp(0.001·o₁)", "n = −0.01·g", "Δ = n·exp(s·tanh(u/s)), s = log 10"],
        ),
    ],
)
def test_words_and_formula(genes: dict[str, Value], words: str, lines: list[str]) -> None:
    complete = Space(output_genes(output="direct", lr=0.1)).complete(genes)
    output = Output.of(complete)
    assert output.describe(complete) == words
    assert output.formula(complete) == lines
