from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.func import grad_and_value, vmap

from evometa.errors import TaskError
from evometa.inner.evaluate import evaluate
from evometa.inner.task_set import request
from evometa.objectives.baseline import baseline_candidate
from evometa.rng import torch_generator
from evometa.tasks import TASKS, Split, TaskBatch, build_family
from evometa.tasks.mlp_model import MLP
from evometa.tasks.neural_fields import LARGEST_PATCH, REGIONS, NeuralFields, Siren
from evometa.tasks.registry import metric_of

SMALL = {"patch": 8, "width": 6, "batch_size": 16}


def sample(n_tasks: int = 2, split: Split = "meta_train", **options: object) -> TaskBatch:
    (batch,) = build_family("neural_fields", {**SMALL, **options}).sample(split, n_tasks, torch_generator(0))
    return batch


def colours_of(batch: TaskBatch, task: int, side: int) -> np.ndarray:
    """The patch of a task as the photograph has it, put together from its train and valid rows."""
    assert batch.train_rows is not None
    assert batch.valid_rows is not None
    rows = torch.cat([batch.train_rows[task], batch.valid_rows[task]]).sort().values
    colours = (batch.rows["y"][rows] + 0.5) * 255
    return colours.round().to(torch.uint8).reshape(side, side, 3).numpy()


@pytest.mark.parametrize("split", get_args(Split))
def test_a_patch_is_a_part_of_its_splits_region(split: Split) -> None:
    name, first, last = REGIONS[split]
    batch = sample(3, split, patch=16)
    region = load_sample_image(name)[:, first:last]
    for task in range(3):
        patch = colours_of(batch, task, 16)
        corners = np.argwhere((region[:-15, :-15] == patch[0, 0]).all(axis=-1))
        assert any((region[top : top + 16, left : left + 16] == patch).all() for top, left in corners)


def test_no_two_splits_share_a_pixel_and_the_largest_patch_fits_everywhere() -> None:
    pixels = {
        split: {(name, column) for column in range(first, last)}
        for split, (name, first, last) in REGIONS.items()
    }
    assert not pixels["meta_train"] & pixels["meta_valid"]
    assert not {name for name, _ in pixels["meta_test"]} & {name for name, _ in pixels["meta_train"]}
    for split in get_args(Split):
        assert sample(1, split, patch=LARGEST_PATCH, batch_size=None).rows["y"].shape[0] == LARGEST_PATCH**2


def test_places_belong_to_their_colours() -> None:
    """Rows of pixels from the top, in each row from the left, in [−1, 1]."""
    batch = sample(2)
    places = batch.rows["x"].reshape(2, 8, 8, 2)
    middles = (torch.arange(8) + 0.5) / 4 - 1
    torch.testing.assert_close(places[1, :, 3, 0], middles)
    torch.testing.assert_close(places[1, 3, :, 1], middles)


def test_fourier_features_are_sines_of_places_and_the_same_for_all() -> None:
    features = sample(1, kind="fourier", n_frequencies=200).rows["x"]
    again = sample(1, "meta_test", kind="fourier", n_frequencies=200).rows["x"]
    assert torch.equal(features, again)
    torch.testing.assert_close(features[:, :200].square() + features[:, 200:].square(), torch.ones(64, 200))
    # Between neighbours along a row the angle grows by 2π·B/8, B ~ N(0, σ²).
    turn = torch.atan2(features[:, 200:], features[:, :200]).reshape(8, 8, 200)[0]
    steps = torch.remainder(turn[1] - turn[0] + math.pi, 2 * math.pi) - math.pi
    wide = 2 * math.pi / 8 * 2.0
    assert float(steps.abs().median()) == pytest.approx(0.6745 * wide, rel=0.25)


def test_initial_weights_of_siren_are_those_of_the_paper() -> None:
    model = Siren((2, 50, 50, 3), "sine", "siren", "values", omega=20.0)
    tensors = model.layout.views(model.init_params(30, torch_generator(0)))
    for layer, bound in enumerate([1 / 2, math.sqrt(6 / 50) / 20, math.sqrt(6 / 50) / 20]):
        weight = tensors[f"{layer}.weight"]
        assert float(weight.abs().max()) == pytest.approx(bound, rel=0.01)
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.03)


