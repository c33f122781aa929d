"""Every plan of the JAX programs on every rule: where the tuned ones come from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any

from benchmarks.groups.throughput import rules_of, workload
from benchmarks.jax_peer.plans import TRIED, Plan
from benchmarks.rounds import Progress, Timing
from benchmarks.teams import environment, has_jax
from benchmarks.workload import Mode, Workload

_MODES: tuple[Mode, ...] = ("forward", "bptt", "pes")


def measure(n_rounds: int, progress: Progress, *, quick: bool) -> dict[str, dict[str, Timing]]:
    """``mode rule`` → plan → timing, the plans of a workload in turn in one process; {} without JAX."""
    found: dict[str, dict[str, Timing]] = {}
    if not has_jax():
        return found
    keys = [(mode, rule) for mode in _MODES for rule in rules_of(mode)]
    for number, (mode, rule) in enumerate(keys):
        progress(f"jax-plans {mode} {rule}", number + 1, len(keys))
        request = {
            "workload": workload(mode, rule, "jax-tuned", quick=quick).to_json(),
            "plans": [asdict(plan) for plan in (TRIED[mode][:2] if quick else TRIED[mode])],
            "rounds": n_rounds,
        }
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.groups.jax_plans"],
            input=json.dumps(request),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, **environment("jax-tuned")},
        )
        answers = json.loads(done.stdout.splitlines()[-1])
        found[f"{mode} {rule}"] = {plan: Timing(**timing) for plan, timing in answers.items()}
    return found


def _run(request: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.jax_peer.programs import Program

    work = Workload.from_json(request["workload"])
    timings, compiled = {}, {}
    for one in request["plans"]:
        name = ", ".join(f"{key}={value}" for key, value in one.items())
        started = time.perf_counter()
        compiled[name] = Program(work.candidates, work, Plan(**one)).compile()
        timings[name] = Timing({"compile_seconds": time.perf_counter() - started})
        _wait(compiled[name]())
    for _ in range(request["rounds"]):
        for name, program in compiled.items():
            started = time.perf_counter()
            _wait([program() for _ in range(work.n_episodes)])
            timings[name].add(work.n_inner_steps, time.perf_counter() - started)
    return {name: asdict(timing) for name, timing in timings.items()}


def _wait(value: Any) -> None:
    import jax

    jax.block_until_ready(value)


if __name__ == "__main__":
    print(json.dumps(_run(json.load(sys.stdin))))
