"""Chunks by device and rule; what a candidate gets does not depend on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compute_device import DEVICE
from hypothesis import given
from hypothesis import strategies as st

from evometa import native
from evometa.genome.genes import Value
from evometa.inner import plan
from evometa.inner.cohort import Candidate
from evometa.inner.evaluate import chunks, evaluate
from evometa.inner.plan import candidates_per_chunk, cut, gradient_floats
from evometa.inner.task_set import TaskRequest, prepare, request
from evometa.rng import torch_generator
from evometa.rules.base import UpdateRule
from evometa.rules.learner import Learner
from evometa.rules.learner_structure import learner_space
from evometa.rules.registry import RULES
from evometa.tasks.base import TaskBatch

CPU, GPU = torch.device("cpu"), torch.device("cuda")
DIGITS = {"widths": [32], "depths": [1], "tasks_per_architecture": 8}
SMALL = {"widths": [4], "depths": [1], "tasks_per_architecture": 2}


def learner(family: str, **genes: Value) -> Learner:
    return Learner.of(family, learner_space(RULES[family]).complete({"schedule": "constant", **genes}))


def digits(options: dict[str, object] = DIGITS, n_tasks: int = 8) -> TaskRequest:
    return request("digits", options, "meta_train", n_tasks, 6, seed=3)


def batches(wanted: TaskRequest) -> list[TaskBatch]:
    return [prepared.tasks for prepared in prepare(wanted, CPU)]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch):
    """Sets what a GPU has free, of which PyTorch holds a part unused; gradients are made on the CPU."""

    def set_to(n_bytes: int) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (n_bytes // 2, 2 * n_bytes))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: n_bytes)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: n_bytes - n_bytes // 2)
        monkeypatch.setattr(plan, "gradient_floats", lambda tasks, device: gradient_floats(tasks, CPU))

    return set_to


@given(st.integers(1, 300), st.integers(1, 300))
def test_chunks_are_even_and_few_but_a_multiple_of_four_where_they_are_many(n: int, most: int) -> None:
    parts = cut(n, most)
    assert [index for part in parts for index in part] == list(range(n))
    sizes = [len(part) for part in parts]
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    fewest = -(-n // most)
    assert fewest <= len(parts) <= fewest + (3 if fewest > 2 else 0)
    assert fewest <= 2 or len(parts) % 4 == 0 or len(parts) == n


def test_on_a_cpu_mapped_networks_train_alone_or_few_at_once_and_simple_rules_together() -> None:
    tasks = batches(digits())
    with native.disabled():
        assert candidates_per_chunk(learner("recurrent"), tasks, CPU, 32) == 1
        assert 2 <= candidates_per_chunk(learner("mlp"), tasks, CPU, 32) <= 8
        assert 16 <= candidates_per_chunk(learner("adam"), tasks, CPU, 1000) < 64
        assert candidates_per_chunk(learner("adam"), batches(digits(SMALL, 2)), CPU, 32) == 32


def test_a_kernel_is_planned_by_what_stays_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = batches(digits())
    adam = learner("adam")
    monkeypatch.setattr(type(adam.rule), "has_kernel", lambda rule, grads, params: True)
    floats = 4 * 8 * tasks[0].layout.size  # two moments, params and gradients of eight tasks
    assert candidates_per_chunk(adam, tasks, CPU, 1000) == plan.CPU_KERNEL_FLOATS // floats > 1
    assert candidates_per_chunk(adam, tasks, CPU, 1000, live_steps=5) == plan.CPU_KERNEL_FLOATS // floats // 5


def test_a_gpu_takes_all_that_fits_into_free_memory(free) -> None:
    tasks = batches(digits())
    free(80 * 2**30)
    assert candidates_per_chunk(learner("recurrent"), tasks, GPU, 256) == 256
    free(2 * 2**30)
    several = candidates_per_chunk(learner("recurrent"), tasks, GPU, 256)
    assert 8 < several < 256
    assert several < candidates_per_chunk(learner("recurrent", hidden=4), tasks, GPU, 256) <= 256
    assert candidates_per_chunk(learner("recurrent"), tasks, GPU, 256, live_steps=4) == several // 4
    free(0)
    assert candidates_per_chunk(learner("adam"), tasks, GPU, 256) == 1


def test_a_gradient_that_does_not_fit_leaves_one_candidate(free, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(tasks: TaskBatch, device: torch.device) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory")

    free(80 * 2**30)
    monkeypatch.setattr(plan, "gradient_floats", too_much)
    assert candidates_per_chunk(learner("adam"), batches(digits()), GPU, 256) == 1


def test_the_floats_of_a_gradient_grow_with_the_minibatch() -> None:
    few, many = (batches(digits({**DIGITS, "batch_size": size}))[0] for size in (8, 64))
    n_params, n_activations = (
        8 * few.layout.size,
        8 * (32 + 10),
    )  # of eight tasks; for each row of a minibatch
    assert gradient_floats(few, CPU) > n_params + 8 * n_activations
    assert gradient_floats(many, CPU) - gradient_floats(few, CPU) > (64 - 8) * n_activations
    assert gradient_floats(few.to(CPU, torch.float64), CPU) == gradient_floats(few, CPU)


@pytest.mark.parametrize("family", ["adam", "mlp", "recurrent"])
def test_what_a_candidate_gets_does_not_depend_on_chunks(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = learner(family)
    several = [
        Candidate(str(i), family, dict(one.genes), one.init_weights(torch_generator(i, family)))
        for i in range(5)
    ]
    wanted = digits(SMALL, 2)
    found = []
    for most in (1, 2, 5):
        monkeypatch.setattr("evometa.inner.evaluate.candidates_per_chunk", lambda *arguments, n=most: n)
        cut_up = chunks(several, wanted, DEVICE)
        assert max(map(len, cut_up)) == most
        records = [evaluate([several[i] for i in chunk], wanted, DEVICE, torch.float64) for chunk in cut_up]
        found.append(np.concatenate([record.losses for record in records]))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-10)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-10)


def test_without_kernels_none_is_planned_with() -> None:
    with native.disabled():
        assert not any(plan.has_kernel(learner(family)) for family in RULES.built_in)
    assert UpdateRule.has_kernel(learner("adam").rule, torch.ones(1), torch.ones(1)) is False
