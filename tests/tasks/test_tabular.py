from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn import datasets
from torch import Tensor

from evometa.errors import TaskError
from evometa.rng import torch_generator
from evometa.tasks import SPLITS, Split, TaskBatch, tabular
from evometa.tasks.pools import split_rows
from evometa.tasks.tabular import DATASETS, VALID_SHARE, Tabular


@pytest.fixture(autouse=True)
def fresh_caches() -> Iterator[None]:
    """A test that alters a table must not leave it to the next one."""
    yield
    tabular.pool_of.cache_clear()


def one(dataset: str, split: Split) -> TaskBatch:
    return Tabular(datasets=(dataset,), train_share=1.0).sample(split, 1, torch_generator(0))[0]


def division(dataset: str) -> dict[Split, tuple[Tensor, Tensor]]:
    features, targets = tabular.table(dataset)
    classes = targets if DATASETS[dataset] == "class" else None
    return split_rows(dataset, len(features), VALID_SHARE, classes)


@pytest.mark.parametrize("dataset", DATASETS)
def test_no_raw_row_is_in_two_pools(dataset: str) -> None:
    features, _ = tabular.table(dataset)
    parts = [features[rows].numpy() for pair in division(dataset).values() for rows in pair]
    contents = [row.tobytes() for part in parts for row in part]
    assert len(contents) == len(features)
    assert len(set(contents)) == len(features)


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_pool_has_every_class_and_train_rows_of_unit_variance(dataset: str) -> None:
    for split in SPLITS:
        batch = one(dataset, split)
        assert batch.train_rows is not None
        assert batch.valid_rows is not None
        train = batch.rows["x"][batch.train_rows[0]]
        torch.testing.assert_close(train.mean(0), torch.zeros(train.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(train.std(0), torch.ones(train.shape[1]), atol=1e-5, rtol=0)
        y = batch.rows["y"]
        if DATASETS[dataset] == "class":
            classes = set(range(int(y.max()) + 1))
            assert set(y[batch.train_rows[0]].tolist()) == classes
            assert set(y[batch.valid_rows[0]].tolist()) == classes
        else:
            assert float(y[batch.train_rows[0]].mean()) == pytest.approx(0, abs=1e-5)
            assert float(y[batch.train_rows[0]].std()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("dataset", DATASETS)
def test_train_rows_know_nothing_of_held_out_rows_or_other_splits(
    dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changing every other row of the table leaves a split's train rows as they were."""
    before = one(dataset, "meta_train")
    features, targets = tabular.table(dataset)
    train, _ = division(dataset)["meta_train"]
    others = torch.ones(len(features), dtype=torch.bool)
    others[train] = False
    altered = torch.where(others.unsqueeze(1), 3 * features + 100, features)
    values = targets if DATASETS[dataset] == "class" else torch.where(others, 7 * targets, targets)
    monkeypatch.setattr(tabular, "table", lambda name: (altered, values))
    tabular.pool_of.cache_clear()
    after = one(dataset, "meta_train")
    rows = slice(0, len(train))
    assert torch.equal(after.rows["x"][rows], before.rows["x"][rows])
    assert torch.equal(after.rows["y"][rows], before.rows["y"][rows])
    assert not torch.equal(after.rows["x"][len(train) :], before.rows["x"][len(train) :])


def test_raw_tables_are_those_of_scikit_learn_without_repeated_rows() -> None:
    iris = datasets.load_iris()
    features, targets = tabular.table("iris")
    assert len(features) == len(targets) == 149
    assert {row.tobytes() for row in features.numpy()} == {row.tobytes() for row in iris.data}
    diabetes, _ = tabular.table("diabetes")
    ages = diabetes[:, 0].numpy()
    assert np.array_equal(ages, ages.round())  # years, not the copy that scikit-learn scaled over all rows
    assert ages.min() > 15


def test_tables_and_architectures_take_turns() -> None:
    batches = Tabular().sample("meta_train", 8, torch_generator(0))
    assert {batch.description.split()[0] for batch in batches} == set(DATASETS)
    assert all(batch.n_tasks == 2 for batch in batches)


def test_small_tables_are_trained_in_batches_of_all_their_rows() -> None:
    batch = Tabular(datasets=("iris",), batch_size=1000).sample("meta_train", 1, torch_generator(0))[0]
    assert batch.train_rows is not None
    assert batch.batch_size == batch.train_rows.shape[1] < 50


def test_depth_zero_is_a_linear_model() -> None:
    (batch,) = Tabular(
        datasets=("diabetes",), depths=(0,), widths=(8,), activations=("relu",), inits=("xavier",)
    ).sample("meta_train", 3, torch_generator(0))
    assert [segment.shape for segment in batch.layout.segments] == [(1, 10), (1,)]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"datasets": ("titanic",)}, r"'datasets' is \('titanic',\).*'breast_cancer'"),
        ({"datasets": ()}, r"'datasets' is \(\)"),
        ({"datasets": "iris"}, r"'datasets' is 'iris'; allowed: a non-empty list"),
        ({"train_share": 0.0}, r"'train_share' is 0.0; allowed: a number above 0 and at most 1"),
        ({"train_share": float("nan")}, r"'train_share' is nan"),
        ({"batch_size": 0}, r"'batch_size' is 0"),
        ({"widths": (3.5,)}, r"'widths'"),
    ],
)
def test_refuses_options_with_what_is_allowed(options: dict[str, object], text: str) -> None:
    with pytest.raises(TaskError, match=text):
        Tabular(**options)  # type: ignore[arg-type]
