"""Units never raise, one bad candidate does not sink a chunk, and workers change nothing."""

from __future__ import annotations

import pickle
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from evometa.execution import EvaluationUnit, Executor, UnitResult
from evometa.inner.cohort import Candidate
from evometa.inner.evaluate import evaluate
from evometa.inner.record import RunSummary, Status, UnrollRecord
from evometa.inner.task_set import request
from evometa.meta import Refinement
from evometa.rng import torch_generator
from evometa.rules.cost import count_rule
from evometa.rules.learner import Learner
from evometa.rules.learner_structure import learner_space
from evometa.rules.registry import RULES

CPU = torch.device("cpu")
WANTED = request("quadratic", {"dim": 3}, "meta_valid", 2, 6, seed=1)


def candidate(identity: str, family: str, **genes: object) -> Candidate:
    complete = learner_space(RULES[family]).complete({"schedule": "constant", **genes})  # type: ignore[dict-item]
    weights = Learner.of(family, complete).init_weights(torch_generator(0, identity))
    return Candidate(identity, family, complete, weights)


def losses(result: UnitResult) -> np.ndarray:
    assert isinstance(result.value, RunSummary)
    return result.value.final_losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_travels_to_workers_and_back_is_hardly_larger_than_its_weights(dtype: torch.dtype) -> None:
    one = candidate("c", "recurrent")
    weights = {name: value.to(dtype).requires_grad_() for name, value in one.weights.items()}
    sent = replace(one, weights=weights)
    got = pickle.loads(pickle.dumps(sent))
    assert (got.id, got.family, dict(got.genes)) == (sent.id, sent.family, dict(sent.genes))
    back = pickle.loads(pickle.dumps(Refinement([dict(weights), {}], 3, [True, True], [0, 1])))
    assert (back.n_inner_steps, back.n_skipped, back.weights[1]) == (3, [0, 1], {})
    for found in (got.weights, back.weights[0]):
        assert list(found) == list(weights)
        for name, value in weights.items():
            assert found[name].dtype == dtype
            assert torch.equal(found[name], value)
            found[name].add_(1)  # it is memory of its own, and may be written
    n_bytes = sum(value.nbytes for value in weights.values())
    assert len(pickle.dumps(sent)) < n_bytes + 4000


def test_results_come_in_the_order_of_units_whoever_computes_them() -> None:
    units = [
        EvaluationUnit((candidate(f"c{i}", rule),), WANTED) for i, rule in enumerate(["sgd", "adam"] * 3)
    ]
    seen: list[UnitResult] = []
    alone = Executor(CPU, 1).run(units, seen.append)
    together = Executor(CPU, 2).run(units)
    assert len(seen) == 6
    for unit, one, two in zip(units, alone, together, strict=True):
        assert one.unit == unit
        np.testing.assert_array_equal(losses(one), losses(two))


@pytest.mark.parametrize("n_workers", [1, 2])
def test_the_operations_of_a_rule_are_counted_where_that_is_asked_for(n_workers: int) -> None:
    members = [candidate("r", "recurrent", hidden=7), candidate("m", "mlp", hidden=5)]
    units = [EvaluationUnit((member,), WANTED, counted=member.id == "r") for member in members]
    found = [result.value for result in Executor(CPU, n_workers).run(units)]
    assert all(isinstance(record, RunSummary) for record in found)
    assert [record.rule_counts for record in found] == [count_rule(members[0].learner), None]


def test_a_bad_candidate_costs_its_own_row_only() -> None:
    good = candidate("good", "recurrent", hidden=4)
    twisted = {name: value.flatten()[:1] for name, value in good.weights.items()}
    bad = replace(good, id="bad", weights=twisted)
    unit = EvaluationUnit((good, bad, replace(good, id="also good")), WANTED)
    results = Executor(CPU, 1).run([unit])
    assert [result.status for result in results] == [Status.COMPLETE, Status.ERROR, Status.COMPLETE]
    assert [result.unit.candidates[0].id for result in results] == ["good", "bad", "also good"]
    assert results[1].message.partition(": ")[0] in ("IndexError", "RuntimeError"), "PyTorch's or a kernel's"
    assert "\n" not in results[1].message


