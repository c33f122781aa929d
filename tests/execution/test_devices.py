"""Devices are picked as asked or refused in one line; several share the work, each with its own workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from evometa.errors import ConfigError
from evometa.execution import EvaluationUnit, Executor, TuningUnit, pick_device, pick_devices, pick_workers
from evometa.execution.executor import dealt
from evometa.execution.work import Workplaces
from evometa.execution.workers import claim
from evometa.inner.cohort import Candidate
from evometa.inner.record import RunSummary
from evometa.inner.task_set import request
from evometa.rules.learner_structure import learner_space
from evometa.rules.registry import RULES

CPU = torch.device("cpu")
WANTED = request("quadratic", {"dim": 3}, "meta_valid", 2, 6, seed=1)


def unit(*rates: float) -> EvaluationUnit:
    space = learner_space(RULES["adam"])
    genes = [space.complete({"schedule": "constant", "lr": rate}) for rate in rates]
    members = [Candidate(str(one["lr"]), "adam", one, {}) for one in genes]
    return EvaluationUnit(tuple(members), WANTED)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_the_cpu_and_what_there_is_are_picked() -> None:
    assert pick_devices("cpu") == (CPU,)
    assert pick_device("auto").type in ("cpu", "cuda")


@pytest.mark.usefixtures("two_gpus")
def test_gpus_are_picked_by_number() -> None:
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    assert pick_devices("auto") == pick_devices("cuda") == (torch.device("cuda"),)
    assert pick_devices("cuda:1") == (second,)
    assert pick_devices("cuda:1,0") == (second, first)
    assert pick_device("cuda:1,0") == second


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("cuda:2", r"execution.device = 'cuda:2', but torch finds 2 GPU\(s\), 'cuda:0' the first"),
        ("cuda:0,5", r"execution.device = 'cuda:0,5', but torch finds 2 GPU\(s\), 'cuda:0' the first"),
        ("cuda:1,1", "execution.device = 'cuda:1,1' names a GPU twice; name each once"),
    ],
)
def test_gpus_that_are_not_there_are_refused_in_one_line(wanted: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        pick_devices(wanted)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
@pytest.mark.parametrize("wanted", ["cuda", "cuda:0,1"])
def test_a_machine_without_gpus_says_so(wanted: str) -> None:
    with pytest.raises(ConfigError, match=r"torch finds no CUDA GPU; use 'auto' or 'cpu'$"):
        pick_devices(wanted)


@pytest.mark.parametrize(("n_cores", "on_one", "on_two"), [(16, 4, 8), (6, 4, 6), (1, 1, 2)])
def test_workers_are_one_a_core_or_up_to_four_a_gpu_unless_asked_for(
    n_cores: int, on_one: int, on_two: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: n_cores)
    two = [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert pick_workers(3, CPU) == 3
    assert pick_workers(0, CPU) == n_cores
    assert pick_workers(0, torch.device("cuda")) == on_one
    assert pick_workers(0, two) == on_two
    assert pick_workers(4, two) == 4
    with pytest.raises(ConfigError, match=r"execution\.workers = 1, but execution\.device names 2 GPUs"):
        pick_workers(1, two)


def test_a_unit_with_more_than_a_device_s_share_is_cut() -> None:
    one, five = unit(0.1), unit(0.2, 0.3, 0.4, 0.5, 0.6)
    tuning = TuningUnit("adam", WANTED, 3)
    assert dealt([five, one, tuning], 1) == [five, one, tuning]
    cut = dealt([one, five, tuning], 2)
    assert [len(part.candidates) for part in cut] == [1, 2, 3, 0]
    assert [c.id for part in cut for c in part.candidates] == [
        c.id for u in (one, five) for c in u.candidates
    ]
    assert [len(part.candidates) for part in dealt([one], 4)] == [1]


def test_a_claim_is_held_until_its_process_ends(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from evometa.execution.workers import claim\n"
        f"print(claim({str(tmp_path)!r}, 2), claim({str(tmp_path)!r}, 2), flush=True)\n"
        "sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline().split() == ["0", "0"]
    assert [claim(str(tmp_path), 2), claim(str(tmp_path), 2)] == [1, 1]
    other.kill()
    other.communicate()
    assert claim.__wrapped__(str(tmp_path), 2) == 0, "as a third process would have it"


@pytest.mark.parametrize(("number", "device"), [(0, "cuda:0"), (1, "cuda:1"), (2, "cuda:0")])
def test_workers_take_the_devices_in_turn(
    number: int, device: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("evometa.execution.work.claim", lambda folder, n_places: number)
    for name in ("die_with", "settle_once"):
        monkeypatch.setattr(f"evometa.execution.work.{name}", lambda *given: None)
    places = Workplaces(3, str(tmp_path), os.getpid(), tuple(sys.path))
    assert places.enter(("cuda:0", "cuda:1")) == device


def test_several_devices_give_what_one_gives() -> None:
    units = [unit(0.1, 0.2, 0.3, 0.4), unit(0.5)]
    one = Executor(CPU, 1).run(units)
    several = Executor([CPU, torch.device("cpu", 0)], 2).run(units)
    assert [len(result.unit.candidates) for result in several] == [2, 2, 1]

    def together(results: list) -> np.ndarray:
        values = [result.value for result in results]
        assert all(isinstance(value, RunSummary) for value in values)
        return np.concatenate([value.final_losses for value in values])

    np.testing.assert_allclose(together(several), together(one), rtol=1e-5)
