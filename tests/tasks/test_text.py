from __future__ import annotations

import pytest
import torch

from evometa.errors import TaskError
from evometa.inner.unroll import loss_and_grad
from evometa.rng import torch_generator
from evometa.tasks import TaskBatch
from evometa.tasks.text import MODELS, N_TRAIN, N_VALID, Text


def small(model: str, n_tasks: int = 2, length: int = 8) -> TaskBatch:
    family = Text(
        models=(model,), length=length, widths=(8,), depths=(1,), activations=("gelu",), inits=("xavier",)
    )
    (batch,) = family.sample("meta_train", n_tasks, torch_generator(0))
    return batch


@pytest.mark.parametrize("model", MODELS)
def test_thirty_steps_of_adam_lower_the_loss(model: str) -> None:
    batch = small(model)
    params = batch.init_params(torch_generator(0)).requires_grad_()
    indices = batch.index_stream(30, torch_generator(1))
    assert indices is not None
    optimizer = torch.optim.Adam([params], lr=0.03)
    losses = []
    for step in range(30):
        loss, grads = loss_and_grad(batch, params.detach().unsqueeze(0), batch.batch(indices[:, step]))
        params.grad = grads[0]
        optimizer.step()
        losses.append(loss[0])
    assert (torch.stack(losses[-5:]).mean(0) < 0.8 * losses[0]).all()


def test_windows_follow_each_other_and_valid_ones_come_last() -> None:
    batch = small("gru", n_tasks=1, length=20)
    assert batch.train_rows is not None
    assert batch.valid_rows is not None
    assert batch.train_rows.tolist() == [list(range(N_TRAIN // 21))]
    assert batch.valid_rows.tolist() == [list(range(N_TRAIN // 21, N_TRAIN // 21 + N_VALID // 21))]
    x, y = batch.rows["x"], batch.rows["y"]
    assert torch.equal(x[:, 1:], y[:, :-1])
    text = torch.cat([x, y[:, -1:]], dim=1).flatten()
    words = "".join(chr(32 + code) for code in text.tolist()).split()
    assert sum(word in ("the", "a", "is", "of") for word in words) > 0.05 * len(words), "English, in order"


def test_tasks_read_different_stretches() -> None:
    batch = small("gru", n_tasks=2)
    assert batch.train_rows is not None
    first, second = batch.rows["x"][batch.train_rows]
    assert not torch.equal(first, second)


def test_models_are_drawn_equally_often() -> None:
    batches = Text(length=8, tasks_per_architecture=1).sample("meta_train", 4, torch_generator(0))
    kinds = [batch.description.split()[1] for batch in batches for _ in range(batch.n_tasks)]
    assert sorted(kinds) == ["GRU", "GRU", "transformer", "transformer"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"models": ("lstm",)}, "'models'.*'gru', 'transformer'"),
        ({"length": 0}, "'length' is 0.*from 1 to 299"),
        ({"depths": (0,)}, "'depths'.*at least 1"),
        ({"widths": (9,)}, r"'widths' is \(9,\).*multiples of 2"),
        ({"length": 100, "batch_size": 129}, "'batch_size' is 129.*from 1 to 128"),
    ],
)
def test_refuses_options_that_make_no_task(options: dict[str, object], text: str) -> None:
    with pytest.raises(TaskError, match=text):
        Text(**options)  # type: ignore[arg-type]


def test_recurrent_networks_may_have_odd_widths() -> None:
    assert Text(models=("gru",), widths=(9,)).widths == (9,)