ENDS_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


def fits(monkeypatch: pytest.MonkeyPatch, most: int, error: BaseException) -> list[int]:
    """From here on no more than ``most`` candidates are trained at once; returns the sizes that are tried."""
    tried: list[int] = []

    def bounded(candidates: tuple[Candidate, ...], *arguments: object, **options: object) -> UnrollRecord:
        tried.append(len(candidates))
        if len(candidates) > most:
            raise error
        return evaluate(candidates, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("evometa.execution.units.evaluate", bounded)
    return tried


@pytest.mark.parametrize("error", ENDS_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_a_unit_that_does_not_fit_is_halved_until_it_does(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = EvaluationUnit(tuple(candidate(f"c{i}", "adam", lr=10.0**-i) for i in range(1, 6)), WANTED)
    (whole,) = Executor(CPU, 1).run([unit])
    tried = fits(monkeypatch, 2, error)
    results = Executor(CPU, 1).run([unit])
    assert tried == [5, 2, 3, 1, 2]
    assert [one.id for result in results for one in result.unit.candidates] == ["c1", "c2", "c3", "c4", "c5"]
    assert {result.status for result in results} == {Status.COMPLETE}
    in_pieces = np.concatenate([losses(result) for result in results])
    np.testing.assert_allclose(in_pieces, losses(whole), rtol=1e-5)


def test_what_fits_in_no_size_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    fits(monkeypatch, 0, ENDS_OF_MEMORY[1])
    results = Executor(CPU, 1).run([EvaluationUnit((candidate("a", "sgd"), candidate("b", "sgd")), WANTED)])
    assert [result.status for result in results] == [Status.OUT_OF_MEMORY] * 2
    assert results[0].message == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"


def test_memory_that_the_cpu_does_not_have_is_known_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evometa.execution.units.evaluate", lambda *arguments, **options: torch.empty(10**15))
    (result,) = Executor(CPU, 1).run([EvaluationUnit((candidate("c", "sgd"),), WANTED)])
    assert result.status == Status.OUT_OF_MEMORY


def test_a_gpu_s_memory_is_gathered_before_the_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = fits(monkeypatch, 0, ENDS_OF_MEMORY[1])
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: tried.append(-1))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    unit = EvaluationUnit((candidate("a", "sgd"), candidate("b", "sgd")), WANTED)
    Executor(torch.device("cuda:1")).run([unit])
    assert tried == [2, -1, 1, -1, 1, -1]


def test_the_callers_thread_count_is_put_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        Executor(CPU, 1).run([EvaluationUnit((candidate("c", "sgd"),), WANTED)])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_interrupts_stay_held_while_workers_start() -> None:
    """In a fresh process, where nothing has started the resource tracker yet, as the spawn does."""
    code = (
        "import signal\n"
        "from multiprocessing import resource_tracker\n"
        "from evometa.execution.workers import interrupts_held\n"
        "held = lambda: signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())\n"
        "with interrupts_held():\n"
        "    resource_tracker.ensure_running()\n"
        "    inside = held()\n"
        "print(inside, held())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize("n_workers", [1, 2])
def test_units_train_in_the_executors_precision(n_workers: int) -> None:
    units = [EvaluationUnit((candidate(f"c{i}", "adam"),), WANTED) for i in range(2)]
    exact = Executor(CPU, n_workers)
    for full, lowered in zip(exact.run(units), exact.in_precision("bfloat16").run(units), strict=True):
        assert not np.array_equal(losses(full), losses(lowered))
        np.testing.assert_allclose(losses(full), losses(lowered), rtol=0.05)
