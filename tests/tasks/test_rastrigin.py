from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch.func import grad

from evometa.errors import TaskError
from evometa.rng import torch_generator
from evometa.tasks.rastrigin import A_RANGES, Rastrigin, rastrigin_loss


def _task(a: float, minimum: list[float]) -> dict[str, torch.Tensor]:
    return {
        "a": torch.tensor(a, dtype=torch.float64),
        "minimum": torch.tensor(minimum, dtype=torch.float64),
    }


def test_equals_the_textbook_at_a_10() -> None:
    """f(z) = 10n + Σ zᵢ² − 10 cos 2πzᵢ."""
    points = np.random.default_rng(0).uniform(-5.12, 5.12, (20, 3))
    for point in points:
        textbook = 10 * 3 + np.sum(point**2 - 10 * np.cos(2 * np.pi * point))
        found = rastrigin_loss(torch.tensor(point), _task(10.0, [0.0, 0.0, 0.0]))
        assert float(found) == pytest.approx(textbook, rel=1e-12)


def test_minimum_is_zero_where_it_is_said_to_be_and_there_are_others() -> None:
    task = _task(5.0, [0.3, -0.7])
    assert float(rastrigin_loss(task["minimum"], task)) == 0.0
    # f' = 2z + 2πa·sin 2πz has a root a little below z = 1, with f'' > 0: a local minimum, not at 0
    z = brentq(lambda z: 2 * z + 10 * np.pi * np.sin(2 * np.pi * z), 0.9, 1.0, xtol=1e-14)
    point = task["minimum"] + torch.tensor([z, 0.0], dtype=torch.float64)
    assert float(grad(rastrigin_loss)(point, task).abs().max()) < 1e-9
    assert 0.9 < float(rastrigin_loss(point, task)) < 1.0
    nearby = (rastrigin_loss(point + 0.05 * way, task) for way in torch.eye(2, dtype=torch.float64))
    assert all(bool(loss > rastrigin_loss(point, task)) for loss in nearby)


def test_splits_differ_in_dimension_and_in_the_height_of_the_waves() -> None:
    dims = {}
    for split, (low, high) in A_RANGES.items():
        batches = Rastrigin().sample(split, 300, torch_generator(0))
        dims[split] = {batch.layout.size for batch in batches}
        a = torch.cat([batch.constants["a"] for batch in batches])
        assert low <= float(a.min()) < 1.2 * low
        assert high / 1.2 < float(a.max()) <= high * (1 + 1e-6)
    assert dims == {"meta_train": {2, 4, 8}, "meta_valid": {3, 6}, "meta_test": {5, 10}}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dims": (0,)}, r"'dims' is \(0,\); allowed: a non-empty list of integers of at least 1"),
        ({"a_range": (3.0, 1.0)}, r"'a_range' is \(3.0, 1.0\); allowed: a pair"),
    ],
)
def test_refuses_options_with_what_is_allowed(options: dict[str, object], text: str) -> None:
    with pytest.raises(TaskError, match=text):
        Rastrigin(**options)  # type: ignore[arg-type]
