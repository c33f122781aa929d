"""A contestant's process: reads one JSON request a line, answers with one JSON line.

Requests: ``{"op": "prepare", "key": …, "workload": …}`` builds, compiles and warms up, and is answered with
facts such as ``compile_seconds``; ``{"op": "run", "key": …}`` makes one repetition, answered with
``n_inner_steps``; ``{"op": "release", "key": …}`` forgets it. The process ends with its standard input.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import IO, Any, Protocol

from benchmarks.workload import Workload

#: Where each contestant is; modules are imported by its own process alone.
CONTESTANTS = {
    "evometa": "benchmarks.contestants.engine:Engine",
    "evometa-1": "benchmarks.contestants.engine:EngineOnOneWorker",
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

    def __init__(self, workload: Workload) -> None: ...

    def run(self) -> int:
        """Do the work once; the inner steps made."""

    def close(self) -> None:
        """End what was started, before the process ends."""


def load(name: str) -> type[Contestant]:
    """The class of a contestant."""
    module, _, attribute = CONTESTANTS[name].partition(":")
    found: type[Contestant] = getattr(importlib.import_module(module), attribute)
    return found


def serve(name: str) -> None:
    """Answer requests until the standard input ends."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # whatever a library prints must not come between the answers
        kind = load(name)
        prepared: dict[str, Contestant] = {}
        for line in sys.stdin:
            _answer(answers, _attempt(kind, prepared, json.loads(line)))
        for contestant in prepared.values():
            contestant.close()


def _attempt(
    kind: type[Contestant], prepared: dict[str, Contestant], request: dict[str, Any]
) -> dict[str, Any]:
    try:
        match request["op"]:
            case "prepare":
                prepared[request["key"]] = kind(Workload.from_json(request["workload"]))
                return prepared[request["key"]].facts
            case "run":
                return {"n_inner_steps": prepared[request["key"]].run()}
            case "release":
                del prepared[request["key"]]
                return {}
        raise ValueError(f"unknown request {request['op']!r}")
    except Exception as error:  # the driver reports it and ends
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def _answer(answers: IO[str], answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
