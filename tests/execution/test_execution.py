"""Units never raise, one bad candidate does not sink a chunk, and workers change nothing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from evometa.errors import ConfigError
from evometa.execution import EvaluationUnit, Executor, UnitResult, pick_device, pick_workers
from evometa.inner.cohort import Candidate
from evometa.inner.record import Status, UnrollRecord
from evometa.inner.task_set import request
from evometa.rng import torch_generator
from evometa.rules.learner import Learner, learner_space
from evometa.rules.registry import RULES

CPU = torch.device("cpu")
WANTED = request("quadratic", {"dim": 3}, "meta_valid", 2, 6, seed=1)


def candidate(identity: str, family: str, **genes: object) -> Candidate:
    complete = learner_space(RULES[family]).complete({"schedule": "constant", **genes})  # type: ignore[dict-item]
    weights = Learner.of(family, complete).init_weights(torch_generator(0, identity))
    return Candidate(identity, family, complete, weights)


def losses(result: UnitResult) -> np.ndarray:
    assert isinstance(result.value, UnrollRecord)
    return result.value.losses


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


def test_a_bad_candidate_costs_its_own_row_only() -> None:
    good = candidate("good", "recurrent", hidden=4)
    twisted = {name: value.flatten()[:1] for name, value in good.weights.items()}
    bad = replace(good, id="bad", weights=twisted)
    unit = EvaluationUnit((good, bad, replace(good, id="also good")), WANTED)
    results = Executor(CPU, 1).run([unit])
    assert [result.status for result in results] == [Status.COMPLETE, Status.ERROR, Status.COMPLETE]
    assert [result.unit.candidates[0].id for result in results] == ["good", "bad", "also good"]
    assert results[1].message.startswith("IndexError: ")
    assert "\n" not in results[1].message


def test_running_out_of_memory_is_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr("evometa.execution.units.evaluate", too_much)
    (result,) = Executor(CPU, 1).run([EvaluationUnit((candidate("c", "sgd"),), WANTED)])
    assert result.status == Status.OUT_OF_MEMORY


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


def test_devices_and_workers_are_picked_as_asked() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type in ("cpu", "cuda")
    assert pick_workers(3, CPU) == 3
    assert pick_workers(0, CPU) >= 1
    assert pick_workers(0, torch.device("cuda")) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_a_gpu_that_is_not_there_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="torch finds no CUDA GPU"):
        pick_device("cuda")
