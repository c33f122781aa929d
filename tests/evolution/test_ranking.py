"""NSGA-II's ranking and selection against a plain definition of dominance."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evometa.evolution.ranking import rank_and_crowding, survivors, tournament

VALUES = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 20), st.integers(1, 3)), elements=st.integers(0, 6).map(float)
)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


def plain_ranks(values: np.ndarray) -> list[int]:
    rank = [-1] * len(values)
    level = 0
    while -1 in rank:
        rest = [i for i, r in enumerate(rank) if r == -1]
        front = [i for i in rest if not any(dominates(values[j], values[i]) for j in rest)]
        for i in front:
            rank[i] = level
        level += 1
    return rank


@given(VALUES)
def test_ranks_are_the_layers_of_dominance(values: np.ndarray) -> None:
    rank, crowding = rank_and_crowding(values)
    assert rank.tolist() == plain_ranks(values)
    assert (crowding >= 0).all()


@given(VALUES, st.integers(1, 20))
def test_survivors_take_whole_fronts_first(values: np.ndarray, k: int) -> None:
    kept = survivors(values, k)
    assert len(kept) == min(k, len(values)) == len(set(kept))
    rank = plain_ranks(values)
    lost = [i for i in range(len(values)) if i not in kept]
    assert max((rank[i] for i in kept), default=0) <= min((rank[i] for i in lost), default=len(values))


def test_non_finite_values_are_refused_before_they_are_compared() -> None:
    with pytest.raises(ValueError, match="finite"):
        survivors(np.array([[0.5, np.nan], [1.0, 1.0]]), 1)


def test_tournament_prefers_rank_then_room_and_draws_from_its_generator_only() -> None:
    rank = np.array([1, 0, 0, 2])
    crowding = np.array([9.0, 1.0, 5.0, 9.0])
    random_state = random.getstate()
    winners = [tournament(rank, crowding, 4, np.random.default_rng(seed)) for seed in range(5)]
    assert winners == [2] * 5, "with everyone drawn the least crowded of the first front wins"
    assert random.getstate() == random_state
    a = [tournament(rank, crowding, 2, np.random.default_rng(7)) for _ in range(3)]
    assert len(set(a)) == 1
