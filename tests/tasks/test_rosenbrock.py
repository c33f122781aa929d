from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import rosen, rosen_der
from torch.func import grad, vmap

from evometa.errors import TaskError
from evometa.rng import torch_generator
from evometa.tasks.rosenbrock import B_RANGES, Rosenbrock, rosenbrock_loss


def coefficients(a: float, b: float) -> dict[str, torch.Tensor]:
    return {"a": torch.tensor(a, dtype=torch.float64), "b": torch.tensor(b, dtype=torch.float64)}


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=10))
def test_equals_the_textbook_at_a_1_and_b_100(point: list[float]) -> None:
    x = torch.tensor(point, dtype=torch.float64)
    batch = coefficients(1.0, 100.0)
    torch.testing.assert_close(float(rosenbrock_loss(x, batch)), float(rosen(point)), rtol=1e-12, atol=1e-12)
    gradient = grad(rosenbrock_loss)(x, batch).numpy()
    torch.testing.assert_close(gradient, rosen_der(point), rtol=1e-10, atol=1e-10)


@given(st.integers(2, 10), st.floats(0.5, 1.5), st.floats(1, 100))
def test_minimum_is_zero_at_a_for_every_dimension(dim: int, a: float, b: float) -> None:
    minimum = torch.full((dim,), a, dtype=torch.float64)
    assert float(rosenbrock_loss(minimum, coefficients(a, b))) < 1e-25
    assert float(grad(rosenbrock_loss)(minimum, coefficients(a, b)).abs().max()) < 1e-10


def test_splits_differ_in_dimension_and_in_steepness() -> None:
    dims = {}
    for split, (low, high) in B_RANGES.items():
        batches = Rosenbrock().sample(split, 300, torch_generator(0))
        dims[split] = {batch.layout.size for batch in batches}
        b = torch.cat([batch.constants["b"] for batch in batches])
        assert low <= float(b.min()) < 1.2 * low
        assert high / 1.2 < float(b.max()) <= high * (1 + 1e-6)
    assert dims == {"meta_train": {2, 4, 8}, "meta_valid": {3, 6}, "meta_test": {5, 10}}


def test_tasks_are_spread_evenly_over_the_dimensions() -> None:
    batches = Rosenbrock(dims=(2, 3, 4)).sample("meta_test", 7, torch_generator(0))
    assert sorted(batch.n_tasks for batch in batches) == [2, 2, 3]


def test_starts_lie_in_the_square() -> None:
    (batch,) = Rosenbrock(dims=(2,), b_range=(100.0, 100.0)).sample("meta_test", 500, torch_generator(0))
    starts = batch.init_params(torch_generator(1))
    assert starts.abs().max() <= 2
    assert starts.abs().max() > 1.9
    assert torch.allclose(batch.constants["b"], torch.tensor(100.0))
    assert vmap(batch.loss)(starts, batch.batch(None)).max() > 100


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dims": (1,)}, r"'dims' is \(1,\); allowed: a non-empty list of integers of at least 2"),
        ({"dims": ()}, r"'dims' is \(\)"),
        ({"b_range": (2.0, 1.0)}, r"'b_range' is \(2.0, 1.0\); allowed: a pair .* low <= high"),
        ({"a_range": (0.0, 1.0)}, r"'a_range'.*0 < low"),
        ({"b_range": (1.0, float("inf"))}, r"'b_range'.*finite"),
        ({"b_range": 3.0}, r"'b_range' is 3.0"),
    ],
)
def test_refuses_options_with_what_is_allowed(options: dict[str, object], text: str) -> None:
    with pytest.raises(TaskError, match=text):
        Rosenbrock(**options)  # type: ignore[arg-type]
