"""Features: against definitions written as plain loops, and the properties that rules rely on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from evometa.errors import GenomeError
from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.rules.base import StepContext
from evometa.rules.feature_table import (
    METZ,
    RECURRENT_FEATURES,
    SHARED_FEATURES,
    TIME_SCALES,
    VARYING_FEATURES,
    WITHIN_TENSOR,
    log_sign,
)
from evometa.rules.features import FeatureSet, Inputs, normalised_products
from evometa.rules.signals import Statistic, matrices

LAYOUT = Layout.of({"w": (3, 4), "b": (3,), "scale": (), "kernel": (2, 2, 2), "line": (1, 3)})
ALL = (*VARYING_FEATURES, *SHARED_FEATURES)
EPSILON, RECIPROCAL_EPSILON = 1e-16, 1e-8


def _context(layout: Layout, step: int, loss: Tensor | None = None) -> StepContext:
    return StepContext(layout, torch.tensor(float(step)), torch.tensor(40.0), loss)


def _run(
    features: FeatureSet, layout: Layout, grads: Tensor, params: Tensor, losses: Sequence[Tensor | None]
) -> Inputs:
    """The inputs at the last of the steps in ``grads (K, T, N)``."""
    state = features.init_state(params, layout)
    for step, (gradient, loss) in enumerate(zip(grads, losses, strict=True)):
        signals = features.observe(state, gradient, params, _context(layout, step, loss))
        state = signals.state
    return features.inputs(signals)


def _normalised(channels: Tensor) -> Tensor:
    """Channels ``(C, T, n)`` of one tensor, each with second moment one."""
    (products,) = normalised_products(torch.eye(len(channels), dtype=channels.dtype), [channels])
    return products.transpose(0, 1)


def _draw(n_steps: int, n_tasks: int, layout: Layout, seed: int = 0) -> tuple[Tensor, Tensor, list[Tensor]]:
    generator = torch_generator(seed, "features")
    grads = torch.randn((n_steps, n_tasks, layout.size), generator=generator, dtype=torch.float64)
    grads *= 10 ** torch.empty_like(grads).uniform_(-6, 1, generator=generator)
    grads[:, :, ::5] = 0.0
    params = torch.randn((n_tasks, layout.size), generator=generator, dtype=torch.float64)
    losses = list(torch.rand((n_steps, n_tasks), generator=generator, dtype=torch.float64) + 0.1)
    return grads, params, losses


# The oracle: every feature by its definition, one coordinate at a time.


def _mean(history: Sequence[float], decay: float) -> float:
    weights = [decay ** (len(history) - 1 - index) for index in range(len(history))]
    return sum(w * y for w, y in zip(weights, history, strict=True)) / sum(weights)


def _log_sign(x: float) -> list[float]:
    if abs(x) >= math.exp(-10):
        return [math.log(abs(x)) / 10, math.copysign(1.0, x)]
    return [-1.0, math.exp(10) * x]


def _lines(grads: Tensor, task: int, coordinate: int, decay: float) -> tuple[float, float, float]:
    """Averages of the mean of g² over a coordinate's row, over its column, and over the whole tensor."""
    matrix = next(a for a in matrices(LAYOUT) if a.segment.slice.start <= coordinate < a.segment.slice.stop)
    squares = grads[:, task, matrix.segment.slice].square().reshape(-1, matrix.n_rows, matrix.n_columns)
    i, j = divmod(coordinate - matrix.segment.offset, matrix.n_columns)
    observed = (squares[:, i].mean(1), squares[:, :, j].mean(1), squares.mean((1, 2)))
    row, column, whole = (_mean(history.tolist(), decay) for history in observed)
    return row, column, whole


