"""The estimate of memory against what is really kept."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import astuple
from typing import Any

import pytest
import torch
from torch import Tensor

from evometa import native
from evometa.genome.genes import Value
from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.memory import Demand, part_bytes
from evometa.meta import ESTIMATORS, Footprint, MetaProblem, TaskStream, meta_genes
from evometa.meta.episodes import draw_episode
from evometa.rng import torch_generator
from evometa.rules import RULES, Learner

CPU = torch.device("cpu")
STREAM = TaskStream("digits", '{"tasks_per_architecture": 2, "batch_size": 8}', 2, horizon=20, seed=1)


def problem_of(family: str, **genes: Value) -> MetaProblem:
    meta = meta_genes({f"meta.{name}": value for name, value in genes.items()})
    complete = {"hidden": 8, "schedule": "constant", **meta}
    weights = Learner.of(family, complete).init_weights(torch_generator(0))
    cohort = Cohort.of([Candidate("0", family, complete, weights)], CPU)
    return MetaProblem(cohort, (meta,), (STREAM,), CPU, torch.float32)


def estimated(problem: MetaProblem, *, measured: bool = False) -> int:
    genes = problem.genes[0]
    parts = draw_episode(STREAM, 0, genes, CPU, torch.float32).parts
    footprint = ESTIMATORS[str(genes["meta.estimator"])].footprint(genes)
    demand = Demand(graph=footprint.n_live_steps > 1)
    return footprint.n_bytes(part_bytes(problem.cohort.learner, parts, demand, measured=measured))


def saved(problem: MetaProblem) -> int:
    """Bytes that autograd keeps for the backward pass, each storage counted once."""
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        alive.append(value.detach())
        return value

    session = ESTIMATORS["tbptt"].begin(problem)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        session.estimate(problem.cohort.weights)
    return sum(kept.values())


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "torch"])
@pytest.mark.parametrize("family", ["mlp", "recurrent"])
def test_the_measured_bytes_cover_what_is_kept_and_the_bound_covers_them(family: str, kernels: bool) -> None:
    with nullcontext() if kernels else native.disabled():
        problem = problem_of(family, unroll_length=10, truncation=10)
        measured, bound, kept = estimated(problem, measured=True), estimated(problem), saved(problem)
    assert kept <= measured <= bound
    if not kernels:
        assert measured <= 3 * kept


@pytest.mark.parametrize(
    ("family", "demand"),
    [
        (name, demand)
        for name, family in RULES
        for demand in (Demand(), Demand(graph=True))
        if family.differentiable or not demand.graph
    ],
    ids=lambda value: value if isinstance(value, str) else ("graph" if value.graph else "forward"),
)
def test_the_bound_covers_what_is_measured_for_every_rule(family: str, demand: Demand) -> None:
    learner = Learner.of(family, {"schedule": "constant"})
    parts = draw_episode(STREAM, 0, meta_genes({"meta.estimator": "tbptt"}), CPU, torch.float32).parts
    bounds, found = (part_bytes(learner, parts, demand, measured=measured) for measured in (False, True))
    for bound, one in zip(bounds, found, strict=True):
        assert all(most >= exact for most, exact in zip(astuple(bound), astuple(one), strict=True)), (
            bound,
            one,
        )


def test_grows_with_the_truncation_of_backpropagation_and_the_pairs_of_es_alone() -> None:
    def bytes_of(**genes: Any) -> int:
        return estimated(problem_of("mlp", unroll_length=20, **genes))

    assert bytes_of(truncation=20) > 2 * bytes_of(truncation=5)
    assert bytes_of(estimator="pes", truncation=20) == bytes_of(estimator="pes", truncation=5)
    assert bytes_of(estimator="pes", pairs=64) > 4 * bytes_of(estimator="pes", pairs=4)
    assert bytes_of(estimator="pes", pairs=4, truncation=20) < bytes_of(truncation=20)


def test_of_two_estimators_in_turn_trainings_add_up_and_live_steps_do_not() -> None:
    both = Footprint(n_trainings=1, n_live_steps=20) + Footprint(n_trainings=8, n_live_steps=1)
    assert both == Footprint(n_trainings=9, n_live_steps=20)
    assert both.breadth == 20
