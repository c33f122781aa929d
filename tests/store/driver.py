"""A small deterministic campaign that drives a store; as a script, one that is killed on the way.

``python driver.py PLAN PATH`` runs a plan in forked processes of its own, so that the test's process never
forks, and prints what it saw as JSON.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from evometa.errors import StoreError
from evometa.genome.genome import Genome, Lineage
from evometa.store import (
    Baseline,
    CampaignStore,
    Candidate,
    Evaluation,
    GenerationRecord,
    TaskResult,
    Timing,
    content_digest,
)

OBJECTIVES = ("meta_loss", "flops")
N_CHILDREN = 4
N_TASKS = 3
N_GENERATIONS = 16
CONFIG = json.dumps({"seed": 0, "evolution": {"population": N_CHILDREN}})


def evaluation(genome_id: str, generation: int, **changes: Any) -> Evaluation:
    """A fitness evaluation on N_TASKS tasks, one of which diverged."""
    draw = np.random.default_rng([generation, sum(map(ord, genome_id))])
    done = [
        TaskResult("quadratic", f"d={task}", "complete", 1.0, *draw.random(5)) for task in range(N_TASKS - 1)
    ]
    lost = TaskResult("quadratic", "d=9", "diverged", 1.0, float("inf"))
    fields: dict[str, Any] = {"split": "meta_valid", "purpose": "fitness", "inner_steps": 300}
    fields |= {"status": "complete", "tasks": (*done, lost), **changes}
    return Evaluation(genome_id, generation, **fields)


def generation(index: int) -> dict[str, Any]:
    """What the driver commits as generation ``index``: children of the one before, everyone evaluated."""
    draw = np.random.default_rng(index)
    children = [f"{index:03d}-{child:03d}" for child in range(N_CHILDREN)]
    parents = [f"{index - 1:03d}-{child:03d}" for child in range(N_CHILDREN)] if index else []
    weights = {hashlib.sha256(data).hexdigest(): data for data in (draw.bytes(20_000) for _ in children)}
    genomes = [
        Genome(
            id=child,
            family="recurrent",
            genes={
                "lr": float(draw.random()),
                "cell": "gru",
                "layers": 2,
                "bias": True,
                "features": ("g", "m"),
            },
            weights=blob,
            germline=blob,
            lineage=Lineage(tuple(parents[place : place + 2]), "crossover", index, "inherited"),
        )
        for place, (child, blob) in enumerate(zip(children, weights, strict=True))
    ]
    everyone = [*parents, *children]
    record = GenerationRecord(
        index=index,
        objectives=OBJECTIVES,
        reference_point=(1.0, 2.0),
        candidates=tuple(
            Candidate(one, tuple(draw.random(2)), in_front=place % 3 == 0)
            for place, one in enumerate(everyone)
        ),
        population=tuple(reversed(children)),
        hypervolume=float(draw.random()),
        n_failures=index % 2,
        refinement_inner_steps=1000,
        evaluation_inner_steps=300 * len(everyone),
    )
    return {
        "record": record,
        "genomes": genomes,
        "updates": {genome.id: f"as {genome.id}" for genome in genomes[1:]},
        "evaluations": [evaluation(one, index) for one in everyone],
        "weights": weights,
        "streams": {"tasks/meta_valid": int(draw.integers(2**63))},
        "baselines": []
        if index
        else [Baseline("quadratic", "adam", 100, 0.1, ((0.1, 0.5), (10.0, np.inf)), 900)],
        "timings": [Timing(index, "evaluation", time.perf_counter(), 2400)],
    }


def run(path: Path, n_generations: int = N_GENERATIONS, landed: Callable[[], object] = int) -> None:
    """Begin or continue the campaign at ``path`` and finish it; ``landed`` is called after each commit."""
    create = not path.exists()
    with CampaignStore.create(path, config_json=CONFIG) if create else CampaignStore.open(path) as store:
        last = store.last_generation()
        for index in range(0 if last is None else last + 1, n_generations):
            store.commit_generation(**generation(index))
            landed()
        if store.status() != "finished":
            final = {"split": "meta_test", "purpose": "report"}
            store.commit_final(
                [
                    evaluation(one.id, n_generations - 1, **final)
                    for one in store.front(store.last_generation())
                ]
            )


def in_child(action: Callable[[], object]) -> int:
    """The process id of a forked child that does ``action`` and ends without clean-up."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            action()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def died_of(pid: int) -> str:
    """How a child ended: the name of a signal, or its exit status."""
    status = os.waitpid(pid, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else str(os.WEXITSTATUS(status))


def suicidal(evaluations: list[Evaluation]) -> Iterator[Evaluation]:
    """The evaluations, all but the last; then this process kills itself, its transaction half done."""
    yield from evaluations[:-1]
    os.kill(os.getpid(), signal.SIGKILL)


def kill_inside_commit(path: Path) -> dict[str, object]:
    """Two generations, then SIGKILL in the middle of the third's transaction."""

    def drive() -> None:
        store = CampaignStore.create(path, config_json=CONFIG)
        store.commit_generation(**generation(0))
        store.commit_generation(**generation(1))
        third = generation(2)
        store.commit_generation(**third | {"evaluations": suicidal(third["evaluations"])})

    return {"end": died_of(in_child(drive))}


def kill_at_random(path: Path) -> dict[str, object]:
    """Start and kill drivers at drawn moments until one of them finishes the campaign."""
    importlib.import_module("evometa.genome.codec")  # it is slow: before the forks, not in each of them
    draw = np.random.default_rng(7)
    seen: list[int | None] = []
    while True:
        receive, send = os.pipe()
        pid = in_child(partial(run, path, landed=partial(os.write, send, b".")))
        os.close(send)
        if draw.random() < 0.6:  # else it may die before it has committed anything
            os.read(receive, 1)
        time.sleep(draw.uniform(0.0, 0.006))
        os.kill(pid, signal.SIGKILL)
        end = died_of(pid)
        os.close(receive)
        if end == "0":
            return {"seen": seen}
        if path.exists():
            with CampaignStore.open(path, readonly=True) as store:
                seen.append(store.last_generation())


def disk_full(path: Path) -> dict[str, object]:
    """Commit until no file may grow further; what the driver is told, and what it can still read."""
    with CampaignStore.create(path, config_json=CONFIG) as store:
        store.commit_generation(**generation(0))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, before[1]))
        try:
            store.commit_generation(**generation(1))
            error = ""
        except StoreError as refusal:
            error = str(refusal)
        last = store.last_generation()
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        store.commit_generation(**generation(1))
    return {"error": error, "last": last}


def orphan(path: Path) -> dict[str, object]:
    """A driver forks a worker and is killed; can the campaign be continued while the worker lives?"""
    receive, send = os.pipe()

    def drive() -> None:
        store = CampaignStore.create(path, config_json=CONFIG)
        worker = in_child(lambda: time.sleep(60))
        os.write(send, f"{store.status()} {worker}".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    end = died_of(in_child(drive))
    status, worker = os.read(receive, 100).decode().split()
    try:
        CampaignStore.open(path).close()
    finally:
        os.kill(int(worker), signal.SIGKILL)
    return {"end": end, "status": status}


def hold(path: Path) -> dict[str, object]:
    """Hold the driver's lock until standard input closes."""
    with CampaignStore.create(path, config_json=CONFIG) as store:
        print("held", flush=True)
        sys.stdin.read()
        return {"last": store.last_generation()}


PLANS = {plan.__name__: plan for plan in (kill_inside_commit, kill_at_random, disk_full, orphan, hold)}

if __name__ == "__main__":
    database = Path(sys.argv[2])
    report = PLANS[sys.argv[1]](database)
    print(json.dumps({**report, "pid": os.getpid(), "digest": content_digest(database)}))