def _oracle(name: str, grads: Tensor, params: Tensor, task: int, coordinate: int) -> list[float]:
    """The channels of a varying feature at one coordinate after all steps of ``grads (K, T, N)``."""
    kind, _, suffix = name.rpartition("_")
    decay = float(suffix) if suffix[0].isdigit() else 0.0
    g = grads[:, task, coordinate].tolist()
    v = _mean([x * x for x in g], 0.999)
    plain = {
        "gradient": [g[-1]],
        "log_sign": _log_sign(g[-1]),
        "parameter": [float(params[task, coordinate])],
        "second_moment": [v],
        "reciprocal_root": [1 / math.sqrt(v + RECIPROCAL_EPSILON)],
        "rms_gradient": [g[-1] / math.sqrt(v + EPSILON)],
    }
    if not decay:
        return plain[name]
    m = _mean(g, decay)
    row, column, whole = _lines(grads, task, coordinate, decay)
    factored = math.sqrt(whole + EPSILON) / math.sqrt((row + EPSILON) * (column + EPSILON))
    return {
        "average": [m],
        "log_sign_average": _log_sign(m),
        "rms_average": [m / math.sqrt(v + EPSILON)],
        "factored_gradient": [g[-1] * factored],
        "factored_average": [m * factored],
        "row": [row],
        "reciprocal_row": [1 / math.sqrt(row + RECIPROCAL_EPSILON)],
        "column": [column],
        "reciprocal_column": [1 / math.sqrt(column + RECIPROCAL_EPSILON)],
    }[kind]


@pytest.mark.parametrize("name", VARYING_FEATURES)
def test_varying_features_equal_their_definitions(name: str) -> None:
    grads, params, losses = _draw(3, 2, LAYOUT)
    features = FeatureSet([name])
    inputs = _run(features, LAYOUT, grads, params, losses)
    ((scope, channels),) = inputs.items()
    for matrix in matrices(LAYOUT):
        for index in range(matrix.segment.size):
            i, j = divmod(index, matrix.n_columns)
            place = matrix.segment.offset + index
            if scope == "row":
                place = matrix.rows.start + i
            if scope == "column":
                place = matrix.columns.start + j
            for task in range(2):
                expected = _oracle(name, grads, params, task, matrix.segment.offset + index)
                assert len(expected) == features.n_channels[name]
                assert channels[:, task, place].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_vector_has_the_unfactored_estimate() -> None:
    layout = Layout.of({"b": (6,)})
    grads, params, losses = _draw(4, 1, layout)
    factored = _run(FeatureSet(["factored_gradient_0.999"]), layout, grads, params, losses)["coordinate"]
    plain = _run(FeatureSet(["rms_gradient"]), layout, grads, params, losses)["coordinate"]
    torch.testing.assert_close(factored, plain, rtol=1e-12, atol=1e-12)


def test_time_progress_and_their_scope() -> None:
    grads, params, losses = _draw(8, 2, LAYOUT)
    inputs = _run(FeatureSet(["time", "progress"]), LAYOUT, grads, params, losses)
    expected = [*(math.tanh(7 / scale - 1) for scale in TIME_SCALES), 7 / 40]
    assert set(inputs) == {"step"}
    assert inputs["step"].tolist() == pytest.approx(expected, rel=1e-6)


def test_loss_is_relative_to_the_first_positive_one() -> None:
    grads, params, _ = _draw(4, 3, LAYOUT)
    nan, inf = math.nan, math.inf
    losses = [
        None,
        torch.tensor([nan, inf, 0.0]),
        torch.tensor([2.0, 2.0, 2.0]),
        torch.tensor([1.0, 6.0, 0.0]),
    ]
    inputs = _run(FeatureSet(["loss"]), LAYOUT, grads, params, losses)
    expected = [math.log(1 / 2) / 10, math.log(3) / 10, math.log(1e-10) / 10]
    assert inputs["task"][0].tolist() == pytest.approx(expected, rel=1e-6)
    unknown = _run(FeatureSet(["loss"]), LAYOUT, grads, params, [*losses[:3], None])
    assert unknown["task"][0].tolist() == [0.0, 0.0, 0.0]


def test_log_sign_is_continuous_and_differentiable_at_zero() -> None:
    threshold = math.exp(-10)
    x = torch.tensor([0.0, -threshold, threshold * 0.999999, -1e30], dtype=torch.float64, requires_grad=True)
    magnitude, sign = log_sign(x)
    assert magnitude.tolist() == pytest.approx([-1, -1, -1, math.log(1e30) / 10])
    assert sign.tolist() == pytest.approx([0, -1, 1, -1], abs=1e-5)
    (slope,) = torch.autograd.grad((magnitude + sign).sum(), x)
    assert bool(torch.isfinite(slope).all())


