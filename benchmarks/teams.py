"""The contestants' processes as the driver sees them: started once, asked for one repetition at a time."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from benchmarks.machine import n_cores
from benchmarks.workload import Workload

#: One thread in every process that computes: cores are shared out by processes.
SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_PLAIN = {**SINGLE_THREAD, "EVOMETA_NATIVE": "0"}


class ContestantError(RuntimeError):
    """A contestant could not do its work; the text is its own, one line."""


class Process:
    """One contestant process, which computes on ``device``."""

    def __init__(self, name: str, environment: Mapping[str, str], device: str = "cpu") -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving", name, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def send(self, request: Mapping[str, Any]) -> None:
        """Ask for something; :meth:`receive` has the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """The answer to the oldest request. Raises ContestantError where it failed."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        if "error" in answer:
            raise ContestantError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Let the process end, and wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Team:
    """A contestant that uses the whole machine, by itself or as processes that share the candidates."""

    def __init__(
        self, name: str, n_processes: int, environment: Mapping[str, str], device: str = "cpu"
    ) -> None:
        self.name = name
        self._processes = [Process(name, environment, device) for _ in range(n_processes)]
        self._taking_part: dict[str, list[Process]] = {}

    def prepare(self, key: str, workload: Workload) -> dict[str, float]:
        """Build and warm up ``workload`` under ``key``; the largest of each fact over the processes."""
        parts = workload.dealt(len(self._processes))
        taking_part = self._processes[: len(parts)]
        for process, part in zip(taking_part, parts, strict=True):
            process.send({"op": "prepare", "key": key, "workload": part.to_json()})
        facts = [process.receive() for process in taking_part]
        self._taking_part[key] = taking_part
        return {name: max(fact[name] for fact in facts) for name in facts[0]}

    def run(self, key: str) -> tuple[int, float]:
        """One repetition: inner steps made, and the seconds from asking to the last answer."""
        started = time.perf_counter()
        for process in self._taking_part[key]:
            process.send({"op": "run", "key": key})
        steps = sum(process.receive()["n_inner_steps"] for process in self._taking_part[key])
        return steps, time.perf_counter() - started

    def release(self, key: str) -> None:
        """Forget a workload."""
        for process in self._taking_part.pop(key):
            process.send({"op": "release", "key": key})
            process.receive()

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.close()


def has_jax() -> bool:
    """Whether JAX is installed."""
    return importlib.util.find_spec("jax") is not None


def environment(name: str, device: str = "cpu") -> dict[str, str]:
    """What a contestant's processes have in their environment beside ours."""
    if name.startswith("evometa"):
        return SINGLE_THREAD
    if not name.startswith("jax"):
        return _PLAIN
    if device == "cuda":
        return {**_PLAIN, "JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    flags = (
        {"XLA_FLAGS": f"--xla_force_host_platform_device_count={n_cores()}"} if name == "jax-tuned" else {}
    )
    return {**_PLAIN, "JAX_PLATFORMS": "cpu", **flags}


def open_team(name: str, device: str = "cpu") -> Team:
    """The team of a contestant: one process where it uses the whole machine itself, else one a core."""
    n_processes = n_cores() if name in ("naive", "vmap") and device == "cpu" else 1
    return Team(name, n_processes, environment(name, device), device)


@contextmanager
def teams(*names: str, device: str = "cpu") -> Iterator[dict[str, Team]]:
    """The teams of ``names``, without JAX where it is not installed; its tuned plans are a CPU's."""
    left_out = {"jax-tuned"} if device == "cuda" else set()
    wanted = [name for name in names if name not in left_out and (not name.startswith("jax") or has_jax())]
    opened = {name: open_team(name, device) for name in wanted}
    try:
        yield opened
    finally:
        for team in opened.values():
            team.close()
