"""Whatever happens to workers, every unit has a result, and those that did nothing wrong have their own."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from faulty_units import FaultyUnit

from evometa.errors import ExecutionError
from evometa.execution import EvaluationUnit, Executor, UnitResult
from evometa.execution import dispatch as module
from evometa.execution.pools.loky import LokyPool
from evometa.execution.work import Outcome, Work
from evometa.inner.cohort import Candidate
from evometa.inner.record import Status
from evometa.inner.task_set import request
from evometa.objectives.baseline import baseline_candidate

CPU = torch.device("cpu")


def named(*names: str) -> tuple[Candidate, ...]:
    return tuple(Candidate(name, "adam", {}, {}) for name in names)


def good(n: int, seconds: float = 0.0) -> list[FaultyUnit]:
    return [FaultyUnit(named(f"good {i}"), seconds=seconds) for i in range(n)]


def run(units: list[FaultyUnit], n_workers: int = 2, seconds: float = 0.0) -> list[UnitResult]:
    return Executor(CPU, seconds=seconds, pool=LokyPool(n_workers)).run(units)  # type: ignore[arg-type]


def ids(result: UnitResult) -> list[str]:
    return [candidate.id for candidate in result.unit.candidates]


@pytest.fixture(autouse=True, scope="module")
def no_workers_left() -> Iterator[None]:
    """Tests that lose no workers share them: a worker takes seconds to import PyTorch."""
    yield
    pool = LokyPool(2)
    pool._is_started = True
    pool.close()


def test_results_come_in_the_order_of_units_each_when_those_before_it_are_there() -> None:
    units = [FaultyUnit(named(f"{i}"), seconds=0.1 * (i % 3)) for i in range(9)]
    seen: list[str] = []
    Executor(CPU, pool=LokyPool(2)).run(units, lambda result: seen.extend(ids(result)))  # type: ignore[arg-type]
    assert seen == [f"{i}" for i in range(9)]


def test_what_cannot_travel_back_is_an_error_of_its_unit() -> None:
    odd = FaultyUnit(named("odd"), "does not travel", bad=("odd",))
    first, result, last = run([*good(1), odd, *good(1)])
    assert [first.status, result.status, last.status] == [Status.COMPLETE, Status.ERROR, Status.COMPLETE]
    assert result.message.count("\n") == 0


def test_workers_from_before_find_modules_that_came_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = Executor(CPU, pool=LokyPool(2))
    executor.run(good(2))  # type: ignore[arg-type]
    (tmp_path / "came_later.py").write_text(
        "from evometa.tasks import build_family\nfamily = build_family('quadratic', {'dim': 3})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    wanted = request("came_later:family", {}, "meta_valid", 2, 6, seed=1)
    (result,) = executor.run([EvaluationUnit((baseline_candidate("adam", 0.1),), wanted)])
    assert (result.status, result.message) == (Status.COMPLETE, "")


def test_a_unit_that_looks_at_the_time_is_halved_until_what_takes_long_stands_alone() -> None:
    unit = FaultyUnit(named("a", "b", "slow"), "takes long", bad=("slow",))
    for n_workers in (2, 1):
        results = run([unit, *good(1)], n_workers, seconds=0.2)
        assert [name for result in results for name in ids(result)] == ["a", "b", "slow", "good 0"]
        assert [result.status for result in results if ids(result) == ["slow"]] == [Status.TIMEOUT]
        assert [result.message for result in results if ids(result) == ["slow"]] == [
            "OutOfTime: not done after 0.2 s"
        ]
        assert sum(result.status == Status.COMPLETE for result in results) == len(results) - 1


def test_a_candidate_that_ends_its_worker_costs_its_own_row_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_LOSSES", 1)
    names = ["a", "bad", "b"]
    results = run([*good(2), FaultyUnit(named(*names), "killed", bad=("bad",)), *good(2)])
    assert [name for result in results for name in ids(result)] == (
        ["good 0", "good 1", *names, "good 0", "good 1"]
    )
    for result in results:
        if ids(result) == ["bad"]:
            assert (result.status, result.value) == (Status.OUT_OF_MEMORY, None)
            assert result.message == "lost 3 workers: killed by SIGKILL, as where memory runs out"
        else:
            assert (result.status, result.value) == (Status.COMPLETE, ids(result))


def test_the_message_says_how_its_worker_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """By another signal; of exit codes the error of workers that never compute anything tells."""
    monkeypatch.setattr(module, "_MOST_LOSSES_OF_ONE", 1)
    fatal, sound = run([FaultyUnit(named("bad"), "segfaults", bad=("bad",)), *good(1)], n_workers=1)
    assert (fatal.status, fatal.message) == (Status.ERROR, "lost 1 workers: killed by SIGSEGV")
    assert (sound.status, sound.value) == (Status.COMPLETE, ["good 0"])


@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_worker_killed_from_outside_costs_nothing(n_workers: int, tmp_path: Path) -> None:
    unlucky = FaultyUnit(named("unlucky"), "killed", bad=("unlucky",), diary=str(tmp_path), n_times=2)
    results = run([*good(2), unlucky, *good(4)], n_workers)
    assert {result.status for result in results} == {Status.COMPLETE}
    assert [result.value for result in results] == [ids(result) for result in results]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_unit_that_hangs_is_ended_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_GRACE_SECONDS", 0.5)
    stuck = FaultyUnit(named("stuck"), "hangs", bad=("stuck",))
    # Each candidate adds to the patience: new workers import PyTorch meanwhile, and may be slow about it.
    many = [FaultyUnit(named(*(f"good {i} {j}" for j in range(60)))) for i in range(3)]
    diligent = FaultyUnit(named(*(f"diligent {j}" for j in range(60))), seconds=0.5, diary=str(tmp_path))
    stuck_result, *others = run([stuck, *many, diligent], seconds=1.0)
    assert stuck_result.status == Status.TIMEOUT
    assert stuck_result.message == "no answer within 2 s, so its worker was ended"
    assert {result.status for result in others} == {Status.COMPLETE}


class _Doomed(LokyPool):
    """Workers that end whatever they are given."""

    def submit(self, work: Work) -> Future[Outcome]:
        return super().submit(replace(work, unit=FaultyUnit(named("any"), "exits", bad=("any",))))


def test_workers_that_never_compute_anything_end_the_run() -> None:
    with pytest.raises(
        ExecutionError, match=r"^workers end before they have computed anything \(exit code 7\); see whether"
    ):
        Executor(CPU, pool=_Doomed(1)).run(good(20))  # type: ignore[arg-type]


def test_a_worker_lost_while_it_waits_is_replaced() -> None:
    executor = Executor(CPU, pool=LokyPool(1))
    (first,) = executor.run(good(1))  # type: ignore[arg-type]
    executor.stop()
    (again,) = executor.run(good(1))  # type: ignore[arg-type]
    assert first.value == again.value == ["good 0"]


def test_a_worker_may_come_to_hold_more_than_after_its_first_unit(tmp_path: Path) -> None:
    """Where psutil is installed, loky would end it as one that leaks, and warn of that."""
    pytest.importorskip("psutil")
    executor = Executor(CPU, pool=LokyPool(1))
    for names, wait in (("first",), 1.2), (("bad",), 1.2), (("last",), 0.0):
        unit = FaultyUnit(named(*names), fault="grows", bad=("bad",), diary=str(tmp_path), seconds=wait)
        (result,) = executor.run([unit])  # type: ignore[list-item]
        assert result.status == Status.COMPLETE
    assert len({note.name.split("-")[1] for note in tmp_path.iterdir()}) == 1
