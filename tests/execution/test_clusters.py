"""Dask and Ray: the results of this process, also where workers are lost; one line for what is amiss."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import dask
import distributed  # its settings must be there before some are changed  # noqa: F401
import numpy as np
import pytest
import torch
from faulty_units import FaultyUnit

from evometa.errors import ConfigError
from evometa.execution import EvaluationUnit, Executor, RefinementUnit, UnitResult, open_executor
from evometa.execution.pools import dask as dask_pool
from evometa.execution.units import ProbeUnit, Versions
from evometa.inner.cohort import Candidate
from evometa.inner.modes import Backend
from evometa.inner.record import RunSummary, Status
from evometa.inner.task_set import request
from evometa.meta import Refinement, TaskStream, meta_space
from evometa.rng import torch_generator
from evometa.rules.learner import Learner
from evometa.rules.learner_structure import learner_space
from evometa.rules.registry import RULES

WANTED = request("quadratic", {"dim": 3}, "meta_valid", 2, 6, seed=1)
STREAM = TaskStream("quadratic", WANTED.options, 2, 10, 3)


def candidate(identity: str, family: str, **genes: object) -> Candidate:
    shaped = learner_space(RULES[family]).complete({"schedule": "constant", **genes})  # type: ignore[dict-item]
    weights = Learner.of(family, shaped).init_weights(torch_generator(0, identity))
    meta = meta_space().complete({"meta.steps": 2, "meta.unroll_length": 10, "meta.truncation": 5})
    return Candidate(identity, family, {**shaped, **meta}, weights)


@pytest.fixture(scope="module", params=["dask", "ray"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """Two workers on this machine."""
    backend: Backend = request.param
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        executor = open_executor(backend, device="cpu", workers=2, seconds=60.0)
        yield executor
        executor.stop()


def ids(result: UnitResult) -> list[str]:
    return [one.id for one in result.unit.candidates]


def test_a_cluster_computes_what_this_process_computes(cluster: Executor) -> None:
    rules = ("sgd", "adam", "recurrent", "mlp")
    members = [candidate(f"{rule} {i}", rule) for i in range(2) for rule in rules]
    units = [
        *(EvaluationUnit((member,), WANTED) for member in members),
        *(RefinementUnit((member,), (STREAM,)) for member in members if member.weights),
    ]
    here = Executor(torch.device("cpu"), max_bytes=cluster.max_bytes).run(units)
    there = cluster.run(units)
    assert cluster.n_workers == 2
    for unit, one, other in zip(units, here, there, strict=True):
        assert one.unit is other.unit is unit
        assert (one.status, one.message) == (other.status, other.message) == (Status.COMPLETE, "")
        if isinstance(one.value, RunSummary):
            assert isinstance(other.value, RunSummary)
            np.testing.assert_array_equal(one.value.final_losses, other.value.final_losses)
        else:
            assert isinstance(one.value, Refinement)
            assert isinstance(other.value, Refinement)
            (mine,), (theirs,) = one.value.weights, other.value.weights
            assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_lost_worker_of_a_cluster_costs_the_candidate_that_ended_it_alone(
    cluster: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for losses in ("_MOST_LOSSES", "_MOST_LOSSES_OF_ONE"):
        monkeypatch.setattr(f"evometa.execution.dispatch.{losses}", 1)
    some = [FaultyUnit((candidate(f"good {i}", "sgd"),)) for i in range(3)]
    fatal = FaultyUnit(
        (candidate("a", "sgd"), candidate("bad", "sgd")), "exits", bad=("bad",), diary=str(tmp_path)
    )
    results = cluster.run([*some, fatal, *some])  # type: ignore[list-item]
    names = ["good 0", "good 1", "good 2"]
    assert [name for result in results for name in ids(result)] == [*names, "a", "bad", *names]
    for result in results:
        if ids(result) == ["bad"]:
            assert result.status == Status.ERROR
            assert result.message.startswith("lost 1 workers: ")
        else:
            assert (result.status, result.value) == (Status.COMPLETE, ids(result))


def test_a_worker_of_a_cluster_that_hangs_is_ended(
    cluster: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evometa.execution.dispatch._GRACE_SECONDS", -82.0)  # 8 s for one candidate
    stuck = FaultyUnit((candidate("stuck", "sgd"),), "hangs", bad=("stuck",))
    # Each candidate adds to the patience: the worker that has to start anew may be slow about it.
    good = FaultyUnit(tuple(candidate(f"good {i}", "sgd") for i in range(4)))
    first, last = cluster.run([stuck, good])  # type: ignore[list-item]
    assert (first.status, last.status) == (Status.TIMEOUT, Status.COMPLETE)
    assert first.message == "no answer within 8 s, so its worker was ended"


@pytest.mark.parametrize(("backend", "module"), [("dask", "distributed"), ("ray", "ray")])
def test_what_a_backend_needs_is_named(
    backend: Backend, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf'^execution\.backend = "{backend}" needs \w+: install evometa\['):
        open_executor(backend, device="cpu")


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_pool, "_CONNECT_SECONDS", 1)
    with pytest.raises(ConfigError, match=r"^execution\.address = 'tcp://127\.0\.0\.1:9': no Dask scheduler"):
        open_executor("dask", device="cpu", address="tcp://127.0.0.1:9")


def test_workers_with_other_versions_are_refused(cluster: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    from evometa.execution import executor as module

    monkeypatch.setattr(module.evometa, "__version__", "9.9.9")
    with pytest.raises(
        ConfigError, match=r"a worker has evometa \S+ and torch \S+, but this process 9\.9\.9"
    ):
        module.check_cluster(cluster, "dask")
    monkeypatch.undo()
    (probed,) = cluster.run([ProbeUnit()])
    assert isinstance(probed.value, Versions)


def test_a_gpu_of_a_cluster_is_not_asked_for_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"the workers of a cluster take the GPU that each is given"):
        open_executor("dask", device="cuda:0,1")
