"""Refines one candidate in a process of its own and prints its peak memory: ``peak.py '{"…": …}'``.

The keys are ``max_bytes`` (or null), ``hidden``, ``n_tasks``, and ``genes`` (of level 1, without ``meta.``).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import torch

from evometa.inner.cohort import Candidate
from evometa.meta import TaskStream, meta_genes, refine
from evometa.rng import torch_generator
from evometa.rules import Learner

CPU = torch.device("cpu")


def peak_bytes() -> int:
    """Most memory this process has had; ``ru_maxrss`` would begin with that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def main(asked: dict[str, object]) -> None:
    torch.set_num_threads(1)
    options = {"tasks_per_architecture": asked["n_tasks"], "widths": [32], "depths": [1]}
    stream = TaskStream("digits", json.dumps(options), int(str(asked["n_tasks"])), horizon=20, seed=1)
    small = {"cell": "lstm", "layers": 2, "hidden": 4, "schedule": "constant"}
    meta = meta_genes({f"meta.{name}": value for name, value in dict(asked["genes"]).items()})  # type: ignore[call-overload]

    def candidate(genes: dict[str, object]) -> Candidate:
        complete = {**genes, **meta}
        weights = Learner.of("recurrent", complete).init_weights(torch_generator(0))
        return Candidate("", "recurrent", complete, weights)

    # Libraries set themselves up in the first steps.
    warm_up = TaskStream("digits", json.dumps({**options, "widths": [2]}), 1, horizon=20, seed=1)
    refine([candidate(small)], [warm_up], CPU, max_bytes=2**27)
    before = peak_bytes()
    found = refine(
        [candidate({**small, "hidden": asked["hidden"]})], [stream], CPU, max_bytes=asked["max_bytes"]
    )  # type: ignore[arg-type]
    (weights,) = found.weights
    total = float(sum(value.double().abs().sum() for value in weights.values()))
    print(json.dumps({"peak": peak_bytes() - before, "ways": sorted(found.ways), "weights": total}))


main(json.loads(sys.argv[1]))
