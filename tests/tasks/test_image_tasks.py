"""What families of networks on images have in common."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evometa.errors import TaskError
from evometa.inner.unroll import loss_and_grad
from evometa.rng import torch_generator
from evometa.tasks import SPLITS, TaskBatch, build_family
from evometa.tasks.glyph_data import glyphs

FAMILIES = ("conv", "patch_transformer", "denoising")
#: One small architecture on one data set.
SMALL: dict[str, object] = {"widths": [8], "depths": [1], "activations": ["tanh"], "inits": ["xavier"]}


def small(use: str, dataset: str, n_tasks: int = 2) -> TaskBatch:
    family = build_family(use, {**SMALL, "datasets": [dataset], "tasks_per_architecture": n_tasks})
    (batch,) = family.sample("meta_train", n_tasks, torch_generator(0))
    return batch


def adam_losses(batch: TaskBatch, n_steps: int, rate: float) -> Tensor:
    """Losses (K, T) of torch.optim.Adam."""
    params = batch.init_params(torch_generator(0)).requires_grad_()
    indices = batch.index_stream(n_steps, torch_generator(1))
    assert indices is not None
    optimizer = torch.optim.Adam([params], lr=rate)
    losses: list[Tensor] = []
    for step in range(n_steps):
        loss, grads = loss_and_grad(batch, params.detach().unsqueeze(0), batch.batch(indices[:, step]))
        params.grad = grads[0]
        optimizer.step()
        losses.append(loss[0])
    return torch.stack(losses)


@pytest.mark.parametrize("dataset", ["digits", "glyphs"])
@pytest.mark.parametrize("use", FAMILIES)
def test_thirty_steps_of_adam_lower_the_loss(use: str, dataset: str) -> None:
    losses = adam_losses(small(use, dataset), 30, 0.02)
    assert (losses[-5:].mean(0) < 0.9 * losses[0]).all()


@pytest.mark.parametrize("use", FAMILIES)
def test_splits_share_no_architecture(use: str) -> None:
    family = build_family(use, {})
    shapes = [
        {batch.layout for seed in range(4) for batch in family.sample(split, 16, torch_generator(seed))}
        for split in SPLITS
    ]
    assert not shapes[0] & shapes[1]
    assert not shapes[0] & shapes[2]
    assert not shapes[1] & shapes[2]


@pytest.mark.parametrize("use", FAMILIES)
def test_both_data_sets_are_drawn_unless_one_is_named(use: str) -> None:
    def drawn(options: dict[str, object]) -> set[str]:
        batches = build_family(use, options).sample("meta_train", 4, torch_generator(0))
        return {batch.description.split()[0] for batch in batches}

    assert drawn({}) == {"digits", "glyphs"}
    assert drawn({"datasets": ["glyphs"]}) == {"glyphs"}


@pytest.mark.parametrize("use", FAMILIES)
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"datasets": ["letters"]}, r"'datasets' is \('letters',\).*'digits', 'glyphs'"),
        ({"depths": [0]}, r"'depths' is \(0,\).*integers from 1 to"),
        ({"depths": [9]}, r"'depths' is \(9,\).*integers from 1 to"),
        ({"batch_size": 301}, "'batch_size' is 301.*from 1 to 300"),
        ({"inits": ["he"]}, "'inits'.*'kaiming'"),
    ],
)
def test_refuses_options_that_make_no_task(use: str, options: dict[str, object], text: str) -> None:
    with pytest.raises(TaskError, match=text):
        build_family(use, options)


def test_tasks_on_glyphs_have_twenty_characters_each_in_train_and_valid_rows() -> None:
    batch = small("conv", "glyphs", n_tasks=3)
    assert batch.train_rows is not None
    assert batch.valid_rows is not None
    known = {image.numpy().tobytes(): k for k, of in enumerate(glyphs("meta_train").images) for image in of}
    drawn = []
    for train, valid in zip(batch.train_rows, batch.valid_rows, strict=True):
        assert torch.equal(batch.rows["y"][train].bincount(), torch.full((20,), 15))
        assert torch.equal(batch.rows["y"][valid].bincount(), torch.full((20,), 5))
        rows = torch.cat([train, valid])
        characters = [known[batch.rows["x"][row].numpy().tobytes()] for row in rows]
        pairs = set(zip(characters, batch.rows["y"][rows].tolist(), strict=True))
        assert len(pairs) == len(set(characters)) == 20, "a class is one character"
        drawn.append(frozenset(characters))
    assert len(set(drawn)) == 3, "every task has characters of its own"
