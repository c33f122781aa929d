"""A limit of memory is kept, measured in processes of their own; it decides the way, never the result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from evometa.execution import Executor, RefinementUnit
from evometa.genome.genes import Value
from evometa.inner.cohort import Candidate
from evometa.inner.record import Status
from evometa.meta import TaskStream, meta_genes, refine
from evometa.rng import torch_generator
from evometa.rules import Learner

CPU = torch.device("cpu")
MB = 10**6
LIMIT = 256 * MB
TBPTT: dict[str, Value] = {"estimator": "tbptt", "steps": 1, "unroll_length": 20, "truncation": 20}
PARTICLES: dict[str, Value] = {"steps": 2, "unroll_length": 20, "truncation": 5, "pairs": 4}


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")


@cache
def refined(genes: str, max_bytes: int | None, hidden: int = 20, n_tasks: int = 4) -> dict[str, Any]:
    """Peak memory beyond that of a warm process, ways taken, and a sum that tells weights apart."""
    asked = {"genes": json.loads(genes), "max_bytes": max_bytes, "hidden": hidden, "n_tasks": n_tasks}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("peak.py")), json.dumps(asked)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "EVOMETA_NATIVE": "0"},  # PyTorch alone takes the most
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@needs_proc
def test_backpropagation_stays_below_a_limit_that_it_would_exceed() -> None:
    genes = json.dumps(TBPTT)
    free, bound = refined(genes, None), refined(genes, LIMIT)
    assert free["peak"] > LIMIT
    assert free["ways"] == ["plain"]
    assert bound["peak"] < LIMIT
    assert bound["ways"] == ["replay"]
    assert bound["weights"] == free["weights"]


@needs_proc
@pytest.mark.parametrize(
    "genes",
    [{**TBPTT, "second_order": True}, {**PARTICLES, "estimator": "pes"}],
    ids=["second order", "pes"],
)
def test_other_estimators_stay_below_it(genes: dict[str, Value]) -> None:
    assert refined(json.dumps(genes), LIMIT)["peak"] < LIMIT


@pytest.mark.slow
@needs_proc
# The hybrid gives each of its two estimators half, and PES keeps 8 trainings of about 13 MB.
@pytest.mark.parametrize("max_bytes", [450 * MB, 900 * MB])
@pytest.mark.parametrize(
    "genes",
    [
        TBPTT,
        {**TBPTT, "second_order": True},
        {**TBPTT, "loss": "mean"},
        {**PARTICLES, "estimator": "es"},
        {**PARTICLES, "estimator": "pes"},
        {**PARTICLES, "estimator": "tbptt+es", "truncation": 20},
        {**PARTICLES, "estimator": "tbptt+pes", "truncation": 20},
    ],
    ids=["first", "second", "mean", "es", "pes", "tbptt+es", "tbptt+pes"],
)
def test_every_estimator_stays_below_every_limit(genes: dict[str, Value], max_bytes: int) -> None:
    assert refined(json.dumps(genes), max_bytes, hidden=32, n_tasks=8)["peak"] < max_bytes


def candidate(**genes: Value) -> Candidate:
    meta = meta_genes({f"meta.{name}": value for name, value in {**TBPTT, **genes}.items()})
    complete = {"cell": "gru", "hidden": 4, "layers": 1, "schedule": "constant", **meta}
    weights = Learner.of("recurrent", complete).init_weights(torch_generator(0))
    return Candidate("a", "recurrent", complete, weights)


#: Under 2**26 bytes little is left beside the tasks that are remembered.
TIGHT = 2**26
DIGITS = '{"tasks_per_architecture": 4, "widths": [32], "depths": [1]}'


@pytest.mark.parametrize("second_order", [False, True])
def test_the_result_does_not_depend_on_the_limit(second_order: bool) -> None:
    one = candidate(second_order=second_order, steps=1)
    stream = TaskStream("digits", DIGITS, 4, 20, seed=1)
    free = refine([one], [stream], CPU)
    bound = refine([one], [stream], CPU, max_bytes=TIGHT)
    assert free.ways == {"plain"}
    if second_order:
        assert bound.ways != free.ways
    for name, value in free.weights[0].items():
        assert torch.equal(bound.weights[0][name], value)


@pytest.mark.parametrize("estimator", ["tbptt", "es", "pes", "tbptt+pes"])
def test_what_cannot_fit_is_a_status_with_one_line(estimator: str) -> None:
    stream = TaskStream("digits", DIGITS, 4, 20, seed=1)
    unit = RefinementUnit((candidate(estimator=estimator),), (stream,))
    (result,) = Executor(CPU, max_bytes=2**20).run([unit])
    assert result.status == Status.OUT_OF_MEMORY
    assert "execution.max_memory_bytes" in result.message
    assert "\n" not in result.message
