from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from evometa.errors import TaskError
from evometa.rng import torch_generator
from evometa.tasks import SPLITS, TaskBatch
from evometa.tasks.digits import Digits

L2L = Digits(
    widths=(20,), depths=(1,), activations=("sigmoid",), inits=("normal(0.01)",), batch_size=128, pool="all"
)


def test_eight_tasks_have_four_architectures() -> None:
    for seed in range(10):
        batches = Digits().sample("meta_train", 8, torch_generator(seed))
        assert 3 <= len(batches) <= 4  # two of the four draws may be the same
        assert sum(batch.n_tasks for batch in batches) == 8


def test_one_architecture_is_one_batch_and_shared_by_the_splits() -> None:
    family = Digits(widths=(20,), depths=(1,), activations=("relu",), inits=("kaiming",))
    layouts = set()
    for split in SPLITS:
        (batch,) = family.sample(split, 9, torch_generator(0))
        assert batch.n_tasks == 9
        layouts.add(batch.layout)
    assert len(layouts) == 1


def test_pools_are_disjoint_and_complete_and_hold_every_class() -> None:
    images: list[bytes] = []
    for split in SPLITS:
        batch = Digits().sample(split, 1, torch_generator(0))[0]
        images += [row.numpy().tobytes() for row in batch.rows["x"]]
        counts = torch.bincount(batch.rows["y"])
        assert len(counts) == 10
        assert counts.max() - counts.min() <= 4
    pixels = torch.tensor(load_digits().data / 16, dtype=torch.float32)
    assert len(images) == 1797
    assert set(images) == {row.numpy().tobytes() for row in pixels}


def test_pools_do_not_move_with_the_seed() -> None:
    """What one campaign is tested on must not be what another trained on."""
    first, second = (Digits().sample("meta_test", 2, torch_generator(seed))[0] for seed in (0, 1))
    assert torch.equal(first.rows["x"], second.rows["x"])
    assert first.train_rows is not None
    assert second.train_rows is not None
    assert not torch.equal(first.train_rows, second.train_rows)


def test_tasks_draw_different_images_and_never_train_on_a_valid_one() -> None:
    batches = Digits(tasks_per_architecture=4).sample("meta_train", 40, torch_generator(0))
    train = {row for batch in batches for row in batch.train_rows.flatten().tolist()}  # type: ignore[union-attr]
    valid = {row for batch in batches for row in batch.valid_rows.flatten().tolist()}  # type: ignore[union-attr]
    assert not train & valid
    rows = batches[0].train_rows
    assert rows is not None
    assert set(rows[0].tolist()) != set(rows[1].tolist())


def test_all_images_are_one_train_set_without_valid_rows() -> None:
    (batch,) = L2L.sample("meta_test", 8, torch_generator(0))
    assert batch.description == "digits MLP 64-20-10 sigmoid normal(0.01)"
    assert batch.n_tasks == 8
    assert batch.train_rows is not None
    assert batch.train_rows.shape == (8, 1797)
    assert batch.valid_rows is None
    assert batch.rows["x"].shape == (1797, 64)
    assert float(batch.rows["x"].max()) == 1


def nesterov(batch: TaskBatch, n_steps: int, rate: float, momentum: float) -> Tensor:
    """Losses (K, T) of Nesterov's momentum as torch.optim defines it."""
    assert batch.loss_and_grad is not None
    params = batch.init_params(torch_generator(3, "init")).unsqueeze(0)
    stream = batch.index_stream(n_steps, torch_generator(3, "rows"))
    assert stream is not None
    velocity = torch.zeros_like(params)
    recorded = []
    for step in range(n_steps):
        losses, grads = batch.loss_and_grad(params, batch.batch(stream[:, step]))
        velocity = momentum * velocity + grads
        params = params - rate * (grads + momentum * velocity)
        recorded.append(losses[0])
    return torch.stack(recorded)


def test_tuned_nesterov_reaches_the_reference_loss_on_l2ls_digits() -> None:
    """The reference is .080 (mean of the last ten losses, eight seeds, momentum .95, tuned rate)."""
    (batch,) = L2L.sample("meta_test", 8, torch_generator(0))
    losses = nesterov(batch, n_steps=100, rate=1.0, momentum=0.95)
    assert float(losses[0].mean()) == pytest.approx(2.303, abs=0.01)
    assert float(losses[-10:].mean()) == pytest.approx(0.080, abs=0.015)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"widths": (0,)}, r"'widths' is \(0,\); allowed: a non-empty list of integers of at least 1"),
        ({"depths": (-1,)}, r"'depths'.*at least 0"),
        ({"activations": ("rely",)}, r"'activations' is \('rely',\).*'relu'"),
        ({"inits": ("he",)}, r"'inits' is \('he',\).*'normal\(STD\)'"),
        ({"inits": ()}, r"'inits' is \(\)"),
        ({"pool": "mine"}, r"'pool' is 'mine'; allowed: one of 'split', 'all'"),
        ({"batch_size": 301}, r"'batch_size' is 301; allowed: an integer from 1 to 300"),
        ({"train_size": 5000}, r"'train_size' is 5000; allowed: an integer from 1 to 4\d\d"),
        ({"valid_size": 0}, r"'valid_size' is 0"),
        ({"pool": "all", "train_size": 100}, r"'train_size' is 100; allowed: left out"),
        ({"tasks_per_architecture": 0}, r"'tasks_per_architecture' is 0"),
    ],
)
def test_refuses_options_with_what_is_allowed(options: dict[str, object], text: str) -> None:
    with pytest.raises(TaskError, match=text):
        Digits(**options)  # type: ignore[arg-type]
