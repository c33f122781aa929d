from __future__ import annotations

import pytest
import torch

from evometa.errors import TaskError
from evometa.rng import torch_generator
from evometa.tasks import TaskBatch
from evometa.tasks.denoising import Denoising


def digits(**options: object) -> TaskBatch:
    family = Denoising(datasets=("digits",), widths=(8,), depths=(2,), activations=("relu",), **options)  # type: ignore[arg-type]
    return family.sample("meta_train", 1, torch_generator(0))[0]


def test_the_decoder_mirrors_the_encoder() -> None:
    assert digits().description.startswith("digits MLP 64-8-4-8-64 relu")


def test_reads_noisy_copies_of_what_it_is_to_say() -> None:
    batch = digits(noise=0.25, noisy_copies=3)
    x, y = batch.rows["x"], batch.rows["y"]
    assert float((x - y).std()) == pytest.approx(0.25, rel=0.02)
    assert torch.equal(y[0], y[1])
    assert torch.equal(y[0], y[2])
    assert not torch.equal(y[0], y[3])
    assert not torch.isclose(x[0], x[1]).all()
    assert y.min() == 0
    assert y.max() == 1


def test_all_copies_of_an_image_are_on_one_side() -> None:
    batch = digits(noisy_copies=3)
    assert batch.train_rows is not None
    assert batch.valid_rows is not None
    assert batch.train_rows.shape == (1, 900)
    assert batch.valid_rows.shape == (1, 300)
    train, valid = (
        {tuple(row.tolist()) for row in batch.rows["y"][rows[0]]}
        for rows in (batch.train_rows, batch.valid_rows)
    )
    assert not train & valid


def test_one_copy_has_always_the_same_noise() -> None:
    batch = digits(noisy_copies=1)
    assert batch.train_rows is not None
    assert batch.train_rows.shape == (1, 300)
    assert len(batch.rows["x"]) == len(torch.unique(batch.rows["y"], dim=0))


@pytest.mark.parametrize(
    ("options", "text"), [({"noise": 0.0}, "'noise' is 0"), ({"noisy_copies": 0}, "'noisy_copies' is 0")]
)
def test_refuses_noise_that_is_none(options: dict[str, object], text: str) -> None:
    with pytest.raises(TaskError, match=text):
        digits(**options)
