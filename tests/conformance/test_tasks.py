"""One contract over every registered task family, and over a user's module."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from compute_device import DEVICE
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from evometa.errors import TaskError
from evometa.inner.task_set import TaskRequest, prepare, request
from evometa.rng import torch_generator
from evometa.tasks import SPLITS, TASKS, Split, TaskBatch, TaskFamily, build_family, supervised

N_TASKS = 7  # a prime: no number of architectures or dimensions divides it


def make_module() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))


def user_family() -> TaskFamily:
    generator = torch_generator(0, "user data")
    x = torch.randn((90, 5), generator=generator)
    y = torch.randint(3, (90,), generator=generator)
    return supervised(
        name="mine",
        model=make_module,
        loss=nn.functional.cross_entropy,
        train=(x[:60], y[:60]),
        valid=(x[60:], y[60:]),
        batch_size=8,
    )


EVERYTHING = {
    "batch_size": [4, 16],
    "label_noise": 0.2,
    "gradient_noise": 0.1,
    "reparametrisation": "tensor",
}
#: What makes families cheaper here than they are by default.
OPTIONS: dict[str, dict[str, object]] = {"text": {"length": 6, "depths": [1]}}

FAMILIES: dict[str, Callable[[], TaskFamily]] = {
    **{name: (lambda name=name: build_family(name, OPTIONS.get(name, {}))) for name in TASKS.names()},
    "open_l2o": lambda: build_family("quadratic", {"kind": "open_l2o"}),
    "conditioned": lambda: build_family("quadratic", {"kind": "conditioned"}),
    "nmse": lambda: build_family("sparse_recovery", {"measure": "nmse"}),
    "noisy": lambda: build_family("quadratic", {"augment": {"gradient_noise": 0.1}}),
    "augmented": lambda: build_family("tabular", {"datasets": ["wine"], "augment": EVERYTHING}),
    "linear": lambda: build_family("tabular", {"depths": [0]}),
    "all digits": lambda: build_family("digits", {"pool": "all", "batch_size": 128}),
    "fourier fields": lambda: build_family(
        "neural_fields", {"kind": "fourier", "patch": 8, "batch_size": 16}
    ),
    "by score": lambda: build_family("control", {"gradient": "score_function", "horizon": 4}),
    "supervised": user_family,
}
#: What does not hold data, and what shares data between splits: because its options say so, or a few words of
#: windows so short (tests/tasks/test_reference_text.py compares longer phrases).
WITHOUT_DATA = {
    "quadratic",
    "open_l2o",
    "conditioned",
    "rosenbrock",
    "rastrigin",
    "linear_models",
    "sparse_recovery",
    "nmse",
    "noisy",
}
SHARES_ROWS = {"all digits", "text"}
#: What draws rows of its own for every task, from one distribution.
MAKES_ROWS = {"sinusoid"}
#: Whose rows are places in a domain or episodes: what a split has to itself, their own tests say.
PLACES = {"neural_fields", "fourier fields", "physics_informed", "control", "by score"}


@pytest.fixture(params=FAMILIES, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def family(name: str) -> TaskFamily:
    return FAMILIES[name]()


def draw(family: TaskFamily, split: Split = "meta_train", seed: int = 0) -> list[TaskBatch]:
    return family.sample(split, N_TASKS, torch_generator(seed, "tasks"))


def first_batch(batch: TaskBatch, seed: int = 0, moved: TaskBatch | None = None) -> dict[str, Tensor]:
    """Of ``moved`` where it is given: ``batch`` on the device in another dtype."""
    stream = batch.index_stream(1, torch_generator(seed, "rows"))
    if moved is None:
        return batch.batch(None if stream is None else stream[:, 0])
    return moved.batch(None if stream is None else stream[:, 0].to(DEVICE))


def everything(batches: list[TaskBatch], seed: int) -> list[Tensor]:
    """All that distinguishes one draw of tasks from another."""
    tensors: list[Tensor] = []
    for batch in batches:
        tensors.append(batch.init_params(torch_generator(seed, "init")))
        tensors += first_batch(batch, seed).values()
        tensors += [] if batch.valid_rows is None else [batch.valid_rows]
    return tensors


def test_says_what_it_is(family: TaskFamily) -> None:
    assert family.name
    assert family.summary
    assert "\n" not in family.summary


def test_equal_generators_give_equal_tasks(family: TaskFamily) -> None:
    first, second = draw(family), draw(family)
    assert [b.description for b in first] == [b.description for b in second]
    pairs = zip(everything(first, 0), everything(second, 0), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_other_generators_give_other_tasks(family: TaskFamily) -> None:
    first, second = everything(draw(family, seed=0), 0), everything(draw(family, seed=1), 1)
    same_shapes = [a.shape for a in first] == [b.shape for b in second]
    assert not same_shapes or any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("split", SPLITS)
def test_gives_as_many_tasks_as_asked_for(family: TaskFamily, split: Split) -> None:
    for n_tasks in (1, 2, N_TASKS):
        batches = family.sample(split, n_tasks, torch_generator(0, "tasks"))
        assert sum(batch.n_tasks for batch in batches) == n_tasks
        for batch in batches:
            assert batch.init_params(torch_generator(0)).shape == (batch.n_tasks, batch.layout.size)
            assert all(len(value) == batch.n_tasks for value in first_batch(batch).values())


def test_refuses_unknown_splits_and_counts(family: TaskFamily) -> None:
    with pytest.raises(TaskError, match=r"n_tasks.*0.*at least 1"):
        family.sample("meta_train", 0, torch_generator(0))
    with pytest.raises(TaskError, match=r"split.*'train'.*'meta_train'"):
        family.sample("train", 1, torch_generator(0))  # type: ignore[arg-type]


@pytest.mark.parametrize("split", SPLITS)
def test_starts_at_a_finite_loss_above_the_noise_floor(family: TaskFamily, split: Split) -> None:
    for batch in draw(family, split):
        losses = vmap(batch.loss)(batch.init_params(torch_generator(0)), first_batch(batch))
        assert losses.shape == (batch.n_tasks,)
        assert torch.isfinite(losses).all()
        assert (losses > batch.noise_floor).all()
        held_out = batch.valid_batch()
        if held_out is not None:
            measure = batch.valid_loss or batch.loss
            assert torch.isfinite(vmap(measure)(batch.init_params(torch_generator(0)), held_out)).all()


def test_hand_batched_gradient_is_the_gradient(family: TaskFamily) -> None:
    for batch in draw(family):
        if batch.loss_and_grad is None:
            continue
        moved = batch.to(DEVICE, torch.float64)
        rows = first_batch(batch, moved=moved)
        starts = [batch.init_params(torch_generator(seed)).to(DEVICE, torch.float64) for seed in range(3)]
        params = torch.stack(starts)
        losses, grads = batch.loss_and_grad(params, rows)
        expected, values = vmap(vmap(grad_and_value(batch.loss)), (0, None))(params, rows)
        assert losses.dtype == grads.dtype == torch.float64
        torch.testing.assert_close(losses, values, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(grads, expected, rtol=1e-10, atol=1e-10)


def test_moves_to_a_device_and_to_float64(family: TaskFamily) -> None:
    for batch in draw(family):
        moved = batch.to(DEVICE, torch.float64)
        rows = first_batch(batch, moved=moved)
        params = batch.init_params(torch_generator(0))
        grads, losses = vmap(grad_and_value(moved.loss))(params.to(DEVICE, torch.float64), rows)
        assert grads.dtype == losses.dtype == torch.float64
        single = vmap(batch.loss)(params, first_batch(batch))
        torch.testing.assert_close(losses.float().cpu(), single, rtol=1e-3, atol=1e-3)


def test_train_and_valid_rows_are_disjoint(family: TaskFamily, name: str) -> None:
    for split in SPLITS:
        for batch in draw(family, split):
            if batch.train_rows is None:
                assert name in WITHOUT_DATA
                assert batch.valid_rows is None
                continue
            assert 1 <= batch.batch_size <= batch.train_rows.shape[1]
            for task in range(batch.n_tasks):
                train = batch.train_rows[task].tolist()
                assert len(set(train)) == len(train)
                if batch.valid_rows is not None:
                    assert not set(train) & set(batch.valid_rows[task].tolist())


def test_splits_share_no_row(family: TaskFamily, name: str) -> None:
    """Compared by content, per data set (tabular's description starts with it)."""
    if name in WITHOUT_DATA | SHARES_ROWS | MAKES_ROWS | PLACES:
        pytest.skip("has no data rows, makes them for every task, or shares them knowingly")
    seen: dict[str, dict[Split, set[bytes]]] = {}
    for split in SPLITS:
        for batch in family.sample(split, 16, torch_generator(0, "tasks")):
            assert batch.train_rows is not None
            used = batch.train_rows.unique()
            if batch.valid_rows is not None:
                used = torch.cat([used, batch.valid_rows.unique()])
            rows = {row.numpy().tobytes() for row in batch.rows["x"][used]}
            dataset = batch.description.split()[0]
            seen.setdefault(dataset, {}).setdefault(split, set()).update(rows)
    for by_split in seen.values():
        train, valid, test = (by_split[split] for split in SPLITS)
        assert not train & valid
        assert not train & test
        assert not valid & test


@pytest.mark.parametrize(
    "default_family", ["digits", "tabular", "rosenbrock", "rastrigin", "model_selection"]
)
def test_splits_share_no_architecture(default_family: str) -> None:
    family = build_family(default_family, {})
    shapes = [
        {b.layout for seed in range(20) for b in family.sample(split, 16, torch_generator(seed))}
        for split in SPLITS
    ]
    assert not shapes[0] & shapes[1]
    assert not shapes[0] & shapes[2]
    assert not shapes[1] & shapes[2]


def test_every_epoch_is_a_permutation(family: TaskFamily) -> None:
    for batch in draw(family):
        if batch.train_rows is None:
            continue
        n_rows = batch.train_rows.shape[1]
        n_steps = math.ceil(2 * n_rows / batch.batch_size)
        stream = batch.index_stream(n_steps, torch_generator(0))
        assert stream is not None
        assert stream.shape == (batch.n_tasks, n_steps, batch.batch_size + batch.n_draws)
        stream = stream[..., : batch.batch_size]
        epochs = stream.reshape(batch.n_tasks, -1)[:, : 2 * n_rows].reshape(batch.n_tasks, 2, n_rows)
        every_row = batch.train_rows.sort(dim=1).values
        assert torch.equal(epochs[:, 0].sort(dim=1).values, every_row)
        assert torch.equal(epochs[:, 1].sort(dim=1).values, every_row)
        assert not torch.equal(epochs[:, 0], epochs[:, 1])


def test_draws_leave_the_global_generator_alone(family: TaskFamily) -> None:
    before = torch.get_rng_state()
    for batch in draw(family):
        batch.init_params(torch_generator(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_can_be_pickled(family: TaskFamily) -> None:
    """Workers get their tasks by pickle."""
    batch = draw(family)[0]
    copy = pickle.loads(pickle.dumps(batch))
    assert all(torch.equal(a, b) for a, b in zip(everything([batch], 0), everything([copy], 0), strict=True))
    params = batch.init_params(torch_generator(0))
    assert torch.equal(
        vmap(copy.loss)(params, first_batch(copy)), vmap(batch.loss)(params, first_batch(batch))
    )


def test_a_few_tasks_are_some_of_all_and_of_many_architectures(name: str, family: TaskFamily) -> None:
    """What racing relies on: parts of a request hold the tasks of the whole, each of them once."""
    if name not in TASKS.names():
        pytest.skip("requests name registered families")
    whole = request(name, {}, "meta_valid", N_TASKS, 4, seed=1)
    parts = [replace(whole, only=only) for only in ((0, 2), (2, 3), (3, N_TASKS))]

    def seen(wanted: TaskRequest) -> list[tuple[str, list[float]]]:
        return [
            (part.tasks.description, row.tolist())
            for part in prepare(wanted, torch.device("cpu"))
            for row in part.params
        ]

    assert sorted(one for part in parts for one in seen(part)) == sorted(seen(whole))
    n_architectures = len({architecture for architecture, _ in seen(whole)})
    assert len({architecture for architecture, _ in seen(parts[0])}) == min(2, n_architectures)
