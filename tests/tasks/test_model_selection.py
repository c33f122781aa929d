"""Model selection: sampled models on sampled data."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import grad

from evometa.errors import TaskError
from evometa.inner.gradient import eager
from evometa.native.tasks import Target
from evometa.rng import torch_generator
from evometa.tasks import SPLITS
from evometa.tasks.mlp_model import MLP
from evometa.tasks.model_selection import ARCHITECTURES, DATASETS, ModelSelection
from evometa.tasks.normalised_mlp import NormalisedMLP


def test_a_normalised_network_equals_the_torch_module_of_the_same_parameters() -> None:
    model = NormalisedMLP(MLP((4, 6, 5, 3), "gelu", "xavier", "class"))
    generator = torch_generator(0)
    params = model.init_params(1, generator)[0].double()
    params = params + 0.1 * torch.randn(params.shape, generator=generator, dtype=torch.float64)
    layers: list[nn.Module] = []
    for layer, (n_inputs, width) in enumerate(((4, 6), (6, 5))):
        layers += [nn.Linear(n_inputs, width), nn.LayerNorm(width), nn.GELU()]
        assert model.layout.views(params)[f"{layer}.scale"].shape == (width,)
    module = nn.Sequential(*layers, nn.Linear(5, 3)).double()
    for own, value in zip(module.parameters(), model.layout.views(params).values(), strict=True):
        own.data.copy_(value)
    batch = {
        "x": torch.randn((7, 4), generator=generator, dtype=torch.float64),
        "y": torch.randint(3, (7,), generator=generator),
    }
    loss = nn.functional.cross_entropy(module(batch["x"]), batch["y"])
    torch.testing.assert_close(model.loss(params, batch), loss)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))])
    torch.testing.assert_close(grad(model.loss)(params, batch), expected)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(
    ("activation", "target", "n_outputs"), [("tanh", "class", 3), ("gelu", "value", 1), ("relu", "values", 2)]
)
def test_its_gradient_written_by_hand_is_that_of_autograd_in_both_orders(
    depth: int, activation: str, target: Target, n_outputs: int
) -> None:
    """Of 2 candidates on 3 tasks; the second order by a Hessian-vector product."""
    model = NormalisedMLP(MLP((4, *[5] * depth, n_outputs), activation, "xavier", target))
    generator = torch_generator(0)
    params = 0.7 * torch.randn((2, 3, model.layout.size), generator=generator, dtype=torch.float64)
    x, vector = (
        torch.randn((3, 7, 4), generator=generator).double(),
        torch.randn(params.shape, generator=generator).double(),
    )
    if target == "class":
        y = torch.randint(n_outputs, (3, 7), generator=generator)
    else:
        shape = (3, 7) if target == "value" else (3, 7, n_outputs)
        y = torch.randn(shape, generator=generator, dtype=torch.float64)
    batch = {"x": x, "y": y}

    point = params.clone().requires_grad_()
    losses, grads = model.loss_and_grad(point, batch)
    (curved,) = torch.autograd.grad((grads * vector).sum() + losses.sum(), point)
    expected_losses, expected = eager(model.loss, plain := params.clone().requires_grad_(), batch)
    (expected_curved,) = torch.autograd.grad((expected * vector).sum() + expected_losses.sum(), plain)
    for got, wanted in ((losses, expected_losses), (grads, expected), (curved, expected_curved)):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-10)


def test_all_that_varies_is_drawn() -> None:
    batches = ModelSelection().sample("meta_train", 48, torch_generator(0))
    words = [batch.description.split() for batch in batches]
    assert {word[0] for word in words} == set(DATASETS)
    assert {"norm," in word for word in words} == {True, False}
    assert {batch.batch_size for batch in batches} >= {8, 16}
    assert all(batch.n_tasks == 2 for batch in batches)
    n_features, n_rows = set(), set()
    for batch in batches:
        assert batch.train_rows is not None
        if batch.description.startswith("digits"):
            n_features.add(batch.rows["x"].shape[1])
            n_rows.add(batch.train_rows.shape[1])
    assert len(n_features) > 1
    assert len(n_rows) > 1
    assert max(n_features) <= 64
    assert min(n_features) >= 0.4 * 64 - 1


def test_a_rule_is_scored_on_widths_it_has_not_seen() -> None:
    widths = [set(ARCHITECTURES[split].widths) for split in SPLITS]
    assert not widths[0] & widths[1]
    assert not (widths[0] | widths[1]) & widths[2]


def test_tasks_of_one_model_differ_in_rows() -> None:
    (batch,) = ModelSelection(datasets=("digits",), row_share=(0.5, 0.5), tasks_per_model=3).sample(
        "meta_test", 3, torch_generator(0)
    )
    assert batch.train_rows is not None
    first, second, third = (set(rows.tolist()) for rows in batch.train_rows)
    assert first != second != third


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"datasets": ("titanic",)}, r"'datasets' is \('titanic',\).*'digits'"),
        ({"depths": (0,)}, r"'depths' is \(0,\); allowed: a non-empty list of integers of at least 1"),
        ({"layer_norms": ()}, r"'layer_norms' is \(\); allowed: a non-empty list out of true, false"),
        ({"layer_norms": (1,)}, r"'layer_norms' is \(1,\)"),
        ({"row_share": (0.5, 1.5)}, r"'row_share' is \(0.5, 1.5\); allowed: shares of at most 1"),
        ({"feature_share": (0.0, 1.0)}, r"'feature_share'.*0 < low"),
        ({"batch_sizes": ()}, r"'batch_sizes' is \(\)"),
    ],
)
def test_refuses_options_with_what_is_allowed(options: dict[str, object], text: str) -> None:
    with pytest.raises(TaskError, match=text):
        ModelSelection(**options)  # type: ignore[arg-type]
