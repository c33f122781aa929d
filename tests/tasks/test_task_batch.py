"""What a step sees of a batch of tasks."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from evometa.rng import torch_generator
from evometa.tasks import build_family
from evometa.tasks.base import TaskBatch


def batch_of(n_rows: int, n_tasks: int) -> TaskBatch:
    """Tasks on rows of several shapes and types, constants beside them."""
    drawn = torch_generator(0, "rows")
    (quadratic,) = build_family("quadratic", {"dim": 3}).sample("meta_train", n_tasks, drawn)
    rows = {
        "x": torch.randn((n_rows, 2, 3), generator=drawn),
        "label": torch.randint(5, (n_rows,), generator=drawn),
        "strided": torch.randn((4, n_rows), generator=drawn).T,
        "shared": torch.randn((1, 2), generator=drawn).expand(n_rows, 2),
    }
    return replace(quadratic, rows=rows)


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 12))
def test_a_batch_is_the_indexed_rows_beside_the_constants(n_rows: int, n_tasks: int, batch_size: int) -> None:
    batch = batch_of(n_rows, n_tasks)
    indices = torch.randint(n_rows, (n_tasks, batch_size), generator=torch_generator(n_rows, batch_size))
    seen = batch.batch(indices)
    assert seen.keys() == {*batch.constants, *batch.rows}
    for name, value in batch.rows.items():
        assert torch.equal(seen[name], value[indices])
    for name, value in batch.constants.items():
        assert seen[name] is value


def test_indices_may_be_a_slice_of_those_of_many_steps() -> None:
    batch = batch_of(9, 3)
    indices = torch.randint(9, (3, 5, 4), generator=torch_generator(1))
    for k in range(5):
        assert torch.equal(batch.batch(indices[:, k])["x"], batch.rows["x"][indices[:, k]])


def test_without_indices_there_are_the_constants_alone() -> None:
    batch = batch_of(3, 2)
    assert batch.batch(None).keys() == batch.constants.keys()
