"""Few-shot families: what a support and a query set hold, and what they are known to cost."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from evometa.errors import TaskError
from evometa.rng import torch_generator
from evometa.tasks import SPLITS, build_family
from evometa.tasks.base import TaskBatch
from evometa.tasks.few_shot_digits import DIGITS

CLASSES = {"few_shot_digits": (3, 2), "few_shot_glyphs": (5, 3)}
both = pytest.mark.parametrize("name", CLASSES)


def sampled(name: str, split: str = "meta_train", n_tasks: int = 6, **options: object) -> TaskBatch:
    (batch,) = build_family(name, options).sample(split, n_tasks, torch_generator(0, split))  # type: ignore[arg-type]
    return batch


def sets(batch: TaskBatch, task: int) -> list[dict[str, Tensor]]:
    assert batch.train_rows is not None
    assert batch.valid_rows is not None
    return [
        {name: value[rows[task]] for name, value in batch.rows.items()}
        for rows in (batch.train_rows, batch.valid_rows)
    ]


@both
def test_a_task_has_shots_and_queries_of_every_class_and_no_image_twice(name: str) -> None:
    ways, shots = CLASSES[name]
    batch = sampled(name, ways=ways, shots=shots, queries=4)
    for task in range(6):
        support, query = sets(batch, task)
        assert support["y"].bincount().tolist() == [shots] * ways
        assert query["y"].bincount().tolist() == [4] * ways
        x = torch.cat([support["x"], query["x"]])
        assert len(x.unique(dim=0)) == len(x)
    assert batch.batch_size == ways * shots
    first = [sets(batch, task)[0]["x"] for task in range(6)]
    assert any(not torch.equal(first[0], other) for other in first[1:])


def test_no_digit_and_no_script_is_in_two_splits() -> None:
    seen: dict[str, set[Any]] = {}
    for split in SPLITS:
        for name in CLASSES:
            family = build_family(name, {})
            images = family.classes(split)  # type: ignore[attr-defined]
            assert images.min() >= 0
            assert images.max() <= 1
            own = {image.numpy().tobytes() for image in images.flatten(0, 1)}
            assert not own & seen.setdefault(name, set())
            seen[name] |= own
    assert sorted(digit for digits in DIGITS.values() for digit in digits) == list(range(10))


def test_what_is_measured_on_the_query_set_is_the_share_named_wrong() -> None:
    batch = sampled("few_shot_digits", ways=3, queries=5, depth=0)
    assert batch.valid_loss is not None
    _, query = sets(batch, 0)
    params = batch.init_params(torch_generator(1))[0]
    weight, bias = params[: 3 * 64].reshape(3, 64), params[3 * 64 :]
    named = (query["x"] @ weight.T + bias).argmax(dim=1)
    wrong = sum(a != b for a, b in zip(named.tolist(), query["y"].tolist(), strict=True))
    assert float(batch.valid_loss(params, query)) == pytest.approx(wrong / 15)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ways": 4}, "option 'ways' is 4; allowed: an integer from 2 to 3"),
        ({"shots": 0}, "option 'shots' is 0; allowed: an integer from 1 to 173"),
        ({"shots": 100, "queries": 75}, "option 'queries' is 75; allowed: an integer from 1 to 74"),
        ({"init": "good"}, "option 'init' is 'good'; allowed: one of 'kaiming'"),
    ],
)
def test_wrong_options_are_told(options: dict[str, object], text: str) -> None:
    with pytest.raises(TaskError, match=text):
        build_family("few_shot_digits", options)


def test_sinusoids_cost_what_they_are_known_to_cost() -> None:
    """Predicting 0 costs E[A²]·E[sin²(x − φ)], predicting the mean curve that much less than its square."""
    batch = sampled("sinusoid", n_tasks=20_000, shots=10, queries=1)
    x, y = batch.rows["x"].squeeze(1).double(), batch.rows["y"].double()
    mean_curve = 2.55 * (2 / math.pi) * -torch.cos(x)
    assert y.square().mean().item() == pytest.approx(4.254, abs=0.06)
    assert (y - mean_curve).square().mean().item() == pytest.approx(3.005, abs=0.06)
    assert x.abs().max() <= 5


def test_every_point_of_a_task_lies_on_its_sinusoid() -> None:
    """y = a·sin x + b·cos x with two numbers a and b for a task."""
    batch = sampled("sinusoid", shots=8, queries=4)
    for task in range(6):
        support, query = sets(batch, task)
        x, y = (torch.cat([support[name], query[name]]).double().flatten() for name in "xy")
        curves = torch.stack([x.sin(), x.cos()], dim=1)
        solution = torch.linalg.lstsq(curves, y.unsqueeze(1)).solution
        torch.testing.assert_close((curves @ solution).squeeze(1), y, rtol=1e-4, atol=1e-4)
        assert 0.1 <= solution.norm().item() <= 5
