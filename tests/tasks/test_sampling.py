from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from evometa.rng import torch_generator
from evometa.tasks.architectures import Architectures, deal
from evometa.tasks.sampling import balanced, partition, subsets

seeds = st.integers(0, 1000)


@given(st.integers(1, 6), st.integers(1, 30), seeds)
def test_balanced_draws_differ_by_one_at_most(n_options: int, n_draws: int, seed: int) -> None:
    drawn = balanced(range(n_options), n_draws, torch_generator(seed))
    counts = Counter(drawn)
    assert len(drawn) == n_draws
    assert max(counts.values()) - min(counts[option] for option in range(n_options)) <= 1


@given(st.integers(3, 200), st.sampled_from([(0.6, 0.2, 0.2), (1 / 3, 1 / 3, 1 / 3), (0.75, 0.25)]), seeds)
def test_partition_puts_every_row_into_one_part(n_rows: int, shares: tuple[float, ...], seed: int) -> None:
    parts = partition(n_rows, shares, torch_generator(seed))
    assert sorted(torch.cat(parts).tolist()) == list(range(n_rows))
    for part, share in zip(parts, shares, strict=True):
        assert abs(len(part) - share * n_rows) <= 1


@given(st.lists(st.integers(0, 3), min_size=1, max_size=100), seeds)
def test_partition_divides_every_class_alike(labels: list[int], seed: int) -> None:
    classes = torch.tensor(labels)
    shares = (0.5, 0.3, 0.2)
    parts = partition(len(labels), shares, torch_generator(seed), classes)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(labels)))
    for label, count in Counter(labels).items():
        for part, share in zip(parts, shares, strict=True):
            assert abs(int((classes[part] == label).sum()) - share * count) <= 1


@given(st.integers(1, 5), st.integers(1, 20), seeds)
def test_subsets_hold_different_rows_of_the_pool(n_tasks: int, size: int, seed: int) -> None:
    pool = torch.arange(100, 120)
    drawn = subsets(pool, n_tasks, size, torch_generator(seed))
    assert drawn.shape == (n_tasks, size)
    for row in drawn.tolist():
        assert len(set(row)) == size
        assert set(row) <= set(pool.tolist())


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=8), st.integers(0, 8))
def test_deal_gives_every_task_to_a_label(labels: list[str], more: int) -> None:
    n_tasks = len(labels) + more
    counts = deal(labels, n_tasks)
    assert set(counts) == set(labels)
    assert sum(counts.values()) == n_tasks
    for label, count in counts.items():
        assert labels.count(label) * (n_tasks // len(labels)) <= count


def test_a_handful_of_architectures_covers_every_option() -> None:
    space = Architectures((8, 16), (1, 2), ("relu", "tanh", "gelu"), ("kaiming", "xavier"))
    for seed in range(20):
        drawn = space.sample(4, torch_generator(seed))
        assert {a.width for a in drawn} == {8, 16}
        assert {a.depth for a in drawn} == {1, 2}
        assert {a.activation for a in drawn} == {"relu", "tanh", "gelu"}
        assert {a.init for a in drawn} == {"kaiming", "xavier"}
