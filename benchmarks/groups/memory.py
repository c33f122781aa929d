"""Peak memory: a generation at P = 256, a horizon of 10,000, and a model of a million parameters.

Each is run in a fresh process with one worker a core; the peak resident memory of that process and of all its
children is added up, though they need not have had it at the same time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.contestants.engine import Engine
from benchmarks.mixed import MIXED
from benchmarks.rounds import Progress
from benchmarks.teams import SINGLE_THREAD
from benchmarks.workload import RULES, Workload

#: Title of the case whose memory is bounded.
GENERATION = "mixed generation, P=256, T=8, K=100"


def cases(*, quick: bool) -> dict[str, Workload]:
    """Title → workload."""
    if quick:
        return {"quick": Workload.of("forward", RULES["gru"][1], 2, n_tasks=1, n_steps=2)}
    repeated = MIXED * (256 // len(MIXED))
    million = 13_333  # hidden units of a perceptron with 999,985 parameters
    return {
        GENERATION: Workload("forward", repeated),
        "LSTM 2×20, P=2, T=1, K=10,000": Workload.of(
            "forward", RULES["lstm"][1], 2, n_tasks=1, n_steps=10_000
        ),
        "BPTT of LSTM 2×20, P=16, T=8, K=50": Workload.of("bptt", RULES["lstm"][1], 16, n_steps=50),
        **{
            f"{RULES[rule][0]}, P=2, T=1, K=5, N≈1,000,000": Workload.of(
                "forward", RULES[rule][1], 2, n_tasks=1, n_steps=5, width=million
            )
            for rule in RULES
        },
    }


def measure(progress: Progress, *, quick: bool) -> dict[str, dict[str, Any]]:
    """Title → ``peak_bytes`` in all, ``driver_bytes``, ``largest_child_bytes`` and ``seconds``."""
    found = {}
    chosen = cases(quick=quick)
    for number, (title, workload) in enumerate(chosen.items()):
        progress(f"memory: {title}", number + 1, len(chosen))
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.groups.memory"],
            input=json.dumps(workload.to_json()),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, **SINGLE_THREAD},
        )
        found[title] = json.loads(done.stdout.splitlines()[-1])
    return found


def _peak_bytes(process: int) -> int:
    """The most resident memory that a process has had so far; 0 for one that has just ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    found = [line.split() for line in lines if line.startswith("VmHWM:")]
    return int(found[0][1]) * 1024 if found else 0


def peak_bytes(work: Callable[[], object]) -> int | None:
    """How much more memory this process has at the height of ``work`` than before; None without Linux."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
    except OSError:
        return None
    before = _peak_bytes(os.getpid())
    work()
    return _peak_bytes(os.getpid()) - before


def gpu_peak_bytes(work: Callable[[], object]) -> int:
    """How much more of the GPU's memory PyTorch has given out at the height of ``work`` than before."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return torch.cuda.max_memory_allocated() - before


def children(process: int) -> list[int]:
    """The processes that ``process`` started, and those that these started."""
    threads = Path(f"/proc/{process}/task").glob("*/children")
    own = [int(child) for path in threads for child in path.read_text(encoding="utf-8").split()]
    return [child for one in own for child in (one, *children(one))]


def _run() -> dict[str, Any]:
    """One repetition of the workload on the standard input, in this process and its workers."""
    engine = Engine(Workload.from_json(json.load(sys.stdin)), torch.device("cpu"))
    driver = _peak_bytes(os.getpid())
    workers = [_peak_bytes(child) for child in children(os.getpid())]
    engine.executor.stop()
    return {
        "peak_bytes": driver + sum(workers),
        "driver_bytes": driver,
        "largest_child_bytes": max(workers, default=0),
    }


if __name__ == "__main__":
    print(json.dumps(_run()))