def test_pre_activations_of_siren_keep_unit_variance_from_layer_to_layer() -> None:
    """What the initialisation is for: sines in, a standard normal before each sine (section 3.2)."""
    model = Siren((2, 256, 256, 256, 3), "sine", "siren", "values")
    tensors = model.layout.views(model.init_params(1, torch_generator(0))[0])
    hidden = 2 * torch.rand((500, 2), generator=torch_generator(1)) - 1
    for layer in range(3):
        before = 30.0 * (hidden @ tensors[f"{layer}.weight"].mT)
        if layer:
            assert float(before.std()) == pytest.approx(1.0, rel=0.1)
        hidden = torch.sin(before + 30.0 * tensors[f"{layer}.bias"])


@pytest.mark.parametrize(
    "model", [Siren((2, 5, 4, 3), "sine", "siren", "values"), MLP((4, 5, 3), "tanh", "xavier", "values")]
)
def test_gradients_written_by_hand_are_those_of_autograd_in_both_orders(model: MLP) -> None:
    generator = torch_generator(0)
    params = torch.stack([model.init_params(2, generator) for _ in range(3)]).double()
    x = torch.randn((2, 7, model.sizes[0]), generator=generator).double()
    batch = {"x": x, "y": torch.randn((2, 7, 3), generator=generator).double()}
    vector = torch.randn(params.shape, generator=generator).double()

    def product(by_hand: bool) -> tuple[Tensor, Tensor]:
        point = params.clone().requires_grad_()
        if by_hand:
            _, grads = model.loss_and_grad(point, batch)
        else:
            grads, _ = vmap(vmap(grad_and_value(model.loss)), (0, None))(point, batch)
        return grads.detach(), torch.autograd.grad((grads * vector).sum(), point)[0]

    for got, expected in zip(product(True), product(False), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["siren", "fourier"])
def test_adam_fits_unseen_patches(kind: str) -> None:
    """From some 12 dB (the mean colour) to above 25 within 100 steps, on the pixels held out as well."""
    wanted = request("neural_fields", {"kind": kind}, "meta_test", 2, 101, 0)
    record = evaluate([baseline_candidate("adam", 3e-3, {})], wanted, torch.device("cpu"))
    metric = metric_of("neural_fields")
    assert metric is not None
    assert metric.title == "PSNR [dB]"
    assert metric.of(record.losses[0, :, 0]).max() < 15
    assert metric.of(record.final_losses[0]).mean() > (25 if kind == "siren" else 20)
    assert metric.of(record.valid_losses[0]).mean() > (25 if kind == "siren" else 20)


def test_psnr_is_minus_ten_decimal_logarithms_of_the_mse() -> None:
    metric = TASKS["neural_fields"].metric  # type: ignore[attr-defined]
    np.testing.assert_allclose(metric.of(np.array([1.0, 0.01, 1e-4])), [0, 20, 40])
    np.testing.assert_allclose(metric.loss_at(metric.of(np.array([0.3, 2e-5]))), [0.3, 2e-5])
    assert metric_of("digits") is None
    assert metric_of("somebody.elses:family") is None


def test_all_pixels_at_once_have_an_exact_loss() -> None:
    whole, some = sample(batch_size=None, valid_share=0), sample()
    assert (whole.batch_size, whole.final_window, whole.valid_rows) == (64, 1, None)
    assert (some.batch_size, some.final_window) == (16, 10)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kind": "gauss"}, r"'kind' is 'gauss'; allowed: one of 'siren', 'fourier'"),
        ({"patch": 257}, r"'patch' is 257; allowed: an integer from 2 to 256"),
        ({"patch": 4, "batch_size": 13}, r"'batch_size' is 13; allowed: at most 12, the train rows of 4×4"),
        ({"batch_size": 0}, r"'batch_size' is 0; allowed: an integer of at least 1"),
        ({"valid_share": 1.0}, r"'valid_share' is 1.0; allowed: a number above 0 and at most 0.9"),
        ({"omega": 0.0}, r"'omega' is 0.0; allowed: a finite number above 0"),
        ({"width": 0}, r"'width' is 0"),
    ],
)
def test_refuses_options_with_what_is_allowed(options: dict[str, object], text: str) -> None:
    with pytest.raises(TaskError, match=text):
        NeuralFields(**options)  # type: ignore[arg-type]