def test_metz_set_has_39_channels() -> None:
    assert sum(FeatureSet(METZ).n_channels.values()) == 28
    assert sum(FeatureSet((*METZ, "time")).n_channels.values()) == 39
    assert all(name in FeatureSet([name]).names("coordinate") for name in RECURRENT_FEATURES)


def test_a_statistic_is_kept_once() -> None:
    names = [
        "average_0.9",
        "log_sign_average_0.9",
        "rms_average_0.9",
        "factored_average_0.9",
        "second_moment",
    ]
    extra = (Statistic("momentum", 0.9), Statistic("second_moment", 0.999))
    state = FeatureSet(names, extra).init_state(torch.zeros(2, LAYOUT.size), LAYOUT)
    n_rows, n_columns = 3 + 3 + 1 + 2 + 1, 4 + 1 + 1 + 4 + 3
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "momentum_0.9": (2, LAYOUT.size),
        "second_moment_0.999": (2, LAYOUT.size),
        "row_moment_0.9": (2, n_rows),
        "column_moment_0.9": (2, n_columns),
    }


def test_tasks_do_not_see_each_other() -> None:
    grads, params, losses = _draw(4, 3, LAYOUT)
    features = FeatureSet(ALL)
    together = _run(features, LAYOUT, grads, params, losses)
    for task in range(3):
        own = slice(task, task + 1)
        alone = _run(features, LAYOUT, grads[:, own], params[own], [loss[own] for loss in losses])
        for scope in ("coordinate", "row", "column", "task"):
            torch.testing.assert_close(alone[scope], together[scope][:, own], rtol=0, atol=0)


def test_tensors_one_by_one_equal_all_in_one_layout() -> None:
    grads, params, losses = _draw(4, 2, LAYOUT)
    features = FeatureSet(ALL)
    together = _run(features, LAYOUT, grads, params, losses)
    for matrix in matrices(LAYOUT):
        segment = matrix.segment
        own = Layout.of({segment.name: segment.shape})
        alone = _run(features, own, grads[..., segment.slice], params[..., segment.slice], losses)
        for scope, place in (("coordinate", segment.slice), ("row", matrix.rows), ("column", matrix.columns)):
            torch.testing.assert_close(alone[scope], together[scope][..., place], rtol=0, atol=0)


def test_empty_tensors_are_passed_over() -> None:
    layout = Layout.of({"none": (0, 3), "w": (2, 2)})
    full = Layout.of({"w": (2, 2)})
    grads, params, losses = _draw(3, 1, full)
    with_empty = _run(FeatureSet(METZ), layout, grads, params, losses)
    without = _run(FeatureSet(METZ), full, grads, params, losses)
    for scope in ("coordinate", "row", "column"):
        torch.testing.assert_close(with_empty[scope], without[scope], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_gradients_give_finite_features_and_derivatives(dtype: torch.dtype) -> None:
    features = FeatureSet(ALL)
    grads = torch.zeros((3, 2, LAYOUT.size), dtype=dtype, requires_grad=True)
    params = torch.zeros((2, LAYOUT.size), dtype=dtype, requires_grad=True)
    inputs = _run(features, LAYOUT, grads, params, [torch.zeros(2, dtype=dtype)] * 3)
    assert len(inputs) == 5
    assert all(value.dtype == dtype and bool(torch.isfinite(value).all()) for value in inputs.values())
    normalised = [_normalised(inputs[scope]) for scope in WITHIN_TENSOR]
    total = sum(value.sum() for value in [*inputs.values(), *normalised])
    slopes = torch.autograd.grad(total, (grads, params))
    assert all(bool(torch.isfinite(slope).all()) for slope in slopes)


def test_normalising_scale_gives_second_moment_one_at_any_magnitude() -> None:
    channels = torch.randn((3, 2, 50), generator=torch_generator(0, "scale"))
    channels = channels * torch.tensor([1e-8, 1.0, 1e8]).reshape(3, 1, 1)
    torch.testing.assert_close(_normalised(channels).square().mean(-1), torch.ones(3, 2))


def test_unknown_feature_names_the_closest() -> None:
    with pytest.raises(GenomeError, match=r"unknown feature 'averag_0.9'; did you mean 'average_0.9'"):
        FeatureSet(["averag_0.9"])
