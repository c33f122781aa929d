"""Meta-training by recorded and replayed steps against the same made one by one.

Without a GPU tapes stand in for CUDA graphs, and there are no kernels, as on a GPU.
"""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from compute_device import DEVICE
from tapes import Tapes

from evometa import native
from evometa.genome.genes import Value
from evometa.inner import graphs
from evometa.inner.cohort import Candidate
from evometa.meta import Refinement, TaskStream, meta_genes, refine
from evometa.meta.recorded import RecordedTraining
from evometa.rng import torch_generator
from evometa.rules import Learner

CPU = torch.device("cpu")
LEARNERS: dict[str, tuple[str, dict[str, Value]]] = {
    "mlp": ("mlp", {"hidden": 4, "schedule": "constant"}),
    "gru": ("recurrent", {"cell": "gru", "hidden": 4, "layers": 1, "schedule": "cosine"}),
    "lstm": ("recurrent", {"cell": "lstm", "hidden": 4, "layers": 2, "schedule": "recurrent"}),
    "sgd": ("sgd", {"lr": 1e-3, "schedule": "recurrent", "schedule.hidden": 4}),
}
#: Two architectures, of three tasks and of one, drawn anew for every episode.
DIGITS: dict[str, object] = {"tasks_per_architecture": 3, "batch_size": 8, "widths": [6, 7], "depths": [1]}
#: An episode and two thirds: 12 steps each, in segments of 5, 5 and 2.
EPISODES: dict[str, Value] = {"meta.steps": 5, "meta.unroll_length": 20, "meta.truncation": 5}
ESTIMATORS: dict[str, dict[str, Value]] = {
    "tbptt": {"meta.estimator": "tbptt"},
    "tbptt-mean": {"meta.estimator": "tbptt", "meta.loss": "mean"},
    "second-order": {"meta.estimator": "tbptt", "meta.second_order": True},
    "es": {"meta.estimator": "es", "meta.pairs": 2},
    "pes": {"meta.estimator": "pes", "meta.pairs": 2, "meta.loss_scaling": "log_uniform"},
    "rescaled": {
        "meta.estimator": "tbptt",
        "meta.loss_scaling": "log_uniform",
        "meta.horizon": "log_uniform",
    },
    "hybrid": {"meta.estimator": "tbptt+pes", "meta.pairs": 2},
}
#: Every learner with some, every estimator with some.
CASES = [
    *(("lstm", estimator) for estimator in ESTIMATORS),
    *(("mlp", estimator) for estimator in ("tbptt", "second-order", "pes")),
    *(("gru", estimator) for estimator in ("tbptt", "es")),
    *(("sgd", estimator) for estimator in ("rescaled", "second-order")),
]


def refined(
    name: str, genes: dict[str, Value], use: str = "digits", device: torch.device = CPU, n: int = 2
) -> Refinement:
    """Two candidates, meta-trained in float64."""
    family, own = LEARNERS[name]
    learner = Learner.of(family, own)
    complete = {**dict(learner.genes), **meta_genes({**EPISODES, **genes})}
    trees = [learner.init_weights(torch_generator(seed, name)) for seed in range(n)]
    options = {"digits": DIGITS, "late": {"augment": {"gradient_delay": 2}}}.get(use, {})
    family_of_tasks = "quadratic" if use == "late" else use
    stream = TaskStream(family_of_tasks, json.dumps(options), 4, horizon=12, seed=1)
    candidates = [Candidate(f"{i}", family, complete, tree) for i, tree in enumerate(trees)]
    return refine(candidates, [stream], device, torch.float64)


class Counted(Tapes):
    """Tapes whose number is known."""

    n_made = 0

    def record(self, function: Any) -> Any:
        type(self).n_made += 1
        return super().record(function)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Counted]]:
    """As on a GPU."""
    Counted.n_made = 0
    monkeypatch.setattr(graphs, "serves", lambda device, n_steps: True)
    monkeypatch.setattr(graphs, "CudaGraphs", Counted)
    with native.disabled():
        yield Counted


def assert_alike(one: Refinement, other: Refinement, tolerance: float) -> None:
    assert one.n_inner_steps == other.n_inner_steps
    assert one.n_skipped == other.n_skipped
    torch.testing.assert_close(one.meta_losses, other.meta_losses, rtol=tolerance, atol=0)
    for mine, theirs in zip(one.weights, other.weights, strict=True):
        for name, value in mine.items():
            torch.testing.assert_close(value, theirs[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize(("name", "estimator"), CASES)
def test_recorded_meta_training_equals_steps_made_one_by_one(
    name: str, estimator: str, recorded: type[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = refined(name, ESTIMATORS[estimator])
    assert recorded.n_made > 0
    monkeypatch.setattr(graphs, "serves", lambda device, n_steps: False)
    assert_alike(found, refined(name, ESTIMATORS[estimator]), 1e-9)


@pytest.mark.parametrize("estimator", ["tbptt", "pes"])
def test_so_it_does_where_gradients_come_late(
    estimator: str, recorded: type[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    genes = {**ESTIMATORS[estimator], "meta.steps": 3}
    found = refined("mlp", genes, use="late")
    assert recorded.n_made > 0
    monkeypatch.setattr(graphs, "serves", lambda device, n_steps: False)
    assert_alike(found, refined("mlp", genes, use="late"), 1e-9)


@pytest.mark.parametrize("estimator", ["tbptt", "pes"])
def test_what_was_recorded_serves_the_next_episodes(estimator: str, recorded: type[Counted]) -> None:
    """Also on other tasks: their data are copied to where the recorded step reads them."""
    refined("gru", {**ESTIMATORS[estimator], "meta.steps": 9}, use="quadratic")
    assert recorded.n_made == (2 if estimator == "tbptt" else 1)


def test_a_session_that_ends_gives_its_memory_back_at_once(
    recorded: type[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when garbage is next collected: that may be during another recording, which it would spoil."""
    made: list[weakref.ref[RecordedTraining]] = []
    begin = RecordedTraining.__init__

    def noted(self: RecordedTraining, *arguments: Any) -> None:
        begin(self, *arguments)
        made.append(weakref.ref(self))

    monkeypatch.setattr(RecordedTraining, "__init__", noted)
    gc.disable()
    try:
        refined("mlp", ESTIMATORS["tbptt"])
        assert made
        assert all(reference() is None for reference in made)
    finally:
        gc.enable()


def test_a_single_candidate_is_recorded_as_well(
    recorded: type[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = refined("mlp", ESTIMATORS["tbptt"], n=1)
    monkeypatch.setattr(graphs, "serves", lambda device, n_steps: False)
    assert_alike(found, refined("mlp", ESTIMATORS["tbptt"], n=1), 1e-9)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs --device cuda")
@pytest.mark.parametrize(("name", "estimator"), CASES)
def test_a_gpu_meta_trains_as_a_cpu_does(name: str, estimator: str) -> None:
    found = refined(name, ESTIMATORS[estimator], device=DEVICE)
    assert_alike(found, refined(name, ESTIMATORS[estimator]), 1e-6)
