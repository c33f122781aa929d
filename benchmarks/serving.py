"""A contestant's process, or the roofline's: reads one JSON request a line, answers with one JSON line.

Requests to a contestant: ``{"op": "prepare", "key": …, "workload": …}`` builds, compiles and warms up, and is
answered with facts such as ``compile_seconds``; ``{"op": "run", "key": …}`` makes one repetition, answered
with ``n_inner_steps``; ``{"op": "release", "key": …}`` forgets it. Those to the roofline are in
:class:`~benchmarks.roofline.rates.RatesOfOneProcess`. The process ends with its standard input.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from benchmarks.roofline.rates import RatesOfOneProcess
from benchmarks.workload import Workload

#: Where each contestant is; modules are imported by its own process alone.
CONTESTANTS = {
    "evometa": "benchmarks.contestants.engine:Engine",
    "evometa-1": "benchmarks.contestants.engine:EngineOnOneWorker",
    "evometa-threads": "benchmarks.contestants.engine:EngineOnThreads",
    "naive": "benchmarks.contestants.naive:Naive",
    "vmap": "benchmarks.contestants.eager:EagerVmap",
    "jax": "benchmarks.contestants.jax_programs:JaxAsWritten",
    "jax-tuned": "benchmarks.contestants.jax_programs:JaxTuned",
}


class Contestant(Protocol):
    """One way to do a workload, built, compiled and warm after construction.

    ``facts`` are numbers to report beside its rate.
    """

    facts: dict[str, float]

    def __init__(self, workload: Workload, device: torch.device) -> None: ...

    def run(self) -> int:
        """Do the work once; the inner steps made."""

    def close(self) -> None:
        """End what was started, before the process ends."""


def load(name: str) -> type[Contestant]:
    """The class of a contestant."""
    module, _, attribute = CONTESTANTS[name].partition(":")
    found: type[Contestant] = getattr(importlib.import_module(module), attribute)
    return found


class Server(Protocol):
    """What answers a process's requests."""

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one request; whatever is raised becomes an ``error``."""

    def close(self) -> None:
        """End what was started, before the process ends."""


class Workloads:
    """The workloads that one contestant has prepared, by key."""

    def __init__(self, kind: type[Contestant], device: torch.device) -> None:
        self._kind, self._device = kind, device
        self._prepared: dict[str, Contestant] = {}

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """``prepare``, ``run`` or ``release``."""
        key = request["key"]
        match request["op"]:
            case "prepare":
                self._prepared[key] = self._kind(Workload.from_json(request["workload"]), self._device)
                return self._prepared[key].facts
            case "run":
                n_inner_steps = self._prepared[key].run()
                if self._device.type == "cuda":
                    torch.cuda.synchronize()
                return {"n_inner_steps": n_inner_steps}
            case "release":
                del self._prepared[key]
                return {}
        raise ValueError(f"unknown request {request['op']!r}")

    def close(self) -> None:
        """End what contestants started."""
        for contestant in self._prepared.values():
            contestant.close()


def serve(name: str, device: torch.device) -> None:
    """Answer requests until the standard input ends."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # whatever a library prints must not come between the answers
        server: Server = RatesOfOneProcess(device) if name == "roofline" else Workloads(load(name), device)
        for line in sys.stdin:
            answers.write(json.dumps(_attempt(server, json.loads(line))) + "\n")
            answers.flush()
        server.close()


def _attempt(server: Server, request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return server.answer(request)
    except Exception as error:  # the driver reports it and ends
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    serve(sys.argv[1], torch.device(sys.argv[2]))
