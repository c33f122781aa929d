"""JAX: whole trainings as compiled programs, one for every structure among the candidates."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import torch

from benchmarks.jax_peer.plans import AS_WRITTEN, Plan, tuned
from benchmarks.jax_peer.programs import Program
from benchmarks.machine import n_cores
from benchmarks.workload import Workload
from evometa.inner.cohort import Candidate, by_structure


class JaxAsWritten:
    """``jit``, ``scan`` and ``vmap`` over everything, left to XLA."""

    plan: Callable[[Candidate, Workload], Plan] = staticmethod(lambda candidate, workload: AS_WRITTEN)

    def __init__(self, workload: Workload, device: torch.device) -> None:
        """``device`` is the one that JAX finds: its process's environment says which."""
        self.workload = workload
        candidates = workload.candidates
        groups = [[candidates[i] for i in group] for group in by_structure(candidates).values()]
        programs = [Program(group, workload, self.plan(group[0], workload)) for group in groups]
        started = time.perf_counter()
        with ThreadPoolExecutor(n_cores()) as pool:
            self.compiled = list(pool.map(Program.compile, programs))
        self.facts = {"compile_seconds": time.perf_counter() - started, "n_programs": float(len(programs))}
        self.last: list[Any] = []
        self.run()

    def run(self) -> int:
        for _ in range(self.workload.n_episodes):
            self.last = [program() for program in self.compiled]
        jax.block_until_ready(self.last)
        return self.workload.n_inner_steps

    def close(self) -> None:
        """Nothing was started."""


class JaxTuned(JaxAsWritten):
    """The same rules by the tuned plan of each, one host device a core."""

    plan = staticmethod(tuned)
