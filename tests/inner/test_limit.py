"""Training within a limit of memory: what is cut up, that it fits, and the one line where nothing does."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from evometa.genome.genes import Value
from evometa.inner.cohort import Candidate
from evometa.inner.evaluate import chunks, evaluate
from evometa.inner.limit import (
    PLANNED_SHARE,
    candidates_in,
    cut_to_fit,
    megabytes,
    room,
    training_bytes,
)
from evometa.inner.memory import Demand, part_bytes
from evometa.inner.task_set import (
    MOST_REMEMBERED,
    REMEMBERED_BYTES,
    PreparedTasks,
    TaskRequest,
    held_bytes,
    prepare,
    request,
)
from evometa.rng import torch_generator
from evometa.rules.learner import Learner
from evometa.rules.learner_structure import learner_space
from evometa.rules.registry import RULES

CPU = torch.device("cpu")
N_TASKS, N_STEPS = 8, 6
DIGITS = {"widths": [32], "depths": [1], "tasks_per_architecture": N_TASKS}
each_family = pytest.mark.parametrize("family", ["adam", "mlp", "recurrent"])


def learner(family: str, **genes: Value) -> Learner:
    return Learner.of(family, learner_space(RULES[family]).complete({"schedule": "constant", **genes}))


def candidates(family: str, n: int) -> list[Candidate]:
    one = learner(family)
    return [
        Candidate(str(i), family, dict(one.genes), one.init_weights(torch_generator(i))) for i in range(n)
    ]


def digits(**options: object) -> TaskRequest:
    return request("digits", {**DIGITS, **options}, "meta_train", N_TASKS, N_STEPS, seed=3)


def limit_with(n_bytes: int) -> int:
    """The least limit that leaves ``n_bytes`` of room beside tasks that are remembered anyway."""
    limit = int((n_bytes + REMEMBERED_BYTES) / PLANNED_SHARE)
    while room(limit, ()) < n_bytes:
        limit += 1
    return limit


def needed(family: str, parts: list[PreparedTasks]) -> int:
    """Bytes that one candidate takes in training on ``parts``, the losses it records left out."""
    return training_bytes(part_bytes(learner(family), parts, Demand(), measured=True))


def test_room_is_what_gaps_and_the_tasks_themselves_leave() -> None:
    parts = prepare(digits(), CPU)
    assert held_bytes(parts) < REMEMBERED_BYTES
    assert room(2**30, parts) == int(PLANNED_SHARE * 2**30) - REMEMBERED_BYTES
    tensor = torch.zeros(2**24)  # twice what is remembered
    large = [PreparedTasks(part.tasks, tensor.expand(N_TASKS, -1), part.indices) for part in parts]
    assert room(2**30, large) < int(PLANNED_SHARE * 2**30) - tensor.nbytes
    assert room(1, parts) < 0


def test_megabytes_are_rounded_up_for_reading() -> None:
    assert [megabytes(n) for n in (0, 1, 10**6, 10**6 + 1, 1_234_000_000)] == [
        "0 MB", "1 MB", "1 MB", "2 MB", "1,234 MB",
    ]  # fmt: skip


@each_family
def test_as_many_candidates_as_fit(family: str) -> None:
    parts = list(prepare(digits(), CPU))
    one = needed(family, parts)
    found = [candidates_in(learner(family), parts, N_STEPS, n * one) for n in (0, 1, 2, 10, 100)]
    assert found == sorted(found)
    assert found[0] == 0
    assert all(few <= n for few, n in zip(found, (0, 1, 2, 10, 100), strict=True)), "they would not fit"
    assert found[-1] >= 25, "a bound that costs nothing to find takes no more than four times too much"
    assert candidates_in(learner(family), parts, N_STEPS, int(1.1 * one)) == 1, "measured, where it matters"


def test_what_is_recorded_counts() -> None:
    parts = list(prepare(digits(), CPU))
    n_bytes = 100 * needed("adam", parts)
    few, many = (candidates_in(learner("adam"), parts, n_steps, n_bytes) for n_steps in (10, 100_000))
    assert many < few


@each_family
def test_chunks_are_no_larger_than_fits(family: str) -> None:
    several, wanted = candidates(family, 12), digits()
    one = needed(family, list(prepare(wanted, CPU)))
    unbound = max(map(len, chunks(several, wanted, CPU)))
    assert max(map(len, chunks(several, wanted, CPU, max_bytes=limit_with(2**30)))) == unbound
    bound = chunks(several, wanted, CPU, max_bytes=limit_with(2 * one))
    assert sorted(index for chunk in bound for index in chunk) == list(range(12))
    assert max(map(len, bound)) <= 2
    assert {len(chunk) for chunk in chunks(several, wanted, CPU, max_bytes=1)} == {1}


@each_family
def test_tasks_are_left_whole_where_they_fit(family: str) -> None:
    parts = prepare(digits(), CPU)
    assert cut_to_fit(learner(family), parts, 3, N_STEPS, limit_with(2**28)) == list(parts)


@each_family
def test_tasks_are_cut_up_until_each_piece_fits(family: str) -> None:
    parts = list(prepare(digits(), CPU))
    n_bytes = needed(family, parts)  # room for one candidate on all tasks
    for n_candidates in (2, 3, 6):
        pieces = cut_to_fit(learner(family), parts, n_candidates, N_STEPS, limit_with(n_bytes))
        assert len(pieces) > 1
        assert torch.equal(torch.cat([piece.params for piece in pieces]), parts[0].params)
        assert torch.equal(torch.cat([piece.indices for piece in pieces]), parts[0].indices)  # type: ignore[misc, arg-type]
        sizes = [piece.tasks.n_tasks for piece in pieces]
        assert sum(sizes) == N_TASKS
        assert max(sizes) - min(sizes) <= 1
        for piece in pieces:
            assert n_candidates * needed(family, [piece]) <= n_bytes
    counts = [
        len(cut_to_fit(learner(family), parts, 2, N_STEPS, limit_with(n_bytes // share))) for share in (1, 2)
    ]
    assert counts[0] < counts[1]


@each_family
def test_the_limit_does_not_change_what_candidates_get(family: str) -> None:
    several, wanted = candidates(family, 3), digits()
    limit = limit_with(needed(family, list(prepare(wanted, CPU))))
    assert len(cut_to_fit(learner(family), prepare(wanted, CPU), 3, N_STEPS, limit)) > 1
    free, bound = evaluate(several, wanted, CPU), evaluate(several, wanted, CPU, max_bytes=limit)
    np.testing.assert_allclose(bound.losses, free.losses, rtol=1e-5)
    np.testing.assert_allclose(bound.valid_losses, free.valid_losses, rtol=1e-5)
    assert bound.descriptions == free.descriptions


@each_family
def test_where_not_even_one_task_fits_one_line_says_what_to_do(family: str) -> None:
    several, wanted = candidates(family, 3), digits()
    with pytest.raises(MemoryError) as refused:
        evaluate(several, wanted, CPU, max_bytes=limit_with(1000))
    line = str(refused.value)
    assert "\n" not in line
    assert line.startswith(f"training on one task of '{family}' on digits")
    assert "raise execution.max_memory_bytes or run fewer workers" in line


def test_a_limit_below_what_the_tasks_take_is_refused_too() -> None:
    with pytest.raises(MemoryError, match=r"execution\.max_memory_bytes"):
        evaluate(candidates("adam", 1), digits(), CPU, max_bytes=2**20)


def test_several_architectures_are_cut_each_by_its_own_size() -> None:
    wanted = digits(widths=[2, 64], tasks_per_architecture=N_TASKS // 2)
    parts = list(prepare(wanted, CPU))
    assert len(parts) == 2, json.dumps([part.tasks.description for part in parts])
    small, large = sorted(parts, key=lambda part: part.tasks.layout.size)
    pieces = cut_to_fit(learner("adam"), parts, 4, N_STEPS, limit_with(2 * needed("adam", [large])))
    n_pieces = {
        part.tasks.description: sum(piece.tasks.description == part.tasks.description for piece in pieces)
        for part in parts
    }
    assert n_pieces[small.tasks.description] == 1
    assert n_pieces[large.tasks.description] > 1


def test_no_more_small_tasks_are_remembered_than_a_generation_needs() -> None:
    """Their tensors would never fill what may be remembered; their objects would fill much more."""
    wanted = [
        request("quadratic", {"dim": 2}, "meta_valid", 1, 2, seed) for seed in range(MOST_REMEMBERED + 20)
    ]
    drawn = [prepare(one, CPU) for one in wanted]
    assert prepare(wanted[-1], CPU) is drawn[-1]
    assert prepare(wanted[-MOST_REMEMBERED], CPU) is drawn[-MOST_REMEMBERED]
    assert prepare(wanted[0], CPU) is not drawn[0]
